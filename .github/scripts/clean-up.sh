#!/usr/bin/env bash
# clean-up.sh first|second: deletes what this attempt made, key, server and device, by id where one is
# known and by labels and names always. What is not there is as good as deleted.
#
# It asks backstop before it touches anything, for the success may have been accepted although nobody
# heard the answer. Without an answer the first job cleans only if it never sent `success`; the second
# job, on a fresh runner, knows too little and leaves everything to backstop.
#
#   KNOWN    the first job's outputs, for the second: a JSON object of what they still say
#   HCLOUD_TOKEN, TAILSCALE_OAUTH_CLIENT_ID, TAILSCALE_OAUTH_CLIENT_SECRET
# and what callback.sh takes. The output `verdict` says what became of it: kept, cleaned or left.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"
job=$1
# For one thing to become deletable, and to go.
patience=${CLEAN_UP_SECONDS:-45}

# Whether this attempt's things are to go: `clean`, or why not.
ask() {
  local answer code=0
  answer=$(ids | jq '. + {step: "cleanup"}' \
    | CALLBACK_SECONDS=${CALLBACK_SECONDS:-40} "$scripts/callback.sh" progress) || code=$?
  # A problem has a code, any other answer a status.
  case $code-$(jq -r '.code // .status' <<<"$answer" 2>/dev/null) in
    0-running) echo "kept: backstop had accepted the success" ;;
    0-*) echo clean ;;
    4-already_failed | 4-already_destroyed | 4-stale_attempt) echo clean ;;
    4-unknown_attempt) echo "kept: this run owns nothing of the provision" ;;
    *)
      if [[ $job == second ]]; then
        echo "left: backstop does not answer, and this runner cannot know what is in use"
      elif has_noted success_sent; then
        echo "left: the success was sent, and backstop does not answer"
      else
        echo clean
      fi
      ;;
  esac
}

end() {
  log "$1"
  announce verdict "${1%%:*}"
  summary "Clean-up: $1"
  exit 0
}

# A fresh runner learns the names anew. backstop answers `started` once more while it still waits for
# this attempt; later the names follow from the attempt's number. The device's tags do not, and a
# device whose tags nobody knows is left to backstop. The second job is not the one that opened the
# attempt, and names none.
learn_names() {
  local answer
  [[ $job == first ]] || export BACKSTOP_JOB=
  if answer=$(CALLBACK_SECONDS=30 "$scripts/callback.sh" started <<<'{}'); then
    note started.json "$answer"
  elif has_noted attempt; then
    note started.json "$(jq -n --arg hex "${PROVISION_ID//-/}" --argjson attempt "$(noted attempt)" \
      '"\($hex)-a\($attempt)" as $it | {attempt: $attempt, labels: {"backstop-attempt": "\($attempt)"},
        tailscale: {hostname: "agent-\($it)", key_description: "backstop \($it)"}}')"
  fi
}

# The labels that are this attempt's alone, as an object; the run's alone would do. `managed-by` is
# advice, which other tools overwrite.
labels() {
  { told .labels || true; } | jq -cs --arg provision "$PROVISION_ID" \
    --arg run "$GITHUB_RUN_ID.$GITHUB_RUN_ATTEMPT" '(.[0] // {} | del(.["managed-by"]) | with_entries(select(.value | type == "string" and . != "")))
      + {"backstop-provision": $provision, "backstop-run": $run}'
}

tell() {
  log "$1"
  printf -- '- %s\n' "$1" >>"$notes/cleaned"
}

# remove WHAT COMMAND EXPECTED PATH: deletes one thing. 404: somebody else was faster.
remove() {
  insist "$patience" "$2" "$3" DELETE "$4"
  if is_ok; then
    tell "$1: deleted"
  elif is_absent; then
    tell "$1: was not there"
  else
    tell "$1: could not be deleted, $(said)"
  fi
}

