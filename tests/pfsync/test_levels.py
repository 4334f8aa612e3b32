"""How far flows have come, and which of two views holds. Ref: spec pfsync §7.6, §12.3, §12.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.levels import is_stale, levels, merge
from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    SEEN_REPLY,
    TCP,
    UDP,
    UDPLITE,
    ConntrackEntry,
    TcpState,
)

ENTRY = ConntrackEntry(b"\1\0\0\1", b"\2\0\0\2", TCP, 1, 2, b"\2\0\0\2", b"\1\0\0\1", 2, 1, status=CONFIRMED)

TCP_ROWS = {
    "none": (TcpState.NONE, 0, 0, 0x00),
    "SYN": (TcpState.SYN_SENT, 0, 0, 0x20),
    "both sent SYN": (TcpState.SYN_SENT2, 0, 0, 0x22),
    "SYN+ACK": (TcpState.SYN_RECV, 0, 0, 0x42),
    "established": (TcpState.ESTABLISHED, 0, 0, 0x44),
    "opener closes": (TcpState.FIN_WAIT, CLOSE_INIT, 0, 0x74),
    "other end closes": (TcpState.FIN_WAIT, 0, CLOSE_INIT, 0x47),
    "nobody knows who closes": (TcpState.FIN_WAIT, 0, 0, 0x74),
    "both are said to have closed first": (TcpState.FIN_WAIT, CLOSE_INIT, CLOSE_INIT, 0x74),
    "opener's FIN acknowledged": (TcpState.CLOSE_WAIT, CLOSE_INIT, 0, 0x94),
    "other end's FIN acknowledged": (TcpState.CLOSE_WAIT, 0, CLOSE_INIT, 0x49),
    "opener closed first": (TcpState.LAST_ACK, CLOSE_INIT, 0, 0x97),
    "other end closed first": (TcpState.LAST_ACK, 0, CLOSE_INIT, 0x79),
    "both closed": (TcpState.TIME_WAIT, CLOSE_INIT, 0, 0x99),
    "both closed, other end first": (TcpState.TIME_WAIT, 0, CLOSE_INIT, 0x99),
    "reset": (TcpState.CLOSE, 0, 0, 0xAA),
}


@pytest.mark.parametrize(("state", "original_flags", "reply_flags", "wanted"), TCP_ROWS.values(), ids=TCP_ROWS)
def test_tcp(state: TcpState, original_flags: int, reply_flags: int, wanted: int) -> None:
    entry = ENTRY._replace(state=int(state), original_flags=original_flags | 0x23, reply_flags=reply_flags | 0x23)
    assert levels(entry) == wanted


STATUS_ROWS = {
    "unanswered": (0, 0x20, 0x00, 0x10),
    "answered": (SEEN_REPLY, 0x22, 0x01, 0x21),
    "assured": (SEEN_REPLY | ASSURED, 0x44, 0x01, 0x22),
    "assured without an answer": (ASSURED, 0x44, 0x01, 0x22),
}


@pytest.mark.parametrize(("status", "tcp", "query", "traffic"), STATUS_ROWS.values(), ids=STATUS_ROWS)
def test_by_status(status: int, tcp: int, query: int, traffic: int) -> None:
    """TCP too, where an event does not tell its state."""
    wanted = {TCP: tcp, ICMP: query, ICMPV6: query, **dict.fromkeys((UDP, UDPLITE, GRE, SCTP, 50), traffic)}
    status |= CONFIRMED | 0x180
    assert {protocol: levels(ENTRY._replace(protocol=protocol, status=status)) for protocol in wanted} == wanted


any_levels = st.builds(lambda src, dst: src << 4 | dst, st.integers(0, 12), st.integers(0, 12))
without_proxy = any_levels.filter(lambda levels: levels < 0xB0)


def sides(levels: int) -> tuple[int, int]:
    return levels >> 4, levels & 15


@given(without_proxy, without_proxy, without_proxy)
def test_merge_is_the_maximum_of_each_side(one: int, other: int, third: int) -> None:
    both = merge(one, other)
    assert sides(both) == tuple(map(max, sides(one), sides(other)))
    assert both == merge(other, one)
    assert merge(both, one) == merge(both, other) == both
    assert merge(merge(one, other), third) == merge(one, merge(other, third))


@given(any_levels, any_levels)
def test_merge_and_syn_proxy(old: int, new: int) -> None:
    """Only from syn-proxy may src step back. Ref: spec pfsync §7.6."""
    (old_src, old_dst), (new_src, new_dst) = sides(old), sides(new)
    src, dst = sides(merge(old, new))
    assert dst == max(old_dst, new_dst)
    assert src == (new_src if old_src >= 11 and new_src < 11 else max(old_src, new_src))
    assert merge(merge(old, new), new) == merge(old, new)


@given(any_levels, any_levels)
def test_stale(old: int, new: int) -> None:
    assert is_stale(old, new) == (merge(old, new) != new)
    assert not is_stale(old, merge(old, new))


STALE = {
    "the same": (0x44, 0x44, False),
    "ahead": (0x42, 0x44, False),
    "behind": (0x44, 0x42, True),
    "half ahead, half behind": (0x74, 0x47, True),
    "syn-proxy is over": (0xB0, 0x42, False),
    "syn-proxy goes on": (0xC0, 0xB0, True),
}


@pytest.mark.parametrize(("old", "new", "stale"), STALE.values(), ids=STALE)
def test_stale_rows(old: int, new: int, stale: bool) -> None:
    assert is_stale(old, new) is stale
