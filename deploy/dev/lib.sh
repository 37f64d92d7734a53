# shellcheck shell=bash
# Sourced by the other scripts here: where things are kept, and how they speak.

# Downloads live outside the checkout, so that a fresh clone finds them again.
# shellcheck disable=SC2034  # used where this is sourced
CACHE=${CHAT_COUNTERS_DEV_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/chat-counters-dev}

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# apt_install [PACKAGE...]: Debian's packages, as root. Whoever is not is told of them.
apt_install() {
  [ $# -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "needed and not found; install (names as in Debian): $*"
  fi
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update >&2
  apt-get -qq install -y --no-install-recommends "$@" >&2
}

# run_locked FILE "$@": runs this script again while it holds a lock on FILE,
# once. The lock is not inherited (-o), so servers that outlive us cannot keep it.
run_locked() {
  local lock=$1
  shift
  if [ "${CC_DEV_LOCKED:-}" = "$lock" ]; then
    unset CC_DEV_LOCKED
    return 0
  fi
  mkdir -p "${lock%/*}"
  CC_DEV_LOCKED=$lock exec flock -o "$lock" "$0" "$@"
}
