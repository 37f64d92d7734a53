#!/usr/bin/env bash
# Reads and watches counters over HTTP.
#
#   client.sh stats TENANT USER            how a user stands
#   client.sh again TENANT USER            the same, and once more with its ETag: 304
#   client.sh dialog TENANT USER DIALOG    how a user stands in one dialog
#   client.sh batch TENANT USER...         several users, as of one moment
#   client.sh unread TENANT USER           the dialogs with something unread
#   client.sh watch TENANT USER            the badge, as it changes, until Ctrl-C
#
# CHAT_COUNTERS_ADDRESS says where (http://127.0.0.1:8080), CHAT_COUNTERS_TOKEN who
# asks. Prints a JSON object a line. Needs curl and jq.
set -euo pipefail

service=${CHAT_COUNTERS_ADDRESS:-http://127.0.0.1:8080}/v1
of_user='{user: .user_id, unread: .total_unread_count, unread_dialogs: .unread_dialogs_count,
  dialogs: .dialog_count, sent: .total_messages_count, by_sender: .unread_by_sender_type}'

exec 3>&1 # for what is told from within $(...) and pipes

# As a file: what stands in the arguments of a program is seen by others.
credential() {
  [ -z "${CHAT_COUNTERS_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$CHAT_COUNTERS_TOKEN"
}

http() { curl --silent --show-error --header @<(credential) "$@"; }

encoded() { jq --raw-output --null-input --arg id "$1" '$id | @uri'; }

refused() { # PROBLEM, as RFC 9457 has it
  jq --compact-output '{error: .code, reason: .reason, message: .detail}' <<<"$1" >&3
  exit 1
}

ask() { # PATH [OPTION...]: prints the answer
  local answer path=$1
  shift
  answer=$(http --max-time 5 --write-out '\n%{http_code}' "$service/$path" "$@")
  case ${answer##*$'\n'} in
  200) printf '%s\n' "${answer%$'\n'*}" ;;
  *) refused "${answer%$'\n'*}" ;;
  esac
}

user() { # TENANT USER: its path
  echo "tenants/$(encoded "$1")/users/$(encoded "$2")"
}

stats() { # TENANT USER
  ask "$(user "$1" "$2")/stats" | jq --compact-output "$of_user"
}

again() { # TENANT USER: what is told without an ETag, and with the one that came
  local url first tag
  url=$service/$(user "$1" "$2")/stats
  first=$(http --max-time 5 --output /dev/null --write-out '%{http_code} %header{etag}' "$url")
  tag=${first#* }
  http --max-time 5 --output /dev/null --write-out "{\"first\":${first%% *},\"again\":%{http_code}}\n" \
    --header "If-None-Match: $tag" "$url"
}

dialog() { # TENANT USER DIALOG
  ask "$(user "$1" "$2")/dialogs/$(encoded "$3")" |
    jq --compact-output '{dialog: .dialog_id, member: .member, unread: .unread_count}'
}

batch() { # TENANT USER...
  local path
  path=tenants/$(encoded "$1")/users/stats
  shift
  jq --compact-output --null-input '{user_ids: $ARGS.positional}' --args "$@" |
    ask "$path" --header 'Content-Type: application/json' --data @- |
    jq --compact-output ".user_stats[] | $of_user"
}

unread() { # TENANT USER
  local path page token=
  path=$(user "$1" "$2")/dialogs
  while
    page=$(ask "$path?unread_only=true&page_size=2&page_token=$token")
    jq --compact-output '.user_dialog_stats | map({(.dialog_id): .unread_count}) | add // {}' <<<"$page"
    token=$(jq --raw-output '.next_page_token | @uri' <<<"$page")
    [ -n "$token" ]
  do :; done
}

# The badge: what an application would show, printed when it changes.
state=connecting unread=null resume='' shown=''
show() {
  local now
  now=$(jq --compact-output --null-input --arg state "$state" --argjson unread "$unread" --arg resume "$resume" \
    '{state: $state, unread: $unread, resume: $resume}')
  [ "$now" = "$shown" ] || printf '%s\n' "$now"
  shown=$now
}

told() { # EVENT DATA ID
  case $1 in
  update)
    unread=$(jq ".updates[0].user_stats.total_unread_count // $unread" <<<"$2")
    ! jq --exit-status .all_told <<<"$2" >/dev/null || state=live
    # An event without an id leaves the last one as it was.
    resume=${3:-$resume}
    show
    ;;
  problem)
    case $(jq --raw-output .code <<<"$2") in
    # The same request would be answered the same again: trying on helps nobody.
    UNAUTHENTICATED | PERMISSION_DENIED | INVALID_ARGUMENT | FAILED_PRECONDITION | UNIMPLEMENTED) refused "$2" ;;
    esac
    ;;
  esac
}

# Events of one connection, until it ends.
look() { # URL
  local line event='' data='' id='' known=()
  [ -z "$resume" ] || known=(--header "Last-Event-ID: $resume")
  retry=0
  # The service says something every 15 s: after 45 s of silence nobody is there.
  while read -r line || [ -n "$line" ]; do
    case $line in
    'event: '*) event=${line#*: } ;;
    'data: '*) data=${line#*: } ;;
    'id: '*) id=${line#*: } ;;
    'retry: '*) retry=${line#*: } ;;
    '{'*) told problem "$line" '' ;; # an answer in the place of events
    '')
      [ "$event" != update ] || tries=0
      told "$event" "$data" "$id"
      event='' data='' id=''
      ;;
    esac
  done < <(http --no-buffer --speed-limit 1 --speed-time 45 "${known[@]}" "$1")
}

# Longer each time, and of random length, so that not all clients of a service that
# was away come back at the same moment; no shorter than an event has asked for.
pause() {
  local longest=$((tries < 5 ? 200 << tries : 5000)) wait
  wait=$((longest / 2 + RANDOM % (longest / 2)))
  [ "$wait" -gt "$retry" ] || wait=$retry
  sleep "$((wait / 1000)).$(printf %03d $((wait % 1000)))"
}

watch() { # TENANT USER
  local url retry=0 tries=0
  url=$service/$(user "$1" "$2")/events
  while true; do
    look "$url"
    state=reconnecting
    show
    pause
    tries=$((tries + 1))
  done
}

case ${1:-}/$# in
stats/3 | again/3 | dialog/4 | unread/3 | watch/3) "$@" ;;
batch/[0-9]*) "$@" ;;
*)
  sed -n '2,/^set/ { s/^# \{0,1\}//p }' "$0" >&2
  exit 2
  ;;
esac
