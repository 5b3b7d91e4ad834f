-- The outbox: workflows that are to be dispatched, and how that went.
-- Never edited once released: a change is a new migration.

create table dispatches (
    provision_id uuid        primary key references provisions,
    state        text        not null,
    lease        uuid,
    next_at      timestamptz,
    failures     integer     not null default 0 check (failures >= 0),
    last_error   text,
    run_id       bigint      check (run_id > 0),
    html_url     text,
    constraint dispatches_state check (
        case state
            when 'due' then next_at is not null and lease is null
            when 'leased' then next_at is not null and lease is not null
            when 'sent' then next_at is null and lease is null
            when 'refused' then next_at is null and lease is null and last_error is not null
            when 'dropped' then next_at is null and lease is null
            else false
        end
    ),
    constraint dispatches_run check (
        (run_id is null or state = 'sent') and (html_url is null or run_id is not null)
    )
);
comment on table dispatches is
    'The outbox: one row for each provision that was asked for while GitHub was configured, written '
    'with the provision itself. Its workflow is dispatched at least once, while no run has taken '
    'the provision.';
comment on column dispatches.provision_id is 'For which provision.';
comment on column dispatches.state is
    'due: to be sent at next_at. leased: a worker is sending it, until next_at. sent: GitHub '
    'accepted it. refused: GitHub refused it for good. dropped: before it was known to be sent, '
    'the provision was no longer queued, and nothing more is sent.';
comment on column dispatches.lease is
    'Which claim holds the row while it is leased. How it went is written by that claim only.';
comment on column dispatches.next_at is
    'When it is next to be sent; while leased, the end of the lease.';
comment on column dispatches.failures is 'Failed tries, for the back-off.';
comment on column dispatches.last_error is 'What the last failed try met.';
comment on column dispatches.run_id is
    'GitHub''s id of the run that was started; null where GitHub is too old to say.';
comment on column dispatches.html_url is 'That run''s page.';

create index dispatches_due on dispatches (next_at) where next_at is not null;

alter table provisions
    drop constraint provisions_transition,
    add constraint provisions_transition check (
        (coalesce(moved_from, 'new'), moved_by, status) in (
            ('new', 'created', 'queued'),
            ('new', 'started', 'provisioning'),
            ('new', 'progress', 'provisioning'),
            ('new', 'success', 'running'),
            ('new', 'failure', 'failed'),
            ('queued', 'started', 'provisioning'),
            ('queued', 'progress', 'provisioning'),
            ('queued', 'success', 'running'),
            ('queued', 'failure', 'failed'),
            ('queued', 'dispatch_failed', 'failed'),
            ('queued', 'destroyed', 'destroyed'),
            ('provisioning', 'started', 'provisioning'),
            ('provisioning', 'progress', 'provisioning'),
            ('provisioning', 'success', 'running'),
            ('provisioning', 'failure', 'failed'),
            ('provisioning', 'late', 'provisioning'),
            ('provisioning', 'retry', 'provisioning'),
            ('provisioning', 'destroyed', 'destroyed'),
            ('running', 'started', 'running'),
            ('running', 'progress', 'running'),
            ('running', 'success', 'running'),
            ('running', 'failure', 'failed'),
            ('running', 'late', 'running'),
            ('running', 'retry', 'running'),
            ('running', 'destroyed', 'destroyed'),
            ('failed', 'started', 'provisioning'),
            ('failed', 'late', 'failed'),
            ('failed', 'retry', 'failed'),
            ('failed', 'destroyed', 'destroyed'),
            ('destroyed', 'late', 'destroyed'),
            ('destroyed', 'retry', 'destroyed')
        )
    );

comment on column attempts.error is
    'What went wrong, in the workflow''s words; for dispatch_failed in GitHub''s.';
comment on column events.kind is
    'What happened: created, callback.*, superseded, destroy, retry, dispatch.*, step.*, '
    'rollback.done.';
comment on column events.data is
    'What was said. For a callback its fields, and under "refused" the code of the answer if it '
    'was refused; for a dispatch the run''s run_id and html_url, or the error; for a step its '
    'resource, vendor_id and proof or error.';

create or replace view provision_records as
select p.id,
       p.agent_id,
       p.region,
       p.status,
       p.created_at,
       p.updated_at,
       to_jsonb(a) as current,
       (
           select jsonb_agg(to_jsonb(o) order by o.number)
           from attempts o
           where o.provision_id = p.id and o.reason is not null
       ) as over,
       (
           select jsonb_agg(to_jsonb(s) order by s.attempt,
                            array_position(array['auth_key', 'server', 'device'], s.resource),
                            s.searches desc, s.id)
           from steps s
           where s.provision_id = p.id
       ) as steps,
       (select d.run_id from dispatches d where d.provision_id = p.id) as dispatched_run_id
from provisions p
join attempts a on a.provision_id = p.id and a.number = p.attempt;
comment on column provision_records.dispatched_run_id is
    'The run that was dispatched for it; null if there is none, or none is known.';
