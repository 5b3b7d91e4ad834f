-- A dispatch in each state, and a provision that failed because of one.
insert into provisions (id, version, agent_id, region, status, attempt, moved_from, moved_by, created_at, updated_at)
values
    ('00000000-0000-4000-8000-000000000011', 1, 'web-11', null, 'queued', 0, null, 'created', '2026-02-01', '2026-02-01'),
    ('00000000-0000-4000-8000-000000000012', 2, 'web-12', null, 'failed', 0, 'queued', 'dispatch_failed', '2026-02-02', '2026-02-02');

insert into attempts (provision_id, number, hints, error, may_exist, started_at, last_message_at, deadline_at, finished_at, reason, rollback_started_at)
values
    ('00000000-0000-4000-8000-000000000011', 0, '[]', null, '[]', '2026-02-01', '2026-02-01', '2026-02-01 00:30', null, null, null),
    ('00000000-0000-4000-8000-000000000012', 0, '[]', 'github POST /repos/o/r/actions/workflows/w/dispatches: 404, Not Found', '["auth_key", "server", "device"]',
     '2026-02-02', '2026-02-02', '2026-02-02 00:30', '2026-02-02', 'dispatch_failed', '2026-02-02');

insert into dispatches (provision_id, state, lease, next_at, failures, last_error, run_id, html_url)
values
    ('00000000-0000-4000-8000-000000000001', 'due', null, '2026-02-01', 1, 'github POST /repos/o/r/actions/workflows/w/dispatches: timed out', null, null),
    ('00000000-0000-4000-8000-000000000011', 'leased', '00000000-0000-4000-8000-00000000000b', '2026-02-01', 0, null, null, null),
    ('00000000-0000-4000-8000-000000000002', 'sent', null, null, 0, null, 11, 'https://github.com/o/r/actions/runs/11'),
    ('00000000-0000-4000-8000-000000000012', 'refused', null, null, 0, 'github POST /repos/o/r/actions/workflows/w/dispatches: 404, Not Found', null, null),
    ('00000000-0000-4000-8000-000000000005', 'dropped', null, null, 0, null, null, null);

insert into events (provision_id, attempt, kind, data, at)
values
    ('00000000-0000-4000-8000-000000000011', 0, 'created', '{}', '2026-02-01'),
    ('00000000-0000-4000-8000-000000000012', 0, 'created', '{}', '2026-02-02'),
    ('00000000-0000-4000-8000-000000000012', 0, 'dispatch.refused', '{"error": "github POST /repos/o/r/actions/workflows/w/dispatches: 404, Not Found"}', '2026-02-02');
