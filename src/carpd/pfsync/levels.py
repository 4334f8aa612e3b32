"""How far a flow has come: what decides between two views of it.

*Levels* are one byte, `src.state << 4 | dst.state`, in pf's numbers for the two ends of a connection. Linux tells no
sequence numbers, so these alone are compared, each side for itself, and neither ever goes back.

Ref: spec pfsync §7.6, §12.3, §12.4.
"""

from __future__ import annotations

from carpd.wire.conntrack import ASSURED, CLOSE_INIT, ICMP, ICMPV6, SEEN_REPLY, TCP, ConntrackEntry, TcpState

_CLOSED_BY_SRC: dict[int, int] = {
    TcpState.NONE: 0x00,
    TcpState.SYN_SENT: 0x20,
    TcpState.SYN_SENT2: 0x22,
    TcpState.SYN_RECV: 0x42,
    TcpState.ESTABLISHED: 0x44,
    TcpState.FIN_WAIT: 0x74,
    TcpState.CLOSE_WAIT: 0x94,
    TcpState.LAST_ACK: 0x97,
    TcpState.TIME_WAIT: 0x99,
    TcpState.CLOSE: 0xAA,
}
"""Of TCP, by Linux's state, if the opener sent the first FIN, or if it is not known who did. Ref: spec pfsync §12.3."""
_CLOSED_BY_DST = {
    **_CLOSED_BY_SRC,
    TcpState.FIN_WAIT: 0x47,
    TcpState.CLOSE_WAIT: 0x49,
    TcpState.LAST_ACK: 0x79,
}
"""If the other end did."""

_BOTH_WAYS = SEEN_REPLY | ASSURED
_TCP_AT_LEAST = {0: 0x20, SEEN_REPLY: 0x22, ASSURED: 0x44, _BOTH_WAYS: 0x44}
_QUERY = {0: 0x00, SEEN_REPLY: 0x01, ASSURED: 0x01, _BOTH_WAYS: 0x01}
_TRAFFIC = {0: 0x10, SEEN_REPLY: 0x21, ASSURED: 0x22, _BOTH_WAYS: 0x22}
"""By the status: of TCP in an event that does not tell its state, of ICMP queries, and of everything else."""

_CLOSED = range(7, 11)
"""An end of TCP that has sent its FIN, or a reset."""
_SYN_PROXY = 0xB0
"""From here on the packet filter answers in place of src."""


def levels(entry: ConntrackEntry) -> int:
    """Of TCP they are at least these, if the entry does not tell its state; 0 if it has none.

    An ICMP query that was answered is at 0:1. On the wire it is always at 0:0, and its timeout index tells.
    """
    protocol = entry.protocol
    if protocol == TCP:
        if entry.state is None:
            return _TCP_AT_LEAST[entry.status & _BOTH_WAYS]
        if entry.reply_flags & CLOSE_INIT and not entry.original_flags & CLOSE_INIT:
            return _CLOSED_BY_DST[entry.state]
        return _CLOSED_BY_SRC[entry.state]
    if protocol in (ICMP, ICMPV6):
        return _QUERY[entry.status & _BOTH_WAYS]
    return _TRAFFIC[entry.status & _BOTH_WAYS]


def merge(old: int, new: int) -> int:
    """Of each side the larger; but syn-proxy, once it is over, is forgotten. Ref: spec pfsync §7.6."""
    if old == new:
        return new
    src, dst = new & 0xF0, new & 0x0F
    old_src, old_dst = old & 0xF0, old & 0x0F
    if src < old_src and not old_src >= _SYN_PROXY > src:
        src = old_src
    return src | (old_dst if dst < old_dst else dst)


def is_closing(levels: int) -> bool:
    """Whether one end of TCP has closed it, or both."""
    return levels >> 4 in _CLOSED or levels & 15 in _CLOSED


def is_stale(old: int, new: int) -> bool:
    """Whether a side of the new levels is behind."""
    return merge(old, new) != new
