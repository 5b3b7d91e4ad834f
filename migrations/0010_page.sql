-- Indexes for what people look for on the page, and for its charts. Heartbeats change no column of them.

create index provisions_agent_prefix on provisions (lower(agent_id) text_pattern_ops);
create index attempts_by_run on attempts (run_id) where run_id is not null;
create index attempts_by_server on attempts (server_id) where server_id is not null;
create index attempts_by_server_ip on attempts (server_ip) where server_ip is not null;
create index attempts_by_tailscale_ip on attempts (tailscale_ip) where tailscale_ip is not null;

create index attempts_given_up on attempts (rollback_started_at)
    where rollback_started_at is not null;
create index events_rollback_done on events (at) where kind = 'rollback.done';
