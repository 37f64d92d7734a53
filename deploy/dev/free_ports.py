#!/usr/bin/env python3
"""free_ports.py [COUNT]: prints the first of COUNT (1) neighbouring free TCP ports on 127.0.0.1.

free_ports.py [COUNT] --first PORT: that PORT if it and its neighbours are free, else some others.

Below 32768, where the kernel does not hand out ports to outgoing connections.
"""
import argparse
import contextlib
import random
import socket
import sys


def all_free(first, count):
    with contextlib.ExitStack() as held:
        for port in range(first, first + count):
            s = held.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


parser = argparse.ArgumentParser()
parser.add_argument("count", type=int, nargs="?", default=1)
parser.add_argument("--first", type=int)
args = parser.parse_args()
tries = [args.first] if args.first else []
tries += (random.randrange(20000, 32700 - args.count) for _ in range(1000))
for first in tries:
    if all_free(first, args.count):
        print(first)
        break
else:
    sys.exit(f"no {args.count} neighbouring ports are free")
