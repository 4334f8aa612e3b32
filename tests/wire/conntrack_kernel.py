"""Conntrack messages as the kernel writes them, and random entries.

Ref: Linux net/netfilter/nf_conntrack_netlink.c, ctnetlink_conntrack_event() and ctnetlink_fill_info().
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, FlowTuple, SequenceAdjustment
from carpd.wire.ctnetlink import Change
from carpd.wire.netlink import Message, attribute, nested, text

ANSWERS = {8: 0, 13: 14, 128: 129}
_NEW, _DELETE = 0x100, 0x102
_FLAGS = {Change.NEW: 0x600, Change.UPDATE: 0, Change.DESTROY: 0}

byte, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def kernel_message(change: Change, entry: ConntrackEntry, *, dump: bool = False, extras: bool = False) -> bytes:
    """An event, or an answer to a dump, in the order of the kernel's attributes; with extras: those nobody wants."""
    zone = attribute(18, struct.pack("!H", entry.zone)) if entry.zone else b""
    mark = _number(8, entry.mark or 0) if entry.mark or dump else b""
    use = _number(11, 1) if dump or extras else b""
    status, number = _number(3, entry.status), _number(12, entry.id)
    counters = nested(9, attribute(1, bytes(8)), attribute(2, bytes(8))) if extras else b""
    timeout = b"" if entry.timeout is None else _number(7, entry.timeout)
    state = _protocol_information(entry, short=change is Change.DESTROY)
    helper = nested(5, text(1, entry.helper)) if entry.helper else b""
    labels = b"" if entry.labels is None else attribute(22, entry.labels)
    master = nested(14, *_tuple(entry.master, reply=False)) if entry.master else b""
    adjustments = b"".join(
        nested(kind, *(_number(i, value) for i, value in enumerate(adjustment, 1)))
        for kind, adjustment in ((15, entry.original_adjustment), (16, entry.reply_adjustment))
        if adjustment
    )
    attributes = (
        (status, mark, number, use, master, timeout, state, counters, helper, labels, adjustments)
        if dump
        else (number, status, timeout, counters, state, helper, labels, master, adjustments, mark)
    )
    family = struct.pack("!BBH", 2 if len(entry.source) == 4 else 10, 0, 0)
    original = FlowTuple(*entry[:5])
    reply = FlowTuple(
        entry.reply_source,
        entry.reply_destination,
        entry.protocol,
        entry.reply_source_port,
        entry.reply_destination_port,
    )
    body = [
        nested(1, *_tuple(original, reply=False), _tuple_zone(entry.original_zone)),
        nested(2, *_tuple(reply, reply=True), _tuple_zone(entry.reply_zone)),
        zone,
        *attributes,
    ]
    kind = _DELETE if change is Change.DESTROY else _NEW
    return Message(kind, 2 if dump else _FLAGS[change], family + b"".join(body), 7, 4711).to_bytes()


def _tuple(flow: FlowTuple, *, reply: bool) -> tuple[bytes, bytes]:
    first = 1 if len(flow.source) == 4 else 3
    ip = nested(1, attribute(first, flow.source), attribute(first + 1, flow.destination))
    ports: tuple[bytes, ...] = ()
    if flow.protocol in (conntrack.ICMP, conntrack.ICMPV6):
        identifier, question = (flow[4], flow[3]) if reply else (flow[3], flow[4])
        kind, code = divmod(question, 256)
        first = 4 if flow.protocol == conntrack.ICMP else 7
        ports = (
            attribute(first, struct.pack("!H", identifier)),
            attribute(first + 1, bytes([ANSWERS.get(kind, kind) if reply else kind])),
            attribute(first + 2, bytes([code])),
        )
    elif flow.protocol in (conntrack.TCP, conntrack.UDP, conntrack.SCTP, conntrack.GRE):
        ports = (attribute(2, struct.pack("!H", flow[3])), attribute(3, struct.pack("!H", flow[4])))
    return ip, nested(2, attribute(1, bytes([flow.protocol])), *ports)


def _protocol_information(entry: ConntrackEntry, *, short: bool) -> bytes:
    if entry.state is None:
        return b""
    state = attribute(1, bytes([entry.state]))
    if entry.protocol == conntrack.SCTP:
        tags = b"" if short else _number(2, entry.original_tag) + _number(3, entry.reply_tag)
        return nested(4, nested(3, state, tags))
    scales = attribute(2, bytes([entry.original_scale])) + attribute(3, bytes([entry.reply_scale]))
    flags = attribute(4, bytes([entry.original_flags, 0])) + attribute(5, bytes([entry.reply_flags, 0]))
    return nested(4, nested(1, state, *(() if short else (scales, flags))))


def _tuple_zone(zone: int) -> bytes:
    return attribute(3, struct.pack("!H", zone)) if zone else b""


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


@st.composite
def entries(draw: st.DrawFn, *, rare: bool = True) -> ConntrackEntry:
    """Entries of all protocols, families and forms of NAT; rare ones have a master or adjusted sequence numbers."""
    size = draw(st.sampled_from((4, 16)))
    addresses = st.binary(min_size=size, max_size=size)
    protocol = draw(st.sampled_from((1, 6, 17, 47, 50, 58, 132)))
    flow = _flow(draw, addresses, protocol)
    source, destination = draw(addresses), draw(addresses)
    source_nat, destination_nat = draw(st.booleans()), draw(st.booleans())
    ports = protocol in (6, 17, 47, 132)
    tcp, sctp = protocol == 6, protocol == 132
    told = (tcp or sctp) and draw(st.booleans())
    zones = draw(st.sampled_from(((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))))
    one_zone = draw(st.integers(1, 0xFFFF))
    adjustment = st.none() | st.builds(SequenceAdjustment, u32, u32, u32)
    return ConntrackEntry(
        *flow,
        destination if destination_nat else flow.destination,
        source if source_nat else flow.source,
        draw(u16) if destination_nat and ports else flow.destination_port,
        draw(u16) if source_nat and (ports or protocol in (1, 58)) else flow.source_port,
        id=draw(u32),
        status=draw(u32),
        timeout=draw(st.none() | u32),
        state=draw(st.integers(0, 9)) if told else None,
        original_scale=draw(st.integers(0, 14)) if told and tcp else 0,
        reply_scale=draw(st.integers(0, 14)) if told and tcp else 0,
        original_flags=draw(byte) if told and tcp else 0,
        reply_flags=draw(byte) if told and tcp else 0,
        mark=draw(st.just(0) | u32),
        original_tag=draw(u32) if told and sctp else 0,
        reply_tag=draw(u32) if told and sctp else 0,
        zone=zones[0] * one_zone,
        original_zone=zones[1] * one_zone,
        reply_zone=zones[2] * one_zone,
        labels=draw(st.none() | st.binary(min_size=16, max_size=16)),
        helper=draw(st.sampled_from(("", "", "ftp", "sip", "sane"))),
        master=_flow(draw, addresses, 6) if rare and draw(st.booleans()) else None,
        original_adjustment=draw(adjustment) if rare else None,
        reply_adjustment=draw(adjustment) if rare else None,
    )


def _flow(draw: st.DrawFn, addresses: st.SearchStrategy[bytes], protocol: int) -> FlowTuple:
    if protocol in (1, 58):
        question = draw(st.sampled_from((8 << 8, 13 << 8) if protocol == 1 else (128 << 8,)))
        return FlowTuple(draw(addresses), draw(addresses), protocol, draw(u16), question)
    ports = (draw(u16), draw(u16)) if protocol != 50 else (0, 0)
    return FlowTuple(draw(addresses), draw(addresses), protocol, *ports)
