-- One that was never tried and one that is being retried.
insert into notices (id, kind, data, created_at, next_at, tries)
values
    ('00000000-0000-4000-8000-0000000000b1', 'rollback.settled', '{"id": "00000000-0000-4000-8000-000000000005"}', '2026-01-05', '2026-01-05', 0),
    ('00000000-0000-4000-8000-0000000000b2', 'rollback.stuck', '{"id": "00000000-0000-4000-8000-000000000002"}', '2026-01-05', '2026-01-05 00:15', 12),
    ('00000000-0000-4000-8000-0000000000b3', 'orphans.found', '{"orphans": []}', '2026-01-05', '2026-01-05', 1);
