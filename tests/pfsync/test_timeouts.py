"""The timeouts that a kernel would give. Ref: Linux Documentation/networking/nf_conntrack-sysctl.rst."""

from __future__ import annotations

from pathlib import Path

import pytest

from carpd.pfsync.timeouts import DEFAULTS, HOLD, HOLD_THRESHOLD, LinuxTimeouts
from carpd.wire.conntrack import (
    ASSURED,
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
    SctpState,
    TcpState,
)

STREAM = SEEN_REPLY | ASSURED

# Protocol, state, status; which sysctl counts.
ROWS = {
    "tcp, its state untold": (TCP, None, 0, "tcp_timeout_syn_sent"),
    "tcp NONE": (TCP, TcpState.NONE, 0, "tcp_timeout_syn_sent"),
    "tcp SYN_SENT": (TCP, TcpState.SYN_SENT, 0, "tcp_timeout_syn_sent"),
    "tcp SYN_RECV": (TCP, TcpState.SYN_RECV, SEEN_REPLY, "tcp_timeout_syn_recv"),
    "tcp ESTABLISHED": (TCP, TcpState.ESTABLISHED, STREAM, "tcp_timeout_established"),
    "tcp ESTABLISHED, picked up": (TCP, TcpState.ESTABLISHED, 0, "tcp_timeout_unacknowledged"),
    "tcp FIN_WAIT": (TCP, TcpState.FIN_WAIT, STREAM, "tcp_timeout_fin_wait"),
    "tcp CLOSE_WAIT": (TCP, TcpState.CLOSE_WAIT, STREAM, "tcp_timeout_close_wait"),
    "tcp LAST_ACK": (TCP, TcpState.LAST_ACK, STREAM, "tcp_timeout_last_ack"),
    "tcp TIME_WAIT": (TCP, TcpState.TIME_WAIT, STREAM, "tcp_timeout_time_wait"),
    "tcp CLOSE": (TCP, TcpState.CLOSE, STREAM, "tcp_timeout_close"),
    "udp": (UDP, None, 0, "udp_timeout"),
    "udp answered": (UDP, None, SEEN_REPLY, "udp_timeout"),
    "udp assured": (UDP, None, STREAM, "udp_timeout_stream"),
    "udplite": (UDPLITE, None, 0, "udp_timeout"),
    "udplite answered": (UDPLITE, None, SEEN_REPLY, "udp_timeout_stream"),
    "gre": (GRE, None, 0, "gre_timeout"),
    "gre answered": (GRE, None, SEEN_REPLY, "gre_timeout_stream"),
    "icmp": (ICMP, None, 0, "icmp_timeout"),
    "icmp answered": (ICMP, None, SEEN_REPLY, "icmp_timeout"),
    "icmpv6": (ICMPV6, None, SEEN_REPLY, "icmpv6_timeout"),
    "sctp, its state untold": (SCTP, None, 0, "sctp_timeout_closed"),
    "sctp NONE": (SCTP, SctpState.NONE, 0, "sctp_timeout_closed"),
    "sctp CLOSED": (SCTP, SctpState.CLOSED, 0, "sctp_timeout_closed"),
    "sctp COOKIE_WAIT": (SCTP, SctpState.COOKIE_WAIT, 0, "sctp_timeout_cookie_wait"),
    "sctp COOKIE_ECHOED": (SCTP, SctpState.COOKIE_ECHOED, SEEN_REPLY, "sctp_timeout_cookie_echoed"),
    "sctp ESTABLISHED": (SCTP, SctpState.ESTABLISHED, STREAM, "sctp_timeout_established"),
    "sctp SHUTDOWN_SENT": (SCTP, SctpState.SHUTDOWN_SENT, STREAM, "sctp_timeout_shutdown_sent"),
    "sctp SHUTDOWN_RECEIVED": (SCTP, SctpState.SHUTDOWN_RECEIVED, STREAM, "sctp_timeout_shutdown_recd"),
    "sctp SHUTDOWN_ACK_SENT": (SCTP, SctpState.SHUTDOWN_ACK_SENT, STREAM, "sctp_timeout_shutdown_ack_sent"),
    "sctp HEARTBEAT_SENT": (SCTP, SctpState.HEARTBEAT_SENT, 0, "sctp_timeout_heartbeat_sent"),
    "esp": (50, None, SEEN_REPLY, "generic_timeout"),
}


def entry(protocol: int, state: int | None, status: int) -> ConntrackEntry:
    client, server = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 1])
    return ConntrackEntry(
        client, server, protocol, 1, 2, server, client, 2, 1, status=status | CONFIRMED, state=state
    )  # fmt: skip


@pytest.mark.parametrize(("protocol", "state", "status", "name"), ROWS.values(), ids=ROWS)
def test_normal(protocol: int, state: int | None, status: int, name: str) -> None:
    """Each has a value of its own here, so that none can be taken for another."""
    own = {name: number for number, name in enumerate(reversed(DEFAULTS), 1000)}
    assert LinuxTimeouts(own).normal(entry(protocol, state, status)) == own[f"nf_conntrack_{name}"]
    name = f"nf_conntrack_{name}"
    assert LinuxTimeouts({}).normal(entry(protocol, state, status)) == DEFAULTS[name]
    assert LinuxTimeouts({name: 7}).normal(entry(protocol, state, status)) == 7


def test_every_timeout_is_used() -> None:
    assert {f"nf_conntrack_{name}" for *_, name in ROWS.values()} == set(DEFAULTS)


def test_both_sent_syn() -> None:
    assert LinuxTimeouts({"nf_conntrack_tcp_timeout_syn_sent": 7}).normal(entry(TCP, TcpState.SYN_SENT2, 0)) == 120


def test_a_short_timeout_of_established_holds_for_picked_up_ones_too() -> None:
    timeouts = LinuxTimeouts({"nf_conntrack_tcp_timeout_established": 200})
    assert timeouts.normal(entry(TCP, TcpState.ESTABLISHED, 0)) == 200


def test_names_are_the_kernel_s() -> None:
    found = {path.name for path in Path("/proc/sys/net/netfilter").glob("nf_conntrack_*timeout*")}
    if not found:
        pytest.skip("connection tracking is not loaded")
    # An older kernel has fewer, or more.
    assert len(found & set(DEFAULTS)) > 20


def test_held_entries_stand_out() -> None:
    assert max(DEFAULTS.values()) < HOLD_THRESHOLD < HOLD < 2**31 // 1000
