"""IPv4 and IPv6 packets: both directions, lengths that lie, and bytes from anywhere."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.checksum import internet_checksum
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet

ipv4_packets = st.builds(
    IPv4Packet,
    source=st.binary(min_size=4, max_size=4),
    destination=st.binary(min_size=4, max_size=4),
    ttl=st.integers(0, 255),
    protocol=st.integers(0, 255),
    payload=st.binary(max_size=60),
    tos=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
    dont_fragment=st.booleans(),
    fragment_offset=st.integers(0, 0x1FFF),
    more_fragments=st.booleans(),
)
ipv6_packets = st.builds(
    IPv6Packet,
    source=st.binary(min_size=16, max_size=16),
    destination=st.binary(min_size=16, max_size=16),
    hop_limit=st.integers(0, 255),
    next_header=st.integers(0, 255),
    payload=st.binary(max_size=60),
    traffic_class=st.integers(0, 255),
    flow_label=st.integers(0, 0xFFFFF),
)
padding = st.binary(max_size=20)


@given(ipv4_packets, padding)
def test_ipv4_round_trip(packet: IPv4Packet, padding: bytes) -> None:
    assert IPv4Packet.from_bytes(packet.to_bytes() + padding) == packet


@given(ipv6_packets, padding)
def test_ipv6_round_trip(packet: IPv6Packet, padding: bytes) -> None:
    assert IPv6Packet.from_bytes(packet.to_bytes() + padding) == packet


@given(ipv4_packets | ipv6_packets, st.data())
def test_cut_short(packet: IPv4Packet | IPv6Packet, data: st.DataObject) -> None:
    encoded = packet.to_bytes()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        type(packet).from_bytes(encoded[:cut])


@given(ipv4_packets, st.integers(1, 10))
def test_ipv4_options_are_skipped(packet: IPv4Packet, words: int) -> None:
    encoded = bytearray(packet.to_bytes())
    header, payload = encoded[:20], encoded[20:]
    header[0] += words
    header[2:4] = (len(encoded) + 4 * words).to_bytes(2, "big")
    header[10:12] = bytes(2)
    header += b"\x01" * 4 * words
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    assert IPv4Packet.from_bytes(bytes(header + payload)) == packet


SIMPLE4 = IPv4Packet(source=bytes(4), destination=bytes(4), ttl=255, protocol=112, payload=bytes(36)).to_bytes()
SIMPLE6 = IPv6Packet(
    source=bytes(16), destination=bytes(16), hop_limit=255, next_header=112, payload=bytes(36)
).to_bytes()


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        pytest.param(0, 0x65, "need version 4, got 6", id="version"),
        pytest.param(0, 0x44, "16 of 56 bytes", id="header shorter than possible"),
        pytest.param(0, 0x4F, "60 of 56 bytes", id="header longer than total"),
        pytest.param(3, 19, "20 of 19 bytes", id="total shorter than header"),
        pytest.param(3, 57, "20 of 57 bytes, got 56", id="total longer than data"),
        pytest.param(8, 254, "header checksum", id="TTL without its checksum"),
    ],
)
def test_ipv4_lies(offset: int, value: int, message: str) -> None:
    data = bytearray(SIMPLE4)
    data[offset] = value
    with pytest.raises(DecodeError, match=message):
        IPv4Packet.from_bytes(bytes(data))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        pytest.param(0, 0x45, "need version 6, got 4", id="version"),
        pytest.param(5, 37, "37 bytes of payload, got 36", id="payload longer than data"),
    ],
)
def test_ipv6_lies(offset: int, value: int, message: str) -> None:
    data = bytearray(SIMPLE6)
    data[offset] = value
    with pytest.raises(DecodeError, match=message):
        IPv6Packet.from_bytes(bytes(data))


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\x45" + tail))
def test_any_bytes(data: bytes) -> None:
    for kind in (IPv4Packet, IPv6Packet):
        with contextlib.suppress(DecodeError):
            kind.from_bytes(data)
