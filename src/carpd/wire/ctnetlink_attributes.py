"""The attributes of conntrack messages: their numbers, what they mean, and those that several messages have.

Ref: Linux include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from carpd.errors import DecodeError
from carpd.wire import conntrack, netlink
from carpd.wire.conntrack import ConntrackEntry, FlowTuple
from carpd.wire.netlink import Message, attribute, nested

CONNTRACK, EXPECTATION = 1, 2  # NFNL_SUBSYS_CTNETLINK...
NEW, GET, DELETE = 0, 1, 2  # IPCTNL_MSG_CT_... and IPCTNL_MSG_EXP_...
IPV4, IPV6, UNSPECIFIED = 2, 10, 0

FAMILY = struct.Struct("!BBH")  # family, version, resource
HEADERS_SIZE = netlink.HEADER.size + FAMILY.size

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, HELP, NAT_SRC, TIMEOUT, MARK = 1, 2, 3, 4, 5, 6, 7, 8
ID, NAT_DST, TUPLE_MASTER, SEQ_ADJ_ORIG, SEQ_ADJ_REPLY, ZONE, MARK_MASK, LABELS = 12, 13, 14, 15, 16, 18, 21, 22
TUPLE_IP, TUPLE_PROTO, TUPLE_ZONE = 1, 2, 3
V4_SRC, V4_DST, V6_SRC, V6_DST = 1, 2, 3, 4
NUM, SRC_PORT, DST_PORT, ICMP_ID, ICMP_TYPE, ICMP_CODE = 1, 2, 3, 4, 5, 6
ICMPV6_ID, ICMPV6_TYPE, ICMPV6_CODE = 7, 8, 9
PROTOINFO_TCP, PROTOINFO_SCTP = 1, 3
TCP_STATE, TCP_SCALE_ORIG, TCP_SCALE_REPLY, TCP_FLAGS_ORIG, TCP_FLAGS_REPLY = 1, 2, 3, 4, 5
SCTP_STATE, SCTP_TAG_ORIG, SCTP_TAG_REPLY = 1, 2, 3
HELP_NAME = 1
POSITION, BEFORE, AFTER = 1, 2, 3
NAT_V4_MIN, NAT_PROTO, NAT_V6_MIN = 1, 3, 4
PORT_MIN = 1

ICMP_ANSWERS = {
    conntrack.ICMP: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    conntrack.ICMPV6: {128: 129, 129: 128, 139: 140, 140: 139},
}
"""The kernel tracks these messages, and the type of an answer is not told but known."""
WITH_PORTS = frozenset((conntrack.TCP, conntrack.UDP, conntrack.GRE, conntrack.SCTP, conntrack.UDPLITE))

Path = tuple[int, ...]
"""The kinds of an attribute and of those that it is nested in, outermost first."""


class Leaf(NamedTuple):
    """What an attribute means: the field of an entry (or of a FlowTuple...), and its layout; "" is text."""

    field: str
    layout: str


def _tuple_leaves(kind: int, prefix: str = "") -> dict[Path, Leaf]:
    ip, protocol = (kind, TUPLE_IP), (kind, TUPLE_PROTO)
    # The identifier of an ICMP query is the port of whoever asks: see ConntrackEntry.
    asker = "reply_destination_port" if kind == TUPLE_REPLY else f"{prefix}source_port"
    return {
        (*ip, V4_SRC): Leaf(f"{prefix}source", "4s"),
        (*ip, V4_DST): Leaf(f"{prefix}destination", "4s"),
        (*ip, V6_SRC): Leaf(f"{prefix}source", "16s"),
        (*ip, V6_DST): Leaf(f"{prefix}destination", "16s"),
        (*protocol, SRC_PORT): Leaf(f"{prefix}source_port", "H"),
        (*protocol, DST_PORT): Leaf(f"{prefix}destination_port", "H"),
        (*protocol, ICMP_ID): Leaf(asker, "H"),
        (*protocol, ICMPV6_ID): Leaf(asker, "H"),
    }


def _question_leaves(kind: int, prefix: str = "") -> dict[Path, Leaf]:
    """What the reply tuple repeats, in its own way: the protocol, and the question that it answers."""
    protocol = (kind, TUPLE_PROTO)
    return {
        (*protocol, NUM): Leaf(f"{prefix}protocol", "B"),
        (*protocol, ICMP_TYPE): Leaf(f"{prefix}icmp_type", "B"),
        (*protocol, ICMP_CODE): Leaf(f"{prefix}icmp_code", "B"),
        (*protocol, ICMPV6_TYPE): Leaf(f"{prefix}icmp_type", "B"),
        (*protocol, ICMPV6_CODE): Leaf(f"{prefix}icmp_code", "B"),
    }


LEAVES: Mapping[Path, Leaf] = {
    **_tuple_leaves(TUPLE_ORIG),
    **_question_leaves(TUPLE_ORIG),
    (TUPLE_ORIG, TUPLE_ZONE): Leaf("original_zone", "H"),
    **_tuple_leaves(TUPLE_REPLY, "reply_"),
    (TUPLE_REPLY, TUPLE_ZONE): Leaf("reply_zone", "H"),
    **_tuple_leaves(TUPLE_MASTER, "master_"),
    **_question_leaves(TUPLE_MASTER, "master_"),
    (ZONE,): Leaf("zone", "H"),
    (STATUS,): Leaf("status", "I"),
    (TIMEOUT,): Leaf("timeout", "I"),
    (MARK,): Leaf("mark", "I"),
    (ID,): Leaf("id", "I"),
    (LABELS,): Leaf("labels", "16s"),
    (HELP, HELP_NAME): Leaf("helper", ""),
    (PROTOINFO, PROTOINFO_TCP, TCP_STATE): Leaf("state", "B"),
    (PROTOINFO, PROTOINFO_TCP, TCP_SCALE_ORIG): Leaf("original_scale", "B"),
    (PROTOINFO, PROTOINFO_TCP, TCP_SCALE_REPLY): Leaf("reply_scale", "B"),
    (PROTOINFO, PROTOINFO_TCP, TCP_FLAGS_ORIG): Leaf("original_flags", "B"),
    (PROTOINFO, PROTOINFO_TCP, TCP_FLAGS_REPLY): Leaf("reply_flags", "B"),
    (PROTOINFO, PROTOINFO_SCTP, SCTP_STATE): Leaf("state", "B"),
    (PROTOINFO, PROTOINFO_SCTP, SCTP_TAG_ORIG): Leaf("original_tag", "I"),
    (PROTOINFO, PROTOINFO_SCTP, SCTP_TAG_REPLY): Leaf("reply_tag", "I"),
    (SEQ_ADJ_ORIG, POSITION): Leaf("original_position", "I"),
    (SEQ_ADJ_ORIG, BEFORE): Leaf("original_before", "I"),
    (SEQ_ADJ_ORIG, AFTER): Leaf("original_after", "I"),
    (SEQ_ADJ_REPLY, POSITION): Leaf("reply_position", "I"),
    (SEQ_ADJ_REPLY, BEFORE): Leaf("reply_before", "I"),
    (SEQ_ADJ_REPLY, AFTER): Leaf("reply_after", "I"),
}
"""Every attribute of an entry that means something to us. The kernel sends more, which are skipped."""

_UNTRANSLATED = {
    "reply_source": "destination",
    "reply_destination": "source",
    "reply_source_port": "destination_port",
    "reply_destination_port": "source_port",
}

WRITTEN: Mapping[Path, Leaf] = {
    **{path: leaf for path, leaf in LEAVES.items() if leaf.field in ConntrackEntry._fields and leaf.layout},
    **{
        path: Leaf(_UNTRANSLATED[leaf.field], leaf.layout)
        for path, leaf in _tuple_leaves(TUPLE_REPLY, "reply_").items()
    },
    (NAT_SRC, NAT_V4_MIN): Leaf("reply_destination", "4s"),
    (NAT_SRC, NAT_V6_MIN): Leaf("reply_destination", "16s"),
    (NAT_SRC, NAT_PROTO, PORT_MIN): Leaf("reply_destination_port", "H"),
    (NAT_DST, NAT_V4_MIN): Leaf("reply_source", "4s"),
    (NAT_DST, NAT_V6_MIN): Leaf("reply_source", "16s"),
    (NAT_DST, NAT_PROTO, PORT_MIN): Leaf("reply_source_port", "H"),
}
"""Which field of an entry stands where in `insert`, `update` and `delete`; what is not here depends on their layout."""

_NESTS = frozenset(path[:depth] for path in (*LEAVES, *WRITTEN) for depth in range(1, len(path)))


def leaves(message: bytes, start: int, end: int, nest: Path = ()) -> Iterator[tuple[Path, int, int]]:
    """Where every value is in a message: path, start and end, in order. Raise DecodeError if one does not fit."""
    for kind, first, last in netlink.each_span(message, start, end):
        path = (*nest, kind)
        if path in _NESTS:
            yield from leaves(message, first, last, path)
        else:
            yield path, first, last


def read_values(message: bytes, start: int, end: int, nest: Path = ()) -> dict[str, Any]:
    """The values by the names of their leaves. Raise DecodeError."""
    values: dict[str, Any] = {}
    for path, first, last in leaves(message, start, end, nest):
        if leaf := LEAVES.get(path):
            values[leaf.field] = _value(message[first:last], leaf)
    return values


def _value(data: bytes, leaf: Leaf) -> Any:
    if not leaf.layout:
        return netlink.text_value(data)
    try:
        return struct.unpack_from(f"!{leaf.layout}", data)[0]
    except struct.error:
        raise DecodeError(f"conntrack: {len(data)} bytes of {leaf.field}") from None


def read_flow_tuple(values: dict[str, Any], prefix: str = "") -> FlowTuple:
    """The tuple whose values have these names. Raise DecodeError if it is not whole."""
    try:
        return FlowTuple(
            values[f"{prefix}source"],
            values[f"{prefix}destination"],
            values[f"{prefix}protocol"],
            values.get(f"{prefix}source_port", 0),
            values.get(f"{prefix}destination_port", read_question(values, prefix)),
        )
    except KeyError as error:
        raise DecodeError(f"conntrack: a tuple without {error.args[0]}") from None


def read_question(values: dict[str, Any], prefix: str = "") -> int:
    """Type and code of an ICMP query as a port; 0 for what is none."""
    asked, code = values.get(f"{prefix}icmp_type", 0), values.get(f"{prefix}icmp_code", 0)
    return int(asked << 8 | code)


def flow_tuple(kind: int, flow: FlowTuple, zone: bytes = b"") -> bytes:
    """A tuple as an attribute of this kind, with its own zone attribute."""
    source, destination = (V4_SRC, V4_DST) if len(flow.source) == 4 else (V6_SRC, V6_DST)
    ip = nested(TUPLE_IP, attribute(source, flow.source), attribute(destination, flow.destination))
    return nested(kind, ip, nested(TUPLE_PROTO, attribute(NUM, bytes([flow.protocol])), *_ports(flow)), zone)


def _ports(flow: FlowTuple) -> tuple[bytes, ...]:
    if flow.protocol in ICMP_ANSWERS:
        first = ICMP_ID if flow.protocol == conntrack.ICMP else ICMPV6_ID
        asked, code = divmod(flow.destination_port, 256)
        identifier = attribute(first, struct.pack("!H", flow.source_port))
        return identifier, attribute(first + 1, bytes([asked])), attribute(first + 2, bytes([code]))
    if flow.protocol not in WITH_PORTS:
        return ()
    source, destination = struct.pack("!H", flow.source_port), struct.pack("!H", flow.destination_port)
    return attribute(SRC_PORT, source), attribute(DST_PORT, destination)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, struct.pack("!I", value))


def zone(kind: int, zone: int) -> bytes:
    """An attribute that names a zone; nothing for the default one."""
    return attribute(kind, struct.pack("!H", zone)) if zone else b""


def family_of(address: bytes) -> int:
    """The family of packed addresses, by their length."""
    return IPV4 if len(address) == 4 else IPV6


def kind_of(kind: int, subsystem: int = CONNTRACK) -> int:
    """The kind of a netlink message."""
    return subsystem << 8 | kind


def request(kind: int, flags: int, family: int, *attributes: bytes) -> Message:
    """A netlink message of these attributes."""
    return Message(kind, flags, FAMILY.pack(family, 0, 0) + b"".join(attributes))
