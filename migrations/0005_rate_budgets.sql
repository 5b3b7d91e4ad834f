-- What is left of a vendor's rate limit, shared by all replicas; and an index by which what has
-- settled is counted.

create table rate_budgets (
    vendor            text        primary key,
    version           bigint      not null check (version > 0),
    told_limit        bigint      check (told_limit >= 0),
    told_remaining    bigint      check (told_remaining >= 0),
    told_at           bigint,
    heard_at          timestamptz,
    permits           jsonb       not null,
    last_exception_at timestamptz,
    paused_until      timestamptz,
    constraint rate_budgets_told check (
        (told_limit is null) = (heard_at is null)
        and (told_remaining is null) = (heard_at is null)
        and (told_at is null or heard_at is not null)
    )
);
comment on table rate_budgets is
    'One row a vendor: how many requests it may be sent. Every replica asks here before it calls.';
comment on column rate_budgets.vendor is 'Whose: hetzner, tailscale.';
comment on column rate_budgets.version is
    'Compare-and-swap: a writer states the version it read, and every write bumps it.';
comment on column rate_budgets.told_limit is
    'Requests an hour, as the vendor last told; null if it never told anything.';
comment on column rate_budgets.told_remaining is
    'Requests left at heard_at. They come back steadily, told_limit an hour.';
comment on column rate_budgets.told_at is
    'When it told that, by its own clock in unix seconds; an answer older than that is ignored.';
comment on column rate_budgets.heard_at is 'When that was written down, by our clock.';
comment on column rate_budgets.permits is
    'Requests that a replica may be sending: [{"id", "requests", "lapses_at"}]. They are taken off '
    'what is left until their holder reports back, and count as used up when they lapse.';
comment on column rate_budgets.last_exception_at is
    'When a delete was last permitted below the reserve, as one is every ten seconds.';
comment on column rate_budgets.paused_until is
    'Until when the vendor asked not to be called at all (429).';

create index steps_settled on steps (resource, state) where settled_at is not null;
