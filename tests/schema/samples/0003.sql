-- A pulse, a hold, and a provision of the controller that this database was before.
update hearing
set since = '2026-01-05', last_pulse_at = '2026-01-06', pulses = 17280, system_identifier = 7000000000000000001,
    database_oid = 16384, table_oid = 16385, public_url = 'https://backstop.example.com',
    held_since = '2026-01-06', held_because = 'long_gap';

update provisions
set version = 5, moved_from = 'destroyed', moved_by = 'disowned', disowned_at = '2026-01-06'
where id = '00000000-0000-4000-8000-000000000005';

update steps
set state = 'refused', moved_from = 'leased', moved_by = 'disowned', fence = 10, lease = null, next_at = null,
    stuck_at = null, settled_at = '2026-01-06'
where provision_id = '00000000-0000-4000-8000-000000000005' and searches;
