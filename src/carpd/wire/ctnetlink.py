"""Messages about the connection tracking table: bytes <-> values, attribute by attribute.

Hundreds of thousands a second go through `ctnetlink_batch`, which learns from here how they are laid out.

Ref: Linux include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h; net/netfilter/nf_conntrack_netlink.c,
ctnetlink_create_conntrack() and ctnetlink_change_conntrack() for what the kernel wants.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Any

from carpd.errors import DecodeError
from carpd.wire import conntrack, netlink
from carpd.wire import ctnetlink_attributes as cta
from carpd.wire.conntrack import ConntrackEntry, Flow, FlowTuple, SequenceAdjustment
from carpd.wire.netlink import Message, attribute, nested

GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY = 1, 2, 3
"""The multicast groups that hear of new, changed and ended entries."""

SYNCHRONISED_FLAGS = conntrack.WINDOW_SCALE | conntrack.SACK_PERMITTED | conntrack.CLOSE_INIT | conntrack.LIBERAL
"""The TCP flags that mean something to another kernel; the rest goes with sequence numbers that it does not know."""
UNTOLD = conntrack.EXPECTED | conntrack.DYING
"""Bits of a status that the kernel refuses when an entry is inserted."""


class Change(enum.Enum):
    """What happened to an entry. Entries of a dump are told as UPDATE."""

    NEW = "new"
    UPDATE = "update"
    DESTROY = "destroy"


Event = tuple[Change, ConntrackEntry]
"""What happened, and the entry as far as it was told (see ConntrackEntry)."""


def read(message: bytes) -> Event:
    """An event, or an entry of a dump, from its netlink header on. Raise DecodeError."""
    if len(message) < cta.HEADERS_SIZE:
        raise DecodeError(f"conntrack: need {cta.HEADERS_SIZE} bytes of headers, got {len(message)}")
    _, kind, flags, _, _ = netlink.HEADER.unpack_from(message)
    values = cta.read_values(message, cta.HEADERS_SIZE, len(message))
    if kind == cta.kind_of(cta.DELETE):
        change = Change.DESTROY
    elif kind == cta.kind_of(cta.NEW):
        change = Change.NEW if flags & netlink.CREATE else Change.UPDATE
    else:
        raise DecodeError(f"conntrack: message of kind {kind:#x}")
    return change, _entry(values)


def _entry(values: dict[str, Any]) -> ConntrackEntry:
    values |= {
        **cta.read_flow_tuple(values)._asdict(),
        # What answers an ICMP query has the question for its port.
        "reply_source_port": values.get("reply_source_port", cta.read_question(values)),
        "reply_destination_port": values.get("reply_destination_port", 0),
    }
    if "master_source" in values:
        values["master"] = cta.read_flow_tuple(values, "master_")
    for side in ("original", "reply"):
        if f"{side}_position" in values:
            parts = (values.get(f"{side}_{part}", 0) for part in ("position", "before", "after"))
            values[f"{side}_adjustment"] = SequenceAdjustment(*parts)
    try:
        return ConntrackEntry(**{field: values[field] for field in ConntrackEntry._fields if field in values})
    except TypeError:
        raise DecodeError("conntrack: an entry without the tuple of its replies") from None


def insert(entry: ConntrackEntry) -> Message:
    """Make an entry; refused with EEXIST if there is one of either tuple, with EINVAL without a timeout.

    NAT, master and helper can be given now and never again. The master must be in the table (ENOENT), the helper in
    the kernel (EOPNOTSUPP). Labels are forgotten unless a rule of the firewall speaks of labels. GRE is given a timeout
    that stays: the one that its packets would renew can't be told, and the kernel would take it for 0. About the
    windows of TCP, which it has not seen, the kernel is to be liberal (see `loosen`).
    """
    status = entry.status & ~UNTOLD | conntrack.CONFIRMED
    if entry.protocol == conntrack.GRE:
        status |= conntrack.FIXED_TIMEOUT
    attributes = (
        _original_tuple(entry),
        # The kernel makes the reply tuple itself: from this one, which has to be the inverse, and the translations.
        _reply_tuple(entry),
        cta.zone(cta.ZONE, entry.zone),
        cta.number(cta.STATUS, status),
        *_changeable(entry),
        _translation(cta.NAT_SRC, conntrack.source_nat(entry), _has_translated_port(entry.protocol, cta.NAT_SRC)),
        _translation(cta.NAT_DST, conntrack.destination_nat(entry), _has_translated_port(entry.protocol, cta.NAT_DST)),
        nested(cta.HELP, netlink.text(cta.HELP_NAME, entry.helper)) if entry.helper else b"",
        cta.flow_tuple(cta.TUPLE_MASTER, entry.master) if entry.master else b"",
    )
    flags = netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE
    return cta.request(cta.kind_of(cta.NEW), flags, cta.family_of(entry.source), *attributes)


def update(entry: ConntrackEntry) -> Message:
    """Change all of an entry that can change; refused with ENOENT if there is none. What is None stays as it is.

    The state of TCP is told with flags and scales, that of SCTP with tags, which replace those that were there.
    A status that lacks SEEN_REPLY or ASSURED where the kernel's has it, or differs in EXPECTED, is refused with EBUSY;
    labels where no rule speaks of labels with ENOSPC, when all the rest is done. The timeout of GRE stays as it is.
    """
    if entry.protocol == conntrack.GRE:
        entry = entry._replace(timeout=None)
    attributes = (
        _original_tuple(entry),
        cta.zone(cta.ZONE, entry.zone),
        cta.number(cta.STATUS, entry.status & ~conntrack.DYING | conntrack.CONFIRMED),
        *_changeable(entry),
    )
    return cta.request(cta.kind_of(cta.NEW), netlink.REQUEST, cta.family_of(entry.source), *attributes)


def set_timeout(flow: Flow, seconds: int) -> Message:
    """Change nothing but the timeout; refused with ENOENT if there is no such entry, EPERM if its timeout is fixed."""
    attributes = (*_named(flow), cta.number(cta.TIMEOUT, seconds))
    return cta.request(cta.kind_of(cta.NEW), netlink.REQUEST, cta.family_of(flow.source), *attributes)


def loosen(flow: Flow) -> Message:
    """Have the kernel be liberal about the windows of a TCP connection; refused with ENOENT if there is none.

    What it knows of them is old as soon as another host carries the connection for a while: without this it would take
    every later packet for invalid.
    """
    flags = bytes([conntrack.LIBERAL, conntrack.LIBERAL])
    tcp = nested(cta.PROTOINFO_TCP, attribute(cta.TCP_FLAGS_ORIG, flags), attribute(cta.TCP_FLAGS_REPLY, flags))
    attributes = (*_named(flow), nested(cta.PROTOINFO, tcp))
    return cta.request(cta.kind_of(cta.NEW), netlink.REQUEST, cta.family_of(flow.source), *attributes)


def delete(flow: Flow) -> Message:
    """Delete an entry; refused with ENOENT if there is none."""
    return cta.request(cta.kind_of(cta.DELETE), netlink.REQUEST, cta.family_of(flow.source), *_named(flow))


def get(flow: Flow) -> Message:
    """Ask for one entry; `read` reads the answer."""
    return cta.request(cta.kind_of(cta.GET), netlink.REQUEST, cta.family_of(flow.source), *_named(flow))


def dump(*, zone: int | None = None, mark: int | None = None, mark_mask: int = 0xFFFFFFFF) -> Message:
    """Ask for all entries, or those of a zone, or those whose mark has this value in these bits."""
    attributes = [] if zone is None else [attribute(cta.ZONE, struct.pack("!H", zone))]
    if mark is not None:
        attributes += [cta.number(cta.MARK, mark), cta.number(cta.MARK_MASK, mark_mask)]
    return cta.request(cta.kind_of(cta.GET), netlink.REQUEST | netlink.DUMP, cta.UNSPECIFIED, *attributes)


def _changeable(entry: ConntrackEntry) -> Iterator[bytes]:
    """What can be given to a new entry, and changed later; what is None stays as it is."""
    if entry.timeout is not None:
        yield cta.number(cta.TIMEOUT, entry.timeout)
    if entry.mark is not None:
        yield cta.number(cta.MARK, entry.mark)
    if entry.state is not None and entry.protocol == conntrack.TCP:
        yield nested(cta.PROTOINFO, _tcp(entry))
    if entry.state is not None and entry.protocol == conntrack.SCTP:
        yield nested(cta.PROTOINFO, _sctp(entry))
    if entry.labels is not None:
        yield attribute(cta.LABELS, entry.labels)
    for kind, adjustment in (
        (cta.SEQ_ADJ_ORIG, entry.original_adjustment),
        (cta.SEQ_ADJ_REPLY, entry.reply_adjustment),
    ):
        if adjustment:
            yield nested(kind, *(cta.number(part, value) for part, value in enumerate(adjustment, cta.POSITION)))


def _tcp(entry: ConntrackEntry) -> bytes:
    assert entry.state is not None
    return nested(
        cta.PROTOINFO_TCP,
        attribute(cta.TCP_STATE, bytes([entry.state])),
        attribute(cta.TCP_SCALE_ORIG, bytes([entry.original_scale])),
        attribute(cta.TCP_SCALE_REPLY, bytes([entry.reply_scale])),
        attribute(cta.TCP_FLAGS_ORIG, bytes([entry.original_flags | conntrack.LIBERAL, SYNCHRONISED_FLAGS])),
        attribute(cta.TCP_FLAGS_REPLY, bytes([entry.reply_flags | conntrack.LIBERAL, SYNCHRONISED_FLAGS])),
    )


def _sctp(entry: ConntrackEntry) -> bytes:
    assert entry.state is not None
    return nested(
        cta.PROTOINFO_SCTP,
        attribute(cta.SCTP_STATE, bytes([entry.state])),
        cta.number(cta.SCTP_TAG_ORIG, entry.original_tag),
        cta.number(cta.SCTP_TAG_REPLY, entry.reply_tag),
    )


def _original_tuple(entry: ConntrackEntry) -> bytes:
    return cta.flow_tuple(cta.TUPLE_ORIG, FlowTuple(*entry[:5]), cta.zone(cta.TUPLE_ZONE, entry.original_zone))


def _reply_tuple(entry: ConntrackEntry) -> bytes:
    """The inverse of the original tuple, as packets of an untranslated reply would look."""
    if answers := cta.ICMP_ANSWERS.get(entry.protocol):
        asked, code = divmod(entry.destination_port, 256)
        ports = (entry.source_port, answers.get(asked, asked) << 8 | code)
    else:
        ports = (entry.destination_port, entry.source_port)
    inverse = FlowTuple(entry.destination, entry.source, entry.protocol, *ports)
    return cta.flow_tuple(cta.TUPLE_REPLY, inverse, cta.zone(cta.TUPLE_ZONE, entry.reply_zone))


def _named(flow: Flow) -> tuple[bytes, bytes]:
    return cta.flow_tuple(cta.TUPLE_ORIG, FlowTuple(*flow[:5])), cta.zone(cta.ZONE, flow.zone)


def _translation(kind: int, translation: conntrack.Translation | None, with_port: bool) -> bytes:
    """A range of one address and, for protocols where it can be chosen, one port."""
    if translation is None:
        return b""
    lowest = cta.NAT_V4_MIN if len(translation.address) == 4 else cta.NAT_V6_MIN
    address = attribute(lowest, translation.address)
    if not with_port:
        return nested(kind, address)
    return nested(kind, address, nested(cta.NAT_PROTO, attribute(cta.PORT_MIN, struct.pack("!H", translation.port))))


def _has_translated_port(protocol: int, kind: int) -> bool:
    """Of an ICMP query the identifier can be translated, which is its source's."""
    return protocol in cta.WITH_PORTS or (kind == cta.NAT_SRC and protocol in cta.ICMP_ANSWERS)
