"""The probes by which hosts tell each other how they share traffic. The digests were made by openssl."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import sharing_probe
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.frames import ReceivedPacket, decode_ip_frame
from carpd.wire.sharing_probe import ETHERTYPE, SharingProbe

HEAD = "636172706402"  # "carpd", version 2

# printf 'carpd\2\2\2\1\2' | openssl dgst -sha1 -hmac secret
WIRE = {
    "two nodes, ip": (
        SharingProbe(2, b"\x01\x02"),
        b"secret",
        "02 02 0102",
        "4e88f7742636060882989ce885544cb154a401d1",
    ),
    "32 nodes, arp": (
        SharingProbe(1, bytes(range(224, 256))),
        b"nineteen characters",
        "01 20 e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "a71c25866d3b0c2e1c93c933327065eae8c2782f",
    ),
    "without a password": (SharingProbe(4, b"\x05\x09"), b"", "04 02 0509", "00f3e8b3f4f5d1e42df32c663d3c89f57fd1cf9a"),
    "an unknown mode and no nodes": (
        SharingProbe(255, b""),
        b"secret",
        "ff 00",
        "77b501ca4fea30e6cb6175d7536c0ebfabe131bc",
    ),
}


@pytest.mark.parametrize(("probe", "key", "body", "digest"), WIRE.values(), ids=WIRE)
def test_wire(probe: SharingProbe, key: bytes, body: str, digest: str) -> None:
    data = bytes.fromhex(HEAD + body + digest)
    assert probe.to_bytes(key) == data
    assert SharingProbe.from_bytes(data) == probe
    assert probe.is_authentic(data, key)


def test_an_ethertype_for_experiments() -> None:
    assert ETHERTYPE == 0x88B5


probes = st.builds(SharingProbe, st.integers(0, 255), st.binary(max_size=255))
keys = st.binary(max_size=19)


@given(probes, keys, st.binary(max_size=40))
def test_round_trip_ignores_padding(probe: SharingProbe, key: bytes, padding: bytes) -> None:
    data = probe.to_bytes(key) + padding
    assert SharingProbe.from_bytes(data) == probe
    assert probe.is_authentic(data, key)


@given(probes, keys, keys)
def test_only_with_the_password(probe: SharingProbe, key: bytes, other: bytes) -> None:
    """Zeros at its end are no other password: HMAC fills it up with them."""
    same = key.ljust(20, b"\0") == other.ljust(20, b"\0")
    assert probe.is_authentic(probe.to_bytes(key), other) is same


@given(probes, keys, st.data())
def test_every_bit_is_signed(probe: SharingProbe, key: bytes, data: st.DataObject) -> None:
    changed = bytearray(probe.to_bytes(key))
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(DecodeError):
        assert not SharingProbe.from_bytes(bytes(changed)).is_authentic(bytes(changed), key)


GOOD = SharingProbe(2, b"\x01\x02").to_bytes(b"secret")
REFUSED = {
    "empty": (b"", "does not begin like one"),
    "another beginning": (b"x" + GOOD[1:], "does not begin like one"),
    "another version": (GOOD[:5] + b"\x01" + GOOD[6:], "does not begin like one"),
    "the head alone": (GOOD[:6], "does not begin like one"),
    "without a number of nodes": (GOOD[:7], "does not begin like one"),
    "without nodes": (GOOD[:8], "need 30 bytes, got 8"),
    "cut": (GOOD[:-1], "need 30 bytes, got 29"),
    "more nodes than there are": (GOOD[:7] + b"\x03" + GOOD[8:], "need 31 bytes, got 30"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=f"sharing probe: .*{why}"):
        SharingProbe.from_bytes(data)


def test_cut_short_anywhere() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(DecodeError):
            SharingProbe.from_bytes(GOOD[:size])
        assert not SharingProbe(2, b"\x01\x02").is_authentic(GOOD[:size], b"secret")


@given(st.binary(max_size=300))
def test_anything(data: bytes) -> None:
    for begin in (b"", GOOD[:6]):
        with contextlib.suppress(DecodeError):
            SharingProbe.from_bytes(begin + data).is_authentic(begin + data, b"secret")


# On its way

OUR_MAC, SHARED_MAC = bytes.fromhex("020000000002"), bytes.fromhex("01005e000101")
ADDRESSES = {
    4: (bytes((192, 0, 2, 2)), bytes((192, 0, 2, 1))),
    6: (bytes.fromhex("20010db8 00000000 00000000 00000002"), bytes.fromhex("20010db8 00000000 00000000 00000001")),
}
families = pytest.mark.parametrize("family", ADDRESSES, ids="IPv{}".format)


def in_packet(family: int, data: bytes = GOOD) -> bytes:
    source, destination = ADDRESSES[family]
    return sharing_probe.packet_frame(
        data, source_mac=OUR_MAC, destination_mac=SHARED_MAC, source=source, destination=destination
    )


def received(family: int, data: bytes = GOOD) -> ReceivedPacket:
    packet = decode_ip_frame(in_packet(family, data))
    assert packet is not None
    return packet


def test_to_carp_s_group() -> None:
    assert sharing_probe.group_frame(GOOD, OUR_MAC) == bytes.fromhex("01005e000012 020000000002 88b5") + GOOD


@families
def test_in_a_packet_like_a_client_s(family: int) -> None:
    """Who reads it as UDP finds nothing wrong with it."""
    packet = received(family)
    assert (packet.family, packet.source_mac, packet.destination_mac) == (family, OUR_MAC, SHARED_MAC)
    assert (packet.source, packet.destination, packet.ttl) == (*ADDRESSES[family], 255)
    assert packet.protocol == socket.IPPROTO_UDP
    assert struct.unpack_from("!3H", packet.payload) == (9, 9, len(packet.payload))
    pseudo = pseudo_header(packet.source, packet.destination, len(packet.payload), packet.protocol)
    assert internet_checksum(pseudo + packet.payload) == 0
    assert sharing_probe.data_of_packet(packet) == GOOD


@given(st.sampled_from(sorted(ADDRESSES)), st.binary(max_size=300))
def test_a_packet_brings_what_was_put_into_it(family: int, data: bytes) -> None:
    packet = received(family, data)
    assert packet.payload[6:8] != b"\0\0", "that would say that there is no checksum"
    assert sharing_probe.data_of_packet(packet) == data


@families
@pytest.mark.parametrize(
    "change",
    [
        {"ttl": 254},  # it may come from anywhere
        {"protocol": 6},
        {"fragment": True},
        {"payload": bytes.fromhex("0009 0009 0008 00")},
        {"payload": bytes.fromhex("0009 0035 0008 0000")},
        {"payload": b""},
    ],
    ids=str,
)
def test_no_such_packet(family: int, change: dict[str, int | bytes | bool]) -> None:
    changed = ReceivedPacket(**{**received(family)._asdict(), **change})
    with pytest.raises(DecodeError, match="sharing probe: "):
        sharing_probe.data_of_packet(changed)
