#!/usr/bin/env bash
# run.sh [ARG...]: servers up, a debug build (a third of a release build's time),
# and the service in the foreground (chat-counters serve ARG...) until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/../.."
trap 'exit 130' INT

deploy/dev/servers.sh up
variables=$(deploy/dev/servers.sh env)
cargo build --locked --bin chat-counters
echo
deploy/dev/servers.sh status
echo "gRPC      ${CHAT_COUNTERS__GRPC__LISTEN:-127.0.0.1:50051}  (counters, plaintext)"
echo "admin     ${CHAT_COUNTERS__ADMIN__LISTEN:-127.0.0.1:50052}  (gRPC: dead letters, maintenance, reflection)"
echo "metrics   http://${CHAT_COUNTERS__METRICS__LISTEN:-127.0.0.1:9090}/metrics"
echo "Ctrl-C stops the service, 'make down' the servers; the data stays."
echo
eval "$variables"
exec target/debug/chat-counters serve "$@"
