"""What Linux tracks of a connection: the entries of its table, as values. Messages that carry them: `ctnetlink`.

Ref: Linux include/uapi/linux/netfilter/{nf_conntrack_common,nf_conntrack_tcp,nf_conntrack_sctp}.h.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

ICMP, TCP, UDP, GRE, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 47, 58, 132, 136
"""The IP protocols that are tracked by more than their addresses."""

EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED = 0x01, 0x02, 0x04, 0x08
SOURCE_NAT, DESTINATION_NAT, SEQUENCE_ADJUST, SOURCE_NAT_DONE, DESTINATION_NAT_DONE = 0x10, 0x20, 0x40, 0x80, 0x100
DYING, FIXED_TIMEOUT, TEMPLATE, HELPER, OFFLOAD, HARDWARE_OFFLOAD = 0x200, 0x400, 0x800, 0x2000, 0x4000, 0x8000
"""Bits of a status, IPS_..."""

WINDOW_SCALE, SACK_PERMITTED, CLOSE_INIT, LIBERAL = 0x01, 0x02, 0x04, 0x08
"""Flags of one side of a TCP connection, IP_CT_TCP_FLAG_...; CLOSE_INIT: it sent the first FIN."""


class TcpState(enum.IntEnum):
    """How far Linux thinks a TCP connection has come; SYN_SENT2: both sides sent a SYN."""

    NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2 = range(10)


class SctpState(enum.IntEnum):
    """How far Linux thinks an SCTP association has come."""

    NONE, CLOSED, COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED = range(5)
    SHUTDOWN_SENT, SHUTDOWN_RECEIVED, SHUTDOWN_ACK_SENT, HEARTBEAT_SENT = range(5, 9)


class FlowTuple(NamedTuple):
    """The addresses and ports of one direction of a flow. See ConntrackEntry for what counts as a port."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int


class SequenceAdjustment(NamedTuple):
    """By how much the sequence numbers of one direction move, before and after a position in the stream."""

    position: int
    before: int
    after: int


class ConntrackEntry(NamedTuple):
    """One entry of the connection tracking table, or what an event told of it.

    It is flat, and only the last three fields can hold more than a number or a string of bytes: it is made hundreds of
    thousands of times a second. The fields have the order in which the kernel tells them, so that few need sorting.

    Ports are what identifies a flow beside addresses and protocol: the ports of TCP, UDP and SCTP, the keys of GRE, 0
    for others. An ICMP query has its identifier as the port of whoever asks, and type * 256 + code of the question as
    the port of whoever answers, in both directions. So the reply tuple of a flow that is not translated is always the
    original one turned round, and what differs is NAT: see `source_nat` and `destination_nat`.
    """

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    reply_source: bytes
    reply_destination: bytes
    reply_source_port: int
    reply_destination_port: int

    id: int = 0
    """The kernel's number for it; an entry that is deleted and made again may have another one."""
    status: int = 0
    timeout: int | None = None
    """Seconds it has left; None if it was not told, as of flows that a flow table carries."""

    state: int | None = None
    """A TcpState or SctpState; None for other protocols, and in an event that says nothing of it."""
    original_scale: int = 0
    reply_scale: int = 0
    original_flags: int = 0
    reply_flags: int = 0
    """Window scales and flags of both sides of a TCP connection; 0 for others, and where `state` stands alone."""
    mark: int | None = 0
    """Always told by the kernel; None in an update that leaves it as it is."""
    original_tag: int = 0
    reply_tag: int = 0
    """The verification tags of SCTP."""

    zone: int = 0
    original_zone: int = 0
    reply_zone: int = 0
    """The zone, or one that counts in one direction only. At most one of the three is not 0."""
    labels: bytes | None = None
    """Its 128 bits; None if none is set, and in an event that says nothing of them."""
    helper: str = ""
    master: FlowTuple | None = None
    """The original tuple of the connection that announced this one, as FTP's control connection its data."""
    original_adjustment: SequenceAdjustment | None = None
    reply_adjustment: SequenceAdjustment | None = None


class Translation(NamedTuple):
    """To what address and port an end of a flow is changed."""

    address: bytes
    port: int


def source_nat(entry: ConntrackEntry) -> Translation | None:
    """As whom the opener appears to the other end; None: as itself."""
    seen = Translation(entry.reply_destination, entry.reply_destination_port)
    return None if seen == (entry.source, entry.source_port) else seen


def destination_nat(entry: ConntrackEntry) -> Translation | None:
    """Who really answers; None: whom the opener asked."""
    real = Translation(entry.reply_source, entry.reply_source_port)
    return None if real == (entry.destination, entry.destination_port) else real


_FLOW_KEYS = {4: struct.Struct("!4s4sBHHH"), 16: struct.Struct("!16s16sBHHH")}
_FLOW_KEYS_BY_SIZE = {layout.size: layout for layout in _FLOW_KEYS.values()}


class Flow(NamedTuple):
    """What names an entry: its original tuple, and the zone of that direction."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    zone: int


def flow_key(entry: ConntrackEntry) -> bytes:
    """The identity of an entry, 15 bytes for IPv4 and 39 for IPv6: no two of a table have the same."""
    return _FLOW_KEYS[len(entry[0])].pack(*entry[:5], entry.zone or entry.original_zone)


def tuple_key(original: FlowTuple) -> bytes:
    """The flow key of the entry with this original tuple outside of any zone."""
    return _FLOW_KEYS[len(original.source)].pack(*original, 0)


def unpack_flow_key(key: bytes) -> tuple[bytes, bytes, int, int, int, int]:
    """The fields of the Flow that a `flow_key` stands for."""
    flow: tuple[bytes, bytes, int, int, int, int] = _FLOW_KEYS_BY_SIZE[len(key)].unpack(key)
    return flow


class Expectation(NamedTuple):
    """A connection that a helper expects, because the master's payload announced it.

    The kernel tells no zone: expectations of masters in a zone can't be told from those outside of it.
    """

    tuple: FlowTuple
    mask: FlowTuple
    """Which bits of the tuple's source must match; the rest always must."""
    master: FlowTuple
    timeout: int
    flags: int = 0
    kind: int = 0
    """The helper's own classes: signalling, audio, video ... of SIP."""
    helper: str = ""
    """The helper of the master."""
    function: str = ""
    """What the kernel calls when the connection comes, "nat-follow-master" for instance."""
    nat: FlowTuple | None = None
    nat_direction: int = 0
    """To what address and port the connection will be translated, and which direction of it."""
    id: int = 0
