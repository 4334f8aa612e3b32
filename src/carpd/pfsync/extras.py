"""What is said of a flow beside its state of pf: the values of Linux attributes, all in network byte order.

| attribute | value |
| --- | --- |
| ZONE | the zone, or that of the original or the reply direction: 2 bytes each, at most one of them not 0 |
| MARK | 4 bytes |
| LABELS | 16 bytes, as the kernel tells them |
| HELPER | its name in ASCII, at most 15 bytes, without a zero |
| MASTER_TUPLE | source and destination (4 or 16 bytes each), protocol (1), source and destination port (2 each) |
| SEQ_ADJUST_ORIG, SEQ_ADJUST_REPLY | position, and the offsets before and after it: 4 bytes each |
| STATUS | 4 bytes: SEEN_REPLY, ASSURED and FIXED_TIMEOUT count |
| TCP_FLAGS | window scale of the opener and the other end, flags of both: 1 byte each |
| CONNTRACK_STATE | of SCTP: state (1 byte), verification tags of the original and the reply direction (4 each) |

Those of other types are a newer sender's. Ref: spec pfsync §12.8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from carpd.errors import DecodeError
from carpd.pfsync.kinds import Progress
from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    EXPECTED,
    FIXED_TIMEOUT,
    SACK_PERMITTED,
    SCTP,
    SEEN_REPLY,
    TCP,
    WINDOW_SCALE,
    ConntrackEntry,
    FlowTuple,
    SctpState,
    SequenceAdjustment,
)
from carpd.wire.pfsync.attributes import AttributeType

STATUS = SEEN_REPLY | ASSURED | FIXED_TIMEOUT
"""Bits of a status that another kernel can be given and does not derive from the rest."""
_FLAGS = SACK_PERMITTED | CLOSE_INIT
"""Flags of TCP that mean something to another kernel; WINDOW_SCALE too, but that the state says."""
_SCALE_MAX = 15
"""What a state has room for."""

_NUMBER, _ZONES, _LABELS, _ADJUSTMENT = map(struct.Struct, ("!I", "!HHH", "16s", "!III"))
_TCP, _SCTP = map(struct.Struct, ("!BBBB", "!BII"))
_TUPLES = {4: struct.Struct("!4s4sBHH"), 16: struct.Struct("!16s16sBHH")}
_TUPLES_BY_SIZE = {layout.size: layout for layout in _TUPLES.values()}
_HELPER_MAX = 15

_STATUS_POSITION, _MARK, _MASTER = map(ConntrackEntry._fields.index, ("status", "mark", "master"))
_NOTHING = ConntrackEntry(b"", b"", 0, 0, 0, b"", b"", 0, 0)[_MARK:]
"""The fields from the mark on, as most entries have them: all that pf has no field for, except status and flags."""


def encode(entry: ConntrackEntry, assumed: Progress) -> tuple[tuple[int, bytes], ...]:
    """What must be said of an entry because receivers, who get its state alone, would assume something else."""
    status, _, _, original_scale, reply_scale, original_flags, reply_flags = entry[10:17]
    status_differs = (status ^ assumed.status) & STATUS
    flags_differ = (original_flags ^ assumed.original_flags | reply_flags ^ assumed.reply_flags) & _FLAGS
    scales_differ = (original_scale | reply_scale) > _SCALE_MAX
    if status_differs or flags_differ or scales_differ or entry.protocol == SCTP or entry[_MARK:] != _NOTHING:
        return tuple(_each_attribute(entry, status_differs != 0, flags_differ != 0 or scales_differ))
    return ()


def _each_attribute(entry: ConntrackEntry, with_status: bool, with_flags: bool) -> Iterator[tuple[int, bytes]]:
    if entry.zone or entry.original_zone or entry.reply_zone:
        yield AttributeType.ZONE, _ZONES.pack(entry.zone, entry.original_zone, entry.reply_zone)
    if entry.mark:
        yield AttributeType.MARK, _NUMBER.pack(entry.mark)
    if entry.labels is not None:
        yield AttributeType.LABELS, entry.labels
    if entry.helper:
        yield AttributeType.HELPER, entry.helper.encode("ascii")
    if entry.master:
        yield AttributeType.MASTER_TUPLE, _TUPLES[len(entry.master.source)].pack(*entry.master)
    if entry.original_adjustment:
        yield AttributeType.SEQ_ADJUST_ORIG, _ADJUSTMENT.pack(*entry.original_adjustment)
    if entry.reply_adjustment:
        yield AttributeType.SEQ_ADJUST_REPLY, _ADJUSTMENT.pack(*entry.reply_adjustment)
    if entry.protocol == SCTP:
        yield AttributeType.CONNTRACK_STATE, _SCTP.pack(entry.state, entry.original_tag, entry.reply_tag)
    if with_status:
        yield AttributeType.STATUS, _NUMBER.pack(entry.status & STATUS)
    if with_flags:
        flags = (side & (_FLAGS | WINDOW_SCALE) for side in (entry.original_flags, entry.reply_flags))
        yield AttributeType.TCP_FLAGS, _TCP.pack(entry.original_scale, entry.reply_scale, *flags)


def apply(attributes: Iterable[tuple[int, bytes]], entry: ConntrackEntry) -> ConntrackEntry:
    """An entry as it is after what is said beside its state. Raise DecodeError if a value is malformed."""
    row: list[Any] = list(entry)
    for kind, value in attributes:
        meaning = _MEANINGS.get(kind)
        if meaning is None:
            continue
        if meaning.protocol not in (None, entry.protocol):
            raise DecodeError(f"pfsync: attribute {kind} of protocol {entry.protocol}")
        for position, part in zip(meaning.positions, meaning.decode(value), strict=True):
            row[position] = part
    if row[_MASTER]:
        if len(row[_MASTER].source) != len(entry.source):
            raise DecodeError("pfsync: a flow and its master of different families")
        row[_STATUS_POSITION] |= EXPECTED
    return ConntrackEntry(*row)


def _unpack(layout: struct.Struct, value: bytes) -> tuple[Any, ...]:
    if len(value) != layout.size:
        raise DecodeError(f"pfsync: need an attribute of {layout.size} bytes, got {len(value)}")
    return layout.unpack(value)


def _decode_zones(value: bytes) -> tuple[int, ...]:
    zones = _unpack(_ZONES, value)
    if sum(map(bool, zones)) > 1:
        raise DecodeError(f"pfsync: more than one zone: {zones}")
    return zones


def _decode_helper(value: bytes) -> tuple[str]:
    if not 1 <= len(value) <= _HELPER_MAX or not all(0x21 <= character <= 0x7E for character in value):
        raise DecodeError(f"pfsync: no name of a helper: {value!r}")
    return (value.decode("ascii"),)


def _decode_master(value: bytes) -> tuple[FlowTuple]:
    layout = _TUPLES_BY_SIZE.get(len(value))
    if layout is None:
        raise DecodeError(f"pfsync: a master's tuple of {len(value)} bytes")
    return (FlowTuple(*layout.unpack(value)),)


def _decode_adjustment(value: bytes) -> tuple[SequenceAdjustment]:
    return (SequenceAdjustment(*_unpack(_ADJUSTMENT, value)),)


def _decode_status(value: bytes) -> tuple[int]:
    (status,) = _unpack(_NUMBER, value)
    return (status & STATUS | CONFIRMED,)


def _decode_tcp_flags(value: bytes) -> tuple[int, ...]:
    original_scale, reply_scale, original_flags, reply_flags = _unpack(_TCP, value)
    known = _FLAGS | WINDOW_SCALE
    return original_scale, reply_scale, original_flags & known, reply_flags & known


def _decode_sctp_state(value: bytes) -> tuple[int, ...]:
    parts = _unpack(_SCTP, value)
    if parts[0] > max(SctpState):
        raise DecodeError(f"pfsync: no state of SCTP: {parts[0]}")
    return parts


class _Meaning(NamedTuple):
    """Which fields of an entry an attribute tells."""

    positions: tuple[int, ...]
    decode: Callable[[bytes], tuple[Any, ...]]
    protocol: int | None = None
    """The only one that has it."""


def _meaning(fields: str, decode: Callable[[bytes], tuple[Any, ...]], protocol: int | None = None) -> _Meaning:
    return _Meaning(tuple(map(ConntrackEntry._fields.index, fields.split())), decode, protocol)


_MEANINGS: dict[int, _Meaning] = {
    AttributeType.ZONE: _meaning("zone original_zone reply_zone", _decode_zones),
    AttributeType.MARK: _meaning("mark", partial(_unpack, _NUMBER)),
    AttributeType.LABELS: _meaning("labels", partial(_unpack, _LABELS)),
    AttributeType.HELPER: _meaning("helper", _decode_helper),
    AttributeType.MASTER_TUPLE: _meaning("master", _decode_master),
    AttributeType.SEQ_ADJUST_ORIG: _meaning("original_adjustment", _decode_adjustment),
    AttributeType.SEQ_ADJUST_REPLY: _meaning("reply_adjustment", _decode_adjustment),
    AttributeType.STATUS: _meaning("status", _decode_status),
    AttributeType.TCP_FLAGS: _meaning(
        "original_scale reply_scale original_flags reply_flags", _decode_tcp_flags, protocol=TCP
    ),
    AttributeType.CONNTRACK_STATE: _meaning("state original_tag reply_tag", _decode_sctp_state, protocol=SCTP),
}
