-- One provision in each status, with what goes with it.
insert into provisions (id, version, agent_id, region, status, attempt, moved_from, moved_by, created_at, updated_at)
values
    ('00000000-0000-4000-8000-000000000001', 1, 'web-1', 'fsn1', 'queued', 0, null, 'created', '2026-01-01', '2026-01-01'),
    ('00000000-0000-4000-8000-000000000002', 2, 'web-2', null, 'provisioning', 2, 'provisioning', 'started', '2026-01-02', '2026-01-02'),
    ('00000000-0000-4000-8000-000000000003', 3, 'web-3', 'nbg1', 'running', 1, 'provisioning', 'success', '2026-01-03', '2026-01-03'),
    ('00000000-0000-4000-8000-000000000004', 2, null, null, 'failed', 1, 'provisioning', 'failure', '2026-01-04', '2026-01-04'),
    ('00000000-0000-4000-8000-000000000005', 4, 'web-5', 'hel1', 'destroyed', 1, 'running', 'destroyed', '2026-01-05', '2026-01-05');

insert into attempts (provision_id, number, run_id, run_attempt, step, server_id, server_ip, tailscale_ip,
                      tailscale_key_id, tailscale_node_id, hints, error, failed_step, conclusion, may_exist,
                      started_at, last_message_at, last_heartbeat_at, deadline_at, finished_at, reason, rollback_started_at)
values
    ('00000000-0000-4000-8000-000000000001', 0, null, null, null, null, null, null, null, null, '[]', null, null, null, '[]',
     '2026-01-01', '2026-01-01', null, '2026-01-01 00:30', null, null, null),
    ('00000000-0000-4000-8000-000000000002', 0, null, null, null, null, null, null, null, null, '[]', null, null, null, '[]',
     '2026-01-02', '2026-01-02', null, '2026-01-02 00:30', null, null, null),
    ('00000000-0000-4000-8000-000000000002', 1, 11, 1, 'vm_created', '41', '192.0.2.1', null, 'k1CNTRL', null,
     '[{"resource": "auth_key", "vendor_id": "k1CNTRL"}, {"resource": "server", "vendor_id": "41"}]', null, null, null,
     '["auth_key", "server", "device"]', '2026-01-02', '2026-01-02', '2026-01-02', '2026-01-02 00:30', '2026-01-02', 'superseded', '2026-01-02'),
    ('00000000-0000-4000-8000-000000000002', 2, 11, 2, null, null, null, null, null, null, '[]', null, null, null, '[]',
     '2026-01-02', '2026-01-02', null, '2026-01-02 00:30', null, null, null),
    ('00000000-0000-4000-8000-000000000003', 1, 12, 1, null, '42', '192.0.2.2', '100.64.0.2', null, 'n2CNTRL',
     '[{"resource": "server", "vendor_id": "42"}, {"resource": "device", "vendor_id": "n2CNTRL"}]', null, null, null, '[]',
     '2026-01-03', '2026-01-03', null, '2026-01-03 00:30', '2026-01-03', null, null),
    ('00000000-0000-4000-8000-000000000004', 1, 13, 1, null, '43', null, null, null, null,
     '[{"resource": "server", "vendor_id": "43"}]', 'ansible failed', 'configure', 'failure', '["server"]',
     '2026-01-04', '2026-01-04', null, '2026-01-04 00:30', '2026-01-04', 'failure', '2026-01-04'),
    ('00000000-0000-4000-8000-000000000005', 1, 14, 1, null, '44', null, null, null, null, '[]', null, null, null,
     '["auth_key", "server", "device"]', '2026-01-05', '2026-01-05', null, '2026-01-05 00:30', '2026-01-05', 'destroyed', '2026-01-05');

insert into events (provision_id, attempt, kind, data, at)
values
    ('00000000-0000-4000-8000-000000000001', 0, 'created', '{}', '2026-01-01'),
    ('00000000-0000-4000-8000-000000000004', 1, 'callback.failure', '{"run_id": 13, "run_attempt": 1}', '2026-01-04'),
    ('00000000-0000-4000-8000-000000000004', 1, 'step.gone', '{"resource": "server", "vendor_id": "43", "proof": "deleted"}', '2026-01-04');

insert into steps (provision_id, attempt, resource, searches, vendor_id, own, state, moved_from, moved_by, fence, lease,
                   next_at, action_id, accepted_at, proof, tries, failures, last_error, unsettled_since, stuck_at, settled_at)
values
    ('00000000-0000-4000-8000-000000000002', 1, 'auth_key', true, null, false, 'due', null, 'planned', 0, null,
     '2026-01-02', null, null, null, 0, 0, null, '2026-01-02', null, null),
    ('00000000-0000-4000-8000-000000000002', 1, 'server', false, '41', true, 'waiting', 'leased', 'accepted', 2, null,
     '2026-01-02', '7', '2026-01-02', null, 1, 0, null, '2026-01-02', null, null),
    ('00000000-0000-4000-8000-000000000005', 1, 'server', true, null, false, 'leased', 'due', 'claimed', 9, '00000000-0000-4000-8000-00000000000a',
     '2026-01-05', null, null, null, 4, 3, 'hetzner GET /v1/servers: 401 unauthorized', '2026-01-05', '2026-01-05', null),
    ('00000000-0000-4000-8000-000000000004', 1, 'server', false, '43', true, 'gone', 'leased', 'proven_gone', 5, null,
     null, '8', '2026-01-04', 'deleted', 1, 0, null, '2026-01-04', null, '2026-01-04'),
    ('00000000-0000-4000-8000-000000000004', 1, 'device', false, 'n9CNTRL', false, 'refused', 'leased', 'not_ours', 3, null,
     null, null, null, null, 1, 0, 'device n9CNTRL does not have tag:agent', '2026-01-04', null, '2026-01-04');
