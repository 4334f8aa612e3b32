"""The numbers of pfsync that mean something in several messages. Ref: spec pfsync §6."""

from __future__ import annotations

import enum

INET, INET6 = 2, 10
"""Address families, by Linux's numbers. On the wire is the sender's own: AF_INET6 is 24 on OpenBSD, 28 on FreeBSD."""

IN, OUT = 1, 2
"""Directions of a state: it was created by a packet that came in, or by one that went out."""

NONE = 0xFFFFFFFF
"""The number of no rule and no anchor."""

ALLOWOPTS, SLOPPY, PFLOW, NOSYNC, ACK, NODF, SETTOS, RANDOMID = (1 << bit for bit in range(8))
SCRUB_TCP, SETPRIO, INP_UNLINKED = 0x100, 0x200, 0x400
DN_IS_PIPE, DN_IS_QUEUE = 0x4000, 0x8000
"""State flags. Which system knows which: spec pfsync §6.1; FreeBSD 1301 carries the first eight only."""


class Dialect(enum.IntEnum):
    """Whose layout a state has: OpenBSD's, by its protocol version, or FreeBSD's, by their message versions."""

    OPENBSD = 6
    FREEBSD_1301 = 1301
    FREEBSD_1400 = 1400
    FREEBSD_1500 = 1500

    @property
    def version(self) -> int:
        """The protocol version of the packets that carry it."""
        return 6 if self is Dialect.OPENBSD else 5


class TcpState(enum.IntEnum):
    """How far one end of a TCP connection is; the last two while the packet filter answers in its place."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    CLOSE_WAIT = 5
    FIN_WAIT_1 = 6
    CLOSING = 7
    LAST_ACK = 8
    FIN_WAIT_2 = 9
    TIME_WAIT = 10
    PROXY_SRC = 11
    PROXY_DST = 12


class TrafficState(enum.IntEnum):
    """What one end of a UDP or other flow has sent. Of ICMP it is always the first."""

    NO_TRAFFIC = 0
    SINGLE = 1
    MULTIPLE = 2


class Timeout(enum.IntEnum):
    """Which entry of the timeout table holds for a state: the phase it is in. SCTP's are FreeBSD's alone."""

    TCP_FIRST = 0
    TCP_OPENING = 1
    TCP_ESTABLISHED = 2
    TCP_CLOSING = 3
    TCP_FIN_WAIT = 4
    TCP_CLOSED = 5
    UDP_FIRST = 6
    UDP_SINGLE = 7
    UDP_MULTIPLE = 8
    ICMP_FIRST = 9
    ICMP_ERROR = 10
    OTHER_FIRST = 11
    OTHER_SINGLE = 12
    OTHER_MULTIPLE = 13
    SCTP_FIRST = 20
    SCTP_OPENING = 21
    SCTP_ESTABLISHED = 22
    SCTP_CLOSING = 23
    SCTP_CLOSED = 24


def exchanging(one: int, other: int) -> bytes:
    """A table of all byte values in which these two have changed places: to translate numbers there and back.

    An exchange, so that what has no meaning stays without one, and every value comes back.
    """
    table = bytearray(range(256))
    table[one], table[other] = other, one
    return bytes(table)
