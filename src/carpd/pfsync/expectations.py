"""Connections that helpers expect, as attributes of the state that announced them. Ref: spec pfsync §12.8.

A value is: the four tuples (expected, its mask, master, translated; each with the length of an address, 0 for none, the
addresses, protocol and ports), then timeout, flags, kind and direction of the translation, then the names of helper
and function, each with its length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from carpd.wire.conntrack import Expectation, FlowTuple
from carpd.wire.pfsync.attributes import AttributeType, LinuxAttributes

_PORTS = struct.Struct("!BHH")
_NUMBERS = struct.Struct("!IIII")
_LENGTHS = (4, 16)


def encode(expectation: Expectation) -> tuple[int, bytes]:
    """An attribute of the state of the master."""
    numbers = (expectation.timeout, expectation.flags, expectation.kind, expectation.nat_direction)
    tuples = (expectation.tuple, expectation.mask, expectation.master, expectation.nat)
    value = b"".join(map(_encode_tuple, tuples)) + _NUMBERS.pack(*numbers)
    return AttributeType.EXPECTATION, value + _encode_name(expectation.helper) + _encode_name(expectation.function)


def decode(attributes: LinuxAttributes) -> Iterator[Expectation]:
    """The expectations among the attributes of a state. Those that make no sense are left out."""
    for kind, value in attributes.attributes:
        if kind == AttributeType.EXPECTATION:
            try:
                yield _Reader(value).expectation()
            except (struct.error, IndexError, ValueError):
                continue


class _Reader:
    """Reads a value from its beginning to its end. Raise struct.error, IndexError or ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def expectation(self) -> Expectation:
        expected, mask, master, nat = (self._tuple() for _ in range(4))
        timeout, flags, kind, direction = _NUMBERS.unpack(self._take(_NUMBERS.size))
        helper, function = self._name(), self._name()
        if expected is None or mask is None or master is None:
            raise ValueError("a tuple is missing")
        return Expectation(expected, mask, master, timeout, flags, kind, helper, function, nat, direction)

    def _take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._data):
            raise IndexError(end)
        taken, self._offset = self._data[self._offset : end], end
        return taken

    def _tuple(self) -> FlowTuple | None:
        length = self._take(1)[0]
        if not length:
            return None
        if length not in _LENGTHS:
            raise ValueError(f"an address of {length} bytes")
        source, destination = self._take(length), self._take(length)
        return FlowTuple(source, destination, *_PORTS.unpack(self._take(_PORTS.size)))

    def _name(self) -> str:
        return self._take(self._take(1)[0]).decode()


def _encode_tuple(flow: FlowTuple | None) -> bytes:
    if flow is None:
        return b"\0"
    ports = _PORTS.pack(flow.protocol, flow.source_port, flow.destination_port)
    return bytes([len(flow.source)]) + flow.source + flow.destination + ports


def _encode_name(name: str) -> bytes:
    data = name.encode()[:255]
    return bytes([len(data)]) + data
