-- $1 provisions, ten events each, as a year of an installation leaves them. Triggers and foreign keys are
-- off meanwhile: what they would write is written here.
set session_replication_role = replica;

create temp table seeded as
select number,
       md5('provision ' || number)::uuid as id,
       case
           when number <= 40 then 'provisioning'
           when number <= 60 then 'failed'
           when number % 10 < 5 then 'destroyed'
           when number % 10 < 9 then 'failed'
           else 'running'
       end as status,
       -- The youngest are at work, or stuck.
       backstop_now() - interval '1 minute' - (number * interval '365 days' / $1) as at
from generate_series(1, $1) number;

insert into provisions (id, version, agent_id, region, status, attempt, moved_from, moved_by, created_at, updated_at)
select id, 3, 'agent-' || number % 5000, 'fsn1', status, 1,
       case status when 'destroyed' then 'running' when 'failed' then 'provisioning' when 'running' then 'provisioning' end,
       case status when 'destroyed' then 'destroyed' when 'failed' then 'failure' when 'running' then 'success' else 'started' end,
       at, at + interval '5 minutes'
from seeded;

insert into attempts (provision_id, number, run_id, run_attempt, step, server_id, server_ip, tailscale_ip,
                      hints, may_exist, started_at, last_message_at, deadline_at, finished_at, reason,
                      rollback_started_at, conclusion, error, failed_step)
select id, 1, 1000000 + number, 1, 'configured', (100000000 + number)::text,
       format('10.%s.%s.%s', number / 65536 % 256, number / 256 % 256, number % 256),
       format('100.%s.%s.%s', 64 + number / 65536 % 64, number / 256 % 256, number % 256),
       '[]', '["auth_key", "server", "device"]', at, at + interval '4 minutes', at + interval '30 minutes',
       case when status <> 'provisioning' then at + interval '5 minutes' end,
       case status when 'failed' then 'failure' when 'destroyed' then 'destroyed' end,
       case when status in ('failed', 'destroyed') then at + interval '5 minutes' end,
       case status when 'failed' then 'failure' end,
       case status when 'failed' then 'ansible failed' end,
       case status when 'failed' then 'configure' end
from seeded;

insert into steps (provision_id, attempt, resource, searches, vendor_id, own, state, moved_from, moved_by,
                   fence, next_at, proof, tries, last_error, unsettled_since, stuck_at, settled_at)
select id, 1, resource, true, null, false,
       case when stuck then 'due' else 'gone' end, 'leased', case when stuck then 'failed' else 'proven_gone' end,
       3, case when stuck then backstop_now() + interval '1 day' end, case when not stuck then 'deleted' end, 1,
       case when stuck then 'hetzner DELETE /v1/servers/42: 423 protected' end,
       at + interval '5 minutes', case when stuck then at + interval '6 minutes' end,
       case when not stuck then at + interval '6 minutes' end
from seeded
cross join unnest(array['auth_key', 'server', 'device']) resource
cross join lateral (select number between 41 and 60 and resource = 'server' as stuck) it
where status in ('failed', 'destroyed');

insert into events (provision_id, attempt, kind, data, at)
select id, 1, kind, jsonb_build_object('step', 'configured', 'server_id', (100000000 + number)::text),
       at + nth * interval '30 seconds'
from seeded
cross join unnest(array['created', 'callback.started', 'callback.progress', 'callback.progress',
                        'callback.progress', 'callback.failure', 'step.gone', 'step.gone', 'step.gone',
                        'rollback.done']) with ordinality as kinds (kind, nth)
order by number desc, nth;

insert into feed (provision_id) select id from seeded;
drop table seeded;
set session_replication_role = default;
analyze;
