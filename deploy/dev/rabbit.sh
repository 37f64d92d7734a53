#!/usr/bin/env bash
# rabbit.sh VERB ROOT NAME BASE [...]: a private RabbitMQ node of our own.
#
#   start ROOT NAME BASE [PEER...]  starts the node in the background and returns at once; on data
#                                   that is there already, it comes back with it. Peers are the NAMEs
#                                   of all nodes of a cluster; start them together, then wait for each.
#   wait ROOT NAME BASE [SECONDS]   until it answers an AMQP handshake (60 s)
#   stop | kill                     SIGTERM and wait | SIGKILL; the data stays
#   pause | resume                  SIGSTOP | SIGCONT
#   purge                           kill, and delete the node's data
#   pid | url | management          prints the process id | the AMQP URL | the management API's URL
#   ctl ROOT NAME BASE ARGS...      rabbitmqctl ARGS
#
# Ports, on 127.0.0.1: BASE AMQP, +1 management, +2 Prometheus, +3 Erlang, +4..+8 its tools, and for
# the first node of a ROOT +9 epmd. Files: ROOT/NAME/pid (the Erlang machine), ROOT/NAME/log/.
# Nodes of one cluster share a ROOT. RABBIT_VERSION=3|4 as in get-rabbitmq.sh, fixed by the first
# start; RABBIT_BENCH=1 keeps the broker's own write-ahead log size; RABBIT_CONSUMER_TIMEOUT_MS=N is how
# long a consumer may hold a message, looked after every half second. RABBIT_TLS_PORT=PORT
# has it speak TLS there, too, with ca.crt, server.crt and server.key of RABBIT_TLS_DIR=DIR, and takes a
# client's certificate for its name (SASL EXTERNAL).
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$HERE/lib.sh"
[ $# -ge 4 ] || die "VERB ROOT NAME BASE [...]; see the head of this file"
verb=$1 name=$3 base=$4
mkdir -p "$2"
root=$(cd "$2" && pwd)
shift 4
node=$root/$name

is_ours() { # PID: the number may have been given to another process since
  grep -qszxF "RABBITMQ_PID_FILE=$node/pid" "/proc/$1/environ"
}

pid() { # of the running node; fails if there is none
  local number
  number=$(cat "$node/pid" 2>/dev/null) && is_ours "$number" && echo "$number"
}

end_with() { # SIGNAL: sends it, waits for the end, kills what has not ended
  local number
  number=$(pid) || return 0
  kill "-$1" "$number" && kill -CONT "$number" || return 0
  for _ in $(seq 300); do
    is_ours "$number" || return 0
    sleep 0.05
  done
  kill -KILL "$number" || true
}

end_epmd() { # the port mapper of this ROOT, with its last node
  local file number epmd
  epmd=$(echo "${prefix%/}"/usr/lib/erlang/erts-*/bin/epmd)
  for file in "$root"/*/pid; do
    number=$(cat "$file" 2>/dev/null) || continue
    ! grep -qszxF "RABBITMQ_PID_FILE=$file" "/proc/$number/environ" || return 0
  done
  for _ in $(seq 40); do # it refuses until it has noticed that the node is gone
    case $("$epmd" -kill 2>&1 || true) in
    *"not allowed"*) sleep 0.05 ;;
    *) return 0 ;;
    esac
  done
}

find_server() {
  local version=${RABBIT_VERSION:-}
  [ ! -e "$node/version" ] || version=$(cat "$node/version")
  # shellcheck disable=SC2086  # no version is no argument
  prefix=$("$HERE/get-rabbitmq.sh" $version)
  mkdir -p "$node/log" "$node/mnesia"
  echo "$version" >"$node/version"
  [ "$prefix" = / ] || PATH=$prefix/usr/lib/erlang/bin:$PATH

  # The node's own home (the cookie is kept there), port mapper and settings:
  # nothing of a system-wide RabbitMQ leaks in. Its programs are called directly,
  # since the wrappers in /usr/sbin switch the user.
  unset "${!RABBITMQ_@}"
  export HOME=$root LANG=C.UTF-8 LC_ALL=C.UTF-8
  if [ ! -e "$HOME/.erlang.cookie" ]; then
    (umask 377 && head -c 30 /dev/urandom | base64 | tr -dc A-Za-z0-9 >"$HOME/cookie.$$")
    mv -n "$HOME/cookie.$$" "$HOME/.erlang.cookie"
    rm -f "$HOME/cookie.$$"
  fi
  (set -C && echo $((base + 9)) >"$root/epmd-port") 2>/dev/null || true
  ERL_EPMD_PORT=$(cat "$root/epmd-port")
  export ERL_EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1
  export RABBITMQ_NODENAME=$name@localhost RABBITMQ_DIST_PORT=$((base + 3))
  export RABBITMQ_CTL_DIST_PORT_MIN=$((base + 4)) RABBITMQ_CTL_DIST_PORT_MAX=$((base + 8))
  export RABBITMQ_CONF_ENV_FILE=$node/env.conf RABBITMQ_CONFIG_FILE=$node/rabbitmq.conf
  export RABBITMQ_ADVANCED_CONFIG_FILE=$node/advanced.config RABBITMQ_ENABLED_PLUGINS_FILE=$node/enabled_plugins
  export RABBITMQ_MNESIA_BASE=$node/mnesia RABBITMQ_LOG_BASE=$node/log RABBITMQ_PID_FILE=$node/pid
  export ERL_CRASH_DUMP=$node/log/erl_crash.dump
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
}

configure() { # [PEER...]
  : >"$node/env.conf"
  echo '[rabbitmq_management,rabbitmq_prometheus,rabbitmq_consistent_hash_exchange,rabbitmq_auth_mechanism_ssl].' \
    >"$node/enabled_plugins"
  # A frozen or dead peer is noticed within seconds.
  local rabbit='{quorum_tick_interval,1000}'
  [ -z "${RABBIT_CONSUMER_TIMEOUT_MS:-}" ] || rabbit+=',{channel_tick_interval,500}'
  echo "[{kernel,[{net_ticktime,8}]},{rabbit,[$rabbit]},{aten,[{poll_interval,500}]}]." >"$node/advanced.config"
  {
    echo "listeners.tcp.1 = 127.0.0.1:$base"
    echo "management.tcp.ip = 127.0.0.1"
    echo "management.tcp.port = $((base + 1))"
    echo "prometheus.tcp.ip = 127.0.0.1"
    echo "prometheus.tcp.port = $((base + 2))"
    echo "collect_statistics_interval = 1000"
    echo "log.console = false"
    echo "disk_free_limit.absolute = 50MB"
    echo "vm_memory_high_watermark.absolute = 1GB"
    echo "cluster_partition_handling = pause_minority"
    [ -z "${RABBIT_CONSUMER_TIMEOUT_MS:-}" ] || echo "consumer_timeout = $RABBIT_CONSUMER_TIMEOUT_MS"
    [ -n "${RABBIT_BENCH:-}" ] || echo "raft.wal_max_size_bytes = 33554432" # 512 MB of disk less
    if [ -n "${RABBIT_TLS_PORT:-}" ]; then
      echo "listeners.ssl.1 = 127.0.0.1:$RABBIT_TLS_PORT"
      echo "ssl_options.cacertfile = $RABBIT_TLS_DIR/ca.crt"
      echo "ssl_options.certfile = $RABBIT_TLS_DIR/server.crt"
      echo "ssl_options.keyfile = $RABBIT_TLS_DIR/server.key"
      echo "ssl_options.verify = verify_peer"
      echo "ssl_options.fail_if_no_peer_cert = false"
      local i=0 mechanism
      for mechanism in PLAIN AMQPLAIN EXTERNAL; do echo "auth_mechanisms.$((i += 1)) = $mechanism"; done
    fi
    if [ $# -gt 0 ]; then
      echo "cluster_formation.peer_discovery_backend = classic_config"
      local i=0 peer
      for peer; do echo "cluster_formation.classic_config.nodes.$((i += 1)) = $peer@localhost"; done
    fi
  } >"$node/rabbitmq.conf"
}

case $verb in
start)
  ! pid >/dev/null || exit 0
  find_server
  [ $# -eq 0 ] || echo "$@" >"$node/peers"
  peers=()
  [ ! -e "$node/peers" ] || read -ra peers <"$node/peers"
  configure "${peers[@]}"
  # So that the start script becomes the Erlang machine instead of minding one.
  export RUNNING_UNDER_SYSTEMD=true
  unset NOTIFY_SOCKET
  # shellcheck disable=SC2016  # expanded by the inner shell
  setsid sh -c 'echo $$ >"$RABBITMQ_PID_FILE"; exec "$1"' - "${prefix%/}/usr/lib/rabbitmq/bin/rabbitmq-server" \
    </dev/null >>"$node/log/out" 2>&1 &
  ;;
wait)
  exec python3 - "$base" "${1:-60}" "$node/log" <<'PY'
import signal, socket, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C without a traceback
port, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while True:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.settimeout(2)
            s.sendall(b"AMQP\0\0\x09\x01")
            if s.recv(8)[:1] == b"\x01":  # a method frame: Connection.Start
                break
    except OSError:
        pass
    if time.monotonic() > end:
        sys.exit(f"RabbitMQ on port {port} is not ready; its log is in {sys.argv[3]}")
    time.sleep(0.05)
PY
  ;;
stop | kill)
  end_with "$([ "$verb" = stop ] && echo TERM || echo KILL)"
  if [ -e "$node/version" ]; then
    find_server
    end_epmd
  fi
  ;;
purge)
  end_with KILL
  if [ -e "$node/version" ]; then
    find_server
    end_epmd
  fi
  rm -rf "$node"
  if ! compgen -G "$root/*/version" >/dev/null; then # that was the last node
    rm -f "$root/.erlang.cookie" "$root/epmd-port"
    rmdir "$root" 2>/dev/null || true
  fi
  ;;
pause) kill -STOP "$(pid)" ;;
resume) kill -CONT "$(pid)" ;;
pid) pid ;;
url) echo "amqp://guest:guest@127.0.0.1:$base/%2f" ;;
management) echo "http://guest:guest@127.0.0.1:$((base + 1))" ;;
ctl)
  find_server
  exec "${prefix%/}/usr/lib/rabbitmq/bin/rabbitmqctl" "$@"
  ;;
*) die "no such verb: $verb" ;;
esac
