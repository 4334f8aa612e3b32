"""pfsync packets of FreeBSD 13 kernels. What happens in the captures: tests/captures/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from carpd.trace.pcap import read_capture
from carpd.wire.frames import ReceivedPacket, decode_ip_frame
from carpd.wire.pfsync import header
from carpd.wire.pfsync.batches import AnyBatch, BulkStatuses, Clears, CompressedDeletes, StateBatch, UpdateRequests
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, Clear
from carpd.wire.pfsync.numbers import ACK, INET6, OUT, Dialect, TcpState, Timeout, TrafficState
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import StateRecord

CAPTURES = Path(__file__).parent.parent / "captures"
A, B = bytes([10, 98, 0, 1]), bytes([10, 98, 0, 2])
CREATOR_A, CREATOR_B = b"\x0a" * 4, b"\x0b" * 4
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58

MULTICAST = """
    A INS 2
    A UPD_C 1
    A INS 1 UPD_C 1
    A INS 2
    A INS 5 UPD_REQ 1
    A INS 1
    A INS 1
    B INS 1
    A DEL_C 2
    A DEL_C 1
    A DEL_C 1 UPD_REQ 1 CLR 1
    B UPD_REQ 1 BUS 1
    A BUS 1
    B BUS 1
    A BUS 1
    B DEL_C 1
    A INS 1
    A UPD_C 1
    A DEL_C 1
"""
DEFER_OUT = """
    B INS 1
    A INS 1
    B UPD_REQ 1
    B INS_ACK 1
    A UPD_REQ 1 BUS 1
    B BUS 1
    A BUS 1
    B BUS 1
    B UPD 2
    A UPD 1 UPD_C 1
    A UPD_C 1
    A UPD_C 1
    A UPD_C 1
    A UPD_C 1
"""
ACTIONS = {
    "pfsync-freebsd-freebsd-multicast": MULTICAST,
    "pfsync-freebsd-freebsd-multicast-all": MULTICAST,
    "pfsync-freebsd-freebsd-defer-out": DEFER_OUT,
}


def packets(name: str) -> Iterator[tuple[ReceivedPacket, Packet]]:
    with (CAPTURES / f"{name}.pcap").open("rb") as file:
        for frame in read_capture(file):
            received = decode_ip_frame(frame.data)
            if received is not None and received.protocol == header.PROTOCOL:
                yield received, Packet.from_bytes(received.payload)


def batches(name: str) -> Iterator[AnyBatch]:
    for _, packet in packets(name):
        yield from packet.batches


def states(name: str) -> list[StateRecord]:
    return [state for batch in batches(name) if isinstance(batch, StateBatch) for state in batch.messages]


def test_every_capture_has_its_actions() -> None:
    with_pfsync = {path.stem for path in CAPTURES.glob("*.pcap") if any(packets(path.stem))}
    assert with_pfsync == set(ACTIONS)


@pytest.mark.parametrize("name", ACTIONS)
def test_packets_encode_to_the_same_bytes(name: str) -> None:
    for received, packet in packets(name):
        assert (received.destination, received.ttl) == (header.GROUP4, header.TTL)
        assert packet.version == 5
        assert packet.to_bytes() == received.payload


@pytest.mark.parametrize(("name", "expected"), ACTIONS.items(), ids=ACTIONS)
def test_actions(name: str, expected: str) -> None:
    lines = [
        " ".join(["A" if received.source == A else "B", *(f"{batch.action} {batch.count}" for batch in packet.batches)])
        for received, packet in packets(name)
    ]
    assert lines == [line.strip() for line in expected.strip().splitlines()]


@pytest.mark.parametrize("name", ACTIONS)
def test_states_are_those_of_freebsd_13(name: str) -> None:
    assert {batch.dialect for batch in batches(name) if isinstance(batch, StateBatch)} == {Dialect.FREEBSD_1301}
    for state in states(name):
        assert state.interface == "all"
        assert state.identity[8:] in (CREATOR_A, CREATOR_B)
        assert state.wire == state.stack


@pytest.mark.parametrize("name", ACTIONS)
def test_bulk_updates(name: str) -> None:
    """Each firewall asks for one, and each says where its own begins and ends."""
    requests = [batch.messages for batch in batches(name) if isinstance(batch, UpdateRequests)]
    assert {identity for identities in requests for identity in identities} == {BULK_REQUEST}
    said = [status for batch in batches(name) if isinstance(batch, BulkStatuses) for status in batch.messages]
    for creator in (CREATOR_A, CREATOR_B):
        assert [status for creator_id, _, status in said if creator_id == creator] == [BULK_START, BULK_END]


def test_the_flows_that_the_host_began() -> None:
    """Pings over both families, and UDP to port 9. (Its TCP connection is in none of the packets.)"""
    host, node = ip_address("10.99.0.50").packed, ip_address("10.99.0.2").packed
    host6, node6 = ip_address("2001:db8:99::50").packed, ip_address("2001:db8:99::2").packed
    seen = states("pfsync-freebsd-freebsd-multicast")
    (udp,) = [state for state in seen if state.protocol == UDP]
    assert (udp.wire.address0, udp.wire.address1, udp.wire.port1) == (host, node, 9)
    assert (udp.src.state, udp.dst.state) == (TrafficState.SINGLE, TrafficState.NO_TRAFFIC)
    assert udp.timeout == Timeout.UDP_FIRST
    echoes = [s for s in seen if s.protocol in (ICMP, ICMPV6) and s.wire.port0]
    assert {(s.wire.address0, s.wire.address1) for s in echoes} >= {(host, node), (host6, node6)}
    assert all(s.wire.port0 == s.wire.port1 for s in echoes), "FreeBSD 13 has the id in both slots"
    assert {s.family for s in seen if len(s.wire.address0) == 16} == {INET6}


def test_a_firewall_that_starts_clears_its_states() -> None:
    found = [batch for batch in batches("pfsync-freebsd-freebsd-multicast") if isinstance(batch, Clears)]
    assert found == [Clears([Clear("", CREATOR_A)])]


def test_deletes_name_states_that_were_inserted() -> None:
    name = "pfsync-freebsd-freebsd-multicast"
    deleted = [batch.messages for batch in batches(name) if isinstance(batch, CompressedDeletes)]
    assert {identity for identities in deleted for identity in identities} <= {state.identity for state in states(name)}


def test_a_deferred_insert_asks_for_its_acknowledgement() -> None:
    ours = [state for state in states("pfsync-freebsd-freebsd-defer-out") if state.identity[8:] == CREATOR_A]
    first = ours[0]
    assert (first.protocol, first.direction, first.flags & ACK, first.wire.port0) == (TCP, OUT, ACK, 2222)
    assert (first.src.state, first.dst.state) == (TcpState.SYN_SENT, TcpState.CLOSED)
    (acknowledgement,) = [b for b in batches("pfsync-freebsd-freebsd-defer-out") if b.action == "INS_ACK"]
    assert acknowledgement.count == 1
