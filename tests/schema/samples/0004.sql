-- A sweep that ended, one that a dead replica holds, and one orphan of each sort.
insert into sweeps (started_at, held_until, finished_at, errors, not_ours, currency)
values
    ('2026-01-06', null, '2026-01-06', '["tailscale GET /api/v2/tailnet/-/devices: 503"]', 1, 'EUR'),
    ('2026-01-07', '2026-01-07', null, '[]', 0, null);

insert into orphans (subject, kind, vendor_id, vendor, name, provision_id, attempt, why, action, hourly_cost,
                     first_seen_at, last_seen_at, sweep_id)
select kind || ' ' || vendor_id, kind, vendor_id, vendor, name, provision_id::uuid, attempt, why, action, hourly_cost,
       '2026-01-06', '2026-01-06', s.id
from sweeps s,
     (values
        ('server', '43', 'hetzner', 'agent-00000000000040008000000000000004-a1',
         '00000000-0000-4000-8000-000000000004', 1, 'attempt_over', 'rolled_back', 0.006),
        ('server', '45', 'hetzner', 'agent-00000000000040008000000000000009-a1',
         '00000000-0000-4000-8000-000000000009', 1, 'unknown_provision', 'deleted_when_told', 0.006),
        ('volume', '46', 'hetzner', 'data', null, null, 'labels_incomplete', 'reported', 0.0006),
        ('device', 'n9CNTRL', 'tailscale', 'agent-00000000000040008000000000000009-a1',
         '00000000-0000-4000-8000-000000000009', 1, 'unknown_provision', 'reported', null)
     ) as o (kind, vendor_id, vendor, name, provision_id, attempt, why, action, hourly_cost)
where s.finished_at is not null;
