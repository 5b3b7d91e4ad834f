-- A vendor that tells what is left, with a permit out and a delete below the reserve; one that only
-- asked to be left alone.
insert into rate_budgets (vendor, version, told_limit, told_remaining, told_at, heard_at, permits,
                          last_exception_at, paused_until)
values
    ('hetzner', 7, 3600, 719, 1767225600, '2026-01-01',
     '[{"id": "00000000-0000-4000-8000-00000000000b", "requests": 4, "lapses_at": "2026-01-01T00:02:00Z"}]',
     '2026-01-01', null),
    ('tailscale', 1, null, null, null, null, '[]', null, '2026-01-01 00:01');
