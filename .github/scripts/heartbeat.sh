#!/usr/bin/env bash
# Sends heartbeats until the job ends; the runner then ends it. To be started in the background, its
# output redirected: the step would wait for an open one.
#
# When backstop answers that it has given the attempt up, whatever step is at work is stopped, and
# the job takes its failure path.
#
#   HEARTBEAT_SECONDS    from one to the next: 60
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

while sleep "${HEARTBEAT_SECONDS:-60}"; do
  code=0
  answer=$(CALLBACK_SECONDS=30 "$scripts/callback.sh" progress <<<'{}') || code=$?
  if ((code == 3)); then exit 1; fi
  ((code == 4)) || continue
  reason=$(jq -r .code <<<"$answer")
  # Any other refusal is of this message and not of the attempt.
  if is_given_up "$reason"; then
    note error "backstop has given this attempt up ($reason)"
    log "given up: $reason"
    kill -TERM "$(noted stoppable_pid)" 2>/dev/null || true
    exit
  fi
done
