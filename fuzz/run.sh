#!/usr/bin/env bash
# Runs fuzz targets side by side for that long, and says what each of them came to. Ends by itself; 1 if
# one found something.
#
#   bash fuzz/run.sh [SECONDS] [TARGET…]     (60, all of them)
#
# Needs a nightly toolchain and cargo-fuzz (cargo install --locked cargo-fuzz). What was covered is kept in
# fuzz/target/corpus, what was found in fuzz/artifacts; bring the first into the repository with
# `cargo +nightly fuzz cmin`. Without a sanitizer, for there is no unsafe code of ours: FUZZ_SANITIZER=address
# takes twice as long.
set -euo pipefail

seconds=${1:-60}
shift || true
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fuzz=$root/fuzz
cd "$root"
mapfile -t targets < <(printf '%s\n' "$@" | grep . || cargo +nightly fuzz list)
sanitizer=${FUZZ_SANITIZER:-none}
built=$fuzz/target/x86_64-unknown-linux-gnu/release
logs=$fuzz/target/logs
mkdir -p "$logs"

[[ -n ${FUZZ_NO_BUILD:-} ]] || cargo +nightly fuzz build --sanitizer "$sanitizer"

# A line that says how many seconds it took to come to it.
stamp() {
  local line begun=$SECONDS
  while IFS= read -r line; do
    printf '%d %s\n' $((SECONDS - begun)) "$line"
  done
}

fuzz() {
  local target=$1 options=()
  mkdir -p "$fuzz/target/corpus/$target" "$fuzz/artifacts/$target"
  [[ ! -f $fuzz/dictionaries/$target ]] || options+=("-dict=$fuzz/dictionaries/$target")
  TIMEFORMAT='cpu %U'
  { time nice -n 19 "$built/$target" "$fuzz/target/corpus/$target" "$fuzz/corpus/$target" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
    -artifact_prefix="$fuzz/artifacts/$target/" "${options[@]}"; } 2>&1 | stamp >"$logs/$target"
}

declare -A pids=()
for target in "${targets[@]}"; do
  fuzz "$target" &
  pids[$target]=$!
done

failed=()
for target in "${targets[@]}"; do
  wait "${pids[$target]}" || failed+=("$target")
done

printf '%-18s %12s %8s %9s %7s %13s\n' target executions seconds CPU edges 'in last third'
for target in "${targets[@]}"; do
  awk -v target="$target" -v two_thirds=$((seconds * 2 / 3)) '
    /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1); if ($1 <= two_thirds) then_ = cov }
    / cpu / { cpu = $3; took = $1 }
    $2 == "stat::number_of_executed_units:" { units = $3 }
    END { printf "%-18s %12d %8d %9.1f %7d %13d\n", target, units, took, cpu, cov, cov - then_ }
  ' "$logs/$target"
done
for target in "${failed[@]}"; do
  printf '\n%s failed:\n' "$target"
  grep -A 3 -E 'panicked|ERROR: libFuzzer' "$logs/$target" | tail -n 12 || tail -n 12 "$logs/$target"
  # So that the log of a machine that is gone is enough to have it again.
  for found in "$fuzz/artifacts/$target"/*; do
    [[ ! -f $found ]] || printf '%s, in base64: %s\n' "$found" "$(base64 -w 0 "$found")"
  done
done
[[ ${#failed[@]} -eq 0 ]]
