from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.arp import REPLY, REQUEST, ArpPacket, gratuitous_arp
from carpd.wire.carp import virtual_mac

MAC, ADDRESS = virtual_mac(7), bytes((192, 0, 2, 10))
HOST_MAC, HOST = bytes.fromhex("020000000001"), bytes((192, 0, 2, 1))

WIRE = {
    "gratuitous, as the BSDs send it": (
        gratuitous_arp(MAC, ADDRESS),
        "0001 0800 06 04 0001 00005e000107 c000020a 000000000000 c000020a",
    ),
    "request": (
        ArpPacket(REQUEST, HOST_MAC, HOST, bytes(6), ADDRESS),
        "0001 0800 06 04 0001 020000000001 c0000201 000000000000 c000020a",
    ),
    "reply": (
        ArpPacket(REPLY, MAC, ADDRESS, HOST_MAC, HOST),
        "0001 0800 06 04 0002 00005e000107 c000020a 020000000001 c0000201",
    ),
}

macs = st.binary(min_size=6, max_size=6)
addresses = st.binary(min_size=4, max_size=4)


@pytest.mark.parametrize(("packet", "text"), WIRE.values(), ids=WIRE)
def test_wire(packet: ArpPacket, text: str) -> None:
    assert packet.to_bytes() == bytes.fromhex(text)
    assert ArpPacket.from_bytes(bytes.fromhex(text)) == packet


@given(st.builds(ArpPacket, st.integers(0, 0xFFFF), macs, addresses, macs, addresses), st.binary(max_size=18))
def test_round_trip_ignores_padding(packet: ArpPacket, padding: bytes) -> None:
    assert ArpPacket.from_bytes(packet.to_bytes() + padding) == packet


@pytest.mark.parametrize("size", range(28))
def test_short(size: int) -> None:
    with pytest.raises(DecodeError, match=f"need 28 bytes, got {size}"):
        ArpPacket.from_bytes(gratuitous_arp(MAC, ADDRESS).to_bytes()[:size])


@pytest.mark.parametrize("offset", range(6))
def test_other_kinds_of_addresses(offset: int) -> None:
    data = bytearray(gratuitous_arp(MAC, ADDRESS).to_bytes())
    data[offset] ^= 0x20
    with pytest.raises(DecodeError, match="IPv4 over Ethernet"):
        ArpPacket.from_bytes(bytes(data))
