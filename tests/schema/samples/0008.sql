-- A run under way, one that has ended, and webhooks that were heard.
insert into witness (provision_id, attempt, next_at, asks, failures, etag, under_way_at, job_ended_at)
values
    ('00000000-0000-4000-8000-000000000011', 0, '2026-02-01 00:06', 3, 0, 'W/"5f1c"', '2026-02-01 00:05', '2026-02-01 00:04'),
    ('00000000-0000-4000-8000-000000000012', 0, null, 1, 0, null, null, null);

update github_asking set window_began_at = '2026-02-01', asked = 4, paused_until = '2026-02-01 00:01';

insert into github_deliveries (id, at)
values ('0b989ba4-242f-11e5-81e1-c7b6966d2516', '2026-02-01');
