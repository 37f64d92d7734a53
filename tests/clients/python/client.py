#!/usr/bin/env python3
"""Reads and watches counters over gRPC.

  client.py stats TENANT USER            how a user stands
  client.py dialog TENANT USER DIALOG    the same in one dialog
  client.py batch TENANT USER...         several users, as of one moment
  client.py unread TENANT USER           the dialogs with something unread
  client.py watch TENANT USER            the badge, as it changes, until Ctrl-C

CHAT_COUNTERS_ADDRESS says where (127.0.0.1:50051), CHAT_COUNTERS_TOKEN who asks.
Prints a JSON object a line. Once, from this folder, for what it imports:

  pip install -r requirements.txt
  mkdir -p generated
  python3 -m grpc_tools.protoc -I ../../../proto --python_out generated --grpc_python_out generated \\
      chatcounters/v1/stats.proto chatcounters/v1/counter_service.proto
"""
import json
import os
import pathlib
import random
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(pathlib.Path(__file__).with_name("generated")))
from chatcounters.v1 import counter_service_pb2 as pb  # noqa: E402
from chatcounters.v1.counter_service_pb2_grpc import CounterServiceStub  # noqa: E402

DEADLINE = 5  # seconds for one answer
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5  # seconds between tries

# The same call would be answered the same again: trying on helps nobody.
FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}

CHANNEL = [
    # A connection that was lost without a word is noticed within a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The channel has pauses of its own, up to two minutes unless told otherwise.
    ("grpc.initial_reconnect_backoff_ms", int(FIRST_PAUSE * 1_000)),
    ("grpc.min_reconnect_backoff_ms", int(FIRST_PAUSE * 1_000)),
    ("grpc.max_reconnect_backoff_ms", LONGEST_PAUSE * 1_000),
]


class Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Shows the token with each call. (grpc.access_token_call_credentials does
    the same on channels with TLS, and on no others.)"""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def intercept_unary_unary(self, call, details, request):
        return call(details._replace(metadata=self.metadata), request)

    intercept_unary_stream = intercept_unary_unary


def connect():
    address = os.environ.get("CHAT_COUNTERS_ADDRESS", "127.0.0.1:50051")
    # Beyond this machine: grpc.secure_channel, or whoever reads along has the token.
    channel = grpc.insecure_channel(address, CHANNEL)
    bearer = Bearer(os.environ.get("CHAT_COUNTERS_TOKEN", ""))
    return CounterServiceStub(grpc.intercept_channel(channel, bearer))


def show(shown):
    print(json.dumps(shown), flush=True)


def of_user(stats):
    return {
        "user": stats.user_id,
        "unread": stats.total_unread_count,
        "unread_dialogs": stats.unread_dialogs_count,
        "dialogs": stats.dialog_count,
        "sent": stats.total_messages_count,
        "by_sender": dict(stats.unread_by_sender_type),
    }


def stats(counters, tenant, user):
    request = pb.GetUserStatsRequest(tenant_id=tenant, user_id=user)
    show(of_user(counters.GetUserStats(request, timeout=DEADLINE)))


def dialog(counters, tenant, user, dialog_id):
    request = pb.GetUserDialogStatsRequest(tenant_id=tenant, user_id=user, dialog_id=dialog_id)
    found = counters.GetUserDialogStats(request, timeout=DEADLINE)
    show({"dialog": found.dialog_id, "member": found.member, "unread": found.unread_count})


def batch(counters, tenant, users):
    request = pb.BatchGetUserStatsRequest(tenant_id=tenant, user_ids=users)
    for found in counters.BatchGetUserStats(request, timeout=DEADLINE).user_stats:
        show(of_user(found))


def unread(counters, tenant, user):
    request = pb.ListUserDialogStatsRequest(tenant_id=tenant, user_id=user, unread_only=True, page_size=2)
    while True:
        page = counters.ListUserDialogStats(request, timeout=DEADLINE)
        show({found.dialog_id: found.unread_count for found in page.user_dialog_stats})
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


class Badge:
    """What an application would show, printed when it changes."""

    def __init__(self):
        self.shown = {"state": "connecting", "unread": None, "resume": ""}

    def set(self, **changes):
        changed = {**self.shown, **changes}
        if changed != self.shown:
            self.shown = changed
            show(changed)


def watch(counters, tenant, user):
    badge, tries = Badge(), 0
    request = pb.WatchUserStatsRequest(tenant_id=tenant, user_ids=[user])
    while True:
        asked_to_wait = 0
        try:
            for told in counters.WatchUserStats(request):
                tries = 0
                take(badge, told)
                # After its updates are taken: what was not is told again.
                request.resume_token = told.resume_token or request.resume_token
        except grpc.RpcError as error:
            if error.code() in FINAL:
                raise
            asked_to_wait = retry_after(error)
        badge.set(state="reconnecting")
        time.sleep(max(asked_to_wait, pause(tries)))
        tries += 1


def take(badge, told):
    for update in told.updates:
        badge.set(unread=update.user_stats.total_unread_count)
    if told.all_told:
        badge.set(state="live")
    if told.resume_token:
        badge.set(resume=told.resume_token)


def pause(tries):
    """Longer each time, and of random length, so that not all clients of a
    service that was away come back at the same moment."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries)
    return longest * random.uniform(0.5, 1)


def details(error, kind):
    """The details of an error that are of this kind."""
    found = []
    for packed in getattr(rpc_status.from_call(error), "details", []):
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def retry_after(error):
    for info in details(error, error_details_pb2.RetryInfo):
        return info.retry_delay.ToTimedelta().total_seconds()
    return 0


def ask(counters, arguments):
    match arguments:
        case ["stats", tenant, user]:
            stats(counters, tenant, user)
        case ["dialog", tenant, user, dialog_id]:
            dialog(counters, tenant, user, dialog_id)
        case ["batch", tenant, *users]:
            batch(counters, tenant, users)
        case ["unread", tenant, user]:
            unread(counters, tenant, user)
        case ["watch", tenant, user]:
            watch(counters, tenant, user)
        case _:
            sys.exit(__doc__)


def main():
    try:
        ask(connect(), sys.argv[1:])
    except grpc.RpcError as error:
        reasons = [info.reason for info in details(error, error_details_pb2.ErrorInfo)]
        show({"error": error.code().name, "reason": "".join(reasons), "message": error.details()})
        sys.exit(1)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
