"""A flow that Linux tracks, and the state of pf that stands for it among Linux nodes, with all that NAT does to it.

The opener is src, and the state's direction is in: its wire key has the original tuple, its stack key the reply tuple
turned round. Of an ICMP query the answerer's port is the type of the question. Ref: spec pfsync §12.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from carpd.errors import CarpdError, DecodeError
from carpd.pfsync import extras
from carpd.pfsync.kinds import KINDS, LEVEL_MAX, OTHER, TIMEOUT_DEFAULTS, Phase
from carpd.pfsync.levels import levels
from carpd.wire.conntrack import (
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    WINDOW_SCALE,
    ConntrackEntry,
    unpack_flow_key,
)
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.messages import CompressedUpdate
from carpd.wire.pfsync.numbers import IN, INET, INET6, NOSYNC, OUT, SLOPPY, Timeout
from carpd.wire.pfsync.state import NO_PF_FIELDS, Key, Peer, StateRecord

_SCALE, _SCALE_SEEN = 0x0F, WINDOW_SCALE << 7
"""Of a peer's wscale. Shifted, a flag of Linux becomes that of pf."""
_PEERS = tuple(
    {scale | seen: Peer(state=state, wscale=scale | seen) for scale in range(16) for seen in (0, _SCALE_SEEN)}
    for state in range(LEVEL_MAX + 1)
)
"""All peers that Linux can tell, by state and window scale."""

_FAMILIES = frozenset((INET, INET6))
_FAMILY_BY_SIZE = {4: INET, 16: INET6}
_QUERIES = {ICMP: frozenset((8, 13, 15, 17)), ICMPV6: frozenset((128, 139))}
"""The types of ICMP that Linux tracks."""
_ECHO_REQUESTS = {ICMP: 8, ICMPV6: 128}
_QUERY_FAMILIES = {ICMP: INET, ICMPV6: INET6}
_WITH_PORTS = frozenset((TCP, UDP, UDPLITE, SCTP, GRE))
_STATEFUL = frozenset((TCP, SCTP))
"""Of these Linux tells a state."""
_NO_CREATOR = bytes(4)
_TIMEOUT_MAX = int(max(Timeout))
_ICMP_FIRST, _ICMP_ERROR = int(Timeout.ICMP_FIRST), int(Timeout.ICMP_ERROR)

# NamedTuples without the checks of _make: 0.1 instead of 0.3 µs.
_entry: Callable[[tuple[Any, ...]], ConntrackEntry] = partial(tuple.__new__, ConntrackEntry)
_state: Callable[[tuple[Any, ...]], StateRecord] = partial(tuple.__new__, StateRecord)
_key: Callable[[tuple[Any, ...]], Key] = partial(tuple.__new__, Key)
_update: Callable[[tuple[Any, ...]], CompressedUpdate] = partial(tuple.__new__, CompressedUpdate)

_DEFAULTS = tuple(ConntrackEntry._field_defaults.values())
_ORDINARY = _DEFAULTS[ConntrackEntry._fields.index("mark") - len(ConntrackEntry._fields) :]
_BEHIND_ZONE = _DEFAULTS[ConntrackEntry._fields.index("original_zone") - len(ConntrackEntry._fields) :]
"""The fields of an entry from the mark on, and those behind the zone, of one that has nothing unusual."""


class Unmappable(CarpdError):  # noqa: N818 - it says what the state is
    """A state of which no entry can be made.

    It is counted by `counter`: "badval" if a value is invalid, "badstate" if it has no creator, "unsupported" if Linux
    has no such thing; by `reason`, too, which is one of a few then.
    """

    def __init__(self, counter: str, reason: str) -> None:
        super().__init__(f"pfsync: {reason}")
        self.counter = counter
        self.reason = reason


def to_state(identity: bytes, entry: ConntrackEntry, age: int = 0) -> StateRecord | None:
    """A state of any interface, `age` seconds old; None if it can't be told.

    That is so of TCP and SCTP before their first state, or in an event that does not tell it, and of ICMP queries with
    a code, for which a state has no room. It lives for pf's default at the most: with more, FreeBSD computes wrongly.
    """
    phase = _phase(entry)
    return None if phase is None else _state_of(phase, identity, entry, age)


