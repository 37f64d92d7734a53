#!/usr/bin/env bash
# burst.sh [NAME=VALUE...]: what a burst leaves in the memory of the service, run
# with these variables: 300 dead letters and 300 events of 900 kB each, 20,000
# small events, then a rest of 30 s. Within `servers.sh with NAME`; the binary is
# CHAT_COUNTERS_BIN, else the release build.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=${CHAT_COUNTERS_BIN:-target/release/chat-counters}
events=$(mktemp)
trap 'kill "${service:-}" 2>/dev/null || true; rm -f "$events"' EXIT
name=burst_$$
export CHAT_COUNTERS__BUS__EXCHANGE=${name}_events CHAT_COUNTERS__BUS__QUEUE=$name \
  CHAT_COUNTERS__BUS__DEAD_LETTER_QUEUE=$name.dlq CHAT_COUNTERS__STORE__DATABASE=$name

python3 - > "$events" <<'PYTHON'
import json
text = "x" * 900_000
def message(id, dialog, **more):
    message = {"senderId": "ann", "senderInfo": {"type": "user"}, **more}
    context = {"dialogId": dialog, "messageId": f"m_{id}"}
    return {"eventId": id, "tenantId": "t", "eventType": "message.create", "entityType": "message",
            "createdAt": 1763551369397, "data": {"context": context, "message": message}}
for n in range(300):
    print(json.dumps({**message(None, "d"), "n": n, "text": text}))
for n in range(300):
    print(json.dumps(message(f"l{n}", f"d{n % 7}", content=text)))
for n in range(20_000):
    print(json.dumps(message(f"s{n}", f"s{n % 3000}")))
PYTHON

kib() { awk -v field="$1:" '$1 == field { print $2 }' "/proc/$service/status"; }
sum() {
  curl --silent --fail --max-time 3 http://127.0.0.1:9090/metrics |
    awk -v name="$1" 'index($1, name) == 1 { sum += $2 } END { print sum + 0 }'
}

env "$@" "$binary" serve &
service=$!
until curl --silent --fail --output /dev/null http://127.0.0.1:9090/healthz; do sleep 0.5; done
before=$(kib VmRSS)
"$binary" publish "$events"
until [ "$(sum chat_counters_events_total)" -ge 20600 ] &&
  [ "$(sum chat_counters_dead_letters_total)" -ge 300 ]; do sleep 1; done
after=$(kib VmRSS)
sleep 30
echo "MiB resident: $((before / 1024)) before, $((after / 1024)) after," \
  "$(($(kib VmRSS) / 1024)) at rest, $(($(kib VmHWM) / 1024)) at most"
