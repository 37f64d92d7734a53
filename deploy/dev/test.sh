#!/usr/bin/env bash
# test.sh [ARG...]: the test suite, on the servers that the environment names
# (servers.sh with test). With arguments: cargo test ARG... alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
# As the image has it: some tests are about what the service takes, and on a busy
# machine glibc as it is takes three times as much (277 MiB instead of 79).
export MALLOC_ARENA_MAX=2 MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072
if [ $# -gt 0 ]; then
  exec cargo test --locked "$@"
fi
cargo test --locked --lib --bins --tests --examples # all but the benchmarks
exec cargo test --locked --doc
