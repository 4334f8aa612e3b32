"""Entries as the kernel tells them."""

from __future__ import annotations

from hypothesis import strategies as st

from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, FlowTuple, SctpState, SequenceAdjustment, TcpState

ESP = 50
_QUESTIONS = {conntrack.ICMP: (8, 13, 15, 17), conntrack.ICMPV6: (128, 139)}
_WITH_PORTS = (conntrack.TCP, conntrack.UDP, conntrack.UDPLITE, conntrack.SCTP, conntrack.GRE)

_CONVEYED = conntrack.SEEN_REPLY | conntrack.ASSURED | conntrack.FIXED_TIMEOUT
_CONVEYED_FLAGS = conntrack.WINDOW_SCALE | conntrack.SACK_PERMITTED | conntrack.CLOSE_INIT

U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
identities = st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4).filter(any)).map(b"".join)
adjustments = st.none() | st.builds(SequenceAdjustment, U32, U32, U32)


def conveyed(entry: ConntrackEntry) -> ConntrackEntry:
    """What of an entry means anything to another kernel: the rest it makes itself, or has no use for."""
    expected = conntrack.EXPECTED if entry.master else 0
    return entry._replace(
        id=0,
        status=entry.status & _CONVEYED | conntrack.CONFIRMED | expected,
        original_flags=entry.original_flags & _CONVEYED_FLAGS,
        reply_flags=entry.reply_flags & _CONVEYED_FLAGS,
    )


def _flow(draw: st.DrawFn, addresses: st.SearchStrategy[bytes], protocol: int) -> FlowTuple:
    if protocol in _QUESTIONS:
        ports = (draw(U16), draw(st.sampled_from(_QUESTIONS[protocol])) << 8)
    elif protocol in _WITH_PORTS:
        ports = (draw(U16), draw(U16))
    else:
        ports = (0, 0)
    return FlowTuple(draw(addresses), draw(addresses), protocol, *ports)


@st.composite
def entries(draw: st.DrawFn) -> ConntrackEntry:
    """Of all protocols, families and forms of NAT, ordinary or with everything; all that a state can stand for."""
    size = draw(st.sampled_from((4, 16)))
    addresses = st.binary(min_size=size, max_size=size)
    query = conntrack.ICMP if size == 4 else conntrack.ICMPV6
    protocol = draw(st.sampled_from((*_WITH_PORTS, ESP, query)))
    flow = _flow(draw, addresses, protocol)
    source_nat, destination_nat = draw(st.booleans()), draw(st.booleans())
    entry = ConntrackEntry(
        *flow,
        draw(addresses) if destination_nat else flow.destination,
        draw(addresses) if source_nat else flow.source,
        draw(U16) if destination_nat and protocol in _WITH_PORTS else flow.destination_port,
        draw(U16) if source_nat and protocol != ESP else flow.source_port,
        id=draw(U32),
        status=draw(U16) & ~conntrack.EXPECTED & ~conntrack.DYING | conntrack.CONFIRMED,
        timeout=draw(st.integers(0, 5 * 86400)),
    )
    if protocol == conntrack.TCP:
        entry = entry._replace(
            state=int(draw(st.sampled_from([state for state in TcpState if state != TcpState.NONE]))),
            original_scale=draw(st.integers(0, 14)),
            reply_scale=draw(st.integers(0, 14)),
            original_flags=draw(U8),
            reply_flags=draw(U8),
        )
    elif protocol == conntrack.SCTP:
        state = int(draw(st.sampled_from(SctpState)))
        entry = entry._replace(state=state, original_tag=draw(U32), reply_tag=draw(U32))
    return _with_extras(draw, entry, addresses) if draw(st.booleans()) else entry


def _with_extras(draw: st.DrawFn, entry: ConntrackEntry, addresses: st.SearchStrategy[bytes]) -> ConntrackEntry:
    zone, original_zone, reply_zone = draw(st.permutations((draw(U16), 0, 0)))
    master = _flow(draw, addresses, conntrack.TCP) if draw(st.booleans()) else None
    return entry._replace(
        zone=zone,
        original_zone=original_zone,
        reply_zone=reply_zone,
        mark=draw(U32),
        labels=draw(st.none() | st.binary(min_size=16, max_size=16)),
        helper=draw(st.sampled_from(("", "ftp", "netbios-ns", "Q.931"))),
        master=master,
        status=entry.status | (conntrack.EXPECTED if master else 0),
        original_adjustment=draw(adjustments),
        reply_adjustment=draw(adjustments),
    )
