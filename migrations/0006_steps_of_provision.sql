-- Finds a provision's steps, for claims, lists and records: both unique indexes on steps are partial,
-- so that without this one each of those reads the whole ledger.
create index steps_of_provision on steps (provision_id, attempt);

comment on column events.kind is
    'What happened: created, callback.*, dispatch.*, superseded, deadline, destroy, disowned, retry, '
    'step.*, sweep.*, rollback.done.';
