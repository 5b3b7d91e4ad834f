#!/usr/bin/env bash
# Drives Hetzner's command line against the simulation; `run.sh` calls it.
set -euo pipefail

: "${HCLOUD_ENDPOINT:?}" "${HCLOUD_TOKEN:?}" "${BACKSTOP_SIM_URL:?}"
name=cli-$$
labels=(--label managed-by=backstop --label "test=$name")

say() { printf 'hcloud command line: %s\n' "$*"; }

fail() {
  printf 'hcloud command line: FAILED: %s\n' "$*" >&2
  exit 1
}

# Scripts one fault, as JSON.
fault() {
  curl --silent --show-error --fail -X POST -H 'content-type: application/json' \
    -d "$1" "$BACKSTOP_SIM_URL/sim/faults"
}

# Passes when the command fails and says the text.
refused() {
  local text=$1 output
  shift
  if output=$("$@" 2>&1); then
    fail "$* should have been refused with: $text"
  fi
  [[ $output == *"$text"* ]] || fail "$* said instead of $text: $output"
}

listed() {
  hcloud server list -l "test=$name" -o noheader -o columns=name,status
}

hcloud server create --name "$name" --type cx22 --image ubuntu-24.04 --location fsn1 \
  --ssh-key sim "${labels[@]}" >/dev/null
say "created $name"

refused 'uniqueness_error' hcloud server create --name "$name" --type cx22 --image ubuntu-24.04
say 'a taken name is refused'

[[ $(listed) == "$name"* ]] || fail "the label selector does not find $name: $(listed)"
[[ -z $(hcloud server list -l "test=$name,managed-by!=backstop" -o noheader) ]] ||
  fail 'a selector that excludes it finds it'
say 'listed by label selector'

described=$(hcloud server describe "$name" -o format='{{.Name}} {{.Status}} {{.ServerType.Name}}')
[[ $described == "$name "*" cx22" ]] || fail "described as: $described"
id=$(hcloud server describe "$name" -o format='{{.ID}}')
say "described: $described"

# What `create` waits for is the creation; the start may still be running.
for _ in $(seq 50); do
  [[ $(hcloud server describe "$name" -o format='{{.Status}}') == running ]] && break
  sleep 0.1
done

fault '{"vendor":"hetzner","method":"DELETE","path":"/servers/*","kind":"status","status":423,"code":"locked"}'
refused '(locked)' hcloud server delete "$name"
say 'a lock is reported'

hcloud server enable-protection "$name" delete rebuild >/dev/null
refused '(protected)' hcloud server delete "$name"
hcloud server disable-protection "$name" delete rebuild >/dev/null
say 'delete protection holds until it is lifted'

hcloud server poweroff "$name" >/dev/null
[[ $(hcloud server describe "$name" -o format='{{.Status}}') == off ]] || fail 'it is not off'
say 'powered off'

fault '{"vendor":"hetzner","method":"GET","path":"/servers/'"$id"'","kind":"status","status":429}'
refused '(rate_limit_exceeded)' hcloud server describe "$id"
hcloud server describe "$id" >/dev/null
say 'the rate limit is reported, and passes'

hcloud server delete "$name" >/dev/null
for _ in $(seq 50); do
  [[ -z $(listed) ]] && break
  sleep 0.1
done
[[ -z $(listed) ]] || fail "$name is still there: $(listed)"
say 'deleted, and gone once the action has ended'

HCLOUD_TOKEN=wrong refused '(unauthorized)' hcloud server list
say 'a wrong token is refused'
