# shellcheck shell=bash
# What the scripts here share: notes, requests, callbacks. Sourced, never run.
#
# Each script does one step of provision-agent.yml and can be run by hand, as README.md beside it
# shows. None prints a secret or puts one on a command line, where `ps` shows it: tokens and bodies
# reach curl through pipes. They run with the bash 3.2 of macOS and with jq 1.6.
set -euo pipefail
umask 077

# It comes from whoever starts the workflow and becomes part of paths; labels have it in lower case.
if [[ ! ${PROVISION_ID-} =~ ^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$ ]]; then
  echo "::error::provision_id must be a UUID with dashes"
  exit 1
fi
PROVISION_ID=$(tr '[:upper:]' '[:lower:]' <<<"$PROVISION_ID")

# Notes outlive a step: one small file each, in a folder that lasts as long as the job.
notes=${PROVISION_NOTES:-${RUNNER_TEMP:-/tmp}/backstop-$PROVISION_ID}
mkdir -p "$notes"
scripts=$(dirname "${BASH_SOURCE[0]}")

note() { printf '%s' "$2" >"$notes/$1"; }
noted() { cat "$notes/$1" 2>/dev/null || true; }
has_noted() { [[ -s $notes/$1 ]]; }

# A note that later jobs see as well: it is in the step's outputs at once.
announce() {
  note "$1" "$2"
  printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/null}"
}

log() { printf '%s\n' "$*" >&2; }
summary() { printf '%s\n' "$*" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"; }

# Ends the step. The words become the error of the failure callback.
die() {
  note error "$*"
  printf '::error::%s\n' "$*"
  exit 1
}

# From here on the heartbeat may stop this process, should backstop have given the attempt up.
may_be_stopped() { note stoppable_pid $$; }

# That creating one of these has begun, so that the failure callback can say what may exist.
begin() { : >"$notes/begun.$1"; }
begun() {
  local file
  for file in "$notes"/begun.*; do
    if [[ -e $file ]]; then printf '%s\n' "${file##*/begun.}"; fi
  done | jq -Rnc '[inputs]'
}

# What `started` answered, by jq path; nothing for null.
told() { [[ ! -s $notes/started.json ]] || jq -r "$1 // empty" "$notes/started.json"; }
with_tailscale() { [[ -n $(told .tailscale.hostname) ]]; }

now() { date +%s; }

# send METHOD URL [CURL-OPTION…]: one request. Sets $status (000: no answer) and $body. Redirects are
# not followed: the token is for nobody else.
send() {
  local file
  file=$(mktemp "$notes/body.XXXXXX")
  status=$(curl --silent --show-error --connect-timeout 5 --max-time "${REQUEST_SECONDS:-20}" \
    --request "$1" --output "$file" --write-out '%{http_code}' "${@:3}" "$2") || status=000
  body=$(tr -d '\0' <"$file")
  rm -f "$file"
}

# request METHOD URL [JSON]: the same, bearing $token.
request() {
  local json=()
  [[ -z ${3-} ]] || json=(--header 'content-type: application/json' --data-binary "@-")
  send "$1" "$2" ${json[@]+"${json[@]}"} \
    --config <(printf 'header = "authorization: Bearer %s"\n' "$token") <<<"${3-}"
}

# holds JQ: whether the body is one JSON value of which this is true. What jq prints decides and not
# how it exits: on empty input jq 1.6 exits with 0.
holds() { [[ $(jq -rs "length == 1 and (.[0] | $1)" <<<"$body" 2>/dev/null) == true ]]; }

# judge ERROR EXPECTED: what the last answer is worth, as $outcome. Proxies, gateways and containers
# that are being replaced answer too, with any status and any page, so that a status alone says nothing.
#   ok        it is the answer that was asked for
#   refused   it is an error in the words of whom was asked
#   passing   nobody answered, or something in between did: the same request may be answered later
judge() {
  outcome=passing
  case $status in
    000 | 408 | 429 | 5??) ;;
    2??) if holds "$2"; then outcome=ok; fi ;;
    *) if holds "$1"; then outcome=refused; fi ;;
  esac
}

