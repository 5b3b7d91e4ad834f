#!/usr/bin/env bash
# callback.sh KIND: tells backstop, and insists until it answers.
#
# Fields beside the common ones are read from standard input, a JSON object; none is as good as `{}`. The
# answer goes to standard output. Exit code 0: accepted; 3: a setting is wrong, and the log says which;
# 4: refused, and the answer is a problem with a `code`; 5: nobody answered in time. What is neither
# comes from something in between, and counts as no answer.
#
#   BACKSTOP_URL                where backstop is
#   BACKSTOP_CALLBACK_SECRET    whsec_…: callbacks are signed with it (Standard Webhooks). Empty: they
#                               bear this job's OIDC token, which needs `id-token: write`
#   BACKSTOP_OIDC_AUDIENCE      audience of that token; BACKSTOP_URL if empty
#   BACKSTOP_JOB                which job of the run this is, where several might share a provision; else
#                               what the runner calls it
#   CALLBACK_SECONDS            how long to insist: 120
#   CALLBACK_WAIT_SECONDS       how long a failure may wait for its rollback to settle: 0
# `insist` calls what shellcheck believes nobody does.
# shellcheck disable=SC2317,SC2329
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# What no patience mends. The words become the error of the failure callback, if one can be sent.
wrong() {
  note error "$*"
  log "::error::$*"
  exit 3
}

check_settings() {
  case ${BACKSTOP_URL-} in
    '') wrong 'BACKSTOP_URL is not set: it says where backstop is, such as https://backstop.example.com' ;;
    *[[:space:][:cntrl:]]*) wrong 'BACKSTOP_URL has white space or a line break in it' ;;
    http://[!/]* | https://[!/]*) ;;
    *) wrong 'BACKSTOP_URL must begin with https:// (or http://) and name a host' ;;
  esac
  [[ ${GITHUB_RUN_ID-} =~ ^[0-9]+$ ]] || wrong 'GITHUB_RUN_ID must be the number of a run'
  [[ ${GITHUB_RUN_ATTEMPT-} =~ ^[0-9]+$ ]] || wrong 'GITHUB_RUN_ATTEMPT must be a number'
  if [[ -n ${BACKSTOP_CALLBACK_SECRET-} ]]; then
    [[ $BACKSTOP_CALLBACK_SECRET =~ ^(whsec_)?[A-Za-z0-9+/]+=*$ ]] \
      || wrong 'BACKSTOP_CALLBACK_SECRET must be whsec_ and base64, without a line break'
  elif [[ -z ${ACTIONS_ID_TOKEN_REQUEST_TOKEN-} || -z ${ACTIONS_ID_TOKEN_REQUEST_URL-} ]]; then
    wrong "nothing proves the callbacks: the job needs 'permissions: id-token: write', or BACKSTOP_CALLBACK_SECRET"
  fi
}

kind=$1
check_settings
url=${BACKSTOP_URL%/}/v1/provisions/$PROVISION_ID/callbacks/$kind
# A job of a matrix has the name of its neighbours, but a tracking id of its own.
job=${BACKSTOP_JOB-${GITHUB_JOB-}${RUNNER_TRACKING_ID:+ $RUNNER_TRACKING_ID}}
message=$(jq -cs --arg type "$kind" --arg id "$PROVISION_ID" --arg run "$GITHUB_RUN_ID" \
  --arg attempt "$GITHUB_RUN_ATTEMPT" --arg job "$job" '
  if length > 1 or (.[0] // {} | type != "object") then error("no object") else .[0] // {} end
  | {job: $job} + . + {type: $type, provision_id: $id, run_id: $run, run_attempt: $attempt}' \
  2>/dev/null) || wrong "the fields of a callback must be one JSON object"
wait=${CALLBACK_WAIT_SECONDS:-0}
REQUEST_SECONDS=$((wait + 20))

# Headers that prove who speaks, as curl's configuration.
prove() {
  if [[ -n ${BACKSTOP_CALLBACK_SECRET-} ]]; then
    prove_by_signature
  else
    prove_by_token
  fi
}

# https://www.standardwebhooks.com. Not openssl's HMAC: it takes the key on its command line.
prove_by_signature() {
  local id at signature
  id=msg_$(openssl rand -hex 12)
  at=$(now)
  signature=$(printf %s "$id.$at.$message" | python3 -c '
import base64, hmac, os, sys
key = base64.b64decode(os.environ["BACKSTOP_CALLBACK_SECRET"].removeprefix("whsec_"))
print(base64.b64encode(hmac.digest(key, sys.stdin.buffer.read(), "sha256")).decode())')
  printf 'header = "webhook-%s"\n' "id: $id" "timestamp: $at" "signature: v1,$signature"
}

prove_by_token() {
  local audience token=$ACTIONS_ID_TOKEN_REQUEST_TOKEN
  audience=$(jq -rn --arg it "${BACKSTOP_OIDC_AUDIENCE:-${BACKSTOP_URL%/}}" '$it | @uri')
  request GET "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$audience"
  # Not an unproven callback where there is no token.
  if [[ $status != 2?? ]] || ! holds '.value | type == "string" and . != ""'; then return 1; fi
  jq -r '"header = \"authorization: Bearer \(.value)\""' <<<"$body"
}

deliver() {
  local proof
  # Made afresh for each try: it ages within minutes.
  if proof=$(prove); then
    send POST "$url" --header 'content-type: application/json' --header "prefer: wait=$wait" \
      --data-binary @- --config <(printf '%s\n' "$proof") < <(printf %s "$message")
  else
    status=000 body=
  fi
  judge '.code | type == "string"' 'type == "object"'
  # A proof that is refused may be taken a moment later, when keys were rotated; only `started` has
  # nothing to lose by giving up at once.
  if [[ $status == 401 && $kind != started ]]; then outcome=passing; fi
}

insist "${CALLBACK_SECONDS:-120}" deliver
printf '%s\n' "$body"
case $outcome in
  ok) exit 0 ;;
  refused)
    log "callback $kind: refused ($(said))"
    exit 4
    ;;
  *)
    log "callback $kind: nobody answered ($(said))"
    exit 5
    ;;
esac
