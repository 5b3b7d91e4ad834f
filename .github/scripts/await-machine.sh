#!/usr/bin/env bash
# Waits until the server runs and its device is on the tailnet, then reports `vm_created` with all
# ids. How long is the step's `timeout-minutes`.
#
#   HCLOUD_TOKEN, TAILSCALE_OAUTH_CLIENT_ID, TAILSCALE_OAUTH_CLIENT_SECRET
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"
may_be_stopped

# The action is not known where the answer that told it was lost.
server_runs() {
  local action
  action=$(noted server_action)
  if [[ -n $action ]]; then
    insist 60 hetzner '.action.status | type == "string"' GET "/actions/$action"
    ! is_refused || is_absent || die "the server's creation cannot be followed: $(said)"
    is_ok || return 1
    case $(jq -r .action.status <<<"$body") in
      success) ;;
      error) die "the server could not be created: $(jq -r '.action.error.code? // "no reason"' <<<"$body")" ;;
      *) return 1 ;;
    esac
  fi
  insist 60 hetzner '.server.status | type == "string"' GET "/servers/$(noted server_id)"
  ! is_absent || die "the server is gone"
  ! is_refused || die "the server cannot be looked at: $(said)"
  is_ok && [[ $(jq -r .server.status <<<"$body") == running ]]
}

device_is_there() {
  local device
  insist 60 tailscale "$(list_of devices)" GET "/TAILNET/devices"
  ! is_refused || die "the tailnet's devices cannot be listed: $(said)"
  is_ok || return 1
  device=$(jq -c --argjson told "$(told .tailscale)" '[.devices[]
    | select(.hostname == $told.hostname and (.tags | type == "array") and ($told.tags - .tags == []))
    | {id: (.nodeId // .id), ip: .addresses[0]?, created}
    | select([.id, .ip] | all(type == "string" and . != ""))] | max_by(.created) // empty' <<<"$body")
  [[ -n $device ]] || return 1
  announce tailscale_node_id "$(jq -r .id <<<"$device")"
  announce tailscale_ip "$(jq -r .ip <<<"$device")"
}

pause=${POLL_SECONDS:-3}
until server_runs; do sleep "$pause"; done
log "the server runs"
if with_tailscale; then
  until device_is_there; do sleep "$pause"; done
  log "the device $(noted tailscale_node_id) is on the tailnet at $(noted tailscale_ip)"
fi
progress vm_created
