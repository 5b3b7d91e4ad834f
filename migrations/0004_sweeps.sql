-- What the vendors' lists showed that should not be there, and the sweeps that looked.

create table sweeps (
    id          bigint      generated always as identity primary key,
    started_at  timestamptz not null,
    held_until  timestamptz,
    finished_at timestamptz,
    errors      jsonb       not null default '[]',
    not_ours    integer     not null default 0 check (not_ours >= 0),
    currency    text,
    constraint sweeps_held check (held_until is null or finished_at is null)
);
comment on table sweeps is
    'One row a sweep that writes, newest last. One that was dry leaves none.';
comment on column sweeps.id is 'The sweep.';
comment on column sweeps.started_at is
    'When its lists were begun. What it saw was there then.';
comment on column sweeps.held_until is
    'Until when the replica that claimed a periodic sweep has it; null for one that somebody asked '
    'for, and for one that has ended. Whoever comes later takes it for dead.';
comment on column sweeps.finished_at is
    'When all was judged and written; null if it never came to that.';
comment on column sweeps.errors is
    'A sentence for each list that could not be read and each thing that could not be written.';
comment on column sweeps.not_ours is
    'How many things say that they are of backstop''s making and carry another controller''s id.';
comment on column sweeps.currency is
    'What costs are counted in, as the vendor''s price list says; null if no price was needed.';

create unique index sweeps_one_at_a_time on sweeps ((true)) where held_until is not null;
create index sweeps_by_start on sweeps (started_at);

create table orphans (
    subject       text        primary key,
    kind          text        not null,
    vendor_id     text        not null,
    vendor        text        not null,
    name          text        not null,
    provision_id  uuid,
    attempt       integer     check (attempt > 0),
    why           text        not null,
    action        text        not null,
    hourly_cost   numeric     check (hourly_cost >= 0),
    first_seen_at timestamptz not null,
    last_seen_at  timestamptz not null,
    sweep_id      bigint      not null references sweeps,
    constraint orphans_kind check (
        (vendor, kind) in (
            ('hetzner', 'server'),
            ('hetzner', 'volume'),
            ('hetzner', 'primary_ip'),
            ('hetzner', 'floating_ip'),
            ('tailscale', 'device'),
            ('tailscale', 'auth_key')
        )
    ),
    constraint orphans_why check (
        why in ('attempt_over', 'older_attempt', 'rollback_stuck', 'unknown_provision',
                'unknown_attempt', 'labels_incomplete', 'outlived_server',
                'running_without_server')
    ),
    constraint orphans_action check (action in ('rolled_back', 'reported', 'deleted_when_told')),
    constraint orphans_attempt check ((provision_id is null) = (attempt is null))
);
comment on table orphans is
    'What sweeps found and the last one still saw. It is only shown: what must go is in steps.';
comment on column orphans.subject is
    'What this row is about: a thing by its kind and id; or a provision that runs, by its id, whose '
    'reported server another row may be about.';
comment on column orphans.kind is 'What it is.';
comment on column orphans.vendor_id is
    'The vendor''s id; for a provision that runs without its server the id that was reported.';
comment on column orphans.vendor is 'Whose it is.';
comment on column orphans.name is 'What people call it: a name, a host name or a description.';
comment on column orphans.provision_id is
    'The provision that it names, whether there is one or not; null if it names none.';
comment on column orphans.attempt is 'The attempt that it names.';
comment on column orphans.why is
    'attempt_over, older_attempt: its attempt is over, the current one or one before. '
    'rollback_stuck: its rollback needs a person. unknown_provision, unknown_attempt: no provision '
    'or no attempt of ours knows it. labels_incomplete: it carries our controller id and not all '
    'five labels. outlived_server: a volume or an IP that no server has any more. '
    'running_without_server: a provision runs and no server carries its labels.';
comment on column orphans.action is
    'rolled_back: its rollback goes on, reopened where it had ended. reported: nothing is done. '
    'deleted_when_told: a sweep that is told to delete hands it to the ledger.';
comment on column orphans.hourly_cost is
    'What it costs an hour, net; null if it costs nothing or that is not known.';
comment on column orphans.first_seen_at is 'When a sweep first saw it.';
comment on column orphans.last_seen_at is 'When the last sweep that saw it was begun.';
comment on column orphans.sweep_id is 'That sweep.';

comment on column events.kind is
    'What happened: created, callback.*, superseded, deadline, destroy, disowned, retry, dispatch.*, '
    'sweep.*, step.*, rollback.done.';
