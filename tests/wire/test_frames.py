"""Whole frames: what we send, against spec carp §12 and §20; what we receive, against anything."""

from __future__ import annotations

import contextlib
import dataclasses
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.arp import REPLY, ArpPacket, gratuitous_arp
from carpd.wire.carp import GROUP4, GROUP6, YIELDED, Advertisement, checksum_ok, is_vrrp, multicast_mac, virtual_mac
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from carpd.wire.frames import (
    ReceivedPacket,
    advertisement_frame,
    arp_frame,
    decode_ip_frame,
    neighbor_advertisement_frame,
)
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from carpd.wire.ndp import ALL_NODES, NeighborAdvertisement

SOURCE4 = IPv4Address("192.0.2.2").packed
SOURCE6 = IPv6Address("fe80::200:ff:fe00:a").packed
VIRTUAL6 = IPv6Address("2001:db8::aa").packed
COUNTER = 0x0102030405060708

MESSAGE4 = Advertisement(
    vhid=7, advskew=100, counter=COUNTER, digest=bytes.fromhex("061a14665f73e7447fb631b28de059dae09e4f83")
)
FRAME4 = bytes.fromhex(
    "01005e000012 00005e000107 0800 4510003812344000ff70c6fcc0000202e0000012"
    "210764070001405e0102030405060708061a14665f73e7447fb631b28de059dae09e4f83"
)
MESSAGE6 = Advertisement(vhid=200, counter=COUNTER, digest=bytes.fromhex("b88be79de67528cd01cd61391ad49574f43900d6"))
FRAME6 = bytes.fromhex(
    "333300000012 00005e0001c8 86dd 60000000002470fffe80000000000000020000fffe00000a"
    "ff020000000000000000000000000012"
    "21c8000700011650 0102030405060708 b88be79de67528cd01cd61391ad49574f43900d6"
)
UCARP = bytes.fromhex(
    "01005e000012 00005e000007 0800 4510003836134000ff70a31dc0000202e0000012"
    "210764070001368f b918fa86746ce3da 63d727022d5208022608761ee8fda45d571ef7ab"
)


def test_advertisement_over_ipv4() -> None:
    frame = advertisement_frame(
        MESSAGE4, source_mac=virtual_mac(7), source=SOURCE4, destination=GROUP4, identification=0x1234
    )
    assert frame == FRAME4


def test_advertisement_over_ipv6() -> None:
    frame = advertisement_frame(MESSAGE6, source_mac=virtual_mac(200), source=SOURCE6, destination=GROUP6)
    assert frame == FRAME6


@pytest.mark.parametrize("message", [MESSAGE4, MESSAGE6], ids=["IPv4", "IPv6"])
def test_the_word_of_who_has_yielded_differs_in_its_type_alone(message: Advertisement) -> None:
    """And in the checksum."""
    source, group = (SOURCE4, GROUP4) if message is MESSAGE4 else (SOURCE6, GROUP6)
    usual, word = (
        advertisement_frame(each, source_mac=virtual_mac(message.vhid), source=source, destination=group)
        for each in (message, dataclasses.replace(message, type=YIELDED))
    )
    start = len(usual) - 36
    assert [n - start for n in range(len(usual)) if usual[n] != word[n]] == [0, 6]
    packet = decode_ip_frame(word)
    assert packet is not None
    assert checksum_ok(packet.payload)
    assert not is_vrrp(packet.payload)


@pytest.mark.parametrize(("source", "peer"), [("192.0.2.2", "192.0.2.3"), ("2001:db8::2", "2001:db8::3")])
def test_advertisement_to_a_peer(source: str, peer: str) -> None:
    mac, peer_mac = bytes.fromhex("020000000002"), bytes.fromhex("020000000003")
    source_packed, peer_packed = ip_address(source).packed, ip_address(peer).packed
    frame = advertisement_frame(
        MESSAGE4, source_mac=mac, source=source_packed, destination=peer_packed, destination_mac=peer_mac
    )
    version = ip_address(source).version
    assert decode_ip_frame(frame) == ReceivedPacket(
        version, mac, peer_mac, source_packed, peer_packed, 255, 112, MESSAGE4.to_bytes(), False
    )


