-- Deadlines and heartbeats, the pulse that says whether callbacks can be heard, and the hold.

alter table provisions
    add column disowned_at timestamptz,
    add constraint provisions_disowned check (disowned_at is null or status = 'destroyed'),
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
            ('queued', 'overdue', 'failed'),
            ('queued', 'destroyed', 'destroyed'),
            ('queued', 'disowned', 'destroyed'),
            ('provisioning', 'started', 'provisioning'),
            ('provisioning', 'progress', 'provisioning'),
            ('provisioning', 'success', 'running'),
            ('provisioning', 'failure', 'failed'),
            ('provisioning', 'overdue', 'failed'),
            ('provisioning', 'late', 'provisioning'),
            ('provisioning', 'retry', 'provisioning'),
            ('provisioning', 'destroyed', 'destroyed'),
            ('provisioning', 'disowned', 'destroyed'),
            ('running', 'started', 'running'),
            ('running', 'progress', 'running'),
            ('running', 'success', 'running'),
            ('running', 'failure', 'failed'),
            ('running', 'late', 'running'),
            ('running', 'retry', 'running'),
            ('running', 'destroyed', 'destroyed'),
            ('running', 'disowned', 'destroyed'),
            ('failed', 'started', 'provisioning'),
            ('failed', 'late', 'failed'),
            ('failed', 'retry', 'failed'),
            ('failed', 'destroyed', 'destroyed'),
            ('failed', 'disowned', 'destroyed'),
            ('destroyed', 'late', 'destroyed'),
            ('destroyed', 'retry', 'destroyed'),
            ('destroyed', 'disowned', 'destroyed')
        )
    );
comment on column provisions.disowned_at is
    'When this database became another controller, beside the one that made the provision''s '
    'things: nothing of it is ever touched again. Null while it is ours.';

-- Attempt 0 ends when a run takes the provision: an attempt without finished_at is live.
update attempts untaken
set finished_at = first.started_at
from attempts first
where first.provision_id = untaken.provision_id
  and first.number = 1
  and untaken.number = 0
  and untaken.finished_at is null;

comment on column attempts.finished_at is
    'When it succeeded or, later than that, was over; of attempt 0, when a run took the '
    'provision. Null while something is still waited for.';

-- Heartbeats change neither column, so that they stay cheap; few attempts are live at once.
create index attempts_live on attempts (deadline_at) where finished_at is null;

alter table steps
    drop constraint steps_state,
    add constraint steps_state check (
        case state
            when 'due' then next_at is not null and lease is null
            when 'waiting' then next_at is not null and lease is null
            when 'leased' then next_at is not null and lease is not null
            when 'gone' then next_at is null and lease is null and proof is not null
            when 'refused' then next_at is null and lease is null
                                and (moved_by = 'disowned' or (not searches and not own))
            else false
        end
    ),
    drop constraint steps_transition,
    add constraint steps_transition check (
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
            ('due', 'disowned', 'refused'),
            ('waiting', 'disowned', 'refused'),
            ('leased', 'disowned', 'refused'),
            ('gone', 'seen_again', 'due'),
            ('refused', 'seen_again', 'due')
        )
    );
comment on column steps.state is
    'due: to be tried at next_at. waiting: a delete was accepted, or nothing was seen yet; to be '
    'looked at again at next_at. leased: a worker has it until next_at. gone: proven gone. '
    'refused: the id is something else''s, or the provision was disowned; nothing was deleted.';

comment on column events.kind is
    'What happened: created, callback.*, superseded, deadline, destroy, disowned, retry, step.*, '
    'rollback.done.';

create table hearing (
    singleton         boolean     primary key default true check (singleton),
    since             timestamptz,
    last_pulse_at     timestamptz,
    pulses            bigint      not null default 0,
    system_identifier bigint,
    database_oid      bigint,
    table_oid         bigint,
    public_url        text,
    held_since        timestamptz,
    held_because      text,
    constraint hearing_period check ((since is null) = (last_pulse_at is null)),
    constraint hearing_fingerprint check ((database_oid is null) = (table_oid is null)),
    constraint hearing_hold check ((held_since is null) = (held_because is null)),
    constraint hearing_held_because check (
        held_because in ('other_database', 'other_public_url', 'lost_writes', 'long_gap')
    )
);
comment on table hearing is
    'One row: since when callbacks can be heard, which database this was when they were, and '
    'whether provisions may be failed for their time. Every replica that takes callbacks writes '
    'it every few seconds: its pulse.';
comment on column hearing.singleton is 'Always true, so that there is one row.';
comment on column hearing.since is
    'Start of the current period in which there was always a replica that took callbacks; null '
    'before its first pulse.';
comment on column hearing.last_pulse_at is 'When a replica last said that it takes callbacks.';
comment on column hearing.pulses is
    'How many pulses there were. Only ever grows; a replica that wrote a later one than this '
    'knows that the database has lost writes.';
comment on column hearing.system_identifier is
    'Of the Postgres cluster, as pg_control_system() says; null where we may not ask.';
comment on column hearing.database_oid is 'Of the database, within its cluster.';
comment on column hearing.table_oid is
    'Of the table provisions; a dump that is restored makes another.';
comment on column hearing.public_url is
    'Our own URL as workflows see it, as last set; null if it never was.';
comment on column hearing.held_since is
    'Since when nothing is failed for its time, until an operator resumes; null: not held.';
comment on column hearing.held_because is
    'other_database: a restored or copied one. other_public_url: the URL was changed. '
    'lost_writes: the database is older than what it had confirmed. long_gap: for longer than a '
    'provision may take nobody took callbacks, and provisions were under way.';

insert into hearing default values;
