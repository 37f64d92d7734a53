#!/usr/bin/env bash
# run.sh [CLIENT...]: the story of scenario.py with these clients (curl, python,
# typescript, browser; all unless given), on the servers that the environment names
# (deploy/dev/servers.sh with). CHAT_COUNTERS_BIN is the service, the debug build
# unless given. What the clients need is fetched once.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$HERE/../../deploy/dev/lib.sh"

clients=("$@")
[ $# -gt 0 ] || clients=(curl python typescript browser)
binary=${CHAT_COUNTERS_BIN:-$HERE/../../target/debug/chat-counters}
[ -x "$binary" ] || die "no $binary: cargo build"

packages() { # FOLDER: node's, as its lock has them
  cmp --silent "$1/package-lock.json" "$1/node_modules/.installed" && return
  say "fetching packages for ${1##*/}"
  npm --prefix "$1" ci --ignore-scripts --no-audit --no-fund --silent >&2
  cp "$1/package-lock.json" "$1/node_modules/.installed"
}

python() {
  local wanted=$HERE/python/requirements.txt
  # Wheels are for one version of Python.
  PYTHONPATH=$CACHE/tools/clients-$({ python3 --version && cat "$wanted"; } | sha256sum | cut -c 1-16)
  export PYTHONPATH
  if [ ! -d "$PYTHONPATH" ]; then
    say "fetching packages for python"
    mkdir -p "$CACHE/tools"
    local new
    new=$(mktemp -d "$CACHE/tools/new.XXXXXX")
    python3 -m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check --root-user-action ignore \
      --target "$new" --requirement "$wanted" >&2
    mv --no-target-directory "$new" "$PYTHONPATH"
  fi
  rm -rf "$HERE/python/generated"
  mkdir -p "$HERE/python/generated"
  (cd "$HERE/python" && python3 -m grpc_tools.protoc -I ../../../proto --python_out generated --grpc_python_out generated \
    chatcounters/v1/stats.proto chatcounters/v1/counter_service.proto)
}

typescript() {
  packages "$HERE/typescript"
  npm --prefix "$HERE/typescript" run --silent build
}

for client in "${clients[@]}"; do
  case $client in
  curl) ;;
  python) python ;;
  typescript) typescript ;;
  browser) packages "$HERE/browser" ;;
  *) die "no such client: $client" ;;
  esac
done
exec python3 "$HERE/scenario.py" "$binary" "${clients[@]}"
