"""Counters of IPsec associations, which OpenBSD sends along. Ref: spec pfsync §4.4."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from carpd.wire.pfsync.layout import Layout

_OPENBSD = struct.Struct("!I28sQQBBH")  # the fields of Tdb, in their order
_FREEBSD = struct.Struct("!I28sIQBB2x")  # without the last

_AF_INET, _OPENBSD_INET6, _FREEBSD_INET6 = 2, 24, 28
_SOCKADDR_IN = struct.Struct("!BB2x4s20x")  # length, family, no port, address; padded to the size of the other
_SOCKADDR_IN6 = struct.Struct("!BB6x16s4x")  # length, family, no port and flow, address, no scope
_SOCKADDR_IN_SIZE = 16


class Tdb(NamedTuple):
    """How far an IPsec association has come; the destination is packed, b"" if it is of no known family."""

    spi: int
    destination: bytes
    replay_counter: int
    byte_count: int
    protocol: int
    updates: int
    rdomain: int = 0


def _decode_openbsd(data: bytes) -> list[Tdb]:
    return [
        Tdb(spi, _address(sockaddr, _OPENBSD_INET6), *counters)
        for spi, sockaddr, *counters in _OPENBSD.iter_unpack(data)
    ]


def _encode_openbsd(tdbs: Sequence[Tdb]) -> bytes:
    return b"".join(
        _OPENBSD.pack(spi, _sockaddr(destination, _OPENBSD_INET6), *counters) for spi, destination, *counters in tdbs
    )


def _decode_freebsd(data: bytes) -> list[Tdb]:
    return [
        Tdb(spi, _address(sockaddr, _FREEBSD_INET6), *counters)
        for spi, sockaddr, *counters in _FREEBSD.iter_unpack(data)
    ]


def _encode_freebsd(tdbs: Sequence[Tdb]) -> bytes:
    return b"".join(
        _FREEBSD.pack(spi, _sockaddr(destination, _FREEBSD_INET6), *counters) for spi, destination, *counters, _ in tdbs
    )


def _address(sockaddr: bytes, inet6: int) -> bytes:
    family = sockaddr[1]
    if family == _AF_INET:
        return sockaddr[4:8]
    return sockaddr[8:24] if family == inet6 else b""


def _sockaddr(address: bytes, inet6: int) -> bytes:
    if len(address) == 4:
        return _SOCKADDR_IN.pack(_SOCKADDR_IN_SIZE, _AF_INET, address)
    return _SOCKADDR_IN6.pack(_SOCKADDR_IN6.size, inet6, address)


OPENBSD = Layout(_OPENBSD.size, _decode_openbsd, _encode_openbsd)
FREEBSD = Layout(_FREEBSD.size, _decode_freebsd, _encode_freebsd)
