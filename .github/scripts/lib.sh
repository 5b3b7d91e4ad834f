# shellcheck shell=bash
# What the scripts here share: notes, requests, callbacks. Sourced, never run.
#
# Each script does one step of provision-agent.yml and can be run by hand, as README.md beside it
# shows. None prints a secret or puts one on a command line, where `ps` shows it: tokens and bodies
# reach curl through pipes.
set -euo pipefail
umask 077

# It comes from whoever starts the workflow and becomes part of paths; labels have it in lower case.
if [[ ! ${PROVISION_ID-} =~ ^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$ ]]; then
  echo "::error::provision_id must be a UUID with dashes"
  exit 1
fi
PROVISION_ID=${PROVISION_ID,,}

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
begun() { find "$notes" -name 'begun.*' -printf '%f\n' | sed 's/^begun\.//' | sort | jq -Rnc '[inputs]'; }

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
  send "$1" "$2" "${json[@]}" --config <(printf 'header = "authorization: Bearer %s"\n' "$token") \
    <<<"${3-}"
}

hetzner() {
  local token=$HCLOUD_TOKEN
  request "$1" "${HCLOUD_ENDPOINT:-https://api.hetzner.cloud/v1}$2" "${@:3}"
}

# tailscale METHOD PATH [JSON], below `/api/v2`, where TAILNET stands for the tailnet. With a token of
# the OAuth client's, fetched when it is first needed.
tailscale() {
  local base=${TAILSCALE_BASE_URL:-https://api.tailscale.com}/api/v2 token=${tailscale_token-}
  if [[ -z $token ]]; then
    send POST "$base/oauth/token" --config <(
      printf 'data-urlencode = "%s"\n' "client_id=$TAILSCALE_OAUTH_CLIENT_ID" \
        "client_secret=$TAILSCALE_OAUTH_CLIENT_SECRET" 'grant_type=client_credentials'
    )
    is_ok || return 0
    token=$(jq -r .access_token <<<"$body")
    tailscale_token=$token
  fi
  request "$1" "$base${2/TAILNET/tailnet/${TAILSCALE_TAILNET:--}}" "${@:3}"
}

# insist SECONDS hetzner|tailscale METHOD PATH [JSON]: repeated while the answer is one that passes
# by itself. Not for what must not be done twice.
insist() {
  local until=$(($(now) + $1)) pause=1
  while "${@:2}" && is_passing && (($(now) + pause < until)); do
    sleep "$pause"
    pause=$((pause < 8 ? pause * 2 : 8))
  done
}

# No answer, overload, or something else at work on the same thing (409, 423 locked).
is_passing() {
  case $status in
    000 | 408 | 409 | 429 | 5??) true ;;
    423) [[ $(jq -r .error.code <<<"$body" 2>/dev/null) != protected ]] ;;
    *) false ;;
  esac
}

is_ok() { [[ $status == 2?? ]]; }

# What the answer was, in a few words; never its whole body.
said() {
  local words
  words=$(jq -r '.error.code // .code // .message // empty' <<<"$body" 2>/dev/null | head -c 200) || true
  printf '%s' "$status${words:+ $words}"
}

# The ids that are known by now, as fields of a callback. An empty one means absent.
ids() {
  jq -n --arg server_id "$(noted server_id)" --arg server_ip "$(noted server_ip)" \
    --arg tailscale_ip "$(noted tailscale_ip)" --arg tailscale_key_id "$(noted tailscale_key_id)" \
    --arg tailscale_node_id "$(noted tailscale_node_id)" '$ARGS.named'
}

# progress STEP: tells what there is by now, and learns whether to go on. Ends the step if not.
progress() {
  local answer code=0
  answer=$(ids | jq --arg step "$1" '. + {step: $step}' | "$scripts/callback.sh" progress) || code=$?
  case $code in
    0) log "backstop: $1" ;;
    4) die "backstop has given this attempt up ($(jq -r .code <<<"$answer"))" ;;
    *) die "backstop cannot be reached" ;;
  esac
}
