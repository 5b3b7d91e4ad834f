#!/usr/bin/env bash
# callback.sh KIND: tells backstop, and insists until it answers.
#
# Fields beside the common ones are read from standard input, a JSON object. The answer goes to
# standard output. Exit code 0: accepted; 4: refused, and the answer is a problem with a `code`;
# 5: nobody answered in time.
#
#   BACKSTOP_URL                where backstop is
#   BACKSTOP_CALLBACK_SECRET    whsec_…: callbacks are signed with it (Standard Webhooks). Empty: they
#                               bear this job's OIDC token, which needs `id-token: write`
#   BACKSTOP_OIDC_AUDIENCE      audience of that token; BACKSTOP_URL if empty
#   CALLBACK_SECONDS            how long to insist: 120
#   CALLBACK_WAIT_SECONDS       how long a failure may wait for its rollback to settle: 0
# `insist` calls what shellcheck believes nobody does.
# shellcheck disable=SC2317,SC2329
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

kind=$1
url=${BACKSTOP_URL%/}/v1/provisions/$PROVISION_ID/callbacks/$kind
message=$(jq -c --arg type "$kind" --arg id "$PROVISION_ID" --arg run "$GITHUB_RUN_ID" \
  --arg attempt "$GITHUB_RUN_ATTEMPT" \
  '. + {type: $type, provision_id: $id, run_id: $run, run_attempt: $attempt}')
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
  local audience token=${ACTIONS_ID_TOKEN_REQUEST_TOKEN:?the job needs id-token: write}
  audience=$(jq -rn --arg it "${BACKSTOP_OIDC_AUDIENCE:-${BACKSTOP_URL%/}}" '$it | @uri')
  request GET "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=$audience"
  jq -er '"header = \"authorization: Bearer \(.value // error)\""' <<<"$body"
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
}

# 409 is backstop's last word. A proof that is refused may be taken a moment later, when keys were
# rotated; only `started` has nothing to lose by giving up at once.
is_passing() {
  case $status in
    000 | 408 | 429 | 5??) true ;;
    401) [[ $kind != started ]] ;;
    *) false ;;
  esac
}

insist "${CALLBACK_SECONDS:-120}" deliver
printf '%s\n' "$body"
if is_ok; then
  exit 0
elif is_passing; then
  log "callback $kind: nobody answered ($(said))"
  exit 5
fi
log "callback $kind: refused ($(said))"
exit 4
