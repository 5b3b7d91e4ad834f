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
    insist 60 hetzner GET "/actions/$action"
    case $(jq -r .action.status <<<"$body") in
      success) ;;
      error) die "the server could not be created: $(jq -r .action.error.code <<<"$body")" ;;
      *) return 1 ;;
    esac
  fi
  insist 60 hetzner GET "/servers/$(noted server_id)"
  [[ $status != 404 ]] || die "the server is gone"
  is_ok && [[ $(jq -r .server.status <<<"$body") == running ]]
}

device_is_there() {
  local device
  insist 60 tailscale GET "/TAILNET/devices"
  is_ok || die "the tailnet's devices cannot be listed: $(said)"
  device=$(jq -c --argjson told "$(told .tailscale)" '[.devices[]
    | select(.hostname == $told.hostname and ($told.tags - .tags == []))] | max_by(.created)' <<<"$body")
  [[ $device != null ]] || return 1
  announce tailscale_node_id "$(jq -r '.nodeId // .id' <<<"$device")"
  announce tailscale_ip "$(jq -r '.addresses[0]' <<<"$device")"
}

pause=${POLL_SECONDS:-3}
until server_runs; do sleep "$pause"; done
log "the server runs"
if with_tailscale; then
  until device_is_there; do sleep "$pause"; done
  log "the device $(noted tailscale_node_id) is on the tailnet at $(noted tailscale_ip)"
fi
progress vm_created
