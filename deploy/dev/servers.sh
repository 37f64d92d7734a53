#!/usr/bin/env bash
# servers.sh VERB [NAME]: one RabbitMQ and one MongoDB (a single-node replica set) for development.
#
#   up [NAME]      starts what is missing and returns when both are ready; a second time it does nothing
#   env [NAME]     prints the variables that the service and the tests read, as export lines for eval
#   status [NAME]  says what listens where (without passwords); fails if a server is down
#   down [NAME]    stops both; the data stays
#   purge [NAME]   stops both at once and deletes the data
#   with NAME COMMAND [ARG...]   runs a command with servers of its own, gone when it ends
#
# NAME is "run" if not given; each name has its own servers, and its data in .dev/NAME of the checkout.
#
# Servers named by CHAT_COUNTERS__BUS__URL and CHAT_COUNTERS__STORE__URL are used as they are. What they
# do not name comes from Docker Compose where a Docker engine answers (CC_DEV_DOCKER=0: do not ask), else
# runs natively: rabbit.sh and mongo.py, whose variables (RABBIT_VERSION, MONGO_BENCH, ...) apply.
# The ports of "run" are 29672 (AMQP), 29673 (RabbitMQ's management) and 29017 (MongoDB) where these are
# free at its first start; the other names get free ones, kept in .dev/NAME/ports.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$HERE/lib.sh"
DEV=${CC_DEV_ROOT:-$(cd "$HERE/../.." && pwd)/.dev}
verb=${1:-} name=${2:-run}
root=$DEV/$name

given_bus() { [ -n "${CHAT_COUNTERS__BUS__URL:-}" ]; }
given_store() { [ -n "${CHAT_COUNTERS__STORE__URL:-}" ]; }
redacted() { printf '%s\n' "$1" | sed -E 's#//[^/]*@#//#'; }

# The ports and the kind ("native" or "compose") are settled by the first `up`.
settled() {
  [ -e "$root/ports" ] || return 1
  # shellcheck source=/dev/null
  . "$root/ports"
}

settle() {
  ! settled || return 0
  local first_amqp=() first_mongo=()
  if [ "$name" = run ]; then
    first_amqp=(--first 29672)
    first_mongo=(--first 29017)
  fi
  amqp=$("$HERE/free_ports.py" 10 "${first_amqp[@]}")
  mongo=$("$HERE/free_ports.py" 1 "${first_mongo[@]}")
  kind=native
  if [ "${CC_DEV_DOCKER:-1}" != 0 ] && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
    kind=compose
  fi
  mkdir -p "$root"
  printf '%s\n' "kind=$kind" "amqp=$amqp" "mongo=$mongo" >"$root/ports.new"
  mv "$root/ports.new" "$root/ports"
}

compose() {
  AMQP_PORT=$amqp MANAGEMENT_PORT=$((amqp + 1)) MONGO_PORT=$mongo \
    docker compose --project-name "chat-counters-$name" --file "$HERE/../compose.yaml" "$@"
}

rabbit() { "$HERE/rabbit.sh" "$1" "$root/rabbitmq" rabbit "$amqp"; }
mongod() { "$HERE/mongo.py" "$1" "$root/mongodb" "$mongo"; }

bus_url() {
  if given_bus; then echo "$CHAT_COUNTERS__BUS__URL"; else echo "amqp://guest:guest@127.0.0.1:$amqp/%2f"; fi
}
store_url() {
  if given_store; then
    echo "$CHAT_COUNTERS__STORE__URL"
  elif [ "$kind" = compose ]; then # its one member announces a name that only containers know
    echo "mongodb://127.0.0.1:$mongo/?directConnection=true"
  else
    mongod url
  fi
}

up() {
  if given_bus && given_store; then return; fi
  run_locked "$DEV/$name.lock" up "$name"
  settle
  if [ "$kind" = compose ]; then
    local services=()
    given_bus || services+=(rabbitmq)
    given_store || services+=(mongodb)
    compose up --detach --wait "${services[@]}" >&2
    return
  fi
  given_bus || rabbit start # first: it takes the longest, and does so in the background
  given_store || mongod start
  given_bus || rabbit wait
}

end() { # down | purge
  settled || return 0
  if [ "$kind" = compose ]; then
    if [ "$1" = purge ]; then compose down --volumes >&2; else compose stop >&2; fi
  else
    local how=stop
    [ "$1" = down ] || how=purge
    [ ! -d "$root/rabbitmq" ] || rabbit "$how" &
    [ ! -d "$root/mongodb" ] || mongod "$how"
    wait $!
  fi
  if [ "$1" = purge ]; then rm -rf "$root" "$DEV/$name.lock"; fi
}

print_env() {
  { given_bus && given_store; } || settled || die "nothing is up: $0 up $name"
  printf 'export CHAT_COUNTERS__BUS__URL=%q\n' "$(bus_url)"
  printf 'export CHAT_COUNTERS__STORE__URL=%q\n' "$(store_url)"
  # For the benchmark and the tests, where the server is one that we started.
  given_bus || printf 'export CC_DEV_RABBIT_MANAGEMENT=%q\n' "http://guest:guest@127.0.0.1:$((amqp + 1))"
  if [ "${kind:-}" = native ]; then
    local pid
    given_bus || { pid=$(rabbit pid) && echo "export CC_DEV_RABBIT_PID=$pid"; } || die "RabbitMQ is down: $0 up $name"
    given_store || { pid=$(mongod pid) && echo "export CC_DEV_MONGOD_PID=$pid"; } || die "MongoDB is down: $0 up $name"
  fi
}

status() {
  { given_bus && given_store; } || settled || die "nothing is up: $0 up $name"
  local bad=0 bus="" store=""
  if given_bus; then
    bus="from the environment"
  elif [ "$kind" = compose ]; then
    bus="Docker Compose" && [ -n "$(compose ps --quiet --status running rabbitmq)" ] || bad=1 bus=down
  else
    bus="native, pid $(rabbit pid)" || bad=1 bus=down
  fi
  if given_store; then
    store="from the environment"
  elif [ "$kind" = compose ]; then
    store="Docker Compose" && [ -n "$(compose ps --quiet --status running mongodb)" ] || bad=1 store=down
  else
    store="native, pid $(mongod pid 2>/dev/null)" || bad=1 store=down
  fi
  echo "RabbitMQ  $(redacted "$(bus_url)")  ($bus)"
  echo "MongoDB   $(redacted "$(store_url)")  ($store)"
  given_bus || echo "          http://127.0.0.1:$((amqp + 1)) is RabbitMQ's management (guest, guest)"
  return "$bad"
}

with() { # COMMAND [ARG...]
  if given_bus && given_store; then exec "$@"; fi
  local old
  for old in "$DEV/${name%-*}"-*/; do # left by one that was killed
    old=$(basename "$old")
    [ "$old" = "${name%-*}-*" ] || [ -d "/proc/${old##*-}" ] || "$0" purge "$old"
  done
  trap '"$0" purge "$name"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  "$0" up "$name"
  local variables
  variables=$("$0" env "$name")
  (eval "$variables" && exec "$@")
}

case $verb in
up) up ;;
env) print_env ;;
status) status ;;
down | purge) end "$verb" ;;
with)
  [ $# -ge 3 ] || die "with NAME COMMAND [ARG...]"
  name=$name-$$
  shift 2
  with "$@"
  ;;
*) die "up|env|status|down|purge [NAME], or with NAME COMMAND [ARG...]; see the head of this file" ;;
esac
