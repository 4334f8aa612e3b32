"""Real implementations' packets, with the configurations that tests/captures/README.md tells of."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from carpd.trace.pcap import CapturedFrame, read_capture
from carpd.wire import carp
from carpd.wire.arp import ArpPacket, gratuitous_arp
from carpd.wire.carp import Advertisement, checksum_ok, is_vrrp, virtual_mac
from carpd.wire.carp_auth import Authenticator
from carpd.wire.ethernet import ETHERTYPE_ARP, EthernetFrame
from carpd.wire.frames import ReceivedPacket, advertisement_frame, decode_ip_frame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import NEXT_HEADER_ICMPV6, IPv6Packet
from carpd.wire.ndp import NeighborAdvertisement, NeighborSolicitation

CAPTURES = Path(__file__).parent.parent / "captures"
KEY = b"secret"


class Case(NamedTuple):
    """How many advertisements a capture has, and the virtual addresses of each vhid."""

    advertisements: int
    addresses: dict[int, tuple[str, ...]]
    without_address: range = range(0)  # which advertisements were sent while the vhid had no address
    link_local: bool = False  # the sender hashes link-local addresses


CASES = {
    "contest-freebsd-netbsd": Case(27, {5: ("10.99.0.100",)}),
    "freebsd-demotion": Case(31, {5: ("10.99.0.100",), 6: ("10.99.0.101",)}),
    "freebsd-master-mixed": Case(
        14, {9: ("10.99.0.100", "2001:db8:99::100", "fe80::99:1", "10.99.0.7")}, link_local=True
    ),
    "freebsd-master-v4": Case(11, {5: ("10.99.0.100",)}),
    "netbsd-master-v4": Case(11, {5: ("10.99.0.100",)}),
    "netbsd-multi-v4": Case(4, {200: ("10.99.200.7", "10.99.0.100", "10.99.255.1", "10.99.0.9", "10.99.128.1")}),
    "netbsd-shutdown": Case(12, {7: ("10.99.0.100",)}, without_address=range(7, 9)),
    "pfsync-freebsd-freebsd-defer-out": Case(0, {}),
    "pfsync-freebsd-freebsd-multicast": Case(0, {}),
    "pfsync-freebsd-freebsd-multicast-all": Case(0, {}),
    "ucarp-master": Case(9, {5: ("10.99.0.100",)}),
}


def frames(name: str) -> Iterator[CapturedFrame]:
    with (CAPTURES / f"{name}.pcap").open("rb") as file:
        yield from read_capture(file)


def advertisements(name: str) -> Iterator[tuple[bytes, ReceivedPacket, Advertisement]]:
    for frame in frames(name):
        packet = decode_ip_frame(frame.data)
        if packet is not None and packet.protocol == carp.PROTOCOL:
            yield frame.data, packet, Advertisement.from_bytes(packet.payload)


def authenticator(key: bytes, vhid: int, addresses: tuple[str, ...], *, link_local: bool = False) -> Authenticator:
    packed = [ip_address(address).packed for address in addresses]
    addresses4 = [address for address in packed if len(address) == 4]
    addresses6 = [address for address in packed if len(address) == 16]
    return Authenticator(key, vhid, addresses4, addresses6, send_link_local=link_local)


def test_every_capture_has_its_case() -> None:
    assert {path.stem for path in CAPTURES.glob("*.pcap")} == set(CASES)


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_advertisements(name: str, case: Case) -> None:
    seen = list(advertisements(name))
    assert len(seen) == case.advertisements
    for index, (_, packet, message) in enumerate(seen):
        addresses = () if index in case.without_address else case.addresses[message.vhid]
        right = authenticator(KEY, message.vhid, addresses, link_local=case.link_local)
        wrong = authenticator(b"Secret", message.vhid, addresses)
        assert (packet.ttl, packet.fragment, is_vrrp(packet.payload)) == (carp.TTL, False, False)
        assert message.to_bytes() == packet.payload
        assert checksum_ok(packet.payload)
        assert right.sign(message.counter) == message.digest
        assert right.verify(message.counter, message.digest)
        assert authenticator(KEY, message.vhid, addresses).verify(message.counter, message.digest)
        assert not wrong.verify(message.counter, message.digest)


@pytest.mark.parametrize("name", ["netbsd-master-v4", "netbsd-multi-v4", "ucarp-master"])
def test_our_frames_equal_theirs(name: str) -> None:
    """FreeBSD's differ in the TOS."""
    for data, packet, message in advertisements(name):
        ours = advertisement_frame(
            message,
            source_mac=packet.source_mac,
            source=packet.source,
            destination=packet.destination,
            identification=IPv4Packet.from_bytes(data[14:]).identification,
        )
        assert ours == data


