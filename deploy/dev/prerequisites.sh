#!/usr/bin/env bash
# prerequisites.sh: checks for the programs that building and the native servers
# need, and as root installs the missing ones with apt-get.
set -euo pipefail
# shellcheck source=deploy/dev/lib.sh
. "$(dirname "$0")/lib.sh"

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v flock >/dev/null || missing+=(util-linux)
python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pip"))' 2>/dev/null || missing+=(python3 python3-pip)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

apt_install "${missing[@]}"
command -v cargo >/dev/null || die "no cargo on the PATH: install the Rust toolchain (https://rustup.rs)"
