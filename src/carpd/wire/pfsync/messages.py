"""The short messages, which are the same in both versions. Ref: spec pfsync §4.1 to §4.3.

Several say nothing but which state is meant: they are its identity, 12 bytes, as in `StateRecord`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from carpd.wire.pfsync.layout import Layout
from carpd.wire.pfsync.state import Peer, decode_name, decode_peer, encode_name, encode_peer

IDENTITY_SIZE = 12
"""An id of 8 bytes, a creator id of 4."""

BULK_REQUEST = bytes(IDENTITY_SIZE)
"""The identity by which an update request asks for every state."""

BULK_START, BULK_END = 1, 2

_CLEAR = struct.Struct("!16s4s")  # interface, creator id
_COMPRESSED_UPDATE = struct.Struct("!8s32s32s4s4xB3x")  # id, src, dst, creator id, timeout
_BULK_STATUS = struct.Struct("!4sIB3x")  # the fields of BulkStatus, in their order


class Clear(NamedTuple):
    """Every state of this creator ends; only those of an interface, if it is not empty."""

    interface: str
    creator_id: bytes


class CompressedUpdate(NamedTuple):
    """What changes in a state while it lives."""

    identity: bytes
    src: Peer
    dst: Peer
    timeout: int


class BulkStatus(NamedTuple):
    """Its sender begins or ends to send all states (BULK_START, BULK_END).

    `end_time` is 0, or of FreeBSD, in the end, how many seconds ago the request came.
    """

    creator_id: bytes
    end_time: int
    status: int


def _decode_identities(data: bytes) -> list[bytes]:
    return [data[start : start + IDENTITY_SIZE] for start in range(0, len(data), IDENTITY_SIZE)]


def _decode_clears(data: bytes) -> list[Clear]:
    return [Clear(decode_name(interface), creator_id) for interface, creator_id in _CLEAR.iter_unpack(data)]


def _encode_clears(clears: Sequence[Clear]) -> bytes:
    return b"".join(_CLEAR.pack(encode_name(interface), creator_id) for interface, creator_id in clears)


def _decode_compressed_updates(data: bytes) -> list[CompressedUpdate]:
    return [
        CompressedUpdate(id_ + creator_id, decode_peer(src), decode_peer(dst), timeout)
        for id_, src, dst, creator_id, timeout in _COMPRESSED_UPDATE.iter_unpack(data)
    ]


def _encode_compressed_updates(updates: Sequence[CompressedUpdate]) -> bytes:
    return b"".join(
        _COMPRESSED_UPDATE.pack(identity[:8], encode_peer(src), encode_peer(dst), identity[8:], timeout)
        for identity, src, dst, timeout in updates
    )


def _decode_bulk_statuses(data: bytes) -> list[BulkStatus]:
    return list(map(BulkStatus._make, _BULK_STATUS.iter_unpack(data)))


def _encode_bulk_statuses(statuses: Sequence[BulkStatus]) -> bytes:
    return b"".join(_BULK_STATUS.pack(*status) for status in statuses)


IDENTITY: Layout[bytes] = Layout(IDENTITY_SIZE, _decode_identities, b"".join)
CLEAR = Layout(_CLEAR.size, _decode_clears, _encode_clears)
COMPRESSED_UPDATE = Layout(_COMPRESSED_UPDATE.size, _decode_compressed_updates, _encode_compressed_updates)
BULK_STATUS = Layout(_BULK_STATUS.size, _decode_bulk_statuses, _encode_bulk_statuses)
