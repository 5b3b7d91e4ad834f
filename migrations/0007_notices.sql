-- What the operators' webhook is still to be told.
-- Never edited once released: a change is a new migration.

create table notices (
    id         uuid        primary key default gen_random_uuid(),
    kind       text        not null,
    data       jsonb       not null,
    created_at timestamptz not null,
    next_at    timestamptz not null,
    tries      integer     not null default 0 check (tries >= 0),
    constraint notices_kind check (
        kind in ('rollback.settled', 'rollback.stuck', 'orphans.found')
    )
);
comment on table notices is
    'One row for each thing that the operators'' webhook is still to be told, written in the '
    'transaction in which it happened. Deleted when it was told, or has failed for too long.';
comment on column notices.id is
    'The webhook-id: the same in every try, so that a receiver can drop repeats.';
comment on column notices.kind is
    'rollback.settled: everything that a provision''s rollbacks had to undo is gone. '
    'rollback.stuck: one of their steps is stuck. orphans.found: a sweep found what should not '
    'be there and no sweep saw before.';
comment on column notices.data is
    'What is told: for rollback.* the provision as the status API showed it at that moment; for '
    'orphans.found the sweep, with those orphans alone that it was the first to see.';
comment on column notices.created_at is 'When it happened.';
comment on column notices.next_at is
    'When it is next to be sent; while somebody is sending it, when another may.';
comment on column notices.tries is
    'Tries so far. Bumped by whoever takes it in hand, and only who took it last puts it back.';

create index notices_due on notices (next_at);
