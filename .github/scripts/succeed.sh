#!/usr/bin/env bash
# Says `success`. Whatever does not end in an accepted one is cleaned up.
#
# Takes what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# From here on only backstop knows whether the machine is in use.
note success_sent yes
code=0
answer=$(ids | CALLBACK_SECONDS=${CALLBACK_SECONDS:-240} "$scripts/callback.sh" success) || code=$?
case $code in
  0) log "running" ;;
  3) exit 1 ;;
  4) die "backstop does not take the success ($(jq -r .code <<<"$answer"))" ;;
  *) die "backstop could not be told of the success" ;;
esac
summary "**$(told .server_name)** runs: server $(noted server_id), $(noted server_ip) $(noted tailscale_ip)"
