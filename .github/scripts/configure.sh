#!/usr/bin/env bash
# Configures the machine with Ansible, over the tailnet where there is one.
#
#   AGENT_ID    handed to the playbook
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"
may_be_stopped

progress configuring
address=$(noted tailscale_ip)
address=${address:-$(noted server_ip)}
unset BACKSTOP_CALLBACK_SECRET
cd "$scripts/../../ansible"
# The runner's own, as GitHub's images have it; else the one that the playbook is tested with.
if ! command -v ansible-playbook >/dev/null; then
  python3 -m venv "$notes/ansible"
  "$notes/ansible/bin/pip" install --quiet --requirement requirements.txt
  PATH=$notes/ansible/bin:$PATH
fi
# What people chose reaches the playbook through the environment: behind `-e` it would be a template.
export AGENT_ID PROVISION_ID
ATTEMPT=$(told .attempt) && export ATTEMPT
# Where there is one, it is what lets Ansible in.
if has_noted ssh_key; then export ANSIBLE_PRIVATE_KEY_FILE=$notes/ssh_key; fi
# What it says last becomes the error of the failure callback.
export ANSIBLE_LOG_PATH=$notes/ansible.log
# In this shell's place: what ends the step must reach Ansible and not a shell that waits for it.
exec ansible-playbook --inventory "$address," site.yml
