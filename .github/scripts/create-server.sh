#!/usr/bin/env bash
# Creates the server, under the name and labels that backstop told. Its id is in the outputs the
# moment it is known; booting is the next script's matter.
#
#   HCLOUD_TOKEN          read and write, of the project
#   REGION                a location such as fsn1; empty: the vendor's choice
#   SERVER_TYPE, IMAGE    cx23, ubuntu-24.04
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

name=$(told .server_name)

# Enrols the machine at first boot. The key is spent by the time anybody could read it there.
user_data() {
  with_tailscale || return 0
  printf '#cloud-config\n'
  jq -nc --rawfile key "$notes/auth_key" --arg name "$(told .tailscale.hostname)" '{runcmd: [
    ["sh", "-c", "curl --fail --silent --show-error --location --retry 8 --retry-all-errors https://tailscale.com/install.sh | sh"],
    ["tailscale", "up", "--auth-key=\($key)", "--hostname=\($name)", "--ssh"]]}'
}

wanted=$(jq -nc --arg name "$name" --arg type "${SERVER_TYPE:-cx23}" --arg image "${IMAGE:-ubuntu-24.04}" \
  --arg region "${REGION-}" --argjson labels "$(told .labels)" --rawfile user_data <(user_data) '
  {name: $name, server_type: $type, image: $image, labels: $labels}
  + if $region == "" then {} else {location: $region} end
  + if $user_data == "" then {} else {user_data: $user_data} end')

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
