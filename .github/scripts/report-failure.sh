#!/usr/bin/env bash
# Says `failure`, waits a little for backstop to prove everything gone, and puts its answer into the
# job's summary.
#
#   JOB_STATUS     `job.status`, or the result of the job that is reported
#   JOB_MINUTES    that job's `timeout-minutes`
#   STEPS          the `steps` context, to name the one that failed
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

if has_noted refused; then
  log "backstop refused this run ($(noted refused)): there is nothing to report"
  exit 0
fi
case $(noted verdict) in
  kept)
    log "the machine is in use, or not this run's: there is nothing to report"
    exit 0
    ;;
  # A failure would be honoured, and the success may have been accepted.
  left) die "backstop could not be asked whether the machine is in use; nothing was deleted" ;;
esac

# A job whose time is up counts as cancelled everywhere but on the clock, which only the runner that
# began has seen. The tests' minutes are shorter.
conclusion() {
  # Anything else is a cancel: between two steps the status has not caught up with it.
  if [[ ${JOB_STATUS-} == failure ]]; then
    echo failure
  elif has_noted began_at \
    && (($(now) - $(noted began_at) >= JOB_MINUTES * ${MINUTE_SECONDS:-60} - 5)); then
    echo timed_out
  else
    echo cancelled
  fi
}

# The task that failed last, and how, in a few words.
said_by_ansible() {
  [[ -s $notes/ansible.log ]] || return 0
  awk '
    { sub(/^.*\| /, "") }
    /^TASK \[/ { task = $0; sub(/^TASK \[/, "", task); sub(/\] \**$/, "", task) }
    /^(fatal|ERROR|\[ERROR\])/ { last = (task == "" ? "" : task ": ") $0 }
    END { if (last != "") print substr("Ansible: " last, 1, 600) }' "$notes/ansible.log"
}

failed_step=$(jq -r '[to_entries[] | select(.value.outcome | IN("failure", "cancelled")) | .key][0] // empty' \
  <<<"${STEPS:-{\}}")
conclusion=$(conclusion)
error=$(noted error)
if [[ -z $error && $failed_step == configure ]]; then error=$(said_by_ansible); fi
if [[ -z $error ]]; then
  case $conclusion in
    failure) error="${failed_step:-the runner} failed and left no message" ;;
    cancelled) error='the run was cancelled' ;;
    timed_out) error="the job's ${JOB_MINUTES} minutes were up" ;;
  esac
fi
# What was not begun need not be waited for. A fresh runner does not know.
may_exist=null
has_noted began_at && may_exist=$(begun)

code=0
answer=$(ids | jq --arg failed_step "$failed_step" --arg conclusion "$conclusion" --arg error "$error" \
  --argjson may_exist "$may_exist" \
  '. + {failed_step: $failed_step, conclusion: $conclusion, error: $error, may_exist: $may_exist}' \
  | CALLBACK_SECONDS=${CALLBACK_SECONDS:-60} CALLBACK_WAIT_SECONDS=${CALLBACK_WAIT_SECONDS:-20} \
    "$scripts/callback.sh" failure) || code=$?
case $code in
  0) ;;
  3) exit 1 ;;
  4)
    refusal=$(jq -r '"\(.code): \(.detail)"' <<<"$answer")
    if [[ $refusal == unknown_attempt:* ]]; then
      log "this run owns nothing of the provision ($refusal)"
      exit 0
    fi
    die "backstop does not take the failure ($refusal); its deadline will do"
    ;;
  *) die "backstop could not be told of the failure; its deadline will do" ;;
esac

summary "### Rolled back: $(jq -r .rollback.state <<<"$answer")
$error

| attempt | thing | id | state | proof | last error |
|---|---|---|---|---|---|
$(jq -r '.rollback.steps[]? | [.attempt, .resource, .vendor_id // "-", .state, .proof // "-", .last_error // "-"]
  | map(tostring | gsub("[|\n]"; " ")) | "| \(join(" | ")) |"' <<<"$answer")"
log "rollback: $(jq -r .rollback.state <<<"$answer")"
