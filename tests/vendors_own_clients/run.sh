#!/usr/bin/env bash
# Runs Hetzner's own clients, the Python library and the command line, against the simulation.
#
# Start the simulation first and export what it prints:
#   HCLOUD_ENDPOINT, HCLOUD_TOKEN   where it is, and its token
#   BACKSTOP_SIM_URL                where faults are scripted
# HCLOUD_VENV names a folder for the Python library; without it a temporary one is used.
set -euo pipefail

hcloud_version=2.27.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${HCLOUD_ENDPOINT:?is not set: start the simulation and export what it prints}"
: "${HCLOUD_TOKEN:?is not set: start the simulation and export what it prints}"
: "${BACKSTOP_SIM_URL:?is not set: start the simulation and export what it prints}"
export HCLOUD_ENDPOINT HCLOUD_TOKEN BACKSTOP_SIM_URL

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

install_command_line() {
  command -v hcloud >/dev/null && return
  if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "hcloud is missing: install the package hcloud-cli, or run this as root on Debian" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq hcloud-cli >/dev/null
}

install_python_library() {
  venv=${HCLOUD_VENV:-$work/venv}
  [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "hcloud==$hcloud_version"
}

install_command_line
install_python_library

"$venv/bin/python" "$here/hcloud_python.py"
# The command line keeps its settings in the home folder; it gets one of its own.
HOME=$work "$here/hcloud_cli.sh"
echo "the vendor's own clients work against the simulation"
