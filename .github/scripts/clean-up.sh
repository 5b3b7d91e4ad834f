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
# this attempt; later the names follow from the attempt's number.
learn_names() {
  local answer
  if answer=$(CALLBACK_SECONDS=30 "$scripts/callback.sh" started <<<'{}'); then
    note started.json "$answer"
  elif has_noted attempt; then
    note started.json "$(jq -n --arg hex "${PROVISION_ID//-/}" --argjson attempt "$(noted attempt)" \
      '"\($hex)-a\($attempt)" as $it | {attempt: $attempt, labels: {"backstop-attempt": "\($attempt)"},
        tailscale: {hostname: "agent-\($it)", key_description: "backstop \($it)", tags: []}}')"
  fi
}

# All labels that are known. The run's alone is this attempt's alone.
selector() {
  { told .labels || true; } | jq -rs --arg provision "$PROVISION_ID" \
    --arg run "$GITHUB_RUN_ID.$GITHUB_RUN_ATTEMPT" '(.[0] // {})
      + {"managed-by": "backstop", "backstop-provision": $provision, "backstop-run": $run}
      | to_entries | map("\(.key)=\(.value)") | join(",") | @uri'
}

tell() {
  log "$1"
  printf -- '- %s\n' "$1" >>"$notes/cleaned"
}

# remove WHAT COMMAND PATH: deletes one thing. 404: somebody else was faster.
remove() {
  insist "$patience" "$2" DELETE "$3"
  if is_ok; then
    tell "$1: deleted"
  elif [[ $status == 404 ]]; then
    tell "$1: was not there"
  else
    tell "$1: could not be deleted, $(said)"
  fi
}

# list COMMAND PATH JQ: sets $listed to the ids that the list shows. In no subshell, which would keep
# Tailscale's token to itself.
list() {
  listed=
  insist "$patience" "$1" GET "$2"
  if ! is_ok || ! listed=$(jq -r --argjson told "$(told . | jq -s '.[0] // {}')" "$3" <<<"$body"); then
    tell "$2 could not be listed, $(said)"
  fi
}

# noted_or_listed NOTE: each id once.
noted_or_listed() {
  { noted "$1" && echo && echo "$listed"; } | sort -u
}

# shellcheck disable=SC2016 # jq's variables
remove_keys() {
  local id
  list tailscale '/TAILNET/keys?all=true' \
    '.keys[] | select(.description == $told.tailscale.key_description) | .id'
  for id in $(noted_or_listed tailscale_key_id); do
    remove "auth key $id" tailscale "/TAILNET/keys/$id"
  done
}

remove_servers() {
  local id
  list hetzner "/servers?label_selector=$(selector)" '.servers[].id'
  for id in $(noted_or_listed server_id); do
    remove "server $id" hetzner "/servers/$id"
    await_end_of_server "$id"
  done
}

# A machine that is on its way down may still bring its device back.
await_end_of_server() {
  local until=$(($(now) + patience))
  while hetzner GET "/servers/$1" && [[ $status != 404 ]] && (($(now) < until)); do
    sleep "${POLL_SECONDS:-2}"
  done
}

# shellcheck disable=SC2016 # jq's variables
remove_devices() {
  local id
  list tailscale '/TAILNET/devices' \
    '.devices[] | select(.hostname == $told.tailscale.hostname and .tags != null
      and ($told.tailscale.tags - .tags == [])) | .nodeId // .id'
  for id in $(noted_or_listed tailscale_node_id); do
    remove "device $id" tailscale "/device/$id"
  done
}

# What follows is not to be stopped by a heartbeat.
rm -f "$notes/stoppable_pid"
while IFS='=' read -r name value; do note "$name" "$value"; done \
  < <(jq -r 'to_entries[] | "\(.key)=\(.value)"' <<<"${KNOWN:-{\}}")

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
