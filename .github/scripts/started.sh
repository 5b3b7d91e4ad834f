#!/usr/bin/env bash
# Says `started` before anything is created, and keeps what everything must be called.
#
#   AGENT_ID, REGION    for people
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

note began_at "$(now)"
code=0
answer=$(jq -n --arg agent_id "${AGENT_ID-}" --arg region "${REGION-}" '$ARGS.named' \
  | "$scripts/callback.sh" started) || code=$?
case $code in
  0) ;;
  3) exit 1 ;;
  4)
    note refused "$(jq -r '.code // "refused"' <<<"$answer")"
    die "backstop refuses this run: $(jq -r '"\(.code): \(.detail)"' <<<"$answer")"
    ;;
  *) die "backstop cannot be reached; nothing was created" ;;
esac

[[ $(jq -r '.server_name | type == "string" and . != ""' <<<"$answer") == true ]] \
  || die "what answers at BACKSTOP_URL is not backstop: it took the callback and told no names"
note started.json "$answer"
announce attempt "$(told .attempt)"
announce server_name "$(told .server_name)"
announce tailscale "$(if with_tailscale; then echo true; fi)"
log "attempt $(told .attempt): everything is called $(told .server_name); due $(told .deadline_at)"
