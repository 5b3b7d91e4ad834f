#!/usr/bin/env bash
# Builds the program of a release so that nothing in it tells when or where it was built: neither the time,
# nor the folders of the source and of Cargo. The Dockerfile runs it; more arguments go to cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo_home=${CARGO_HOME:-$HOME/.cargo}
# For whatever would write down when it was built.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
export CARGO_INCREMENTAL=0
# Panics and asserts name their source.
export RUSTFLAGS="--remap-path-prefix=$PWD=/backstop --remap-path-prefix=$cargo_home=/cargo"
export CFLAGS="-ffile-prefix-map=$PWD=/backstop -ffile-prefix-map=$cargo_home=/cargo"
exec cargo build --release --locked "$@"