@pytest.mark.parametrize("name", CASES)
def test_ip_packets_encode_to_the_same_bytes(name: str) -> None:
    for frame in frames(name):
        ethernet = EthernetFrame.from_bytes(frame.data)
        assert ethernet.to_bytes() == frame.data
        packet = decode_ip_frame(frame.data)
        if packet is None:
            continue
        if packet.family == 6:
            assert IPv6Packet.from_bytes(ethernet.payload).to_bytes() == ethernet.payload
        elif ethernet.payload[0] == 0x45:  # without options, which IGMP has
            assert IPv4Packet.from_bytes(ethernet.payload).to_bytes() == ethernet.payload


@pytest.mark.parametrize("name", CASES)
def test_arps_encode_to_the_same_bytes(name: str) -> None:
    for frame in frames(name):
        ethernet = EthernetFrame.from_bytes(frame.data)
        if ethernet.ethertype == ETHERTYPE_ARP:
            assert ArpPacket.from_bytes(ethernet.payload).to_bytes() == ethernet.payload[:28]


@pytest.mark.parametrize("name", ["netbsd-master-v4", "netbsd-multi-v4", "netbsd-shutdown"])
def test_our_gratuitous_arp_equals_netbsds(name: str) -> None:
    (vhid,) = CASES[name].addresses
    ours = {gratuitous_arp(virtual_mac(vhid), ip_address(address).packed) for address in CASES[name].addresses[vhid]}
    theirs = set()
    for frame in frames(name):
        ethernet = EthernetFrame.from_bytes(frame.data)
        if ethernet.ethertype == ETHERTYPE_ARP:
            arp = ArpPacket.from_bytes(ethernet.payload)
            if arp.sender_mac == virtual_mac(vhid):
                theirs.add(arp)
    assert theirs == ours


HOST, HOST_MAC = ip_address("2001:db8:99::50").packed, bytes.fromhex("020c00000000")
NODE, NODE_MAC = ip_address("2001:db8:99::2").packed, bytes.fromhex("02fb0000000a")


def test_neighbor_messages() -> None:
    """A Linux host asks for a FreeBSD one, and the other way round."""
    seen: list[NeighborSolicitation | NeighborAdvertisement] = []
    for frame in frames("pfsync-freebsd-freebsd-multicast-all"):
        packet = decode_ip_frame(frame.data)
        if packet is None or packet.protocol != NEXT_HEADER_ICMPV6 or packet.source not in (HOST, NODE):
            continue
        if packet.payload[0] == 135:
            seen.append(NeighborSolicitation.from_bytes(packet.payload, packet.source, packet.destination))
        elif packet.payload[0] == 136:
            seen.append(NeighborAdvertisement.from_bytes(packet.payload, packet.source, packet.destination))
    assert seen == [
        NeighborSolicitation(NODE, HOST_MAC),
        NeighborAdvertisement(NODE, NODE_MAC, router=False, override=True, solicited=True),
        NeighborSolicitation(HOST, NODE_MAC),
        NeighborAdvertisement(HOST, b"", router=False, override=False, solicited=True),
    ]
