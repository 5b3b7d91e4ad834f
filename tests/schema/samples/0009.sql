-- A change that a later one has outdated, and one of a transaction that was long ago.
insert into feed (xact, provision_id)
select x::text::xid8, id from provisions, generate_series(3, 4) x;
