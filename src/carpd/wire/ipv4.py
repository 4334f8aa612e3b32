"""IPv4 packets, as far as CARP needs them: options are skipped, fragments are told apart and never put together.

Ref: RFC 791 §3.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from carpd.errors import DecodeError
from carpd.wire.checksum import internet_checksum

HEADER = struct.Struct("!BBHHHBBH4s4s")
"""Version and header length, TOS, total length, identification, flags and offset, TTL, protocol, sum, addresses.

The length of the header is in 32-bit words, 5 without options.
"""

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
FRAGMENT_OFFSET = 0x1FFF
"""In units of 8 bytes."""

LOW_DELAY = 0x10
"""The TOS of advertisements, but for FreeBSD's. Ref: spec carp §1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IPv4Packet:
    """An IPv4 packet without options; addresses are packed, fragment_offset counts units of 8 bytes."""

    source: bytes
    destination: bytes
    ttl: int
    protocol: int
    payload: bytes
    tos: int = LOW_DELAY
    identification: int = 0
    dont_fragment: bool = True
    fragment_offset: int = 0
    more_fragments: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> IPv4Packet:
        """Options and what follows the total length are cut off.

        Raise DecodeError if data is short, a length lies, it is not version 4 or the header checksum is wrong.
        """
        start, end = payload_bounds(data)
        if not header_checksum_ok(data):
            raise DecodeError("ipv4: the header checksum is wrong")
        _, tos, _, identification, fragment, ttl, protocol, _, source, destination = HEADER.unpack_from(data)
        return cls(
            source=source,
            destination=destination,
            ttl=ttl,
            protocol=protocol,
            payload=data[start:end],
            tos=tos,
            identification=identification,
            dont_fragment=bool(fragment & DONT_FRAGMENT),
            fragment_offset=fragment & FRAGMENT_OFFSET,
            more_fragments=bool(fragment & MORE_FRAGMENTS),
        )

    def to_bytes(self) -> bytes:
        fields = (
            0x45,
            self.tos,
            HEADER.size + len(self.payload),
            self.identification,
            self.dont_fragment * DONT_FRAGMENT | self.more_fragments * MORE_FRAGMENTS | self.fragment_offset,
            self.ttl,
            self.protocol,
        )
        checksum = internet_checksum(HEADER.pack(*fields, 0, self.source, self.destination))
        return HEADER.pack(*fields, checksum, self.source, self.destination) + self.payload


def payload_bounds(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Where in data the payload of the packet that begins at offset starts and ends, by its header.

    Raise DecodeError if data is short, a length lies, or it is not version 4.
    """
    available = len(data) - offset
    if available < HEADER.size:
        raise DecodeError(f"ipv4: need {HEADER.size} bytes, got {available}")
    version_length = data[offset]
    if version_length >> 4 != 4:
        raise DecodeError(f"ipv4: need version 4, got {version_length >> 4}")
    header = (version_length & 0x0F) * 4
    total = data[offset + 2] << 8 | data[offset + 3]
    if not HEADER.size <= header <= total <= available:
        raise DecodeError(f"ipv4: the header says {header} of {total} bytes, got {available}")
    return offset + header, offset + total


def header_checksum_ok(data: bytes, offset: int = 0) -> bool:
    """Whether the header at offset, options included, has its right checksum; payload_bounds must accept it."""
    return internet_checksum(data[offset : offset + (data[offset] & 0x0F) * 4]) == 0
