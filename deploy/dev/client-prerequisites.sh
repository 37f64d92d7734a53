#!/usr/bin/env bash
# client-prerequisites.sh: checks for the programs that the client examples need
# beside those of prerequisites.sh, and as root installs the missing ones with
# apt-get. Apart from that, because nothing else needs a browser.
set -euo pipefail
# shellcheck source=deploy/dev/lib.sh
. "$(dirname "$0")/lib.sh"

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v jq >/dev/null || missing+=(jq)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || missing+=(chromium)
apt_install "${missing[@]}"
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || die "node $(node --version) is too old: 18 at least"
