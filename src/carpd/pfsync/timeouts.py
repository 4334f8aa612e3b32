"""How long an entry lives when nothing more comes of it, and how we keep entries for a peer.

A standby *holds* what peers carry: it gives an entry a timeout that no kernel would. The first packet that its own
kernel sees sets the timeout back to the normal one by itself. So the timeout tells who carries a flow.

Ref: Linux net/netfilter/nf_conntrack_proto_{tcp,udp,sctp,gre}.c for which timeout is whose.
"""

from __future__ import annotations

from collections.abc import Mapping

from carpd.wire.conntrack import (
    ASSURED,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    SEEN_REPLY,
    TCP,
    UDP,
    UDPLITE,
    ConntrackEntry,
    SctpState,
    TcpState,
)

HOLD = 2_000_000
"""Seconds that held entries get, 23 days. The kernel counts ticks in 32 bits with a sign: where a second has 1000 of
them, there is room for 2 147 483 s."""
HOLD_THRESHOLD = 1_000_000
"""An entry that has less left is carried here: the longest normal timeout, TCP's, is 432 000 s."""

DEFAULTS = {
    "nf_conntrack_tcp_timeout_syn_sent": 120,
    "nf_conntrack_tcp_timeout_syn_recv": 60,
    "nf_conntrack_tcp_timeout_established": 432_000,
    "nf_conntrack_tcp_timeout_fin_wait": 120,
    "nf_conntrack_tcp_timeout_close_wait": 60,
    "nf_conntrack_tcp_timeout_last_ack": 30,
    "nf_conntrack_tcp_timeout_time_wait": 120,
    "nf_conntrack_tcp_timeout_close": 10,
    "nf_conntrack_tcp_timeout_unacknowledged": 300,
    "nf_conntrack_udp_timeout": 30,
    "nf_conntrack_udp_timeout_stream": 120,
    "nf_conntrack_icmp_timeout": 30,
    "nf_conntrack_icmpv6_timeout": 30,
    "nf_conntrack_sctp_timeout_closed": 10,
    "nf_conntrack_sctp_timeout_cookie_wait": 3,
    "nf_conntrack_sctp_timeout_cookie_echoed": 3,
    "nf_conntrack_sctp_timeout_established": 210,
    "nf_conntrack_sctp_timeout_shutdown_sent": 3,
    "nf_conntrack_sctp_timeout_shutdown_recd": 3,
    "nf_conntrack_sctp_timeout_shutdown_ack_sent": 3,
    "nf_conntrack_sctp_timeout_heartbeat_sent": 30,
    "nf_conntrack_gre_timeout": 30,
    "nf_conntrack_gre_timeout_stream": 180,
    "nf_conntrack_generic_timeout": 600,
}
"""Seconds, by the sysctl of net.netfilter, as Linux 6.18 has them."""

_SYN_SENT2 = 120
"""Can't be configured."""

_SCTP_NAMES = {
    SctpState.NONE: "closed",
    SctpState.CLOSED: "closed",
    SctpState.COOKIE_WAIT: "cookie_wait",
    SctpState.COOKIE_ECHOED: "cookie_echoed",
    SctpState.ESTABLISHED: "established",
    SctpState.SHUTDOWN_SENT: "shutdown_sent",
    SctpState.SHUTDOWN_RECEIVED: "shutdown_recd",
    SctpState.SHUTDOWN_ACK_SENT: "shutdown_ack_sent",
    SctpState.HEARTBEAT_SENT: "heartbeat_sent",
}
_STATUS = SEEN_REPLY | ASSURED


def is_carried(entry: ConntrackEntry) -> bool:
    """Whether our own kernel has seen packets of a flow, so that its timeout is a normal one."""
    return entry.timeout is None or entry.timeout < HOLD_THRESHOLD


class LinuxTimeouts:
    """The timeouts of this kernel, by the protocol and what decides in it: the state, or how much was seen."""

    def __init__(self, sysctls: Mapping[str, int]) -> None:
        """`sysctls` is seconds by name, as DEFAULTS, which are taken for those that are missing."""
        seconds = {**DEFAULTS, **sysctls}

        def of(name: str) -> int:
            return seconds[f"nf_conntrack_{name}"]

        self._tcp: dict[int | None, int] = {
            state: of(f"tcp_timeout_{state.name.lower()}")
            for state in TcpState
            if state not in (TcpState.NONE, TcpState.SYN_SENT2)
        }
        self._tcp[TcpState.SYN_SENT2] = _SYN_SENT2
        self._tcp[TcpState.NONE] = self._tcp[None] = of("tcp_timeout_syn_sent")
        self._unanswered = min(of("tcp_timeout_established"), of("tcp_timeout_unacknowledged"))
        self._sctp: dict[int | None, int] = {state: of(f"sctp_timeout_{name}") for state, name in _SCTP_NAMES.items()}
        self._sctp[None] = self._sctp[SctpState.NONE]
        self._by_status = {
            UDP: _by_status(of("udp_timeout"), of("udp_timeout"), of("udp_timeout_stream")),
            UDPLITE: _by_status(of("udp_timeout"), of("udp_timeout_stream"), of("udp_timeout_stream")),
            GRE: _by_status(of("gre_timeout"), of("gre_timeout_stream"), of("gre_timeout_stream")),
            ICMP: _by_status(*(of("icmp_timeout"),) * 3),
            ICMPV6: _by_status(*(of("icmpv6_timeout"),) * 3),
        }
        self._generic = of("generic_timeout")

    def normal(self, entry: ConntrackEntry) -> int:
        """Seconds that the kernel gives to an entry like this one when it sees a packet of it."""
        protocol = entry.protocol
        if protocol == TCP:
            if entry.state == TcpState.ESTABLISHED and not entry.status & SEEN_REPLY:
                return self._unanswered
            return self._tcp[entry.state]
        if protocol == SCTP:
            return self._sctp[entry.state]
        if by_status := self._by_status.get(protocol):
            return by_status[entry.status & _STATUS]
        return self._generic


def _by_status(unanswered: int, answered: int, assured: int) -> dict[int, int]:
    return {0: unanswered, SEEN_REPLY: answered, ASSURED: assured, _STATUS: assured}
