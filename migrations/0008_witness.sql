-- GitHub as second witness: what it says of the runs that attempts belong to.

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
            ('queued', 'overdue', 'failed'),
            ('queued', 'run_failed', 'failed'),
            ('queued', 'discrepancy', 'queued'),
            ('queued', 'destroyed', 'destroyed'),
            ('queued', 'disowned', 'destroyed'),
            ('provisioning', 'started', 'provisioning'),
            ('provisioning', 'progress', 'provisioning'),
            ('provisioning', 'success', 'running'),
            ('provisioning', 'failure', 'failed'),
            ('provisioning', 'overdue', 'failed'),
            ('provisioning', 'run_failed', 'failed'),
            ('provisioning', 'discrepancy', 'provisioning'),
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

alter table attempts
    add column ended_by_github boolean not null default false,
    add constraint attempts_ended_by_github check (
        not ended_by_github or coalesce(reason in ('failure', 'cancelled', 'timed_out'), false)
    );
comment on column attempts.ended_by_github is
    'Whether the reason is GitHub''s conclusion of the run; its workflow''s own word replaces it.';
comment on column attempts.reason is
    'Why it is rolled back; null while it is live. failure, cancelled, timed_out: its workflow or '
    'GitHub said so. superseded: a later attempt of the same run started. silent: its heartbeats '
    'stopped. deadline: no terminal callback came in time. never_started: no run took it. '
    'dispatch_failed: the workflow could not be started. destroyed: somebody asked for that.';

-- Finds the live attempts of a run. Heartbeats touch none of its columns.
create index attempts_live_by_run on attempts (run_id, run_attempt)
    where finished_at is null and run_id is not null;
create index dispatches_by_run on dispatches (run_id) where run_id is not null;

create table witness (
    provision_id uuid        not null,
    attempt      integer     not null,
    next_at      timestamptz,
    asks         integer     not null default 0 check (asks >= 0),
    failures     integer     not null default 0 check (failures >= 0),
    etag         text,
    under_way_at timestamptz,
    job_ended_at timestamptz,
    primary key (provision_id, attempt),
    foreign key (provision_id, attempt) references attempts,
    constraint witness_etag check (etag is null or under_way_at is not null)
);
comment on table witness is
    'What GitHub was asked of the run that an attempt belongs to, or that was dispatched for it: '
    'one row for each attempt that gave reason to ask.';
comment on column witness.provision_id is 'Of which provision.';
comment on column witness.attempt is 'Of which attempt; 0: of the run that was dispatched.';
comment on column witness.next_at is
    'When it may be asked again, while there is reason to; while it is being asked, when whoever '
    'asks is taken for dead. Null: GitHub said how it ended, which is final.';
comment on column witness.asks is
    'How often it was asked. An answer is written only by the one who asked last.';
comment on column witness.failures is 'Asks in a row that told nothing, for the back-off.';
comment on column witness.etag is
    'Of the last answer, if that said that the run is under way: asked with it, GitHub answers 304 '
    'as long as nothing has changed.';
comment on column witness.under_way_at is
    'When GitHub last said that the run is not over. Silence counts from here, too.';
comment on column witness.job_ended_at is
    'When GitHub last sent that a job of the run has ended: a reason to ask, until the attempt is '
    'heard again.';

create table github_asking (
    singleton       boolean     primary key default true check (singleton),
    window_began_at timestamptz not null default now(),
    asked           integer     not null default 0 check (asked >= 0),
    paused_until    timestamptz
);
comment on table github_asking is 'One row: how much all replicas together ask GitHub.';
comment on column github_asking.singleton is 'Always true, so that there is one row.';
comment on column github_asking.window_began_at is 'Start of the minute that is counted.';
comment on column github_asking.asked is 'How many runs were asked about in that minute.';
comment on column github_asking.paused_until is
    'Until when nobody asks, because GitHub said so or lets us not in.';
insert into github_asking default values;

create table github_deliveries (
    id text        primary key,
    at timestamptz not null
);
comment on table github_deliveries is
    'Webhooks of GitHub that changed something, each once. Kept for longer than GitHub sends one '
    'again.';
comment on column github_deliveries.id is 'As X-GitHub-Delivery says it.';
comment on column github_deliveries.at is 'When it came.';
create index github_deliveries_by_age on github_deliveries (at);

comment on column events.kind is
    'What happened: created, callback.*, dispatch.*, github.*, superseded, deadline, destroy, '
    'disowned, retry, step.*, sweep.*, rollback.done.';
