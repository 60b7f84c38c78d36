#!/usr/bin/env bash
# Runs each fuzz target of a build with -DGRAFT_FUZZ=ON for a number of seconds. Usage: fuzz.sh BUILD SECONDS [NAME...]
set -euo pipefail
build=$1 seconds=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
for source in "$root"/tests/fuzz/fuzz_*.c; do
  name=$(basename "$source" .c)
  [ $# -eq 0 ] || [[ " $* " == *" ${name#fuzz_} "* ]] || continue
  found="$build/corpus/$name"
  mkdir -p "$found"
  printf '%s ' "$name"
  "$build/tests/$name" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -artifact_prefix="$build/" -print_final_stats=1 \
    "$found" "$root/tests/fuzz/corpus/${name#fuzz_}" >"$build/$name.log" 2>&1 ||
    { tail -40 "$build/$name.log"; exit 1; }
  grep -o 'number_of_executed_units: [0-9]*' "$build/$name.log"
done
