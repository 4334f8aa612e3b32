from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carpd.wire.checksum import internet_checksum, pseudo_header


def reference(data: bytes) -> int:
    """RFC 1071 word by word, with end-around carry."""
    total = 0
    for index in range(0, len(data), 2):
        total += int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=100) | st.integers(0, 40).map(bytes) | st.integers(0, 40).map(lambda size: b"\xff" * size))
def test_is_the_sum_of_the_words(data: bytes) -> None:
    assert internet_checksum(data) == reference(data)


@given(st.binary(max_size=60))
def test_is_zero_over_data_with_its_checksum(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    assert internet_checksum(even + internet_checksum(data).to_bytes(2, "big")) == 0


@given(st.binary(min_size=2, max_size=60), st.data())
def test_sees_every_changed_bit(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    assert internet_checksum(bytes(changed)) != internet_checksum(data)


def test_rfc_1071_example() -> None:
    assert internet_checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == ~0xDDF2 & 0xFFFF


def test_pseudo_header() -> None:
    source, destination = bytes(range(16)), bytes(range(16, 32))
    assert pseudo_header(source, destination, 0x10203, 58) == source + destination + bytes.fromhex("00010203 0000003a")
