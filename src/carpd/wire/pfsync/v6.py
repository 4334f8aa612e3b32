"""Version 6: OpenBSD's framing and its states of 264 bytes, which Linux nodes speak among themselves too.

Ref: spec pfsync §2, §5.3; OpenBSD sys/net/if_pfsync.h, sys/net/pfvar.h, struct pfsync_state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from carpd.errors import DecodeError
from carpd.wire.pfsync import attributes, batches, messages, tdb
from carpd.wire.pfsync.batches import AnyBatch, Batch, Skipped
from carpd.wire.pfsync.header import HEADER, SUBHEADER, PacketError
from carpd.wire.pfsync.layout import Layout
from carpd.wire.pfsync.numbers import INET, INET6, exchanging
from carpd.wire.pfsync.state import (
    Key,
    PfFields,
    StateRecord,
    decode_name,
    decode_peer,
    encode_name,
    encode_peer,
)

VERSION = 6

# Id, interface, keys, peers, routing, creation, expire, packets, bytes, creator id, tables, family, protocol,
# direction, log and rt, timeout, miscellany, flags, priorities. What only pf understands stays together: see PfFields.
_STATE = struct.Struct("!8s16s40s40s32s32s28sIIQQQQ4s10sBBB2sB4sH2s")
_KEY = struct.Struct("!16s16sHHHBx")  # the fields of Key, in their order
_ENDS = struct.Struct("!16s16sHHHxx")  # without the family
_ENDS4 = struct.Struct("!4s12x4s12xHHHxx")  # with IPv4 addresses
_KEY_FAMILY = 38

_ROUTING = struct.Struct("!16sIII")  # gateway, rule, anchor, nat_rule
_TABLES = struct.Struct("!iiH")  # rtableid of both keys, max_mss
_MISCELLANY = struct.Struct("!BBBB")  # sync_flags, updates, min_ttl, set_tos

_FAMILY = exchanging(INET6, 24)

_EOF = 12
_ATTRIBUTES = 128


def _decode_states(data: bytes) -> list[StateRecord]:
    """The hot path: 0.2 µs of it are struct's, so nothing is looked up or made twice that can be remembered."""
    states = []
    for (
        id_,
        interface,
        wire_key,
        stack_key,
        src,
        dst,
        routing,
        creation,
        expire,
        packets0,
        packets1,
        bytes0,
        bytes1,
        creator_id,
        tables,
        family,
        protocol,
        direction,
        log_rt,
        timeout,
        miscellany,
        flags,
        priorities,
    ) in _STATE.iter_unpack(data):
        wire_family, stack_family = wire_key[_KEY_FAMILY], stack_key[_KEY_FAMILY]
        if not (wire_family or stack_family):
            wire_family = stack_family = family  # an old sender, which leaves them out
        wire = _decode_key(wire_key, wire_family)
        states.append(
            StateRecord(
                id_ + creator_id,
                decode_name(interface),
                wire,
                wire if stack_key == wire_key else _decode_key(stack_key, stack_family),
                decode_peer(src),
                decode_peer(dst),
                creation,
                expire,
                packets0,
                packets1,
                bytes0,
                bytes1,
                _FAMILY[family],
                protocol,
                direction,
                timeout,
                flags,
                _decode_pf_fields(routing, tables, log_rt, miscellany, priorities),
            )
        )
    return states


def _encode_states(states: Iterable[StateRecord]) -> bytes:
    encoded = []
    for (
        identity,
        interface,
        wire,
        stack,
        src,
        dst,
        creation,
        expire,
        packets0,
        packets1,
        bytes0,
        bytes1,
        family,
        protocol,
        direction,
        timeout,
        flags,
        pf,
    ) in states:
        wire_key = _encode_key(wire)
        routing, tables, log_rt, miscellany, priorities = _encode_pf_fields(pf)
        encoded.append(
            _STATE.pack(
                identity[:8],
                encode_name(interface),
                wire_key,
                wire_key if stack is wire else _encode_key(stack),
                encode_peer(src),
                encode_peer(dst),
                routing,
                creation,
                expire,
                packets0,
                packets1,
                bytes0,
                bytes1,
                identity[8:],
                tables,
                _FAMILY[family],
                protocol,
                direction,
                log_rt,
                timeout,
                miscellany,
                flags,
                priorities,
            )
        )
    return b"".join(encoded)


def _decode_key(data: bytes, native_family: int) -> Key:
    ends = _ENDS4 if native_family == INET else _ENDS
    return Key(*ends.unpack(data), _FAMILY[native_family])


def _encode_key(key: Key) -> bytes:
    address0, address1, port0, port1, rdomain, family = key
    return _KEY.pack(address0, address1, port0, port1, rdomain, _FAMILY[family])


@lru_cache(CACHE)
def _decode_pf_fields(routing: bytes, tables: bytes, log_rt: bytes, miscellany: bytes, priorities: bytes) -> PfFields:
    log, rt = log_rt
    return PfFields(*_ROUTING.unpack(routing), *_TABLES.unpack(tables), log, rt, *miscellany, *priorities)


@lru_cache(CACHE)
def _encode_pf_fields(pf: PfFields) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    return (
        _ROUTING.pack(*pf[:4]),
        _TABLES.pack(*pf[4:7]),
        bytes((pf.log, pf.rt)),
        bytes((pf.sync_flags, pf.updates, pf.min_ttl, pf.set_tos)),
        bytes((pf.set_prio0, pf.set_prio1)),
    )


_STATES = Layout(_STATE.size, _decode_states, _encode_states)

_READ: dict[int, tuple[type[Batch[Any]], Layout[Any]]] = {
    0: (batches.Clears, messages.CLEAR),
    2: (batches.InsertAcknowledgements, messages.IDENTITY),
    4: (batches.CompressedUpdates, messages.COMPRESSED_UPDATE),
    5: (batches.UpdateRequests, messages.IDENTITY),
    6: (batches.Deletes, _STATES),
    7: (batches.CompressedDeletes, messages.IDENTITY),
    10: (batches.BulkStatuses, messages.BULK_STATUS),
    13: (batches.Inserts, _STATES),
    14: (batches.Updates, _STATES),
    15: (batches.Tdbs, tdb.OPENBSD),
}
