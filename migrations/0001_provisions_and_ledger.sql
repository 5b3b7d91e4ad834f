-- Provisions, their attempts and history, and the ledger of what must go.
-- Never edited once released: a change is a new migration.

create table controller (
    singleton    boolean     primary key default true check (singleton),
    id           uuid        not null default gen_random_uuid(),
    clock_offset interval    not null default interval '0',
    created_at   timestamptz not null default now()
);
comment on table controller is
    'One row: who this database is to the vendors.';
comment on column controller.singleton is
    'Always true, so that there is one row.';
comment on column controller.id is
    'Value of the label backstop-controller on everything that our provisions create.';
comment on column controller.clock_offset is
    'Added to the clock by backstop_now(). Tests move time with it; anywhere else it is zero.';
comment on column controller.created_at is
    'When the first migration ran.';

insert into controller default values;

create function backstop_now() returns timestamptz
language sql stable as $$
    select now() + clock_offset from controller
$$;
comment on function backstop_now() is
    'The time by which everything is decided: the database''s, the same for every replica.';

create table provisions (
    id         uuid        primary key,
    version    bigint      not null check (version > 0),
    agent_id   text,
    region     text,
    status     text        not null,
    attempt    integer     not null check (attempt >= 0),
    moved_from text,
    moved_by   text        not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint provisions_status check (
        status in ('queued', 'provisioning', 'running', 'failed', 'destroyed')
    ),
    constraint provisions_queued_is_untaken check (
        case status
            when 'queued' then attempt = 0
            when 'provisioning' then attempt > 0
            when 'running' then attempt > 0
            else true
        end
    ),
    constraint provisions_transition check (
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
    )
);
comment on table provisions is
    'One row a provision. What belongs to one attempt at it is in attempts.';
comment on column provisions.id is
    'Chosen by whoever asked for the provision.';
comment on column provisions.version is
    'Compare-and-swap: a writer states the version it read, and every write bumps it.';
comment on column provisions.agent_id is
    'A label for people; not unique.';
comment on column provisions.region is
    'Where it runs, for people.';
comment on column provisions.status is
    'queued: asked for, no run has taken it. provisioning: a run is at work. running: a run '
    'succeeded and the machine is in use. failed: the current attempt is over and rolled back. '
    'destroyed: somebody asked for that, and the current attempt is rolled back.';
comment on column provisions.attempt is
    'Number of the current attempt, the only one that can be live; 0 before any run took it.';
comment on column provisions.moved_from is
    'The status before the last write; null at the first. With moved_by and status it lets '
    'provisions_transition check the transition itself.';
comment on column provisions.moved_by is
    'What the last write was for.';
comment on column provisions.created_at is
    'When it was first heard of.';
comment on column provisions.updated_at is
    'When anything but a heartbeat last changed it.';

create index provisions_newest on provisions (created_at desc, id desc);
create index provisions_by_status on provisions (status, created_at desc, id desc);
create index provisions_by_agent on provisions (agent_id, created_at desc, id desc);

create table attempts (
    provision_id        uuid        not null references provisions,
    number              integer     not null check (number >= 0),
    run_id              bigint      check (run_id > 0),
    run_attempt         integer     check (run_attempt > 0),
    step                text,
    server_id           text,
    server_ip           text,
    tailscale_ip        text,
    tailscale_key_id    text,
    tailscale_node_id   text,
    hints               jsonb       not null,
    error               text,
    failed_step         text,
    conclusion          text,
    may_exist           jsonb       not null,
    started_at          timestamptz not null,
    last_message_at     timestamptz not null,
    last_heartbeat_at   timestamptz,
    deadline_at         timestamptz not null,
    finished_at         timestamptz,
    reason              text,
    rollback_started_at timestamptz,
    primary key (provision_id, number),
    constraint attempts_owner check (
        (number = 0) = (run_id is null) and (run_id is null) = (run_attempt is null)
    ),
    constraint attempts_one_per_run unique (provision_id, run_id, run_attempt),
    constraint attempts_conclusion check (conclusion in ('failure', 'cancelled', 'timed_out')),
    constraint attempts_reason check (
        reason in ('failure', 'cancelled', 'timed_out', 'superseded', 'silent', 'deadline',
                   'never_started', 'dispatch_failed', 'destroyed')
    ),
    constraint attempts_over check (
        (reason is null) = (rollback_started_at is null)
        and (reason is null or finished_at is not null)
    )
);
comment on table attempts is
    'One row a try at a provision. It belongs to the run and run attempt that opened it; nobody '
    'else''s messages touch it. Live while reason is null.';
