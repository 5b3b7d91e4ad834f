#!/usr/bin/env bash
# Runs the workflow file on somebody else's runner, nektos/act, as it comes from PyPI, against
# `backstop serve` and `backstop sim`. tests/workflow plays far more on a runner of our own; this one
# shares no line with ours, and so no misreading of how Actions works.
#
# act runs the jobs as processes of this machine, without containers. It reaches no network: the two
# actions that the workflow uses are stand-ins (`actions`), and so is Ansible, which has a test of its
# own.
#
#   BACKSTOP_BIN   target/debug/backstop
#   TEST_TOOLS     where act is installed, once (target/tools)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
backstop=${BACKSTOP_BIN:-$root/target/debug/backstop}
tools=${TEST_TOOLS:-$root/target/tools}
stubs=$root/tests/workflow/stubs
work=$(mktemp -d)
# Started by root, the private Postgres runs as somebody who must get in.
chmod 711 "$work"
started=()
checked=0
export RUST_BACKTRACE=0

say() { printf 'act: %s\n' "$*"; }

fail() {
  printf 'act: FAILED: %s\n' "$*" >&2
  exit 1
}

clean_up() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT

# A venv that is made anew when its requirements change.
install_act() {
  local venv=$tools/act
  if ! cmp -s "$here/requirements.txt" "$venv/installed"; then
    rm -rf "$venv"
    mkdir -p "$tools"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed"
  fi
  act=$venv/bin/act
}

# start NAME ARGUMENT…: one of backstop's programs; sets $url when it listens.
start() {
  local name=$1
  "$backstop" "${@:2}" >"$work/$name.out" 2>"$work/$name.log" </dev/null &
  started+=($!)
  for _ in $(seq 600); do
    url=$(sed -n 's/^listening on //p' "$work/$name.out")
    [[ -z $url ]] || return 0
    kill -0 "$!" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/$name.log" >&2
  fail "backstop $name does not start"
}

start_world() {
  start sim sim --listen 127.0.0.1:0
  vendors=$url
  # shellcheck disable=SC1090
  source <(grep '^export ' "$work/sim.out")
  secret=whsec_$(openssl rand -base64 32)
  export BACKSTOP_LISTEN=127.0.0.1:0 BACKSTOP_DATA_DIR=$work/data BACKSTOP_CALLBACK_SECRETS=$secret \
    BACKSTOP_OPERATOR_TOKEN=operator BACKSTOP_LATE_ARRIVAL_WINDOW=2s BACKSTOP_RETRY_BASE=100ms \
    BACKSTOP_RETRY_CAP=1s
  start serve serve
  service=$url
}

# other WHAT JSON: something of other people's in the same project and tailnet; its id is kept.
other() {
  local id
  id=$(curl --silent --show-error --fail --json "$2" "$vendors/sim/$1" | jq -r '.nodeId // .id')
  others+=("$id")
}

add_others() {
  others=()
  other servers '{"name": "database"}'
  other keys '{"description": ""}'
  other keys '{"description": "laptops", "tags": ["tag:agent"]}'
  other devices '{"hostname": "laptop"}'
  other devices '{"hostname": "agent-of-others", "tags": ["tag:agent"]}'
}

# make_repository NAME: the workflow as it stands, where a scenario may change it.
make_repository() {
  repository=$work/$1
  mkdir "$repository"
  cp -R "$root/.github" "$root/ansible" "$repository"
  git -C "$repository" init --quiet
  git -C "$repository" add .
  git -C "$repository" -c user.name=test -c user.email=test@test.example commit --quiet --message test
}

# run NAME [--env SETTING…]: one run of the repository's workflow, for a new provision. Sets $id, $code
# and $log.
run() {
  local action locals=()
  id=$(cat /proc/sys/kernel/random/uuid)
  log=$work/$1.log
  while read -r action; do
    locals+=(--local-repository "$action=$here/actions/$(basename "${action%@*}")")
  done < <(sed -n 's/^ *uses: \([^ ]*\).*/\1/p' "$repository/.github/workflows/provision-agent.yml" | sort -u)
  printf '%s\n' "BACKSTOP_CALLBACK_SECRET=$secret" "HCLOUD_TOKEN=$HCLOUD_TOKEN" \
    "TAILSCALE_OAUTH_CLIENT_ID=$TAILSCALE_OAUTH_CLIENT_ID" \
    "TAILSCALE_OAUTH_CLIENT_SECRET=$TAILSCALE_OAUTH_CLIENT_SECRET" >"$work/secrets"
  code=0
  (
    cd "$repository"
    env -i PATH="$stubs:$PATH" HOME="$work" "$act" workflow_dispatch \
      --workflows .github/workflows/provision-agent.yml --platform ubuntu-24.04=-self-hosted \
      --no-cache-server --action-cache-path "$work/cache" --secret-file "$work/secrets" "${locals[@]}" \
      --var "BACKSTOP_URL=$service" --var "HCLOUD_ENDPOINT=$HCLOUD_ENDPOINT" \
      --var "TAILSCALE_BASE_URL=$TAILSCALE_BASE_URL" --var "TAILSCALE_TAILNET=$TAILSCALE_TAILNET" \
      --env "REPOSITORY=$repository" --env POLL_SECONDS=0.2 "${@:2}" \
      --input "provision_id=$id" --input agent_id=web-1
  ) >"$log" 2>&1 </dev/null || code=$?
  end_strays
}

