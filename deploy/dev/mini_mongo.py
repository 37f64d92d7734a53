"""A MongoDB client of the standard library alone, for the few admin commands that set a server up.

It knows OP_MSG and the BSON types that those commands and their replies use.
"""
import socket
import struct
import time

OP_MSG = 2013


def encode(document):
    out = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, bool):  # before int, which it is too
            out += b"\x08" + name + bytes([value])
        elif isinstance(value, int) and -(2**31) <= value < 2**31:
            out += b"\x10" + name + struct.pack("<i", value)
        elif isinstance(value, int):
            out += b"\x12" + name + struct.pack("<q", value)
        elif isinstance(value, float):
            out += b"\x01" + name + struct.pack("<d", value)
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            out += b"\x02" + name + struct.pack("<i", len(text)) + text
        elif isinstance(value, dict):
            out += b"\x03" + name + encode(value)
        elif isinstance(value, (list, tuple)):
            out += b"\x04" + name + encode({str(i): item for i, item in enumerate(value)})
        else:
            raise TypeError(type(value))
    return struct.pack("<i", len(out) + 5) + out + b"\0"


def decode(data, at=0):
    end = at + struct.unpack_from("<i", data, at)[0] - 1
    at += 4
    document = {}
    while at < end:
        kind = data[at]
        zero = data.index(b"\0", at + 1)
        key = data[at + 1 : zero].decode()
        at = zero + 1
        size = struct.unpack_from("<i", data, at)[0] if kind in (2, 3, 4, 5) else 0
        if kind == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif kind == 2:
            value, at = data[at + 4 : at + 3 + size].decode(), at + 4 + size
        elif kind in (3, 4):
            value, at = decode(data, at), at + size
            value = list(value.values()) if kind == 4 else value
        elif kind == 5:
            value, at = data[at + 5 : at + 5 + size], at + 5 + size
        elif kind == 7:
            value, at = data[at : at + 12].hex(), at + 12
        elif kind == 8:
            value, at = bool(data[at]), at + 1
        elif kind in (9, 17, 18):
            value, at = struct.unpack_from("<q", data, at)[0], at + 8
        elif kind == 16:
            value, at = struct.unpack_from("<i", data, at)[0], at + 4
        elif kind in (6, 10):
            value = None
        else:
            raise ValueError(f"BSON type {kind} of field {key}")
        document[key] = value
    return document


class Mini:
    """One direct connection to one server."""

    def __init__(self, port, timeout=5):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)

    def command(self, **fields):
        """Runs a command on the admin database; its name is the first field."""
        body = b"\0\0\0\0\0" + encode({**fields, "$db": "admin"})
        self.socket.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, OP_MSG) + body)
        length = struct.unpack("<i", self._read(16)[:4])[0]
        return decode(self._read(length - 16), 5)

    def _read(self, size):
        data = b""
        while len(data) < size:
            chunk = self.socket.recv(size - len(data))
            if not chunk:
                raise ConnectionError("closed by the server")
            data += chunk
        return data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def hello(port):
    """The server's own view of itself; empty while it does not answer."""
    try:
        with Mini(port, timeout=1) as server:
            return server.command(hello=1)
    except OSError:
        return {}


def wait_until(ready, limit, what):
    end = time.monotonic() + limit
    while not ready():
        if time.monotonic() > end:
            raise SystemExit(f"not within {limit} s: {what}")
        time.sleep(0.01)