def test_gratuitous_arp() -> None:
    arp = gratuitous_arp(virtual_mac(7), IPv4Address("192.0.2.10").packed)
    body = "0806 0001 0800 06 04 0001 00005e000107 c000020a 000000000000 c000020a"
    assert arp_frame(arp) == bytes.fromhex("ffffffffffff 00005e000107" + body)
    assert arp_frame(arp, bytes.fromhex("020000000001")) == bytes.fromhex("ffffffffffff 020000000001" + body)


def test_neighbor_advertisement() -> None:
    advertisement = NeighborAdvertisement(VIRTUAL6, virtual_mac(7), router=True)
    frame = neighbor_advertisement_frame(advertisement)
    assert frame[:14] == bytes.fromhex("333300000001 00005e000107 86dd")
    packet = IPv6Packet.from_bytes(frame[14:])
    assert (packet.source, packet.destination, packet.hop_limit, packet.next_header) == (VIRTUAL6, ALL_NODES, 255, 58)
    assert NeighborAdvertisement.from_bytes(packet.payload, packet.source, packet.destination) == advertisement


CLIENT_MAC, CLIENT6 = bytes.fromhex("020000000077"), IPv6Address("2001:db8::77").packed


def test_arp_reply_to_who_asked() -> None:
    """Its Ethernet source need not be what it tells of, its destination is one host."""
    arp = ArpPacket(REPLY, multicast_mac(7), IPv4Address("192.0.2.10").packed, CLIENT_MAC, SOURCE4)
    body = "0806 0001 0800 06 04 0002 01005e000107 c000020a 020000000077 c0000202"
    own = bytes.fromhex("020000000001")
    assert arp_frame(arp, own, CLIENT_MAC) == bytes.fromhex("020000000077 020000000001" + body)
    assert arp_frame(arp, destination=CLIENT_MAC) == bytes.fromhex("020000000077 01005e000107" + body)


ANSWERS = {
    # Ethernet source, IPv6 destination and its MAC as they are given -> the Ethernet header
    "all nodes": ((), "333300000001 01005e000107 86dd"),
    "from the own MAC": ((bytes.fromhex("020000000001"),), "333300000001 020000000001 86dd"),
    "to one": ((None, CLIENT6, CLIENT_MAC), "020000000077 01005e000107 86dd"),
    "to one, from the own MAC": (
        (bytes.fromhex("020000000001"), CLIENT6, CLIENT_MAC),
        "020000000077 020000000001 86dd",
    ),
    "to all, who look for a duplicate": ((None, ALL_NODES, CLIENT_MAC), "020000000077 01005e000107 86dd"),
    "to a group": ((None, GROUP6), "333300000012 01005e000107 86dd"),
}


@pytest.mark.parametrize(("arguments", "header"), ANSWERS.values(), ids=ANSWERS)
def test_neighbor_advertisement_to_who_asked(arguments: tuple[bytes | None, ...], header: str) -> None:
    """The checksum is over the destination that it has."""
    advertisement = NeighborAdvertisement(VIRTUAL6, multicast_mac(7), router=False, solicited=True)
    ethernet_source, destination, mac = (*arguments, None, None, None)[:3]
    frame = neighbor_advertisement_frame(advertisement, ethernet_source, destination or ALL_NODES, mac)
    assert frame[:14] == bytes.fromhex(header)
    packet = IPv6Packet.from_bytes(frame[14:])
    assert (packet.source, packet.destination) == (VIRTUAL6, destination or ALL_NODES)
    assert (packet.hop_limit, packet.next_header) == (255, 58)
    assert NeighborAdvertisement.from_bytes(packet.payload, packet.source, packet.destination) == advertisement