comment on column attempts.provision_id is 'Of which provision.';
comment on column attempts.number is
    'Counts from 1. 0 is the time before any run took the provision; nothing is created in it.';
comment on column attempts.run_id is 'GitHub''s id of the run that owns it; null for attempt 0.';
comment on column attempts.run_attempt is 'Which re-run of that run; null for attempt 0.';
comment on column attempts.step is 'The last step that the workflow reported.';
comment on column attempts.server_id is 'The Hetzner server''s id as reported: a hint.';
comment on column attempts.server_ip is 'The server''s public address as reported.';
comment on column attempts.tailscale_ip is 'The device''s tailnet address as reported.';
comment on column attempts.tailscale_key_id is 'The auth key''s id as reported: a hint.';
comment on column attempts.tailscale_node_id is 'The device''s node id as reported: a hint.';
comment on column attempts.hints is
    'Every id that any callback of this attempt named: [{"resource", "vendor_id"}].';
comment on column attempts.error is 'What went wrong, in the workflow''s words.';
comment on column attempts.failed_step is 'Which of the workflow''s steps failed.';
comment on column attempts.conclusion is
    'How the workflow says it ended: failure, cancelled or timed_out.';
comment on column attempts.may_exist is
    'Kinds of thing that the workflow may have begun to create, once it is over: an array of '
    'auth_key, server, device. Only ever grows.';
comment on column attempts.started_at is 'When it was opened.';
comment on column attempts.last_message_at is
    'When its run was last heard. The late-arrival window counts from here.';
comment on column attempts.last_heartbeat_at is 'When it last sent a heartbeat.';
comment on column attempts.deadline_at is 'When a terminal callback is due.';
comment on column attempts.finished_at is 'When it succeeded or, later than that, was over.';
comment on column attempts.reason is
    'Why it is rolled back; null while it is live. failure, cancelled, timed_out: its workflow '
    'said so. superseded: a later attempt of the same run started. silent: its heartbeats '
    'stopped. deadline: no terminal callback came in time. never_started: no run took it. '
    'dispatch_failed: the workflow could not be started. destroyed: somebody asked for that.';
comment on column attempts.rollback_started_at is 'Since when it is rolled back.';

create table events (
    id           bigint      generated always as identity primary key,
    provision_id uuid        not null references provisions,
    attempt      integer     not null check (attempt >= 0),
    kind         text        not null,
    data         jsonb       not null,
    at           timestamptz not null
);
comment on table events is
    'A provision''s whole history. Rows are only ever added.';
comment on column events.id is 'In the order of writing within one provision.';
comment on column events.provision_id is 'Of which provision.';
comment on column events.attempt is 'About which attempt of it.';
comment on column events.kind is
    'What happened: created, callback.*, superseded, destroy, retry, step.*, rollback.done.';
comment on column events.data is
    'What was said. For a callback its fields, and under "refused" the code of the answer if it '
    'was refused; for a step its resource, vendor_id and proof or error.';
comment on column events.at is 'When.';

create index events_of_provision on events (provision_id, id);

create table steps (
    id               bigint      generated always as identity primary key,
    provision_id     uuid        not null,
    attempt          integer     not null check (attempt > 0),
    resource         text        not null,
    searches         boolean     not null,
    vendor_id        text,
    own              boolean     not null default false,
    state            text        not null,
    moved_from       text,
    moved_by         text        not null,
    fence            bigint      not null default 0,
    lease            uuid,
    next_at          timestamptz,
    action_id        text,
    accepted_at      timestamptz,
    proof            text,
    tries            integer     not null default 0 check (tries >= 0),
    failures         integer     not null default 0 check (failures >= 0),
    last_error       text,
    unsettled_since  timestamptz not null,
    stuck_at         timestamptz,
    settled_at       timestamptz,
    foreign key (provision_id, attempt) references attempts,
    constraint steps_resource check (resource in ('auth_key', 'server', 'device')),
    constraint steps_subject check (searches or vendor_id is not null),
    constraint steps_state check (
        case state
            when 'due' then next_at is not null and lease is null
            when 'waiting' then next_at is not null and lease is null
            when 'leased' then next_at is not null and lease is not null
            when 'gone' then next_at is null and lease is null and proof is not null
            when 'refused' then next_at is null and lease is null and not searches and not own
            else false
        end
    ),
    constraint steps_settled check (
        (state in ('gone', 'refused')) = (settled_at is not null)
        and (state = 'gone' or proof is null)
        and (settled_at is null or stuck_at is null)
    ),
    constraint steps_proof check (proof in ('deleted', 'already_gone', 'never_appeared')),
    constraint steps_transition check (
        (coalesce(moved_from, 'new'), moved_by, state) in (
            ('new', 'planned', 'due'),
            ('due', 'claimed', 'leased'),
            ('waiting', 'claimed', 'leased'),
            ('leased', 'claimed', 'leased'),
            ('leased', 'accepted', 'waiting'),
            ('leased', 'look_again', 'waiting'),
            ('leased', 'proven_gone', 'gone'),
            ('leased', 'failed', 'due'),
            ('leased', 'not_ours', 'refused'),
            ('leased', 'released', 'due'),
            ('due', 'retry_asked', 'due'),
            ('waiting', 'retry_asked', 'due'),
            ('leased', 'retry_asked', 'leased'),
            ('gone', 'seen_again', 'due'),
            ('refused', 'seen_again', 'due')
        )
    )
);
comment on table steps is
    'The ledger: one row for each thing that must go. It is the queue that workers claim from '
    'and the truth that the API shows. For each attempt and resource one row searches by label '
    'or name, and one stands for each id that was named or found.';
