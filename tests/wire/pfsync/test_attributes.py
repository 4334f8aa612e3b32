"""Our extension of spec pfsync §12.8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.pfsync import attributes
from carpd.wire.pfsync.attributes import AttributeType, LinuxAttributes
from tests.wire.pfsync.examples import FIRST, identities

WIRE = {
    "nothing": (LinuxAttributes(FIRST, ()), ""),
    "a mark": (LinuxAttributes(FIRST, ((AttributeType.MARK, bytes(4)),)), "0002 0004 00000000"),
    "padding is not the value's": (LinuxAttributes(FIRST, ((AttributeType.HELPER, b"ftp"),)), "0004 0003 66747000"),
    "one without a value": (LinuxAttributes(FIRST, ((4660, b""),)), "1234 0000"),
    "two of a type": (LinuxAttributes(FIRST, ((5, b"a"), (5, b"b"))), "0005 0001 61000000 0005 0001 62000000"),
}


@pytest.mark.parametrize(("message", "text"), WIRE.values(), ids=WIRE)
@pytest.mark.parametrize("padding", ["", "00000000", "0000 0004 ffffffff 0000 0001 ff000000"])
def test_wire(message: LinuxAttributes, text: str, padding: str) -> None:
    data = FIRST + bytes.fromhex(text)
    assert attributes.encode([message]) == data
    assert attributes.encoded_size(message) == len(data)
    assert attributes.decode(data + bytes.fromhex(padding)) == message


@pytest.mark.parametrize("text", ["0002 0001", "0002 0005 00000000", "0000 0001", "0002 0000 0002 ffff 00000000"])
def test_lengths_that_lie(text: str) -> None:
    with pytest.raises(DecodeError):
        attributes.decode(FIRST + bytes.fromhex(text))


@given(identities, st.lists(st.tuples(st.integers(1, 0xFFFF), st.binary(max_size=30)), max_size=5).map(tuple))
def test_both_ways(identity: bytes, pairs: tuple[tuple[int, bytes], ...]) -> None:
    message = LinuxAttributes(identity, pairs)
    assert attributes.decode(attributes.encode([message])) == message
