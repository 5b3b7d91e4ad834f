# The machine as a sshd of this user's, on loopback: for what needs no root.
# `run.sh` sources this and says what it must define.
# shellcheck shell=bash disable=SC2034,SC2154

address=127.0.0.1

machine="a sshd of $(id -un)'s"
agent_directory=$work/etc/backstop
left_out=', WITHOUT THE ROLE "base", which needs root'
play_arguments=(--user "$(id -un)" --skip-tags base -e "agent_directory=$agent_directory"
  -e "ansible_remote_tmp=$work/tmp"
  -e "ansible_python_interpreter=$(python3 -c 'import sys; print(sys.executable)')")

within() { "$@"; }

on_machine() { "$@"; }

start_machine() {
  local sshd
  sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || fail 'there is no sshd: install openssh-server'
  mkdir -p "$work/etc"
  ssh-keygen -q -t ed25519 -N '' -f "$work/key"
  ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  play_arguments+=(-e "ansible_port=$port")
  cat >"$work/sshd_config" <<CONFIG
ListenAddress $address:$port
HostKey $work/host_key
AuthorizedKeysFile $work/key.pub
PidFile none
UsePAM no
StrictModes no
Subsystem sftp internal-sftp
CONFIG
  "$sshd" -D -e -f "$work/sshd_config" </dev/null >"$work/console" 2>&1 &
  sshd_pid=$!
}

stop_machine() {
  [[ -n ${sshd_pid:-} ]] || return 0
  kill "$sshd_pid" 2>/dev/null || true
  wait "$sshd_pid" 2>/dev/null || true
}

before_runs() { :; }

after_runs() { :; }
