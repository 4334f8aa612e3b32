"""Neighbour solicitations and advertisements of IPv6. Ref: RFC 4861 §4.3, §4.4, §4.6.1; RFC 4443 §2.3."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from carpd.errors import DecodeError
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ipv6 import NEXT_HEADER_ICMPV6

ALL_NODES = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0001")
HOP_LIMIT = 255
"""What is sent, and the only one that is accepted."""

_NEIGHBOR_SOLICITATION = 135
_NEIGHBOR_ADVERTISEMENT = 136
_LAYOUT = struct.Struct("!BBHI16s")  # type, code, checksum, flags, target
_ROUTER = 1 << 31
_SOLICITED = 1 << 30
_OVERRIDE = 1 << 29

_SOURCE_LINK_LAYER = 1
_TARGET_LINK_LAYER = 2
_OPTION = struct.Struct("!BB6s")  # type, length in units of 8 bytes, link-layer address


@dataclass(frozen=True, slots=True)
class NeighborAdvertisement:
    """Tells that `target` is at `mac` (b"" if it does not say where).

    Without `solicited` it is news for all, and `override` makes it replace what neighbours know.
    """

    target: bytes
    mac: bytes
    router: bool
    override: bool = True
    solicited: bool = False

    @classmethod
    def from_bytes(cls, data: bytes, source: bytes, destination: bytes) -> NeighborAdvertisement:
        """Raise DecodeError if it is none: type, length, checksum or an option is wrong."""
        flags, target, mac = _decode(_NEIGHBOR_ADVERTISEMENT, _TARGET_LINK_LAYER, data, source, destination)
        return cls(target, mac, bool(flags & _ROUTER), bool(flags & _OVERRIDE), bool(flags & _SOLICITED))

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        """The ICMPv6 message; its checksum is over the IPv6 addresses too."""
        flags = self.router * _ROUTER | self.override * _OVERRIDE | self.solicited * _SOLICITED
        return _encode(_NEIGHBOR_ADVERTISEMENT, flags, self.target, _TARGET_LINK_LAYER, self.mac, source, destination)


@dataclass(frozen=True, slots=True)
class NeighborSolicitation:
    """Asks where `target` is; `mac` is where the asking host is, b"" if it does not say."""

    target: bytes
    mac: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes, source: bytes, destination: bytes) -> NeighborSolicitation:
        """Raise DecodeError if it is none: type, length, checksum or an option is wrong."""
        _, target, mac = _decode(_NEIGHBOR_SOLICITATION, _SOURCE_LINK_LAYER, data, source, destination)
        return cls(target, mac)

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        """The ICMPv6 message; its checksum is over the IPv6 addresses too."""
        return _encode(_NEIGHBOR_SOLICITATION, 0, self.target, _SOURCE_LINK_LAYER, self.mac, source, destination)


def solicited_node(address: bytes) -> bytes:
    """The multicast group in which the owner of an address is asked for. Ref: RFC 4291 §2.7.1."""
    return bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff") + address[13:]


def _encode(kind: int, flags: int, target: bytes, option: int, mac: bytes, source: bytes, destination: bytes) -> bytes:
    tail = _OPTION.pack(option, 1, mac) if mac else b""
    pseudo = pseudo_header(source, destination, _LAYOUT.size + len(tail), NEXT_HEADER_ICMPV6)
    checksum = internet_checksum(pseudo + _LAYOUT.pack(kind, 0, 0, flags, target) + tail)
    return _LAYOUT.pack(kind, 0, checksum, flags, target) + tail


def _decode(kind: int, option: int, data: bytes, source: bytes, destination: bytes) -> tuple[int, bytes, bytes]:
    """The flags, the target, and the link-layer address in that option."""
    if len(data) < _LAYOUT.size:
        raise DecodeError(f"ndp: need {_LAYOUT.size} bytes, got {len(data)}")
    if internet_checksum(pseudo_header(source, destination, len(data), NEXT_HEADER_ICMPV6) + data):
        raise DecodeError("ndp: the checksum is wrong")
    got_kind, code, _, flags, target = _LAYOUT.unpack_from(data)
    if (got_kind, code) != (kind, 0):
        raise DecodeError(f"ndp: need type {kind} code 0, got {got_kind} code {code}")
    return flags, target, _link_layer_option(data, option)


def _link_layer_option(data: bytes, wanted: int) -> bytes:
    """The link-layer address in the first option of the wanted type, b"" if there is none; others are skipped."""
    offset = _LAYOUT.size
    found = b""
    while offset < len(data):
        size = 8 * data[offset + 1] if offset + 1 < len(data) else 0
        if size == 0 or offset + size > len(data):
            raise DecodeError(f"ndp: the option at {offset} says {size} bytes, got {len(data) - offset}")
        if data[offset] == wanted and not found:
            found = data[offset + 2 : offset + 8]
        offset += size
    return found
