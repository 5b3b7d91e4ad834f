#!/usr/bin/env bash
# Runs schemathesis against the service: whatever the OpenAPI document allows is taken, whatever it
# does not is refused, and every answer is one that it describes. Build the binary first.
#
#   bash tests/schemathesis/run.sh [EXAMPLES]     (100 an operation: some 2500 cases. 2000: some 17,000)
#
# Without Tailscale, for what else a `success` must have is a matter of the settings.
set -euo pipefail

schemathesis_version=4.32.5
examples=${1:-100}
seed=${SCHEMATHESIS_SEED:-20261124}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
backstop=${BACKSTOP:-$root/target/debug/backstop}
venv=$root/target/tools/schemathesis-$schemathesis_version
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$schemathesis_version"

work=$(mktemp -d)
# The private Postgres is another user's if this is root.
chmod 755 "$work"
pids=()
finish() {
  for pid in "${pids[@]}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap finish EXIT

# start NAME ARGUMENTS: in the background, until it says where it listens.
start() {
  local name=$1
  shift
  "$backstop" "$@" >"$work/$name" 2>"$work/$name.log" &
  pids+=($!)
  for _ in $(seq 600); do
    grep -q '^listening on ' "$work/$name" && return
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/$name.log"
  echo "backstop $name does not listen" >&2
  return 1
}

start sim sim --listen 127.0.0.1:0
# shellcheck disable=SC1090,SC1091
source <(grep '^export ' "$work/sim")
unset TAILSCALE_OAUTH_CLIENT_ID TAILSCALE_OAUTH_CLIENT_SECRET TAILSCALE_API_KEY DATABASE_URL
unset GITHUB_TOKEN GITHUB_APP_ID GITHUB_APP_PRIVATE_KEY BACKSTOP_GITHUB_REPOSITORY
BACKSTOP_CALLBACK_SECRETS=whsec_$(printf schemathesis-schemathesis-secret | base64)
export BACKSTOP_CALLBACK_SECRETS
export BACKSTOP_READ_TOKEN=schemathesis-reader BACKSTOP_OPERATOR_TOKEN=schemathesis-operator
export BACKSTOP_LISTEN=127.0.0.1:0 BACKSTOP_DATA_DIR=$work/data
export BACKSTOP_TRUSTED_PROXIES=127.0.0.1
start serve serve
url=$(sed -n 's/^listening on //p' "$work/serve")

# run NAME OPTIONS: with one seed, so that what fails fails again. The stream has no end to wait for, and
# GitHub's webhooks are not taken here.
run() {
  local name=$1
  shift
  echo "schemathesis, $name"
  SCHEMATHESIS_HOOKS=$here/hooks.py "$venv/bin/schemathesis" run "$url/openapi.json" \
    --seed "$seed" --generation-database none --max-examples "$examples" \
    --exclude-path /v1/stream --exclude-path /v1/github/webhook --phases examples,coverage,fuzzing --workers 1 --no-color \
    --checks all --max-response-time 20 "$@"
}

cd "$work"
run "as an operator" --mode all --header "Authorization: Bearer $BACKSTOP_OPERATOR_TOKEN"
run "as nobody" --mode positive --include-tag Status --include-tag Operation
echo "the service keeps to its OpenAPI document"
