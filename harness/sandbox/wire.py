"""Messages over a socket: four bytes of length (little-endian), then JSON in ASCII.

The one exception is a program on its way to its process: its text as it is (`read_body`).

Main functions: `pack`, and `read_message` and `write_all` for a process that does nothing else meanwhile. The judge and
the parent, who wait for several sockets at once, have readers of their own. Not handled: deadlines.
"""

from __future__ import annotations

import json
import struct
from os import read, write
from typing import Any

HEADER = struct.Struct("<I")
Message = dict[str, Any]
# made once: `json.dumps` and `json.loads` make anew what they work with, which costs a fresh fork page faults
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().raw_decode


def pack(message: Any) -> bytes:
    """One message as bytes; it must be JSON-ready."""
    body = _encode(message).encode("ascii")
    return HEADER.pack(len(body)) + body


def pack_text(message: Any) -> bytes:
    """As `pack`, between ourselves: text takes the room that it takes in UTF-8."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(body)) + body


def parse(body: bytes | bytearray) -> Any:
    """The message that these bytes, all but the header, are; not for what a program's process has sent."""
    return _decode(body.decode("utf-8", "surrogatepass"))[0]


def read_exactly(descriptor: int, size: int) -> bytes:
    """`size` bytes; EOFError where the other side has gone."""
    found = read(descriptor, min(size, 1 << 20))
    if len(found) == size:  # nearly always
        return found
    pieces = [found]
    while found and (size := size - len(found)):
        pieces.append(found := read(descriptor, min(size, 1 << 20)))
    if not found:
        raise EOFError("the other side has closed its connection")
    return b"".join(pieces)


def read_body(descriptor: int) -> bytes:
    """What follows the next header; EOFError where the other side has gone."""
    (size,) = HEADER.unpack(read_exactly(descriptor, HEADER.size))
    return read_exactly(descriptor, size)


def read_message(descriptor: int) -> Any:
    """The next message; EOFError where the other side has gone."""
    return parse(read_body(descriptor))


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything, waiting where it must."""
    view = memoryview(data)
    while view:
        view = view[write(descriptor, view) :]
