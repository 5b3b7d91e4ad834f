#!/usr/bin/env bash
# Writes what the release is built from to $1, as CycloneDX 1.5: every crate with its version, licence,
# checksum of its source and purl, and who depends on whom. Needs cargo-cyclonedx.
set -euo pipefail
cd "$(dirname "$0")/.."
name=backstop-sbom
cargo cyclonedx --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu \
  --override-filename "$name"
mv "$name.json" "$1"
