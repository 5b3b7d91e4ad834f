-- Provisions of the last 24 hours that failed and were undone, more of them at some hours than at
-- others, and how long each took.
create temporary table yesterday as
select md5('yesterday ' || n)::uuid as id,
       (array['runner-x86-', 'runner-arm-', 'preview-', 'web-'])[1 + n % 4] || (100 + n) as agent,
       (array['fsn1', 'nbg1', 'hel1'])[1 + n % 3] as region,
       backstop_now() - make_interval(mins => 50 + n * 24 + (n * n) % 37) as at,
       make_interval(secs => 2 + (n * 7919) % 11 + case when n % 9 = 4 then 190 + n * 3 else 0 end) as took,
       17481990000 + n * 211 as run,
       104210000 + n * 17 as server,
       n
from generate_series(1, 46) n
where n % 7 <> 2;

insert into provisions (id, version, agent_id, region, status, attempt, moved_from, moved_by, created_at,
                        updated_at)
select id, 4, agent, region, 'failed', 1, 'provisioning', 'failure', at - interval '3 min', at
from yesterday;

insert into attempts (provision_id, number, run_id, run_attempt, step, server_id, server_ip, hints, error,
                      failed_step, conclusion, may_exist, started_at, last_message_at, deadline_at,
                      finished_at, reason, rollback_started_at)
select id, 1, run, 1, 'vm_created', server::text, '203.0.113.' || n,
       jsonb_build_array(jsonb_build_object('resource', 'server', 'vendor_id', server::text)),
       (array['ansible: task failed', 'ssh: connection refused', 'cancelled by a newer run'])[1 + n % 3],
       (array['configure', 'enrol', 'wait for ssh'])[1 + n % 3],
       (array['failure', 'timed_out', 'cancelled'])[1 + n % 3], '["server"]',
       at - interval '3 min', at, at + interval '27 min', at,
       (array['failure', 'timed_out', 'cancelled'])[1 + n % 3], at
from yesterday;

insert into steps (provision_id, attempt, resource, searches, vendor_id, own, state, moved_from, moved_by,
                   proof, tries, unsettled_since, settled_at)
select id, 1, 'server', searches, server::text, not searches, 'gone', 'leased', 'proven_gone', 'deleted', 1,
       at, at + took
from yesterday, (values (true), (false)) as kinds (searches);

insert into events (provision_id, attempt, kind, data, at)
select id, 1, 'callback.failure', jsonb_build_object('run_id', run, 'run_attempt', 1), at from yesterday;
insert into events (provision_id, attempt, kind, data, at)
select id, 1, 'rollback.done', '{}', at + took from yesterday;

drop table yesterday;
