#!/usr/bin/env bash
# Mints the auth key with which the machine will join the tailnet: one-off, pre-authorised, short
# lived. Its id is reported at once, its secret stays on this runner.
#
#   TAILSCALE_OAUTH_CLIENT_ID, TAILSCALE_OAUTH_CLIENT_SECRET    scope auth_keys, with the agents' tag
#   TAILSCALE_EPHEMERAL    `true`: the device vanishes when it has been offline for a while
# and what callback.sh takes.
# shellcheck source=.github/scripts/lib.sh
source "$(dirname "$0")/lib.sh"

# The one that names this installation too, where backstop tells one.
description=$(told '.tailscale | .key_description_signed // .key_description')
[[ -n $description ]] || die "backstop told no description for the auth key"
wanted=$(told .tailscale | jq -c --arg description "$description" --arg ephemeral "${TAILSCALE_EPHEMERAL-}" '{
  description: $description, expirySeconds: 3600,
  capabilities: {devices: {create: {
    reusable: false, ephemeral: ($ephemeral == "true"), preauthorized: true, tags: .tags}}}}')

# A key whose minting was not answered exists without anybody knowing its secret.
revoke_unanswered() {
  local id
  insist 30 tailscale "$(list_of keys)" GET "/TAILNET/keys?all=true"
  is_ok || die "the tailnet's keys cannot be listed: $(said)"
  for id in $(jq -r --arg it "$description" '.keys[] | select(.description == $it
    and (.keyType // "auth") == "auth") | .id | strings' <<<"$body"); do
    log "revoking $id, whose minting was not answered"
    insist 30 tailscale 'type == "object" or type == "null"' DELETE "/TAILNET/keys/$id"
  done
}

progress key_minting
begin auth_key
for try in 1 2 3; do
  tailscale '[.id, .key] | all(type == "string" and . != "")' POST "/TAILNET/keys" "$wanted"
  is_ok && break
  if ((try == 3)) || is_refused; then
    die "no auth key could be minted: $(said)"
  fi
  log "minting was not answered ($(said))"
  sleep "$try"
  revoke_unanswered
done

secret=$(jq -r .key <<<"$body")
printf '::add-mask::%s\n' "$secret"
note auth_key "$secret"
announce tailscale_key_id "$(jq -r .id <<<"$body")"
progress key_minted
