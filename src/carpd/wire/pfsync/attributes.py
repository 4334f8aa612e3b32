"""What Linux knows of a connection and pf has no field for: our own action, for version 6 alone.

OpenBSD skips it. It follows the insert or update of its state in the same packet. Ref: spec pfsync §12.8.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from carpd.errors import DecodeError
from carpd.wire.pfsync.messages import IDENTITY_SIZE

SIZE_LIMIT = 4 * 255
"""Bytes of the longest message: a subheader counts its words in one byte."""

_HEADER = struct.Struct("!HH")  # type, length of the value without padding
_PADDING = 0  # the type that fills the messages of a batch to one size


class AttributeType(enum.IntEnum):
    """What an attribute is."""

    ZONE = 1
    MARK = 2
    LABELS = 3
    HELPER = 4
    MASTER_TUPLE = 5
    SEQ_ADJUST_ORIG = 6
    SEQ_ADJUST_REPLY = 7
    SYNPROXY = 8
    STATUS = 9
    TCP_FLAGS = 10
    START_TIME = 11
    CONNTRACK_STATE = 12
    EXPECTATION = 13


class LinuxAttributes(NamedTuple):
    """The attributes of one state: (type, value) pairs. Types that are no AttributeType are a newer sender's."""

    identity: bytes
    attributes: tuple[tuple[int, bytes], ...]


def decode(data: bytes) -> LinuxAttributes:
    """Read one message, padded. Raise DecodeError if an attribute is longer than what is left."""
    return LinuxAttributes(data[:IDENTITY_SIZE], tuple(_each_attribute(data)))


def _each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = IDENTITY_SIZE
    while offset < len(data):
        kind, length = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        if length > len(data) - offset:
            raise DecodeError(f"pfsync: an attribute says {length} bytes, got {len(data) - offset}")
        if kind != _PADDING:
            yield kind, data[offset : offset + length]
        offset += length + -length % 4


def encoded_size(message: LinuxAttributes) -> int:
    """Bytes of a message, before it is padded to the size of others."""
    return IDENTITY_SIZE + sum(_HEADER.size + len(value) + -len(value) % 4 for _, value in message.attributes)


def encode(messages: Sequence[LinuxAttributes]) -> bytes:
    """Write a batch, all messages as long as the longest: zeros are attributes of type 0 without a value.

    Raise ValueError if one is longer than a subheader can say.
    """
    size = max(map(encoded_size, messages))
    if size > SIZE_LIMIT:
        raise ValueError(f"pfsync: attributes of {size} bytes, the limit is {SIZE_LIMIT}")
    return b"".join(_encode(message).ljust(size, b"\0") for message in messages)


def _encode(message: LinuxAttributes) -> bytes:
    return message.identity + b"".join(
        _HEADER.pack(kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in message.attributes
    )