def to_whole(identity: bytes, entry: ConntrackEntry) -> tuple[StateRecord, LinuxAttributes | None] | None:
    """All that is to be told of an entry: `to_state` and `to_attributes`."""
    phase = _phase(entry)
    if phase is None:
        return None
    said = extras.encode(entry, phase.assumed)
    return _state_of(phase, identity, entry, 0), LinuxAttributes(identity, said) if said else None


def _state_of(phase: Phase, identity: bytes, entry: ConntrackEntry, age: int) -> StateRecord:
    (
        source, destination, protocol, source_port, destination_port,
        reply_source, reply_destination, reply_source_port, reply_destination_port,
        _, _, timeout, _, original_scale, reply_scale, original_flags, reply_flags,
    ) = entry[:17]  # fmt: skip
    family = _FAMILY_BY_SIZE[len(source)]
    if protocol in _QUERIES:
        destination_port = reply_source_port = destination_port >> 8
    wire = stack = _key((source, destination, source_port, destination_port, 0, family))
    if (
        reply_destination != source
        or reply_source != destination
        or reply_destination_port != source_port
        or reply_source_port != destination_port
    ):
        stack = _key((reply_destination, reply_source, reply_destination_port, reply_source_port, 0, family))
    src, dst, index, seconds, _ = phase
    if timeout is not None and timeout < seconds:
        seconds = timeout or 1
    return _state(
        (
            identity, "all", wire, stack,
            _PEERS[src][original_scale & _SCALE | (original_flags & WINDOW_SCALE) << 7],
            _PEERS[dst][reply_scale & _SCALE | (reply_flags & WINDOW_SCALE) << 7],
            age, seconds, 0, 0, 0, 0, family, protocol, IN, index, SLOPPY, NO_PF_FIELDS,
        )
    )  # fmt: skip


def to_update(identity: bytes, entry: ConntrackEntry) -> CompressedUpdate | None:
    """What changes in a state while it lives; None if that can't be told (see `to_state`)."""
    phase = _phase(entry)
    if phase is None:
        return None
    src = _PEERS[phase.src][entry.original_scale & _SCALE | (entry.original_flags & WINDOW_SCALE) << 7]
    dst = _PEERS[phase.dst][entry.reply_scale & _SCALE | (entry.reply_flags & WINDOW_SCALE) << 7]
    return _update((identity, src, dst, phase.timeout))


def to_attributes(identity: bytes, entry: ConntrackEntry) -> LinuxAttributes | None:
    """What must be said of an entry beside its state; None if there is nothing, or it can't be told at all."""
    phase = _phase(entry)
    if phase is None:
        return None
    said = extras.encode(entry, phase.assumed)
    return LinuxAttributes(identity, said) if said else None


def _phase(entry: ConntrackEntry) -> Phase | None:
    protocol = entry.protocol
    if protocol in _STATEFUL:
        if entry.state is None:
            return None
    elif protocol in _QUERIES:
        question, code = divmod(entry.destination_port, 256)
        if code or question not in _QUERIES[protocol]:
            return None
    return KINDS.get(protocol, OTHER).phases.get(levels(entry))


def levels_told(message: StateRecord | CompressedUpdate) -> int:
    """The levels that a peer tells. Raise Unmappable if they, or the timeout index, are invalid."""
    src, dst, timeout = message.src.state, message.dst.state, message.timeout
    if src > LEVEL_MAX or dst > LEVEL_MAX:
        raise Unmappable("badval", f"states {src} and {dst}")
    if timeout > _TIMEOUT_MAX:
        raise Unmappable("badval", f"timeout index {timeout}")
    if timeout in (_ICMP_FIRST, _ICMP_ERROR):
        return timeout - _ICMP_FIRST
    return src << 4 | dst


