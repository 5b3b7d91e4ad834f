#!/usr/bin/env bash
# Looks at the page in a real browser: Debian's Chromium, driven by playwright-core. Installs what is
# missing.
#
#   TEST_TOOLS          where packages are installed, once (target/tools)
#   BACKSTOP_CHROMIUM   the browser (the one on PATH)
#   BACKSTOP_PICTURES   a folder to put pictures of the pages into (none are taken)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
tools=${TEST_TOOLS:-$PWD/target/tools}/page

install() {
  [ "$(id -u)" -eq 0 ] || { echo "missing: install the packages $*" >&2; exit 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

chromium=${BACKSTOP_CHROMIUM:-$(command -v chromium || true)}
if [ -z "$chromium" ]; then
  install chromium fonts-inter fonts-jetbrains-mono
  chromium=$(command -v chromium)
fi
if ! cmp -s "$here/package-lock.json" "$tools/installed"; then
  mkdir -p "$tools"
  cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$tools"
  (cd "$tools" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  cp "$here/package-lock.json" "$tools/installed"
fi
if [ -n "${BACKSTOP_PICTURES:-}" ]; then
  mkdir -p "$BACKSTOP_PICTURES"
  BACKSTOP_PICTURES=$(cd "$BACKSTOP_PICTURES" && pwd)
  export BACKSTOP_PICTURES
fi
export BACKSTOP_CHROMIUM=$chromium BACKSTOP_NODE_MODULES=$tools/node_modules
cargo test --quiet --test page -- --nocapture