# GitHub's runner ends what a job left running, by its environment. act does not.
end_strays() {
  local file
  for file in /proc/[0-9]*/environ; do
    if grep -qsz "^PROVISION_ID=$id\$" "$file"; then kill "$(basename "$(dirname "$file")")" 2>/dev/null || true; fi
  done
}

provision() { curl --silent --show-error --fail --oauth2-bearer operator "$service/v1/provisions/$id"; }

# What exists of the provision, and whether other people's things do.
left() {
  curl --silent --show-error --fail "$vendors/sim/state" | jq -r --arg id "$id" '($id | gsub("-"; "")) as $hex
    | [(.servers[] | select(.labels["backstop-provision"] == $id) | "server"),
       (.devices[] | select(.hostname | startswith("agent-\($hex)-")) | "device"),
       (.keys[] | select((.description // "" | startswith("backstop \($hex)-")) and (.revoked or .used | not)) | "key")]
    | join(" ")'
}

# is WHAT EXPECTED ACTUAL
is() {
  [[ $2 == "$3" ]] || { cat "$log" >&2; fail "$1: $3 instead of $2"; }
  checked=$((checked + 1))
}

# says TEXT: the run's log has it.
says() { is "the log says $1" yes "$(grep -qF -- "$1" "$log" && echo yes || echo no)"; }

others_are_alive() {
  local alive
  alive=$(curl --silent --show-error --fail "$vendors/sim/state" | jq -r '[.servers[].id, .devices[].node_id,
    (.keys[] | select(.revoked | not) | .id)] | map(tostring) | .[]')
  is "other people's things that are gone" '' "$(printf '%s\n' "${others[@]}" | grep -vxF -- "$alive" || true)"
}

# rolled_back STATUS REASON: waits for it.
rolled_back() {
  local state=
  for _ in $(seq 600); do
    state=$(provision | jq -r '"\(.status) \(.rollback.reason) \(.rollback.state)"')
    [[ $state != *' done' ]] || break
    sleep 0.1
  done
  is "the provision" "$1 $2 done" "$state"
  is "what is left" '' "$(left)"
}

a_run_that_succeeds() {
  make_repository success
  run success
  is "the exit code" 0 "$code"
  is "the provision" running "$(provision | jq -r .status)"
  is "what is there" 'server device' "$(left)"
}

a_configuration_that_fails() {
  make_repository failure
  run failure --env ANSIBLE_FAILS=yes
  is "the exit code" 1 "$code"
  says '[provision-agent/Look after it] '
  rolled_back failed failure
  is "the error" 'Ansible: agent : Start the agent: fatal: [' "$(provision | jq -r '.error[:42]')"
}

# The first job's machine dies after the server was made: its last steps do nothing, nobody sees its
# outputs, and backstop notices before the second job begins.
a_runner_that_is_lost() {
  local workflow scripts
  make_repository lost
  workflow=$repository/.github/workflows/provision-agent.yml scripts=$repository/.github/scripts
  sed -i 's/^\(      [a-z_]*: \)\${{ steps\..*}}$/\1""/' "$workflow"
  is "outputs of the first job that are lost" 6 "$(git -C "$repository" diff --numstat | cut -f1)"
  cat >"$scripts/await-machine.sh" <<SH
#!/bin/sh
curl --silent --fail --request DELETE --oauth2-bearer operator $service/v1/provisions/\$PROVISION_ID >/dev/null
exit 1
SH
  for script in clean-up report-failure; do
    mv "$scripts/$script.sh" "$scripts/real-$script.sh"
    # shellcheck disable=SC2016 # of the script that is written
    printf '#!/bin/sh\n[ "$GITHUB_JOB" = afterwards ] || exit 0\nexec "${0%%/*}/real-%s.sh" "$@"\n' "$script" \
      >"$scripts/$script.sh"
    chmod +x "$scripts/$script.sh"
  done
  run lost
  is "the exit code" 1 "$code"
  says 'Clean-up: cleaned: '
  rolled_back destroyed destroyed
}

install_act
start_world
add_others
for scenario in a_run_that_succeeds a_configuration_that_fails a_runner_that_is_lost; do
  begun=$SECONDS
  $scenario
  others_are_alive
  say "${scenario//_/ }: as it must be, in $((SECONDS - begun)) s"
done
echo "act passed: 3 runs of the workflow file on another runner, $checked checks, in $SECONDS s"