def from_state(
    state: StateRecord, attributes: LinuxAttributes | None = None, timeout: int | None = None
) -> ConntrackEntry:
    """The entry that a state stands for, with this timeout, or what is left of the state's life: at most pf's default.

    It may be one of pf, too, which knows of one translation at the most. Raise Unmappable.
    """
    now = levels_told(state)
    _check(state)
    _, _, wire, stack, src, dst, _, expire, _, _, _, _, _, protocol, direction, index, _, _ = state
    if direction == IN:
        source, destination, source_port, destination_port, _, _ = wire
        reply_destination, reply_source, reply_destination_port, reply_source_port, _, _ = stack
    else:
        destination, source, destination_port, source_port, _, _ = stack
        reply_source, reply_destination, reply_source_port, reply_destination_port, _, _ = wire
    progress = KINDS.get(protocol, OTHER).progress.get(now)
    if progress is None:
        raise Unmappable("unsupported", "TCP state")
    status, tcp_state, original_flags, reply_flags = progress
    original_scale = reply_scale = 0
    if protocol == TCP:
        original_scale, reply_scale = src.wscale & _SCALE, dst.wscale & _SCALE
        original_flags |= src.wscale >> 7
        reply_flags |= dst.wscale >> 7
    elif protocol in _QUERIES:
        destination_port = reply_source_port = _question(protocol, source_port, destination_port) << 8
    elif protocol not in _WITH_PORTS:
        source_port = destination_port = reply_source_port = reply_destination_port = 0
    if timeout is None:
        longest = TIMEOUT_DEFAULTS[index]
        timeout = min(expire or longest, longest)
    told = (
        source, destination, protocol, source_port, destination_port,
        reply_source, reply_destination, reply_source_port, reply_destination_port,
        0, status, timeout, tcp_state, original_scale, reply_scale, original_flags, reply_flags,
    )  # fmt: skip
    entry = _entry(told + _ORDINARY)
    if attributes:
        try:
            entry = extras.apply(attributes.attributes, entry)
        except DecodeError as error:
            raise Unmappable("badval", str(error)) from error
    if protocol == SCTP and entry.state is None:
        raise Unmappable("unsupported", "SCTP without its state")
    return entry


def _check(state: StateRecord) -> None:
    """Raise Unmappable if something else than its levels is invalid, or unknown to Linux.

    Ref: spec pfsync §7.5, §12.7.
    """
    identity, _, wire, stack, src, dst, _, _, _, _, _, _, family, protocol, direction, index, flags, pf = state
    if direction not in (IN, OUT):
        raise Unmappable("badval", f"direction {direction}")
    if not family == wire.family == stack.family or family not in _FAMILIES:
        valid = _FAMILIES.issuperset((family, wire.family, stack.family))
        raise Unmappable("unsupported" if valid else "badval", "address families")
    if identity[8:] == _NO_CREATOR:
        raise Unmappable("badstate", "no creator")
    if index not in TIMEOUT_DEFAULTS:
        raise Unmappable("unsupported", "timeout index")
    if flags & NOSYNC:
        raise Unmappable("unsupported", "no-sync")
    if src.seqdiff or dst.seqdiff:
        raise Unmappable("unsupported", "modulated sequence numbers")
    if pf.rt:
        raise Unmappable("unsupported", "route options")
    if _QUERY_FAMILIES.get(protocol, family) != family:
        raise Unmappable("unsupported", "ICMP of the other family")


def _question(protocol: int, identifier: int, asked: int) -> int:
    """The type of an ICMP query.

    FreeBSD 13 has the identifier of an echo on both sides; it is 0 in what is no query, neighbour discovery above all.
    """
    if asked in _QUERIES[protocol]:
        return asked
    if asked == identifier != 0:
        return _ECHO_REQUESTS[protocol]
    raise Unmappable("unsupported", "ICMP type")


def from_update(key: bytes, update: CompressedUpdate, levels: int) -> ConntrackEntry:
    """The change that takes the entry with this flow key to these levels. What it does not tell is None.

    Raise Unmappable.
    """
    source, destination, protocol, source_port, destination_port, zone = unpack_flow_key(key)
    progress = KINDS.get(protocol, OTHER).progress.get(levels)
    if progress is None:
        raise Unmappable("unsupported", "TCP state")
    status, tcp_state, original_flags, reply_flags = progress
    original_scale = reply_scale = 0
    if protocol == TCP:
        src_scale, dst_scale = update.src.wscale, update.dst.wscale
        original_scale, reply_scale = src_scale & _SCALE, dst_scale & _SCALE
        original_flags |= src_scale >> 7
        reply_flags |= dst_scale >> 7
    told = (
        source, destination, protocol, source_port, destination_port,
        destination, source, destination_port, source_port,
        0, status, None, tcp_state, original_scale, reply_scale, original_flags, reply_flags, None, 0, 0, zone,
    )  # fmt: skip
    return _entry(told + _BEHIND_ZONE)