is_ok() { [[ $outcome == ok ]]; }
is_passing() { [[ $outcome == passing ]]; }
is_refused() { [[ $outcome == refused ]]; }
# Whom was asked says so; a 404 of something in between is not refused.
is_absent() { is_refused && [[ $status == 404 ]]; }

# hetzner EXPECTED METHOD PATH [JSON]
hetzner() {
  local token=$HCLOUD_TOKEN endpoint=${HCLOUD_ENDPOINT:-https://api.hetzner.cloud/v1}
  request "$2" "${endpoint%/}$3" "${@:4}"
  judge '.error.code | type == "string"' "$1"
  # Something else is at work on the same thing.
  if is_refused && { [[ $status == 409 ]] || holds '.error.code == "locked"'; }; then outcome=passing; fi
}

# tailscale EXPECTED METHOD PATH [JSON], below `/api/v2`, where TAILNET stands for the tailnet. With a
# token of the OAuth client's, fetched when it is first needed.
tailscale() {
  local base=${TAILSCALE_BASE_URL:-https://api.tailscale.com} token=${tailscale_token-}
  base=${base%/}/api/v2
  if [[ -z $token ]]; then
    send POST "$base/oauth/token" --config <(
      printf 'data-urlencode = "%s"\n' "client_id=$TAILSCALE_OAUTH_CLIENT_ID" \
        "client_secret=$TAILSCALE_OAUTH_CLIENT_SECRET" 'grant_type=client_credentials'
    )
    judge '.message // .error | type == "string"' '.access_token | type == "string" and . != ""'
    is_ok || return 0
    token=$(jq -r .access_token <<<"$body")
    tailscale_token=$token
  fi
  request "$2" "$base${3/TAILNET/tailnet/${TAILSCALE_TAILNET:--}}" "${@:4}"
  judge '.message | type == "string"' "$1"
  # It answers a DELETE with no body at all.
  if [[ $2 == DELETE && $status == 2?? && -z $body ]]; then outcome=ok; fi
  if is_refused && [[ $status == 409 ]]; then outcome=passing; fi
}

# What a list must look like to be one, for the two above.
list_of() { printf '.%s | type == "array" and all(type == "object")' "$1"; }

# insist SECONDS COMMAND…: repeated while the answer is one that passes by itself. Not for what must not
# be done twice.
insist() {
  local until=$(($(now) + $1)) pause=1
  while "${@:2}" && is_passing && (($(now) + pause < until)); do
    sleep "$pause"
    pause=$((pause < 8 ? pause * 2 : 8))
  done
}

# What the answer was, in a few words; never its whole body.
said() {
  local words
  words=$(jq -r '.error.code? // .code? // .message? // .error? // empty | strings' <<<"$body" 2>/dev/null \
    | head -c 200) || true
  printf '%s' "$status${words:+ $words}"
}

# The ids that are known by now, as fields of a callback. An empty one means absent.
ids() {
  jq -n --arg server_id "$(noted server_id)" --arg server_ip "$(noted server_ip)" \
    --arg tailscale_ip "$(noted tailscale_ip)" --arg tailscale_key_id "$(noted tailscale_key_id)" \
    --arg tailscale_node_id "$(noted tailscale_node_id)" '$ARGS.named'
}

# Whether backstop's refusal means that this attempt is over for it, by the answer's `code`.
is_given_up() {
  case $1 in
    already_failed | already_destroyed | stale_attempt | unknown_attempt) true ;;
    *) false ;;
  esac
}

# progress STEP: tells what there is by now, and learns whether to go on. Ends the step if not. Without
# an answer it goes on: `started` was accepted, so that backstop knows the attempt and its deadline.
progress() {
  local answer code=0
  answer=$(ids | jq --arg step "$1" '. + {step: $step}' \
    | CALLBACK_SECONDS=${CALLBACK_SECONDS:-20} "$scripts/callback.sh" progress) || code=$?
  case $code in
    0) log "backstop: $1" ;;
    3) exit 1 ;;
    4)
      answer=$(jq -r .code <<<"$answer")
      is_given_up "$answer" && die "backstop has given this attempt up ($answer)"
      log "backstop does not take the step $1 ($answer); going on"
      ;;
    *) log "backstop did not hear of the step $1; going on" ;;
  esac
}
