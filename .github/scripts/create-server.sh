#!/usr/bin/env bash
# Creates the server, under the name and labels that backstop told. Its id is in the outputs the
# moment it is known; booting is the next script's matter.
#
#   HCLOUD_TOKEN          read and write, of the project
#   REGION                a location such as fsn1; empty: the vendor's choice
#   SERVER_TYPE, IMAGE    cx23, ubuntu-24.04
#   SSH_KEYS              names or ids of SSH keys of the project, comma separated, for people. With one
#                         the vendor makes no root password and mails none
#   SSH_PRIVATE_KEY       without Tailscale: what Ansible logs in with; a pair for this job alone if empty
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

name=$(told .server_name)

# The public half of what Ansible logs in with, where Tailscale does not let it in. The private half is
# kept for configure.sh.
login_key() {
  if [[ -n ${SSH_PRIVATE_KEY-} ]]; then
    printf '%s\n' "$SSH_PRIVATE_KEY" | tr -d '\r' >"$notes/ssh_key"
  elif ! has_noted ssh_key; then
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$notes/ssh_key"
  fi
  ssh-keygen -y -P '' -f "$notes/ssh_key"
}

# What the machine does at first boot. It takes no password: without SSH_KEYS the vendor makes one for
# root, mails it to the project's owner, and lets the internet try until sshd is set up. It also makes
# that password an expired one, for which sshd and su ask before they do anything else: changing it ends
# that as well. `*` is no password's hash. Then the machine joins the tailnet; its key is spent by the
# time anybody could read it there.
user_data() {
  local auth_key=/dev/null
  if with_tailscale; then auth_key=$notes/auth_key; fi
  printf '#cloud-config\n'
  jq -nc --rawfile auth_key "$auth_key" --arg name "$(told .tailscale.hostname)" --arg login_key "$login_key" '
    {ssh_pwauth: false, disable_root: false, chpasswd: {expire: false}}
    + if $login_key == "" then {} else {ssh_authorized_keys: [$login_key]} end
    + {runcmd: ([["usermod", "--password", "*", "root"]]
      + if $auth_key == "" then [] else [
        ["sh", "-c", "curl --fail --silent --show-error --location --retry 8 --retry-all-errors https://tailscale.com/install.sh | sh"],
        ["tailscale", "up", "--auth-key=\($auth_key)", "--hostname=\($name)", "--ssh"]] end)}'
}

login_key=
if ! with_tailscale; then
  login_key=$(login_key) || die "SSH_PRIVATE_KEY is no private key without a passphrase"
fi
wanted=$(jq -nc --arg name "$name" --arg type "${SERVER_TYPE:-cx23}" --arg image "${IMAGE:-ubuntu-24.04}" \
  --arg region "${REGION-}" --arg ssh_keys "${SSH_KEYS-}" --argjson labels "$(told .labels)" \
  --rawfile user_data <(user_data) '
  [$ssh_keys | split(",")[] | gsub("^\\s+|\\s+$"; "") | select(. != "") | if test("^[0-9]+$") then tonumber else . end] as $keys
  | {name: $name, server_type: $type, image: $image, labels: $labels, user_data: $user_data}
  + if $region == "" then {} else {location: $region} end
  + if $keys == [] then {} else {ssh_keys: $keys} end')

keep() {
  announce server_id "$(jq -r .id <<<"$1")"
  announce server_ip "$(jq -r '.public_net | .ipv4.ip? // (.ipv6.ip? | strings | rtrimstr("/64") + "1")' <<<"$1")"
}

# Names are unique in a project, so what has this name and these labels is what was asked for.
find_by_name() {
  local server
  insist 60 hetzner "$(list_of servers)" GET "/servers?name=$name"
  is_ok || die "the server's creation was not answered, and servers cannot be listed: $(said)"
  server=$(jq -c --arg name "$name" --argjson labels "$(told .labels)" '[.servers[]
    | select(.name == $name and (.id | type == "number")
      and (.labels as $its | $labels | to_entries | all($its[.key] == .value)))][0] // empty' <<<"$body")
  [[ -n $server ]] && keep "$server"
}

progress server_creating
begin server
if with_tailscale; then begin device; fi
for try in 1 2 3; do
  # A 201 that cannot be read made a server all the same.
  hetzner '.server | type == "object" and (.id | type == "number")' POST /servers "$wanted"
  if is_ok; then
    keep "$(jq -c .server <<<"$body")"
    announce server_action "$(jq -r '.action.id? | numbers' <<<"$body")"
    break
  fi
  failed=$(said)
  is_passing || die "no server could be created: $failed"
  log "creating the server was not answered, or in vain ($failed): looking for it by name"
  sleep $((try * 2))
  if find_by_name; then break; fi
  ((try < 3)) || die "no server could be created: $failed"
done
log "server $(noted server_id), $(noted server_ip)"
