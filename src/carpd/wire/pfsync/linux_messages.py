"""What Linux nodes say among themselves so that no change is missed: our own actions, for version 6 alone.

Nothing in pfsync tells a receiver that a packet was lost, or that two tables differ. So packets are numbered, every
node reports what it has heard, missing packets are asked for, and digests are compared: sums over what a node's own
states are, in two levels, so that a difference is found with a few packets. OpenBSD skips all of it. A creator id of
these messages is that of a node: the one that sends, unless a field says otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from carpd.wire.pfsync.layout import Layout

EQUAL, CARRYING, COMPLETE = 0x01, 0x02, 0x04
"""Flags of a report. The digests were equal; it carries traffic; it has got all states, its bulk update is done."""

ACKNOWLEDGE = 0x01
"""A flag of a packet number: the sender wants a report at once, when all that the packet says is done."""

DIGEST_SUMS = 64
"""Sums of a digest: a node has so many groups, and a group so many buckets."""
ALL_GROUPS = 0xFFFFFFFF
"""The group of a digest whose sums are those of the groups."""
GROUP_LEVEL, BUCKET_LEVEL = 0, 1
"""What is asked for by a DigestRequest: the digest of a group, or the list of a bucket."""

_M = TypeVar("_M", bound=tuple[Any, ...])


class PacketNumber(NamedTuple):
    """First in a packet that carries changes: which one this is of its creator's. They are numbered one by one."""

    creator_id: bytes
    number: int
    flags: int = 0


class Report(NamedTuple):
    """What the reporter has heard of a peer. It acknowledges, and is the flow control of a bulk update."""

    reporter: bytes
    peer: bytes
    received: int
    """The packet number up to which it has all of the peer's."""
    compared: int
    """The packet number at which it compared digests with the peer last."""
    states: int
    """How many there are in its table."""
    flags: int
    takeovers: int = 0
    """How often the reporter began to carry traffic, modulo 256: what others know of windows is old after that."""


class Resend(NamedTuple):
    """A receiver misses so many packets of a creator, from number `first` on: whatever was in them, as it is now."""

    creator_id: bytes
    first: int
    packets: int


class Digest(NamedTuple):
    """64 sums over the creator's own states: of the groups, if the group is ALL_GROUPS, or of the buckets of one."""

    creator_id: bytes
    group: int
    sums: tuple[int, ...]


class DigestRequest(NamedTuple):
    """The node with this creator id is asked for the digest of a group or the list of a bucket, by its number."""

    creator_id: bytes
    level: int
    number: int


class Listed(NamedTuple):
    """One of the `total` states in a bucket; of an empty one a single message tells, with no identity: zeros."""

    creator_id: bytes
    bucket: int
    total: int
    identity: bytes
    checksum: int


def _flat(struct_format: str, make: Callable[[Iterable[Any]], _M]) -> Layout[_M]:
    """The layout of messages whose fields stand in their order, as numbers and strings of bytes."""
    layout = struct.Struct(struct_format)

    def decode(data: bytes) -> list[_M]:
        return list(map(make, layout.iter_unpack(data)))

    def encode(messages: Sequence[_M]) -> bytes:
        return b"".join(layout.pack(*message) for message in messages)

    return Layout(layout.size, decode, encode)


_DIGEST = struct.Struct(f"!4sI{DIGEST_SUMS}Q")


def _decode_digests(data: bytes) -> list[Digest]:
    return [Digest(creator_id, group, tuple(sums)) for creator_id, group, *sums in _DIGEST.iter_unpack(data)]


def _encode_digests(digests: Sequence[Digest]) -> bytes:
    return b"".join(_DIGEST.pack(creator_id, group, *sums) for creator_id, group, sums in digests)


PACKET_NUMBER = _flat("!4sQB3x", PacketNumber._make)
REPORT = _flat("!4s4sQQIBB2x", Report._make)
RESEND = _flat("!4sQI", Resend._make)
DIGEST = Layout(_DIGEST.size, _decode_digests, _encode_digests)
DIGEST_REQUEST = _flat("!4sII", DigestRequest._make)
LISTED = _flat("!4sII12sI", Listed._make)
