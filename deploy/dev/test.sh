#!/usr/bin/env bash
# test.sh [ARG...]: the test suite, on the servers that the environment names
# (servers.sh with test). With arguments: cargo test ARG... alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ $# -gt 0 ]; then
  exec cargo test --locked "$@"
fi
cargo test --locked --lib --bins --tests --examples # all but the benchmarks
exec cargo test --locked --doc
