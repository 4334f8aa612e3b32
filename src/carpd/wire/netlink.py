"""Netlink messages, their attributes and acknowledgements: bytes <-> values, in the byte order of this machine.

Ref: RFC 3549 §2; Linux include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from carpd.errors import DecodeError

ROUTE, NETFILTER = 0, 12
"""The protocols that we speak: NETLINK_ROUTE and NETLINK_NETFILTER."""

NOOP, ERROR, DONE = 1, 2, 3
"""Kinds of control messages: NLMSG_NOOP, which can ask for an acknowledgement and nothing else; NLMSG_ERROR, also used
to acknowledge; and NLMSG_DONE, the end of a dump."""

REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x01, 0x02, 0x04, 0x10
DUMP = 0x300
CREATE, EXCLUSIVE = 0x400, 0x200
CAPPED, ACK_ATTRIBUTES = 0x100, 0x200
"""Flags NLM_F_...; which ones mean something depends on the kind of message."""

HEADER = struct.Struct("=IHHII")
"""Length with this header, kind, flags, sequence, port."""
_LENGTH = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, kind
_INT = struct.Struct("=i")
_NESTED = 0x8000
_KIND_MASK = 0x3FFF  # without the flags "nested" and "network byte order"
_ACK_MESSAGE = 1  # NLMSGERR_ATTR_MSG


class Message(NamedTuple):
    """One netlink message; `port` is the sender's (0: the kernel)."""

    kind: int
    flags: int
    body: bytes
    sequence: int = 0
    port: int = 0

    def to_bytes(self) -> bytes:
        length = HEADER.size + len(self.body)
        return HEADER.pack(length, self.kind, self.flags, self.sequence, self.port) + self.body + bytes(-length % 4)


def message_spans(data: bytes) -> Iterator[tuple[int, int]]:
    """(offset, length) of each message of a datagram, headers included. Raise DecodeError if one does not fit."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < HEADER.size:
            raise DecodeError(f"netlink: need {HEADER.size} bytes of header, got {len(data) - offset}")
        (length,) = _LENGTH.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            raise DecodeError(f"netlink: bad message length {length}")
        yield offset, length
        offset += aligned(length)


def messages(data: bytes) -> list[Message]:
    """The messages of one datagram. Raise DecodeError if one does not fit."""
    found = []
    for offset, length in message_spans(data):
        _, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        found.append(Message(kind, flags, data[offset + HEADER.size : offset + length], sequence, port))
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that contains attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute of text with its terminating zero. Interface names may hold any bytes (see `text_value`)."""
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def text_value(value: bytes) -> str:
    """The text of an attribute, as `os.fsdecode` reads names."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def each_span(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(kind, start, end) of each attribute's value between offset and end. Raise DecodeError if one does not fit."""
    while end - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise DecodeError(f"netlink: bad attribute length {length}")
        yield kind & _KIND_MASK, offset + _ATTRIBUTE.size, offset + length
        offset += aligned(length)


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute from offset on. Raise DecodeError if one does not fit."""
    return ((kind, data[start:end]) for kind, start, end in each_span(data, offset, len(data)))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes by kind: for messages where each comes once."""
    return dict(each_attribute(data, offset))


class Acknowledgement(NamedTuple):
    """The kernel's answer to one request: errno 0 means done; `reason` is its own text, where it gave one."""

    errno: int
    reason: str

    @classmethod
    def from_message(cls, message: Message) -> Acknowledgement:
        """Read an ERROR or DONE message. Raise DecodeError if it is too short."""
        if len(message.body) < _INT.size:
            # The end of a dump carries no error on old kernels.
            if message.kind == DONE:
                return cls(0, "")
            raise DecodeError(f"netlink: need {_INT.size} bytes of error, got {len(message.body)}")
        (negative,) = _INT.unpack_from(message.body)
        return cls(-negative, cls._reason(message) if message.flags & ACK_ATTRIBUTES else "")

    @staticmethod
    def _reason(message: Message) -> str:
        """The kernel's own text: it stands behind the request, of which a capped answer repeats the header only."""
        offset = _INT.size
        if message.kind == ERROR:
            request = message.body[offset : offset + HEADER.size]
            if len(request) < HEADER.size:
                raise DecodeError("netlink: an acknowledgement without the request's header")
            offset += HEADER.size if message.flags & CAPPED else aligned(HEADER.unpack(request)[0])
        return text_value(attributes(message.body, offset).get(_ACK_MESSAGE, b""))


def aligned(length: int) -> int:
    """How much room a message or attribute of this length takes."""
    return length + 3 & ~3
