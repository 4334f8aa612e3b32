"""The states that take part: which flow has which identity, how far it is, and digests of it all.

The kernel has the states themselves. Here is only what it can't tell, as small as possible: two dictionaries of bytes,
which the collector need not walk. Some 290 bytes a state of IPv4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from carpd.wire.pfsync.messages import IDENTITY_SIZE

GROUPS = 64
BUCKETS_A_GROUP = 64
BUCKETS = GROUPS * BUCKETS_A_GROUP

_RECORD = struct.Struct("!12sBIII")
_COMPARED = 21  # bytes of a record that are the same on every node: all but the kernel's own number

pack_record = _RECORD.pack
"""Identity, levels, mark, checksum of the labels, the kernel's number."""


class Record(NamedTuple):
    """What is remembered of a state.

    `levels`: see `carpd.pfsync.levels`. `number` is the kernel's for the entry, which tells it from a later one of the
    same flow; 0 if we inserted it and never heard of it.
    """

    identity: bytes
    levels: int
    mark: int
    labels: int
    number: int


def unpack_record(data: bytes) -> Record:
    return Record._make(_RECORD.unpack(data))


def checksum(record: bytes) -> int:
    """What stands for a state in digests: 32 bits of all that nodes have in common."""
    return crc32(record[:_COMPARED])


def bucket_of(identity: bytes) -> int:
    """Ids are even: see `carpd.pfsync.halves`."""
    return (identity[6] << 8 | identity[7]) >> 1 & (BUCKETS - 1)


class StateTable:
    """Records by flow key, and flow keys by identity. Both are unique."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        """Flow key -> record: read it, but change it by the methods only."""
        self._keys: list[dict[bytes, bytes]] = [{} for _ in range(BUCKETS)]
        self._sums = [0] * BUCKETS
        """Of checksums: sums, because in a XOR of CRCs a run of lost ids may cancel itself out."""
        self.version = 0
        """Grows with every change."""

    def __len__(self) -> int:
        return len(self.records)

    def key_of(self, identity: bytes) -> bytes | None:
        """The flow key of a state."""
        return self._keys[(identity[6] << 8 | identity[7]) >> 1 & (BUCKETS - 1)].get(identity)

    def add(self, key: bytes, identity: bytes, record: bytes) -> None:
        """Enter a state; neither its flow nor its identity is in the table."""
        bucket = (identity[6] << 8 | identity[7]) >> 1 & (BUCKETS - 1)
        self._keys[bucket][identity] = key
        self._sums[bucket] += crc32(record[:_COMPARED])
        self.records[key] = record
        self.version += 1

    def put(self, key: bytes, record: bytes) -> None:
        """Enter a state, or change it; the identity of a flow that is known may change, too."""
        identity, old = record[:IDENTITY_SIZE], self.records.get(key)
        if old is None or old[:IDENTITY_SIZE] != identity:
            self.remove(key)
            self.add(key, identity, record)
            return
        bucket = (identity[6] << 8 | identity[7]) >> 1 & (BUCKETS - 1)
        self._sums[bucket] += crc32(record[:_COMPARED]) - crc32(old[:_COMPARED])
        self.records[key] = record
        self.version += 1

    def renumber(self, key: bytes, record: bytes) -> None:
        """Change nothing of a state but the kernel's number."""
        self.records[key] = record

    def remove(self, key: bytes) -> bytes | None:
        """Forget a state; its identity, None if there was no such state."""
        record = self.records.pop(key, None)
        if record is None:
            return None
        identity = record[:IDENTITY_SIZE]
        bucket = (identity[6] << 8 | identity[7]) >> 1 & (BUCKETS - 1)
        del self._keys[bucket][identity]
        self._sums[bucket] -= crc32(record[:_COMPARED])
        self.version += 1
        return identity

    def created_by(self, creator_id: bytes) -> list[bytes]:
        """The flow keys of all states with this creator id."""
        return [key for keys in self._keys for identity, key in keys.items() if identity[8:] == creator_id]

    def bucket(self, number: int) -> Iterator[tuple[bytes, int]]:
        """Identity and checksum of every state in a bucket."""
        for identity, key in self._keys[number].items():
            yield identity, checksum(self.records[key])

    def bucket_sums(self, group: int) -> tuple[int, ...]:
        """The digests of the buckets of a group."""
        return tuple(self._sums[group * BUCKETS_A_GROUP : (group + 1) * BUCKETS_A_GROUP])

    def group_sums(self) -> tuple[int, ...]:
        """The digests of all groups."""
        return tuple(sum(self.bucket_sums(group)) for group in range(GROUPS))
