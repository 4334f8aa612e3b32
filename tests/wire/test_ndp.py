from __future__ import annotations

import contextlib
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.carp import virtual_mac
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ndp import ALL_NODES, NeighborAdvertisement, NeighborSolicitation, solicited_node

TARGET = IPv6Address("2001:db8::aa").packed
HOST = IPv6Address("2001:db8::1").packed

macs = st.binary(min_size=6, max_size=6) | st.just(b"")
addresses = st.binary(min_size=16, max_size=16)
messages = st.builds(NeighborAdvertisement, addresses, macs, st.booleans(), st.booleans(), st.booleans()) | st.builds(
    NeighborSolicitation, addresses, macs
)

# The messages are written out by hand, their checksums summed with the pseudo header.
WIRE = {
    "unsolicited, a router": (
        NeighborAdvertisement(TARGET, virtual_mac(7), router=True),
        "8800 {sum:04x} a0000000 20010db80000000000000000000000aa 0201 00005e000107",
    ),
    "unsolicited, a host": (
        NeighborAdvertisement(TARGET, virtual_mac(7), router=False),
        "8800 {sum:04x} 20000000 20010db80000000000000000000000aa 0201 00005e000107",
    ),
    "solicited, without a link-layer address": (
        NeighborAdvertisement(TARGET, b"", router=False, override=False, solicited=True),
        "8800 {sum:04x} 40000000 20010db80000000000000000000000aa",
    ),
    "solicitation": (
        NeighborSolicitation(TARGET, virtual_mac(7)),
        "8700 {sum:04x} 00000000 20010db80000000000000000000000aa 0101 00005e000107",
    ),
    "solicitation to find duplicates": (
        NeighborSolicitation(TARGET),
        "8700 {sum:04x} 00000000 20010db80000000000000000000000aa",
    ),
}


@pytest.mark.parametrize(("message", "text"), WIRE.values(), ids=WIRE)
def test_wire(message: NeighborAdvertisement | NeighborSolicitation, text: str) -> None:
    without = bytes.fromhex(text.format(sum=0))
    checksum = internet_checksum(pseudo_header(TARGET, ALL_NODES, len(without), 58) + without)
    data = bytes.fromhex(text.format(sum=checksum))
    assert message.to_bytes(TARGET, ALL_NODES) == data
    assert type(message).from_bytes(data, TARGET, ALL_NODES) == message


@given(messages, addresses, addresses)
def test_round_trip(message: NeighborAdvertisement | NeighborSolicitation, source: bytes, destination: bytes) -> None:
    assert type(message).from_bytes(message.to_bytes(source, destination), source, destination) == message


def with_options(*options: str) -> bytes:
    """An advertisement with these options and a right checksum."""
    data = bytes.fromhex("8800 0000 20000000 20010db80000000000000000000000aa" + "".join(options))
    checksum = internet_checksum(pseudo_header(HOST, ALL_NODES, len(data), 58) + data)
    return data[:2] + checksum.to_bytes(2, "big") + data[4:]


def test_other_options_are_skipped() -> None:
    data = with_options("0101 020000000001", "0e02" + "00" * 14, "0201 00005e000107")
    assert NeighborAdvertisement.from_bytes(data, HOST, ALL_NODES).mac == virtual_mac(7)


BAD = {
    "short": (bytes(23), "need 24 bytes, got 23"),
    "checksum": (NeighborAdvertisement(TARGET, b"", router=True).to_bytes(HOST, HOST), "checksum"),
    "a solicitation": (NeighborSolicitation(TARGET).to_bytes(HOST, ALL_NODES), "need type 136 code 0, got 135 code 0"),
    "option of no length": (with_options("0200 00005e000107"), "option at 24 says 0 bytes"),
    "option longer than the rest": (with_options("0202 00005e000107"), "option at 24 says 16 bytes, got 8"),
    "option without a length": (with_options("02"), "option at 24 says 0 bytes, got 1"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        NeighborAdvertisement.from_bytes(data, HOST, ALL_NODES)


@given(st.binary(max_size=24))
def test_any_options(options: bytes) -> None:
    with contextlib.suppress(DecodeError):
        NeighborAdvertisement.from_bytes(with_options(options.hex()), HOST, ALL_NODES)


def test_solicited_node() -> None:
    assert IPv6Address(solicited_node(TARGET)) == IPv6Address("ff02::1:ff00:aa")
