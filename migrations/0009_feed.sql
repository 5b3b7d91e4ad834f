-- What the stream tells of: which provisions changed, in an order in which nothing is missed.

create table feed (
    xact         xid8 not null default pg_current_xact_id(),
    provision_id uuid not null,
    primary key (xact, provision_id)
);
comment on table feed is
    'One row for each transaction and provision of which it changed something that is shown, '
    'written by triggers, so that no writer can forget it. Numbers given out by a sequence become '
    'visible out of order; a transaction below the oldest that still runs is over, so that whoever '
    'reads up to there misses nothing. Rows that a later one of the same provision has outdated '
    'are deleted from time to time; the newest is kept.';
comment on column feed.xact is 'The transaction.';
comment on column feed.provision_id is
    'The provision. No foreign key: checking it would lock the row that callbacks write.';

create function feed_provision() returns trigger
language plpgsql as $$
begin
    insert into feed (provision_id) values (new.id) on conflict do nothing;
    return null;
end
$$;
comment on function feed_provision() is 'Something that is shown of this provision changed.';

create function feed_part() returns trigger
language plpgsql as $$
begin
    insert into feed (provision_id) values (new.provision_id) on conflict do nothing;
    return null;
end
$$;
comment on function feed_part() is
    'Something that is shown of the provision that this row belongs to changed.';

create trigger feed_provision_new after insert on provisions
    for each row execute function feed_provision();
create trigger feed_provision_changed after update on provisions
    for each row
    when ((old.agent_id, old.region, old.status, old.attempt, old.updated_at)
          is distinct from (new.agent_id, new.region, new.status, new.attempt, new.updated_at))
    execute function feed_provision();

-- An attempt is only ever opened together with a change of its provision. Of heartbeats the first of
-- each minute counts: they are most of what is written, and the others stay as cheap as they were.
create trigger feed_attempt_changed after update on attempts
    for each row
    when ((old.step, old.server_id, old.server_ip, old.tailscale_ip, old.error, old.failed_step,
           old.conclusion, old.deadline_at, old.finished_at, old.reason, old.rollback_started_at,
           date_trunc('minute', old.last_heartbeat_at, 'UTC'))
          is distinct from
          (new.step, new.server_id, new.server_ip, new.tailscale_ip, new.error, new.failed_step,
           new.conclusion, new.deadline_at, new.finished_at, new.reason, new.rollback_started_at,
           date_trunc('minute', new.last_heartbeat_at, 'UTC')))
    execute function feed_part();

create trigger feed_step_new after insert on steps
    for each row execute function feed_part();
create trigger feed_step_changed after update on steps
    for each row
    when ((old.vendor_id, old.state, old.next_at, old.proof, old.tries, old.last_error,
           old.unsettled_since, old.stuck_at, old.settled_at)
          is distinct from
          (new.vendor_id, new.state, new.next_at, new.proof, new.tries, new.last_error,
           new.unsettled_since, new.stuck_at, new.settled_at))
    execute function feed_part();

create trigger feed_dispatch_changed after update on dispatches
    for each row when (old.run_id is distinct from new.run_id)
    execute function feed_part();
