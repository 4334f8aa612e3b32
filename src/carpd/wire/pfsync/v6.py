"""Version 6: OpenBSD's framing and its states of 264 bytes, which Linux nodes speak among themselves too.

Ref: spec pfsync §2, §5.3; OpenBSD sys/net/if_pfsync.h, sys/net/pfvar.h, struct pfsync_state.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from carpd.errors import DecodeError
from carpd.wire.pfsync import attributes, batches, linux_messages, messages, tdb
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import AnyBatch, Attributes, PackedStates, Skipped, StateBatch
from carpd.wire.pfsync.header import HEADER, SUBHEADER, PacketError
from carpd.wire.pfsync.kinds import Kind, Kinds
from carpd.wire.pfsync.layout import Layout
from carpd.wire.pfsync.numbers import INET, INET6, Dialect, exchanging
from carpd.wire.pfsync.state import (
    CACHE,
    NO_FREEBSD_FIELDS,
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
_KEY4 = struct.Struct("!4s12x4s12xHHHBx")  # the same with IPv4 addresses
_KEY_FAMILY = 38

_ROUTING = struct.Struct("!16sIII")  # gateway, rule, anchor, nat_rule
_TABLES = struct.Struct("!iiH")  # rtableid of both keys, max_mss

_FAMILY = exchanging(INET6, 24)

_state: Callable[[tuple[Any, ...]], StateRecord] = partial(tuple.__new__, StateRecord)
_key: Callable[[tuple[Any, ...]], Key] = partial(tuple.__new__, Key)
"""_make without its checks."""

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
        if not (wire_key[_KEY_FAMILY] or stack_key[_KEY_FAMILY]):
            wire_key, stack_key = _of_family(wire_key, family), _of_family(stack_key, family)
        wire = _decode_key(wire_key)
        fields = (
            id_ + creator_id,
            decode_name(interface),
            wire,
            wire if stack_key == wire_key else _decode_key(stack_key),
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
        states.append(_state(fields))
    return states


def _encode_states(states: Sequence[StateRecord]) -> bytes:
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


def _decode_key(data: bytes) -> Key:
    if data[_KEY_FAMILY] == INET:
        return _key(_KEY4.unpack(data))
    address0, address1, port0, port1, rdomain, native_family = _KEY.unpack(data)
    return Key(address0, address1, port0, port1, rdomain, _FAMILY[native_family])


def _of_family(key: bytes, native_family: int) -> bytes:
    """A key of an old sender, which wrote the family of the state alone."""
    return key[:_KEY_FAMILY] + bytes((native_family, 0))


def _encode_key(key: Key) -> bytes:
    address0, address1, port0, port1, rdomain, family = key
    return _KEY.pack(address0, address1, port0, port1, rdomain, _FAMILY[family])


@lru_cache(CACHE)
def _decode_pf_fields(routing: bytes, tables: bytes, log_rt: bytes, miscellany: bytes, priorities: bytes) -> PfFields:
    log, rt = log_rt
    fields = (*_ROUTING.unpack(routing), *_TABLES.unpack(tables), log, rt, *miscellany, *priorities)
    return PfFields._make((*fields, NO_FREEBSD_FIELDS))


@lru_cache(CACHE)
def _encode_pf_fields(pf: PfFields) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    return (
        _ROUTING.pack(*pf[:4]),
        _TABLES.pack(*pf[4:7]),
        bytes((pf.log, pf.rt)),
        bytes((pf.sync_flags, pf.updates, pf.min_ttl, pf.set_tos)),
        bytes((pf.set_prio0, pf.set_prio1)),
    )


def decode_state(data: bytes) -> StateRecord:
    """One state of 264 bytes."""
    return _decode_states(data)[0]


def encode_state(state: StateRecord) -> bytes:
    """Likewise."""
    return _encode_states([state])


_STATES = Layout(_STATE.size, _decode_states, _encode_states)

KINDS = Kinds(
    VERSION,
    Kind(0, batches.Clears, messages.CLEAR),
    Kind(2, batches.InsertAcknowledgements, messages.IDENTITY),
    Kind(4, batches.CompressedUpdates, messages.COMPRESSED_UPDATE),
    Kind(5, batches.UpdateRequests, messages.IDENTITY),
    Kind(6, batches.Deletes, _STATES, Dialect.OPENBSD),
    Kind(7, batches.CompressedDeletes, messages.IDENTITY),
    Kind(10, batches.BulkStatuses, messages.BULK_STATUS),
    Kind(13, batches.Inserts, _STATES, Dialect.OPENBSD),
    Kind(14, batches.Updates, _STATES, Dialect.OPENBSD),
    Kind(15, batches.Tdbs, tdb.OPENBSD),
    Kind(129, batches.Sequences, linux_messages.PACKET_NUMBER),
    Kind(130, batches.Reports, linux_messages.REPORT),
    Kind(131, batches.Resends, linux_messages.RESEND),
    Kind(132, batches.Digests, linux_messages.DIGEST),
    Kind(133, batches.DigestRequests, linux_messages.DIGEST_REQUEST),
    Kind(134, batches.Lists, linux_messages.LISTED),
)
"""The actions whose messages have one size; those from 129 on are our own. Of what is missing all but our attributes,
128, is skipped."""


def read(data: bytes, *, packed: bool = False) -> list[AnyBatch]:
    """The batches behind the header, to the end of data; with `packed` whole states are left as their bytes.

    A message may be longer than we know. Raise PacketError if a batch is longer than what is left, or is to be skipped
    and has no size. Less than a subheader at the end is ignored, and so is the EOF of others.
    """
    found: list[AnyBatch] = []
    offset = HEADER.size
    while len(data) - offset >= SUBHEADER.size:
        number, words, count = SUBHEADER.unpack_from(data, offset)
        size = 4 * words
        start = offset + SUBHEADER.size
        offset = start + size * count
        if offset > len(data):
            reason = f"{count} messages of {size} bytes in {len(data) - start} bytes"
            raise PacketError("badlen", reason, found)
        kind = KINDS.numbered(number)
        if kind is not None and size >= kind.layout.size:
            body = _shortened(data[start:offset], size, kind.layout.size)
            found.append(_packed(kind, body) if packed and kind.batch in _PACKED else kind.read(body))
        elif number == _ATTRIBUTES and size >= messages.IDENTITY_SIZE:
            _read_attributes(data[start:offset], size, found)
        elif number != _EOF:
            if start == offset:
                raise PacketError("badact", f"{count} messages of {size} bytes of action {number}", found)
            found.append(Skipped(number, size, count))
    return found


def write(batch: AnyBatch) -> bytes:
    """Subheader and messages of a batch, which must not be empty. Raise ValueError if version 6 can't say it."""
    if isinstance(batch, Attributes):
        number, body = _ATTRIBUTES, attributes.encode(batch.messages)
    elif isinstance(batch, PackedStates):
        number, body = _PACKED[batch.of], b"".join(batch.messages)
    else:
        number, body = KINDS.encode(batch)
    words, remainder = divmod(len(body), 4 * batch.count)
    assert remainder == 0, "all messages of a batch have one size"
    return SUBHEADER.pack(number, words, batch.count) + body


_PACKED: dict[type[StateBatch], int] = {batches.Inserts: 13, batches.Updates: 14}
"""States that may be left as their bytes, and the numbers of the actions."""


def _packed(kind: Kind, data: bytes) -> PackedStates:
    size = kind.layout.size
    return PackedStates([data[start : start + size] for start in range(0, len(data), size)], kind.batch)


def _shortened(data: bytes, size: int, known: int) -> bytes:
    """Messages of that size, without what is behind the part that we know."""
    if size == known:
        return data
    return b"".join(data[start : start + known] for start in range(0, len(data), size))


def _read_attributes(data: bytes, size: int, found: list[AnyBatch]) -> None:
    """Add the batch to those that were found. Raise PacketError at a message that is malformed."""
    read: list[LinuxAttributes] = []
    found.append(Attributes(read))
    for start in range(0, len(data), size):
        try:
            read.append(attributes.decode(data[start : start + size]))
        except DecodeError:
            raise PacketError("badlen", "an attribute is longer than its message", found) from None
