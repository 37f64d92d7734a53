#!/usr/bin/env bash
# torture.sh SECONDS: the property tests, each for so long, side by side, with fresh cases; on the servers
# that the environment names (servers.sh with torture). A case that fails is kept in tests/it/*.regressions,
# to be tried first by every later run.
set -euo pipefail
cd "$(dirname "$0")/../.."
export TORTURE_SECONDS=${1:?SECONDS}
exec cargo test --locked --test it -- --nocapture --test-threads 4 commits:: derive:: history_property:: mutations::
