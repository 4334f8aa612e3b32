"""Version 5: FreeBSD's framing and its states of 242, 277 and 360 bytes (message versions 1301, 1400, 1500).

Ref: spec pfsync §2, §5.4; FreeBSD sys/net/pfvar.h, union pfsync_state_union.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from carpd.wire.pfsync import batches, messages, tdb
from carpd.wire.pfsync.batches import AnyBatch
from carpd.wire.pfsync.header import HEADER, SUBHEADER, PacketError
from carpd.wire.pfsync.kinds import Kind, Kinds
from carpd.wire.pfsync.layout import Layout
from carpd.wire.pfsync.numbers import INET, INET6, Dialect, exchanging
from carpd.wire.pfsync.state import (
    FreeBSDFields,
    Key,
    PfFields,
    StateRecord,
    decode_name,
    decode_peer,
    encode_name,
    encode_peer,
)

VERSION = 5

# Id, interface, keys, peers, gateway, rule, anchor, nat_rule, creation, expire, packets, bytes, creator id.
_COMMON = "8s16s36s36s32s32s16sIIIIIQQQQ4s"
_PF = slice(6, 10)  # what of these belongs to PfFields
_STATE_1301 = struct.Struct(f"!{_COMMON}BBB2xBBBBB")
_STATE_1400 = struct.Struct(f"!{_COMMON}BBBHBxBBBHHHHiBBHBBB16s")
_STATE_1500 = struct.Struct(f"!{_COMMON}64s16s16siHHHHHHBBBBBBBBBBBBB3x")
_TAG_SIZE = 64

_KEY = struct.Struct("!16s16sHH")  # the first fields of Key, in their order
_KEY4 = struct.Struct("!4s12x4s12xHH")  # the same with IPv4 addresses

_FAMILY = exchanging(INET6, 28)

# Route-to, dup-to and reply-to are 1, 2, 3 here, and 2, 3, 4 on the wire, behind fastroute.
_RT_DECODED = bytes((0, 4, 1, 2, 3, *range(5, 256)))
_RT_ENCODED = bytes((0, 2, 3, 4, 1, *range(5, 256)))

_EOF = 12
EOF = SUBHEADER.pack(_EOF, 0, 1)
"""What every frame ends with."""


def _decode_1301(data: bytes) -> list[StateRecord]:
    states = []
    for *common, family, protocol, direction, log, flags, timeout, sync_flags, updates in _STATE_1301.iter_unpack(data):
        rt_address, rule, anchor, nat_rule = common[_PF]
        pf = PfFields(rt_address, rule, anchor, nat_rule, log=log, sync_flags=sync_flags, updates=updates)
        states.append(_decode_common(common, family, family, protocol, direction, timeout, flags, pf))
    return states


def _encode_1301(states: Sequence[StateRecord]) -> bytes:
    return b"".join(
        _STATE_1301.pack(
            *_encode_common(state),
            _FAMILY[state.family],
            state.protocol,
            state.direction,
            state.pf.log,
            state.flags & 0xFF,
            state.timeout,
            state.pf.sync_flags,
            state.pf.updates,
        )
        for state in states
    )


def _decode_1400(data: bytes) -> list[StateRecord]:
    states = []
    for (
        *common,
        family,
        protocol,
        direction,
        flags,
        log,
        timeout,
        sync_flags,
        updates,
        qid,
        pqid,
        dnpipe,
        dnrpipe,
        rtableid,
        min_ttl,
        set_tos,
        max_mss,
        set_prio0,
        set_prio1,
        rt,
        rt_interface,
    ) in _STATE_1400.iter_unpack(data):
        rt_address, rule, anchor, nat_rule = common[_PF]
        pf = PfFields(
            rt_address,
            rule,
            anchor,
            nat_rule,
            max_mss=max_mss,
            log=log,
            rt=_RT_DECODED[rt],
            sync_flags=sync_flags,
            updates=updates,
            min_ttl=min_ttl,
            set_tos=set_tos,
            set_prio0=set_prio0,
            set_prio1=set_prio1,
            freebsd=FreeBSDFields(qid, pqid, dnpipe, dnrpipe, rtableid, decode_name(rt_interface)),
        )
        states.append(_decode_common(common, family, family, protocol, direction, timeout, flags, pf))
    return states


def _encode_1400(states: Sequence[StateRecord]) -> bytes:
    return b"".join(
        _STATE_1400.pack(
            *_encode_common(state),
            _FAMILY[state.family],
            state.protocol,
            state.direction,
            state.flags,
            state.pf.log,
            state.timeout,
            state.pf.sync_flags,
            state.pf.updates,
            *state.pf.freebsd[:4],
            state.pf.freebsd.rtableid,
            state.pf.min_ttl,
            state.pf.set_tos,
            state.pf.max_mss,
            state.pf.set_prio0,
            state.pf.set_prio1,
            _RT_ENCODED[state.pf.rt],
            encode_name(state.pf.freebsd.rt_interface),
        )
        for state in states
    )


def _decode_1500(data: bytes) -> list[StateRecord]:
    states = []
    for (
        *common,
        tag,
        rt_interface,
        original_interface,
        rtableid,
        flags,
        qid,
        pqid,
        dnpipe,
        dnrpipe,
        max_mss,
        wire_family,
        stack_family,
        rt_family,
        wire_protocol,
        stack_protocol,
        log,
        timeout,
        direction,
        rt,
        min_ttl,
        set_tos,
        set_prio0,
        set_prio1,
    ) in _STATE_1500.iter_unpack(data):
        rt_address, rule, anchor, nat_rule = common[_PF]
        pf = PfFields(
            rt_address,
            rule,
            anchor,
            nat_rule,
            max_mss=max_mss,
            log=log,
            rt=_RT_DECODED[rt],
            min_ttl=min_ttl,
            set_tos=set_tos,
            set_prio0=set_prio0,
            set_prio1=set_prio1,
            freebsd=FreeBSDFields(
                qid,
                pqid,
                dnpipe,
                dnrpipe,
                rtableid,
                decode_name(rt_interface),
                _FAMILY[rt_family],
                decode_name(tag),
                decode_name(original_interface),
                None if stack_protocol == wire_protocol else stack_protocol,
            ),
        )
        states.append(_decode_common(common, wire_family, stack_family, wire_protocol, direction, timeout, flags, pf))
    return states


def _encode_1500(states: Sequence[StateRecord]) -> bytes:
    encoded = []
    for state in states:
        pf, freebsd = state.pf, state.pf.freebsd
        encoded.append(
            _STATE_1500.pack(
                *_encode_common(state),
                encode_name(freebsd.tag, _TAG_SIZE),
                encode_name(freebsd.rt_interface),
                encode_name(freebsd.original_interface),
                freebsd.rtableid,
                state.flags,
                *freebsd[:4],
                pf.max_mss,
                _FAMILY[state.wire.family],
                _FAMILY[state.stack.family],
                _FAMILY[freebsd.rt_family],
                state.protocol,
                state.protocol if freebsd.stack_protocol is None else freebsd.stack_protocol,
                pf.log,
                state.timeout,
                state.direction,
                _RT_ENCODED[pf.rt],
                pf.min_ttl,
                pf.set_tos,
                pf.set_prio0,
                pf.set_prio1,
            )
        )
    return b"".join(encoded)


def _decode_common(
    common: Sequence[Any],
    wire_family: int,
    stack_family: int,
    protocol: int,
    direction: int,
    timeout: int,
    flags: int,
    pf: PfFields,
) -> StateRecord:
    """A state from the fields that all three begin with, and from what follows; families are native numbers."""
    id_, interface, wire, stack, src, dst, *_, creation, expire, packets0, packets1, bytes0, bytes1, creator_id = common
    return StateRecord(
        id_ + creator_id,
        decode_name(interface),
        _decode_key(wire, wire_family),
        _decode_key(stack, stack_family),
        decode_peer(src),
        decode_peer(dst),
        creation,
        expire,
        packets0,
        packets1,
        bytes0,
        bytes1,
        _FAMILY[wire_family],
        protocol,
        direction,
        timeout,
        flags,
        pf,
    )


def _encode_common(state: StateRecord) -> tuple[Any, ...]:
    return (
        state.identity[:8],
        encode_name(state.interface),
        _KEY.pack(*state.wire[:4]),
        _KEY.pack(*state.stack[:4]),
        encode_peer(state.src),
        encode_peer(state.dst),
        state.pf.rt_address,
        state.pf.rule,
        state.pf.anchor,
        state.pf.nat_rule,
        state.creation,
        state.expire,
        state.packets0,
        state.packets1,
        state.bytes0,
        state.bytes1,
        state.identity[8:],
    )


def _decode_key(data: bytes, native_family: int) -> Key:
    ends = _KEY4 if native_family == INET else _KEY
    return Key._make((*ends.unpack(data), 0, _FAMILY[native_family]))


_STATES_1301 = Layout(_STATE_1301.size, _decode_1301, _encode_1301)
_STATES_1400 = Layout(_STATE_1400.size, _decode_1400, _encode_1400)
_STATES_1500 = Layout(_STATE_1500.size, _decode_1500, _encode_1500)

KINDS = Kinds(
    VERSION,
    Kind(0, batches.Clears, messages.CLEAR),
    Kind(1, batches.Inserts, _STATES_1301, Dialect.FREEBSD_1301),
    Kind(2, batches.InsertAcknowledgements, messages.IDENTITY),
    Kind(3, batches.Updates, _STATES_1301, Dialect.FREEBSD_1301),
    Kind(4, batches.CompressedUpdates, messages.COMPRESSED_UPDATE),
    Kind(5, batches.UpdateRequests, messages.IDENTITY),
    Kind(7, batches.CompressedDeletes, messages.IDENTITY),
    Kind(10, batches.BulkStatuses, messages.BULK_STATUS),
    Kind(11, batches.Tdbs, tdb.FREEBSD),
    Kind(13, batches.Inserts, _STATES_1400, Dialect.FREEBSD_1400),
    Kind(14, batches.Updates, _STATES_1400, Dialect.FREEBSD_1400),
    Kind(15, batches.Inserts, _STATES_1500, Dialect.FREEBSD_1500),
    Kind(16, batches.Updates, _STATES_1500, Dialect.FREEBSD_1500),
)
"""The actions that can be read: a receiver can't step over others, as nothing says how long they are."""


def read(data: bytes) -> list[AnyBatch]:
    """The batches between the header and the EOF, which must be the end of data.

    Raise PacketError if it is not or there is none, if a batch is longer than what is left, or its action is unknown.
    """
    found: list[AnyBatch] = []
    offset = HEADER.size
    while len(data) - offset >= SUBHEADER.size:
        number, _, count = SUBHEADER.unpack_from(data, offset)
        start = offset + SUBHEADER.size
        if number == _EOF:
            if start != len(data):
                raise PacketError("badlen", f"{len(data) - start} bytes behind the EOF", found)
            return found
        kind = KINDS.numbered(number)
        if kind is None:
            raise PacketError("badact", f"version 5 has no action {number}", found)
        offset = start + kind.layout.size * count
        if offset > len(data):
            reason = f"{count} messages of {kind.layout.size} bytes in {len(data) - start} bytes"
            raise PacketError("badlen", reason, found)
        found.append(kind.read(data[start:offset]))
    raise PacketError("badlen", "no EOF", found)


def write(batch: AnyBatch) -> bytes:
    """Subheader and messages of a batch. Raise ValueError if version 5 can't say it."""
    number, body = KINDS.encode(batch)
    return SUBHEADER.pack(number, 0, batch.count) + body
