"""Ordinary states in one step from an entry to the bytes of version 6, and back: nearly all states are ordinary.

`mapping` and `wire.pfsync.v6` do the same by way of a StateRecord, in more than twice the time. They are what is right,
and do all that is not ordinary. How far a connection is, its protocol and the like are the same bytes in many states:
what those mean is asked of them once, and remembered.

Ref: spec pfsync §5.3, §12.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from carpd.pfsync import extras, mapping
from carpd.pfsync.kinds import TIMEOUT_DEFAULTS
from carpd.pfsync.mapping import Unmappable
from carpd.wire.conntrack import TCP, UDP, ConntrackEntry
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.numbers import IN, SLOPPY

_PROTOCOLS = (TCP, UDP)
"""Of whose tuples all is in the keys of a state as it is."""

# Id and interface; of the wire key the opener's address and the other's, ports, the rest; of the stack key likewise;
# peers and routing; age; seconds to live; counters; creator id; all the rest.
_LAYOUTS = {
    size: struct.Struct(f"!8s16s {size}s{gap}s{size}s{gap}sHH4s {size}s{gap}s{size}s{gap}sHH4s 92s4sI32s4s24s")
    for size, gap in ((4, 12), (16, 0))
}
_ADDRESS_SIZES = {2: 4, 24: 16}
_FAMILY = 62
"""Where the family of the wire key is, in OpenBSD's numbers."""
_NO_CREATOR = bytes(4)
_KNOWN_MAX = 4096

_FIRST_UNUSUAL = ConntrackEntry._fields.index("mark")
_NOTHING_UNUSUAL = ConntrackEntry(b"", b"", 0, 0, 0, b"", b"", 0, 0)[_FIRST_UNUSUAL:]
_entry: Callable[[tuple[Any, ...]], ConntrackEntry] = partial(tuple.__new__, ConntrackEntry)


class _Meaning(NamedTuple):
    """What the bytes that many states have in common say of an entry."""

    protocol: int
    status: int
    rest: tuple[Any, ...]
    """The fields of the entry behind the timeout."""
    longest: int
    """The most seconds that such a state lives."""


class OrdinaryReader:
    """Reads states of 264 bytes."""

    def __init__(self) -> None:
        self._meanings: dict[tuple[bytes, ...], _Meaning | None] = {}

    def read(self, data: bytes, timeout: int | None) -> tuple[bytes, ConntrackEntry] | None:
        """The identity of a state, and what `mapping.from_state` makes of it; None if it is not ordinary."""
        size = _ADDRESS_SIZES.get(data[_FAMILY])
        if size is None:
            return None
        (
            id_, interface, source, gap0, destination, gap1, source_port, destination_port, wire_rest,
            reply_destination, gap2, reply_source, gap3, reply_destination_port, reply_source_port, stack_rest,
            peers, _, expire, _, creator_id, rest,
        ) = _LAYOUTS[size].unpack(data)  # fmt: skip
        same = (peers, rest, interface, wire_rest, stack_rest, gap0, gap1, gap2, gap3)
        meaning = self._meanings[same] if same in self._meanings else self._learn(same, data)
        if meaning is None or creator_id == _NO_CREATOR:
            return None
        protocol, status, behind, longest = meaning
        if timeout is None:
            timeout = min(expire or longest, longest)
        told = (
            source, destination, protocol, source_port, destination_port,
            reply_source, reply_destination, reply_source_port, reply_destination_port,
            0, status, timeout,
        )  # fmt: skip
        return id_ + creator_id, _entry(told + behind)

    def _learn(self, same: tuple[bytes, ...], data: bytes) -> _Meaning | None:
        meaning = None
        state = v6.decode_state(data)
        if state.protocol in _PROTOCOLS and state.direction == IN and state.flags == SLOPPY:
            try:
                entry = mapping.from_state(state)
                meaning = _Meaning(entry.protocol, entry.status, entry[12:], TIMEOUT_DEFAULTS[state.timeout])
            except Unmappable:
                return None  # it may have no creator, which is not what these bytes say
        if len(self._meanings) < _KNOWN_MAX:
            self._meanings[same] = meaning
        return meaning


class _Form(NamedTuple):
    """What entries that are equally far have in common, in the bytes of a state."""

    interface: bytes
    wire_rest: bytes
    stack_rest: bytes
    peers: bytes
    rest: bytes
    longest: int


class OrdinaryWriter:
    """Writes states of 264 bytes."""

    def __init__(self) -> None:
        self._forms: dict[tuple[Any, ...], _Form | None] = {}

    def write(self, identity: bytes, entry: ConntrackEntry) -> bytes | None:
        """The bytes of what `mapping.to_state` makes of an entry; None if it is not ordinary."""
        (
            source, destination, protocol, source_port, destination_port,
            reply_source, reply_destination, reply_source_port, reply_destination_port,
            _, status, timeout, state, original_scale, reply_scale, original_flags, reply_flags, *_,
        ) = entry  # fmt: skip
        if protocol not in _PROTOCOLS or entry[_FIRST_UNUSUAL:] != _NOTHING_UNUSUAL:
            return None
        size = len(source)
        same = (size, protocol, status & extras.STATUS, state, original_scale, reply_scale, original_flags, reply_flags)
        form = self._forms[same] if same in self._forms else self._learn(same, entry)
        if form is None:
            return None
        interface, wire_rest, stack_rest, peers, rest, longest = form
        return _LAYOUTS[size].pack(
            identity[:8], interface, source, b"", destination, b"", source_port, destination_port, wire_rest,
            reply_destination, b"", reply_source, b"", reply_destination_port, reply_source_port, stack_rest,
            peers, b"", longest if timeout is None or timeout > longest else timeout or 1, b"", identity[8:], rest,
        )  # fmt: skip

    def _learn(self, same: tuple[Any, ...], entry: ConntrackEntry) -> _Form | None:
        form = None
        whole = mapping.to_whole(bytes(12), entry)
        if whole is not None and whole[1] is None:
            state = whole[0]
            fields = _LAYOUTS[len(entry.source)].unpack(v6.encode_state(state))
            form = _Form(fields[1], fields[8], fields[15], fields[16], fields[21], TIMEOUT_DEFAULTS[state.timeout])
        if len(self._forms) < _KNOWN_MAX:
            self._forms[same] = form
        return form
