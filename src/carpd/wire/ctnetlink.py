"""Messages about the connection tracking table and its expectations: bytes <-> values, attribute by attribute.

Hundreds of thousands a second go through `ctnetlink_batch`, which learns from here how they are laid out.

Ref: Linux include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h; net/netfilter/nf_conntrack_netlink.c,
ctnetlink_create_conntrack() and ctnetlink_change_conntrack() for what the kernel wants.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from carpd.errors import DecodeError
from carpd.wire import conntrack, netlink
from carpd.wire.conntrack import ConntrackEntry, Expectation, Flow, FlowTuple, SequenceAdjustment, TcpState
from carpd.wire.netlink import Message, attribute, nested

GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY = 1, 2, 3
"""The multicast groups that hear of new, changed and ended entries."""

_CONNTRACK, _EXPECTATION = 1, 2  # NFNL_SUBSYS_CTNETLINK...
_NEW, _GET, _DELETE = 0, 1, 2  # IPCTNL_MSG_CT_... and IPCTNL_MSG_EXP_...
_IPV4, _IPV6, _UNSPECIFIED = 2, 10, 0

_FAMILY = struct.Struct("!BBH")  # family, version, resource
HEADERS_SIZE = netlink.HEADER.size + _FAMILY.size

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _HELP, _NAT_SRC, _TIMEOUT, _MARK = 1, 2, 3, 4, 5, 6, 7, 8
_ID, _NAT_DST, _TUPLE_MASTER, _SEQ_ADJ_ORIG, _SEQ_ADJ_REPLY, _ZONE, _MARK_MASK, _LABELS = 12, 13, 14, 15, 16, 18, 21, 22
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_NUM, _SRC_PORT, _DST_PORT, _ICMP_ID, _ICMP_TYPE, _ICMP_CODE = 1, 2, 3, 4, 5, 6
_ICMPV6_ID, _ICMPV6_TYPE, _ICMPV6_CODE = 7, 8, 9
_PROTOINFO_TCP, _PROTOINFO_SCTP = 1, 3
_TCP_STATE, _TCP_SCALE_ORIG, _TCP_SCALE_REPLY, _TCP_FLAGS_ORIG, _TCP_FLAGS_REPLY = 1, 2, 3, 4, 5
_SCTP_STATE, _SCTP_TAG_ORIG, _SCTP_TAG_REPLY = 1, 2, 3
_HELP_NAME = 1
_POSITION, _BEFORE, _AFTER = 1, 2, 3
_NAT_V4_MIN, _NAT_PROTO, _NAT_V6_MIN = 1, 3, 4
_PORT_MIN = 1

_EXPECT_MASTER, _EXPECT_TUPLE, _EXPECT_MASK, _EXPECT_TIMEOUT, _EXPECT_ID, _EXPECT_HELP_NAME = 1, 2, 3, 4, 5, 6
_EXPECT_ZONE, _EXPECT_FLAGS, _EXPECT_CLASS, _EXPECT_NAT, _EXPECT_FN = 7, 8, 9, 10, 11
_EXPECT_NAT_DIR, _EXPECT_NAT_TUPLE = 1, 2

HALF_OPEN = frozenset((TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.SYN_SENT2))
"""States in which the kernel must not be strict about a window that it has not seen."""
SYNCHRONISED_FLAGS = conntrack.WINDOW_SCALE | conntrack.SACK_PERMITTED | conntrack.CLOSE_INIT | conntrack.LIBERAL
"""The TCP flags that mean something to another kernel; the rest goes with sequence numbers that it does not know."""
_UNTOLD = conntrack.EXPECTED | conntrack.DYING
"""Bits of a status that the kernel refuses when an entry is inserted."""

_ICMP_ANSWERS = {
    conntrack.ICMP: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    conntrack.ICMPV6: {128: 129, 129: 128, 139: 140, 140: 139},
}
"""The kernel tracks these messages, and the type of an answer is not told but known."""
_WITH_PORTS = frozenset((conntrack.TCP, conntrack.UDP, conntrack.GRE, conntrack.SCTP, conntrack.UDPLITE))

Path = tuple[int, ...]
"""The kinds of an attribute and of those that it is nested in, outermost first."""


class Change(enum.Enum):
    """What happened to an entry. Entries of a dump are told as UPDATE."""

    NEW = "new"
    UPDATE = "update"
    DESTROY = "destroy"


Event = tuple[Change, ConntrackEntry]
"""What happened, and the entry as far as it was told (see ConntrackEntry)."""


class Leaf(NamedTuple):
    """What an attribute means: the field of an entry (or of a FlowTuple...), and its layout; "" is text."""

    field: str
    layout: str


def _tuple_leaves(kind: int, prefix: str = "") -> dict[Path, Leaf]:
    ip, protocol = (kind, _TUPLE_IP), (kind, _TUPLE_PROTO)
    # The identifier of an ICMP query is the port of whoever asks: see ConntrackEntry.
    asker = "reply_destination_port" if kind == _TUPLE_REPLY else f"{prefix}source_port"
    return {
        (*ip, _V4_SRC): Leaf(f"{prefix}source", "4s"),
        (*ip, _V4_DST): Leaf(f"{prefix}destination", "4s"),
        (*ip, _V6_SRC): Leaf(f"{prefix}source", "16s"),
        (*ip, _V6_DST): Leaf(f"{prefix}destination", "16s"),
        (*protocol, _SRC_PORT): Leaf(f"{prefix}source_port", "H"),
        (*protocol, _DST_PORT): Leaf(f"{prefix}destination_port", "H"),
        (*protocol, _ICMP_ID): Leaf(asker, "H"),
        (*protocol, _ICMPV6_ID): Leaf(asker, "H"),
    }


def _question_leaves(kind: int, prefix: str = "") -> dict[Path, Leaf]:
    """What the reply tuple repeats, in its own way: the protocol, and the question that it answers."""
    protocol = (kind, _TUPLE_PROTO)
    return {
        (*protocol, _NUM): Leaf(f"{prefix}protocol", "B"),
        (*protocol, _ICMP_TYPE): Leaf(f"{prefix}icmp_type", "B"),
        (*protocol, _ICMP_CODE): Leaf(f"{prefix}icmp_code", "B"),
        (*protocol, _ICMPV6_TYPE): Leaf(f"{prefix}icmp_type", "B"),
        (*protocol, _ICMPV6_CODE): Leaf(f"{prefix}icmp_code", "B"),
    }


LEAVES: Mapping[Path, Leaf] = {
    **_tuple_leaves(_TUPLE_ORIG),
    **_question_leaves(_TUPLE_ORIG),
    (_TUPLE_ORIG, _TUPLE_ZONE): Leaf("original_zone", "H"),
    **_tuple_leaves(_TUPLE_REPLY, "reply_"),
    (_TUPLE_REPLY, _TUPLE_ZONE): Leaf("reply_zone", "H"),
    **_tuple_leaves(_TUPLE_MASTER, "master_"),
    **_question_leaves(_TUPLE_MASTER, "master_"),
    (_ZONE,): Leaf("zone", "H"),
    (_STATUS,): Leaf("status", "I"),
    (_TIMEOUT,): Leaf("timeout", "I"),
    (_MARK,): Leaf("mark", "I"),
    (_ID,): Leaf("id", "I"),
    (_LABELS,): Leaf("labels", "16s"),
    (_HELP, _HELP_NAME): Leaf("helper", ""),
    (_PROTOINFO, _PROTOINFO_TCP, _TCP_STATE): Leaf("state", "B"),
    (_PROTOINFO, _PROTOINFO_TCP, _TCP_SCALE_ORIG): Leaf("original_scale", "B"),
    (_PROTOINFO, _PROTOINFO_TCP, _TCP_SCALE_REPLY): Leaf("reply_scale", "B"),
    (_PROTOINFO, _PROTOINFO_TCP, _TCP_FLAGS_ORIG): Leaf("original_flags", "B"),
    (_PROTOINFO, _PROTOINFO_TCP, _TCP_FLAGS_REPLY): Leaf("reply_flags", "B"),
    (_PROTOINFO, _PROTOINFO_SCTP, _SCTP_STATE): Leaf("state", "B"),
    (_PROTOINFO, _PROTOINFO_SCTP, _SCTP_TAG_ORIG): Leaf("original_tag", "I"),
    (_PROTOINFO, _PROTOINFO_SCTP, _SCTP_TAG_REPLY): Leaf("reply_tag", "I"),
    (_SEQ_ADJ_ORIG, _POSITION): Leaf("original_position", "I"),
    (_SEQ_ADJ_ORIG, _BEFORE): Leaf("original_before", "I"),
    (_SEQ_ADJ_ORIG, _AFTER): Leaf("original_after", "I"),
    (_SEQ_ADJ_REPLY, _POSITION): Leaf("reply_position", "I"),
    (_SEQ_ADJ_REPLY, _BEFORE): Leaf("reply_before", "I"),
    (_SEQ_ADJ_REPLY, _AFTER): Leaf("reply_after", "I"),
}
"""Every attribute of an entry that means something to us. The kernel sends more, which are skipped."""

_NESTS = frozenset(path[:depth] for path in LEAVES for depth in range(1, len(path))) | {
    (_NAT_SRC,),
    (_NAT_SRC, _NAT_PROTO),
    (_NAT_DST,),
    (_NAT_DST, _NAT_PROTO),
}


def leaves(message: bytes, start: int, end: int, nest: Path = ()) -> Iterator[tuple[Path, int, int]]:
    """Where every value is in a message: path, start and end, in order. Raise DecodeError if one does not fit."""
    for kind, first, last in netlink.each_span(message, start, end):
        path = (*nest, kind)
        if path in _NESTS:
            yield from leaves(message, first, last, path)
        else:
            yield path, first, last


def read(message: bytes) -> Event:
    """An event, or an entry of a dump, from its netlink header on. Raise DecodeError."""
    if len(message) < HEADERS_SIZE:
        raise DecodeError(f"conntrack: need {HEADERS_SIZE} bytes of headers, got {len(message)}")
    _, kind, flags, _, _ = netlink.HEADER.unpack_from(message)
    values = _values(message, HEADERS_SIZE, len(message))
    if kind == _kind(_DELETE):
        change = Change.DESTROY
    elif kind == _kind(_NEW):
        change = Change.NEW if flags & netlink.CREATE else Change.UPDATE
    else:
        raise DecodeError(f"conntrack: message of kind {kind:#x}")
    return change, _entry(values)


def _entry(values: dict[str, Any]) -> ConntrackEntry:
    original = _flow_tuple(values)
    # Only the opener's identifier of an answer to an ICMP query is told apart: what answers is the question itself.
    reply_port = values.get("reply_source_port", original.destination_port if "icmp_type" in values else 0)
    values |= {**original._asdict(), "reply_source_port": reply_port}
    values.setdefault("reply_destination_port", 0)
    if "master_source" in values:
        values["master"] = _flow_tuple(values, "master_")
    for side in ("original", "reply"):
        if f"{side}_position" in values:
            parts = (values.get(f"{side}_{part}", 0) for part in ("position", "before", "after"))
            values[f"{side}_adjustment"] = SequenceAdjustment(*parts)
    try:
        return ConntrackEntry(**{field: values[field] for field in ConntrackEntry._fields if field in values})
    except TypeError:
        raise DecodeError("conntrack: an entry without the tuple of its replies") from None


def _values(message: bytes, start: int, end: int, nest: Path = ()) -> dict[str, Any]:
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


def _flow_tuple(values: dict[str, Any], prefix: str = "") -> FlowTuple:
    if f"{prefix}icmp_type" in values:
        destination_port = values[f"{prefix}icmp_type"] << 8 | values.get(f"{prefix}icmp_code", 0)
    else:
        destination_port = values.get(f"{prefix}destination_port", 0)
    try:
        return FlowTuple(
            values[f"{prefix}source"],
            values[f"{prefix}destination"],
            values.get(f"{prefix}source_port", 0),
            destination_port,
            values[f"{prefix}protocol"],
        )
    except KeyError as error:
        raise DecodeError(f"conntrack: a tuple without {error.args[0]}") from None


def insert(entry: ConntrackEntry) -> Message:
    """Make an entry; refused with EEXIST if there is one of either tuple, with EINVAL without a timeout.

    NAT, master and helper can be given now and never again. The master must be in the table (ENOENT), the helper in the
    kernel (EOPNOTSUPP). Labels are forgotten unless a rule of the firewall speaks of labels.
    """
    attributes = (
        _original_tuple(entry),
        # The kernel makes the reply tuple itself: from this one, which has to be the inverse, and the translations.
        _reply_tuple(entry),
        _zone(_ZONE, entry.zone),
        _number(_STATUS, entry.status & ~_UNTOLD | conntrack.CONFIRMED),
        *_changeable(entry),
        _translation(_NAT_SRC, conntrack.source_nat(entry), _has_translated_port(entry.protocol, _NAT_SRC)),
        _translation(_NAT_DST, conntrack.destination_nat(entry), _has_translated_port(entry.protocol, _NAT_DST)),
        nested(_HELP, netlink.text(_HELP_NAME, entry.helper)) if entry.helper else b"",
        _tuple(_TUPLE_MASTER, entry.master) if entry.master else b"",
    )
    flags = netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE
    return _request(_kind(_NEW), flags, _family(entry.source), *attributes)


def update(entry: ConntrackEntry) -> Message:
    """Change all of an entry that can change; refused with ENOENT if there is none.

    A status that lacks SEEN_REPLY or ASSURED where the kernel's has it, or that has not the same EXPECTED, is refused with
    EBUSY; labels where no rule speaks of labels with ENOSPC, when all the rest is done.
    """
    attributes = (
        _original_tuple(entry),
        _zone(_ZONE, entry.zone),
        _number(_STATUS, entry.status & ~conntrack.DYING | conntrack.CONFIRMED),
        *_changeable(entry),
    )
    return _request(_kind(_NEW), netlink.REQUEST, _family(entry.source), *attributes)


def delete(flow: Flow) -> Message:
    """Delete an entry; refused with ENOENT if there is none."""
    return _request(_kind(_DELETE), netlink.REQUEST, _family(flow.source), *_named(flow))


def get(flow: Flow) -> Message:
    """Ask for one entry; `read` reads the answer."""
    return _request(_kind(_GET), netlink.REQUEST, _family(flow.source), *_named(flow))


def dump(*, zone: int | None = None, mark: int | None = None, mark_mask: int = 0xFFFFFFFF) -> Message:
    """Ask for all entries, or those of a zone, or those whose mark has this value in these bits."""
    attributes = [] if zone is None else [attribute(_ZONE, struct.pack("!H", zone))]
    if mark is not None:
        attributes += [_number(_MARK, mark), _number(_MARK_MASK, mark_mask)]
    return _request(_kind(_GET), netlink.REQUEST | netlink.DUMP, _UNSPECIFIED, *attributes)


def insert_expectation(expectation: Expectation, zone: int = 0) -> Message:
    """Expect a connection; refused with ENOENT without its master, EOPNOTSUPP if the master has no helper.

    The kernel gives it the helper's own timeout.
    """
    attributes = [
        _tuple(_EXPECT_MASTER, expectation.master),
        _tuple(_EXPECT_TUPLE, expectation.tuple),
        _tuple(_EXPECT_MASK, expectation.mask),
        _number(_EXPECT_TIMEOUT, expectation.timeout),
        _number(_EXPECT_FLAGS, expectation.flags),
        _number(_EXPECT_CLASS, expectation.kind),
        _zone(_EXPECT_ZONE, zone),
    ]
    # The name is that of the master's helper, but whoever is inserted with it gets that helper. SIP's signalling wants
    # it; in FTP's data whatever looks like a PORT command would open the firewall. A kind is refused without it.
    if expectation.helper.startswith("sip") or expectation.kind:
        attributes.append(netlink.text(_EXPECT_HELP_NAME, expectation.helper))
    if expectation.function:
        attributes.append(netlink.text(_EXPECT_FN, expectation.function))
    if expectation.nat:
        direction = _number(_EXPECT_NAT_DIR, expectation.nat_direction)
        attributes.append(nested(_EXPECT_NAT, direction, _tuple(_EXPECT_NAT_TUPLE, expectation.nat)))
    flags = netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE
    return _request(_kind(_NEW, _EXPECTATION), flags, _family(expectation.tuple.source), *attributes)


def dump_expectations() -> Message:
    """Ask for all expectations; `read_expectation` reads the answers."""
    return _request(_kind(_GET, _EXPECTATION), netlink.REQUEST | netlink.DUMP, _UNSPECIFIED)


def read_expectation(message: Message) -> Expectation:
    """One expectation of a dump. Raise DecodeError."""
    values = netlink.attributes(message.body, _FAMILY.size)
    nat = netlink.attributes(values.get(_EXPECT_NAT, b""))

    def number(kind: int, among: Mapping[int, bytes] = values) -> int:
        return int.from_bytes(among.get(kind, b""), "big")

    def flow_tuple(kind: int, among: Mapping[int, bytes] = values) -> FlowTuple:
        data = among.get(kind, b"")
        return _flow_tuple(_values(data, 0, len(data), (_TUPLE_ORIG,)))

    return Expectation(
        tuple=flow_tuple(_EXPECT_TUPLE),
        mask=flow_tuple(_EXPECT_MASK),
        master=flow_tuple(_EXPECT_MASTER),
        timeout=number(_EXPECT_TIMEOUT),
        flags=number(_EXPECT_FLAGS),
        kind=number(_EXPECT_CLASS),
        helper=netlink.text_value(values.get(_EXPECT_HELP_NAME, b"")),
        function=netlink.text_value(values.get(_EXPECT_FN, b"")),
        nat=flow_tuple(_EXPECT_NAT_TUPLE, nat) if _EXPECT_NAT_TUPLE in nat else None,
        nat_direction=number(_EXPECT_NAT_DIR, nat),
        id=number(_EXPECT_ID),
    )


def _changeable(entry: ConntrackEntry) -> Iterator[bytes]:
    """What can be given to a new entry, and changed later; what is None stays as it is."""
    if entry.timeout is not None:
        yield _number(_TIMEOUT, entry.timeout)
    yield _number(_MARK, entry.mark)
    if entry.state is not None and entry.protocol == conntrack.TCP:
        yield nested(_PROTOINFO, _tcp(entry))
    if entry.state is not None and entry.protocol == conntrack.SCTP:
        yield nested(_PROTOINFO, _sctp(entry))
    if entry.labels is not None:
        yield attribute(_LABELS, entry.labels)
    for kind, adjustment in (
        (_SEQ_ADJ_ORIG, entry.original_adjustment),
        (_SEQ_ADJ_REPLY, entry.reply_adjustment),
    ):
        if adjustment:
            yield nested(kind, *(_number(part, value) for part, value in enumerate(adjustment, _POSITION)))


def _tcp(entry: ConntrackEntry) -> bytes:
    assert entry.state is not None
    liberal = conntrack.LIBERAL if entry.state in HALF_OPEN else 0
    return nested(
        _PROTOINFO_TCP,
        attribute(_TCP_STATE, bytes([entry.state])),
        attribute(_TCP_SCALE_ORIG, bytes([entry.original_scale])),
        attribute(_TCP_SCALE_REPLY, bytes([entry.reply_scale])),
        attribute(_TCP_FLAGS_ORIG, bytes([entry.original_flags | liberal, SYNCHRONISED_FLAGS])),
        attribute(_TCP_FLAGS_REPLY, bytes([entry.reply_flags | liberal, SYNCHRONISED_FLAGS])),
    )


def _sctp(entry: ConntrackEntry) -> bytes:
    assert entry.state is not None
    return nested(
        _PROTOINFO_SCTP,
        attribute(_SCTP_STATE, bytes([entry.state])),
        _number(_SCTP_TAG_ORIG, entry.original_tag),
        _number(_SCTP_TAG_REPLY, entry.reply_tag),
    )


def _original_tuple(entry: ConntrackEntry) -> bytes:
    original = FlowTuple(entry.source, entry.destination, entry.source_port, entry.destination_port, entry.protocol)
    return _tuple(_TUPLE_ORIG, original, _zone(_TUPLE_ZONE, entry.original_zone))


def _reply_tuple(entry: ConntrackEntry) -> bytes:
    """The inverse of the original tuple, as packets of an untranslated reply would look."""
    if answers := _ICMP_ANSWERS.get(entry.protocol):
        asked, code = divmod(entry.destination_port, 256)
        ports = (entry.source_port, answers.get(asked, asked) << 8 | code)
    else:
        ports = (entry.destination_port, entry.source_port)
    inverse = FlowTuple(entry.destination, entry.source, *ports, entry.protocol)
    return _tuple(_TUPLE_REPLY, inverse, _zone(_TUPLE_ZONE, entry.reply_zone))


def _named(flow: Flow) -> tuple[bytes, bytes]:
    return _tuple(_TUPLE_ORIG, FlowTuple(*flow[:5])), _zone(_ZONE, flow.zone)


def _tuple(kind: int, flow: FlowTuple, zone: bytes = b"") -> bytes:
    source, destination = (_V4_SRC, _V4_DST) if len(flow.source) == 4 else (_V6_SRC, _V6_DST)
    ip = nested(_TUPLE_IP, attribute(source, flow.source), attribute(destination, flow.destination))
    return nested(kind, ip, nested(_TUPLE_PROTO, attribute(_NUM, bytes([flow.protocol])), *_ports(flow)), zone)


def _ports(flow: FlowTuple) -> tuple[bytes, ...]:
    if flow.protocol in _ICMP_ANSWERS:
        first = _ICMP_ID if flow.protocol == conntrack.ICMP else _ICMPV6_ID
        asked, code = divmod(flow.destination_port, 256)
        identifier = attribute(first, struct.pack("!H", flow.source_port))
        return identifier, attribute(first + 1, bytes([asked])), attribute(first + 2, bytes([code]))
    if flow.protocol not in _WITH_PORTS:
        return ()
    source, destination = struct.pack("!H", flow.source_port), struct.pack("!H", flow.destination_port)
    return attribute(_SRC_PORT, source), attribute(_DST_PORT, destination)


def _translation(kind: int, translation: conntrack.Translation | None, with_port: bool) -> bytes:
    """A range of one address and, for protocols where it can be chosen, one port."""
    if translation is None:
        return b""
    lowest = _NAT_V4_MIN if len(translation.address) == 4 else _NAT_V6_MIN
    address = attribute(lowest, translation.address)
    if not with_port:
        return nested(kind, address)
    return nested(kind, address, nested(_NAT_PROTO, attribute(_PORT_MIN, struct.pack("!H", translation.port))))


def _has_translated_port(protocol: int, kind: int) -> bool:
    """Of an ICMP query the identifier can be translated, which is its source's."""
    return protocol in _WITH_PORTS or (kind == _NAT_SRC and protocol in _ICMP_ANSWERS)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))


def _zone(kind: int, zone: int) -> bytes:
    return attribute(kind, struct.pack("!H", zone)) if zone else b""


def _family(address: bytes) -> int:
    return _IPV4 if len(address) == 4 else _IPV6


def _kind(kind: int, subsystem: int = _CONNTRACK) -> int:
    return subsystem << 8 | kind


def _request(kind: int, flags: int, family: int, *attributes: bytes) -> Message:
    return Message(kind, flags, _FAMILY.pack(family, 0, 0) + b"".join(attributes))