# list COMMAND KIND PATH JQ [ARGUMENT…]: sets $listed to the ids of those that the list shows and JQ
# selects. In no subshell, which would keep Tailscale's token to itself.
#
# A vendor leaves out what is empty, so that null equals null for things that are anybody's. Nothing is
# ever selected but by a text of our own that is there: each JQ compares with what $told says or with
# the attempt's labels, and only where that is a text.
list() {
  listed=
  insist "$patience" "$1" "$(list_of "$2")" GET "$3"
  if ! is_ok || ! listed=$(jq -r --argjson told "$(told . | jq -s '.[0] // {}')" "${@:5}" \
    "def text: type == \"string\" and . != \"\"; .$2[] | select($4) | .nodeId // .id | select(. != null)" \
    <<<"$body"); then
    listed=
    tell "$2 could not be listed, $(said)"
  fi
}

# noted_or_listed NOTE: each id once, and only what can be one.
noted_or_listed() {
  { noted "$1" && echo && echo "$listed"; } | grep -E '^[A-Za-z0-9_-]+$' | grep -vx null | sort -u || true
}

# shellcheck disable=SC2016 # jq's variables
remove_keys() {
  local id
  listed=
  if [[ -n $(told .tailscale.key_description) ]]; then
    list tailscale keys '/TAILNET/keys?all=true' \
      '(.description | text) and (.keyType // "auth") == "auth"
        and (.description | IN($told.tailscale | .key_description, .key_description_signed))'
  fi
  for id in $(noted_or_listed tailscale_key_id); do
    remove "auth key $id" tailscale 'type == "object" or type == "null"' "/TAILNET/keys/$id"
  done
}

# What the list shows is compared again, for a list may be more than was asked for.
# shellcheck disable=SC2016 # jq's variables
remove_servers() {
  local id own
  own=$(labels)
  list hetzner servers "/servers?label_selector=$(jq -r 'to_entries | map("\(.key)=\(.value)") | join(",") | @uri' <<<"$own")" \
    '(.labels | type == "object") and (.labels as $its | $own | to_entries | all($its[.key] == .value))' \
    --argjson own "$own"
  for id in $(noted_or_listed server_id); do
    remove "server $id" hetzner '.action | type == "object"' "/servers/$id"
    await_end_of_server "$id"
  done
}

# A machine that is on its way down may still bring its device back.
await_end_of_server() {
  local until=$(($(now) + patience))
  while hetzner '.server | type == "object"' GET "/servers/$1" && ! is_refused && (($(now) < until)); do
    sleep "${POLL_SECONDS:-2}"
  done
}

# shellcheck disable=SC2016 # jq's variables
remove_devices() {
  local id
  listed=
  if [[ -n $(told .tailscale.hostname) && -n $(told '.tailscale.tags[0]') ]]; then
    list tailscale devices '/TAILNET/devices' \
      '(.hostname | text) and .hostname == $told.tailscale.hostname
        and (.tags | type == "array") and ($told.tailscale.tags - .tags == [])'
  fi
  for id in $(noted_or_listed tailscale_node_id); do
    remove "device $id" tailscale 'type == "object" or type == "null"' "/device/$id"
  done
}

# What follows is not to be stopped by a heartbeat.
rm -f "$notes/stoppable_pid"
while IFS='=' read -r name value; do note "$name" "$value"; done < <(
  jq -r 'to_entries[] | select(.key | test("^[a-z_]+$"))
    | select(.value | type == "string" and . != "" and . != "null") | "\(.key)=\(.value)"' <<<"${KNOWN:-{\}}"
)

verdict=$(ask)
[[ $verdict == clean ]] || end "$verdict"
has_noted started.json || learn_names
: >"$notes/cleaned"
with_tailscale_credential() { [[ -n ${TAILSCALE_OAUTH_CLIENT_ID-} ]]; }
if with_tailscale_credential; then remove_keys; fi
remove_servers
if with_tailscale_credential; then remove_devices; fi
end "cleaned: what was found of this attempt
$(noted cleaned)"