RECEIVED = {
    "1: IPv4": (FRAME4, 4, SOURCE4, GROUP4),
    "1: IPv4 from FreeBSD": (
        FRAME4.replace(
            bytes.fromhex("4510003812344000ff70c6fc"),
            bytes.fromhex("45e0003812344000ff70c62c"),
        ),
        4,
        SOURCE4,
        GROUP4,
    ),
    "4: IPv6": (FRAME6, 6, SOURCE6, GROUP6),
    "4: IPv6 from FreeBSD": (FRAME6.replace(b"\x86\xdd\x60", b"\x86\xdd\x6e"), 6, SOURCE6, GROUP6),
    "9: ucarp": (UCARP, 4, SOURCE4, GROUP4),
}


@pytest.mark.parametrize("padding", [b"", bytes(10)], ids=["exact", "padded"])
@pytest.mark.parametrize(("frame", "family", "source", "destination"), RECEIVED.values(), ids=RECEIVED)
def test_received(frame: bytes, family: int, source: bytes, destination: bytes, padding: bytes) -> None:
    assert decode_ip_frame(frame + padding) == ReceivedPacket(
        family, frame[6:12], frame[:6], source, destination, 255, 112, frame[-36:], False
    )
    assert checksum_ok(frame[-36:])


def test_vrrp_of_freebsd_15() -> None:
    packet = decode_ip_frame(
        bytes.fromhex(
            "01005e000012 00005e000101 0800 45e0002012344000ff70c644c0000202e0000012 31016401006405fd c000020a"
        )
    )
    assert packet is not None
    assert is_vrrp(packet.payload)


def packet4(*, more_fragments: bool = False, fragment_offset: int = 0) -> EthernetFrame:
    packet = IPv4Packet(
        source=SOURCE4,
        destination=GROUP4,
        ttl=255,
        protocol=112,
        payload=bytes(8),
        more_fragments=more_fragments,
        fragment_offset=fragment_offset,
    )
    return EthernetFrame(bytes(6), bytes(6), ETHERTYPE_IPV4, packet.to_bytes())


def packet6(next_header: int) -> EthernetFrame:
    packet = IPv6Packet(source=SOURCE6, destination=GROUP6, hop_limit=255, next_header=next_header, payload=bytes(8))
    return EthernetFrame(bytes(6), bytes(6), ETHERTYPE_IPV6, packet.to_bytes())


FRAGMENTS = {
    "whole": (packet4(), False),
    "first": (packet4(more_fragments=True), True),
    "last": (packet4(fragment_offset=5), True),
    "whole, IPv6": (packet6(next_header=112), False),
    "fragment, IPv6": (packet6(next_header=44), True),
}


@pytest.mark.parametrize(("frame", "expected"), FRAGMENTS.values(), ids=FRAGMENTS)
def test_fragments(frame: EthernetFrame, expected: bool) -> None:
    received = decode_ip_frame(frame.to_bytes())
    assert received is not None
    assert received.fragment is expected


def test_not_ip() -> None:
    assert decode_ip_frame(arp_frame(gratuitous_arp(virtual_mac(7), SOURCE4))) is None


@pytest.mark.parametrize("frame", [FRAME4, FRAME6], ids=["IPv4", "IPv6"])
def test_cut_short(frame: bytes) -> None:
    for size in range(len(frame)):
        with pytest.raises(DecodeError):
            decode_ip_frame(frame[:size])


def test_wrong_ipv4_header_checksum() -> None:
    with pytest.raises(DecodeError, match="ipv4: the header checksum is wrong"):
        decode_ip_frame(FRAME4.replace(b"\xff\x70", b"\xfe\x70"))


@given(st.sampled_from([FRAME4, FRAME6]), st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)), max_size=8))
def test_mutated_frames(frame: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(frame)
    for offset, value in changes:
        data[offset % len(data)] = value
    with contextlib.suppress(DecodeError):
        decode_ip_frame(bytes(data))
