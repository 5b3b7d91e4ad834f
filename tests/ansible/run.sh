#!/usr/bin/env bash
# Runs the playbook against a real machine, twice: both runs must pass and the second may change
# nothing. Then looks at the machine for what the playbook promises.
#
# As root on Debian or Ubuntu the machine is a container of systemd's: this machine's distribution,
# from its own package sources, booted, with an interface called tailscale0 and one that stands for
# the internet. Else it is a sshd of this user's on loopback, and what needs root is left out; the
# last line says which it was.
#
#   ANSIBLE_TEST_MACHINE   container or sshd, to choose
#   TEST_TOOLS             where ansible is installed, once (target/tools)
set -euo pipefail
# What runs in the background gets a process group of its own, so that it can be ended whole.
set -m

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=${TEST_TOOLS:-$root/target/tools}
work=$(mktemp -d)
# What a template or a second variable would be, if anybody took it for one.
agent_id='web-1 {{ 6 * 7 }} attempt=9'
provision_id=e9488a2a-af63-4d93-9deb-89a538465aef

say() { printf 'ansible: %s\n' "$*"; }

fail() {
  printf 'ansible: FAILED: %s\n' "$*" >&2
  exit 1
}

# interruptible COMMAND: waits for it in the background, where clean_up can end it.
interruptible() {
  local status=0
  "$@" </dev/null &
  running=$!
  wait "$running" || status=$?
  running=
  return "$status"
}

clean_up() {
  local socket
  if [[ -n $running ]]; then
    kill -- "-$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
  fi
  for socket in "$work"/cp/*; do
    [[ ! -S $socket ]] || ssh -o ControlPath="$socket" -O exit machine 2>/dev/null || true
  done
  stop_machine
  rm -rf --one-file-system "$work"
}

# A venv that is made anew when its requirements change.
install_ansible() {
  local venv=$tools/ansible
  if ! cmp -s "$root/ansible/requirements.txt" "$venv/installed"; then
    rm -rf "$venv"
    mkdir -p "$tools"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/ansible/requirements.txt"
    cp "$root/ansible/requirements.txt" "$venv/installed"
  fi
  playbook=$venv/bin/ansible-playbook
}

# A copy of the folder, with a role of the user's own.
install_user_role() {
  cp -R "$root/ansible" "$work/ansible"
  rm -rf "$work/ansible/roles/user"
  mkdir -p "$work/ansible/roles/user/tasks"
  cat >"$work/ansible/roles/user/tasks/main.yml" <<'YAML'
- name: Leave a mark
  ansible.builtin.copy:
    dest: "{{ agent_directory }}/user-role"
    content: "{{ agent_id }}"
    mode: "0644"
YAML
}

# play ADDRESS [ARGUMENTS]: one run, as the workflow does it.
play() {
  local address=$1
  shift
  ANSIBLE_CONFIG=$work/ansible/ansible.cfg ANSIBLE_HOME=$work/home ANSIBLE_SSH_CONTROL_PATH_DIR=$work/cp \
    ANSIBLE_FORCE_COLOR=0 \
    AGENT_ID=$agent_id PROVISION_ID=$provision_id ATTEMPT=2 \
    interruptible within "$playbook" -i "$address," "$work/ansible/site.yml" \
    --private-key "$work/key" --ssh-common-args "-o UserKnownHostsFile=$work/known_hosts" \
    "${play_arguments[@]}" "$@"
}

# passes NAME ADDRESS [ARGUMENTS]: the run must pass; its output stays in $work/NAME.
passes() {
  local name=$1 begun=$SECONDS
  shift
  play "$@" >"$work/$name" 2>&1 || { cat "$work/$name" >&2; fail "run $name"; }
  say "run $name: passed in $((SECONDS - begun)) s: $(recap "$work/$name")"
}

# refuses NAME TEXT ADDRESS [ARGUMENTS]: the run must fail, saying the text, without a change.
refuses() {
  local name=$1 text=$2
  shift 2
  if play "$@" >"$work/$name" 2>&1; then
    cat "$work/$name" >&2
    fail "run $name should have been refused with: $text"
  fi
  if ! grep -qF -- "$text" "$work/$name" || [[ $(recap "$work/$name") != *' changed=0 '* ]]; then
    cat "$work/$name" >&2
    fail "run $name said or did something else than: $text"
  fi
  say "run $name: refused: $text"
}

recap() { sed -n '/^PLAY RECAP/,$ s/.*: \(ok=.*[^ ]\) *$/\1/p' "$1" | tr -s ' '; }

# has TEXT COMMAND: the command's output must have the text.
has() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || true
  [[ $output == *"$text"* ]] || fail "$* says instead of $text: $output"
  checked=$((checked + 1))
}

if [[ -z ${ANSIBLE_TEST_MACHINE:-} ]]; then
  ANSIBLE_TEST_MACHINE=sshd
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then ANSIBLE_TEST_MACHINE=container; fi
fi
# Defines machine, address, agent_directory, left_out and play_arguments; start_machine, which makes
# the key $work/key too, and stop_machine; before_runs and after_runs; `within` for what runs beside
# the machine and `on_machine` for what runs on it.
# shellcheck source=tests/ansible/container.sh
source "$here/$ANSIBLE_TEST_MACHINE.sh"

checked=0
running=
trap clean_up EXIT
install_ansible
install_user_role

start_machine
say "$machine is up after $SECONDS s"
before_runs
passes first "$address"
passes second "$address"
[[ $(recap "$work/second") == *' changed=0 '* ]] || { cat "$work/second" >&2; fail 'the second run changed something'; }
after_runs

has "{
    \"agent_id\": \"$agent_id\",
    \"attempt\": 2,
    \"provision_id\": \"$provision_id\"
}" on_machine cat "$agent_directory/agent.json"
has "$agent_id" on_machine cat "$agent_directory/user-role"
echo "ansible passed on $machine: 2 runs, the second changed nothing, $checked checks$left_out, in $SECONDS s"