comment on column steps.id is 'The row.';
comment on column steps.provision_id is 'Of which provision.';
comment on column steps.attempt is 'Of which attempt.';
comment on column steps.resource is
    'auth_key and device: at Tailscale. server: at Hetzner.';
comment on column steps.searches is
    'True for the row that searches, false for a row that stands for an id.';
comment on column steps.vendor_id is
    'The vendor''s id. For the row that searches: the first it found, null until then.';
comment on column steps.own is
    'The vendor has shown us that this id carries the attempt''s own labels, or tag and host '
    'name, or description.';
comment on column steps.state is
    'due: to be tried at next_at. waiting: a delete was accepted, or nothing was seen yet; to be '
    'looked at again at next_at. leased: a worker has it until next_at. gone: proven gone. '
    'refused: the id is something else''s; nothing was deleted.';
comment on column steps.moved_from is
    'The state before the last write; null at the first. With moved_by and state it lets '
    'steps_transition check the transition itself.';
comment on column steps.moved_by is 'What the last write was for.';
comment on column steps.fence is
    'Bumped by every writer. A worker settles a row only at the fence at which it claimed it.';
comment on column steps.lease is 'Which claim holds the row while it is leased.';
comment on column steps.next_at is
    'When it is next to be tried or looked at; while leased, the end of the lease.';
comment on column steps.action_id is
    'Hetzner''s action that carries out the delete it accepted.';
comment on column steps.accepted_at is 'When the vendor accepted the delete.';
comment on column steps.proof is
    'deleted: we deleted it and the list is without it. already_gone: its id answered 404 and '
    'the list is without it. never_appeared: a list begun after all that could create it had '
    'ended was empty.';
comment on column steps.tries is
    'Tries so far; at least 1 once a worker has come back with any answer.';
comment on column steps.failures is 'Failed tries in a row, for the back-off.';
comment on column steps.last_error is 'What the last failed try met.';
comment on column steps.unsettled_since is
    'Since when it must go: when it was planned or, later, seen again.';
comment on column steps.stuck_at is
    'When it was flagged stuck: unsettled for too long, or refused in a way that needs a person.';
comment on column steps.settled_at is 'When it was proven gone or refused.';

create unique index steps_one_search on steps (provision_id, attempt, resource) where searches;
create unique index steps_one_per_id on steps (provision_id, attempt, resource, vendor_id)
    where not searches;
create index steps_due on steps (next_at) where next_at is not null;

create view provision_records as
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
       ) as steps
from provisions p
join attempts a on a.provision_id = p.id and a.number = p.attempt;
comment on view provision_records is
    'What the status API shows of a provision, in one row.';
comment on column provision_records.id is 'The provision.';
comment on column provision_records.agent_id is 'As in provisions.';
comment on column provision_records.region is 'As in provisions.';
comment on column provision_records.status is 'As in provisions.';
comment on column provision_records.created_at is 'As in provisions.';
comment on column provision_records.updated_at is 'As in provisions.';
comment on column provision_records.current is 'The current attempt.';
comment on column provision_records.over is
    'The attempts that are or were rolled back, oldest first; null if there is none.';
comment on column provision_records.steps is
    'The steps of all attempts in the order of deletion; null if there is none.';
