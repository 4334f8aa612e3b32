"""What levels mean in the words of pf and of Linux, protocol by protocol. Ref: spec pfsync §6.3, §12.3, §12.4."""

from __future__ import annotations

from typing import NamedTuple

from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    ICMP,
    ICMPV6,
    SACK_PERMITTED,
    SEEN_REPLY,
    TCP,
    UDP,
    TcpState,
)
from carpd.wire.pfsync.numbers import Timeout

LEVEL_MAX = 12
"""The largest number of a peer's state; receivers refuse larger ones."""

TIMEOUT_DEFAULTS: dict[int, int] = {
    Timeout.TCP_FIRST: 120,
    Timeout.TCP_OPENING: 30,
    Timeout.TCP_ESTABLISHED: 86400,
    Timeout.TCP_CLOSING: 900,
    Timeout.TCP_FIN_WAIT: 45,
    Timeout.TCP_CLOSED: 90,
    Timeout.UDP_FIRST: 60,
    Timeout.UDP_SINGLE: 30,
    Timeout.UDP_MULTIPLE: 60,
    Timeout.ICMP_FIRST: 20,
    Timeout.ICMP_ERROR: 10,
    Timeout.OTHER_FIRST: 60,
    Timeout.OTHER_SINGLE: 30,
    Timeout.OTHER_MULTIPLE: 60,
}
"""Seconds, by pf's index: more than that must not be told (spec pfsync §7.7)."""


class Progress(NamedTuple):
    """How an entry of Linux says how far it has come."""

    status: int
    state: int | None = None
    """A TcpState; None for other protocols."""
    original_flags: int = 0
    reply_flags: int = 0
    """Flags of both sides of TCP; WINDOW_SCALE is told with the scale."""


class Phase(NamedTuple):
    """How a state of pf says how far it has come."""

    src: int
    dst: int
    timeout: int
    """An index into pf's timeouts."""
    seconds: int
    """The default of that timeout."""
    assumed: Progress
    """What a receiver takes the entry for, unless it is told more."""


class Kind(NamedTuple):
    """Protocols that are mapped alike: both words for each of the levels that can be mapped."""

    phases: dict[int, Phase]
    """For those that entries have."""
    progress: dict[int, Progress]
    """For those that can come in."""


_ALL = [src << 4 | dst for src in range(LEVEL_MAX + 1) for dst in range(LEVEL_MAX + 1)]

_UNSEEN, _OPENING, _OPEN, _NOT_CLOSING = range(2), range(2, 4), range(4, 7), range(7)
_CLOSING, _CLOSED, _RESET = range(7, 9), range(9, 11), range(10, 11)
_SRC, _DST, _NOBODY = (CLOSE_INIT, 0), (0, CLOSE_INIT), (0, 0)

_TCP_ROWS = (
    (_RESET, _RESET, TcpState.CLOSE, _NOBODY),
    # Linux lets a SYN open the connection again if it knows that one of them closed it, no matter who.
    (_CLOSED, _CLOSED, TcpState.TIME_WAIT, _SRC),
    (_CLOSED, _CLOSING, TcpState.LAST_ACK, _SRC),
    (_CLOSING, _CLOSED, TcpState.LAST_ACK, _DST),
    (_CLOSING, _CLOSING, TcpState.LAST_ACK, _SRC),
    (_CLOSED, _NOT_CLOSING, TcpState.CLOSE_WAIT, _SRC),
    (_NOT_CLOSING, _CLOSED, TcpState.CLOSE_WAIT, _DST),
    (_CLOSING, _NOT_CLOSING, TcpState.FIN_WAIT, _SRC),
    (_NOT_CLOSING, _CLOSING, TcpState.FIN_WAIT, _DST),
    (_OPEN, _OPEN, TcpState.ESTABLISHED, _NOBODY),
    (_OPEN, _OPENING, TcpState.SYN_RECV, _NOBODY),
    (_OPENING, _OPEN, TcpState.SYN_RECV, _NOBODY),
    (_OPENING, _OPENING, TcpState.SYN_SENT2, _NOBODY),
    (_OPEN, _UNSEEN, TcpState.ESTABLISHED, _NOBODY),  # pf saw half of it
    (_UNSEEN, _OPEN, TcpState.ESTABLISHED, _NOBODY),
    (_OPENING, _UNSEEN, TcpState.SYN_SENT, _NOBODY),
)
"""The levels of src and dst, what Linux calls that, and who sent the first FIN: the first row that fits. Others, as
those of syn-proxy, are not for Linux. Ref: spec pfsync §12.3."""


def _tcp_progress(levels: int) -> Progress | None:
    src, dst = levels >> 4, levels & 15
    for src_range, dst_range, state, (src_closed, dst_closed) in _TCP_ROWS:
        if src in src_range and dst in dst_range:
            status = CONFIRMED
            status |= SEEN_REPLY if dst >= 2 else 0
            status |= ASSURED if min(src, dst) >= 4 else 0
            # What is usual: who was heard of, permits selective acknowledgements.
            src_permits, dst_permits = (SACK_PERMITTED if side >= 2 else 0 for side in (src, dst))
            return Progress(status, int(state), src_closed | src_permits, dst_closed | dst_permits)
    return None


def _traffic_progress(levels: int) -> Progress:
    status = CONFIRMED
    status |= SEEN_REPLY if levels & 15 >= 1 else 0
    status |= ASSURED if min(levels >> 4, levels & 15) >= 2 else 0
    return Progress(status)


def _kind(progress: dict[int, Progress], timeouts: dict[int, Timeout], shown: int = 0xFF) -> Kind:
    """The timeouts are those of the levels that entries have, of which these bits are shown."""
    phases = {
        levels: Phase(
            (levels & shown) >> 4, levels & shown & 15, int(timeout), TIMEOUT_DEFAULTS[timeout], progress[levels]
        )
        for levels, timeout in timeouts.items()
    }
    return Kind(phases, progress)


_TCP_PROGRESS = {levels: progress for levels in _ALL if (progress := _tcp_progress(levels))}
_TRAFFIC_PROGRESS = {levels: _traffic_progress(levels) for levels in _ALL}

_TCP = _kind(
    _TCP_PROGRESS,
    {
        0x20: Timeout.TCP_FIRST,
        **dict.fromkeys((0x22, 0x42), Timeout.TCP_OPENING),
        0x44: Timeout.TCP_ESTABLISHED,
        **dict.fromkeys((0x74, 0x47, 0x94, 0x49), Timeout.TCP_CLOSING),
        **dict.fromkeys((0x97, 0x79), Timeout.TCP_FIN_WAIT),
        **dict.fromkeys((0x99, 0xAA), Timeout.TCP_CLOSED),
    },
)
_UDP = _kind(_TRAFFIC_PROGRESS, {0x10: Timeout.UDP_FIRST, 0x21: Timeout.UDP_SINGLE, 0x22: Timeout.UDP_MULTIPLE})
_ICMP = _kind(_TRAFFIC_PROGRESS, {0x00: Timeout.ICMP_FIRST, 0x01: Timeout.ICMP_ERROR}, shown=0)
OTHER = _kind(_TRAFFIC_PROGRESS, {0x10: Timeout.OTHER_FIRST, 0x21: Timeout.OTHER_SINGLE, 0x22: Timeout.OTHER_MULTIPLE})
KINDS: dict[int, Kind] = {TCP: _TCP, UDP: _UDP, ICMP: _ICMP, ICMPV6: _ICMP}
"""By protocol; those that are not here are OTHER."""
