"""IPv6 packets, as far as CARP needs them: extension headers are not followed. Ref: RFC 8200 §3."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from carpd.errors import DecodeError

HEADER = struct.Struct("!IHBB16s16s")
"""Version, class and flow label; payload length, next header, hop limit, source, destination."""

NEXT_HEADER_FRAGMENT = 44
NEXT_HEADER_ICMPV6 = 58


@dataclass(frozen=True, slots=True, kw_only=True)
class IPv6Packet:
    """An IPv6 packet; addresses are packed."""

    source: bytes
    destination: bytes
    hop_limit: int
    next_header: int
    payload: bytes
    traffic_class: int = 0
    flow_label: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> IPv6Packet:
        """What follows the payload length is cut off. Raise DecodeError if data is short, or is not version 6."""
        start, end = payload_bounds(data)
        first, _, next_header, hop_limit, source, destination = HEADER.unpack_from(data)
        return cls(
            source=source,
            destination=destination,
            hop_limit=hop_limit,
            next_header=next_header,
            payload=data[start:end],
            traffic_class=first >> 20 & 0xFF,
            flow_label=first & 0xFFFFF,
        )

    def to_bytes(self) -> bytes:
        first = 6 << 28 | self.traffic_class << 20 | self.flow_label
        fields = (first, len(self.payload), self.next_header, self.hop_limit, self.source, self.destination)
        return HEADER.pack(*fields) + self.payload


def payload_bounds(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Where in data the payload of the packet that begins at offset starts and ends, by its header.

    Raise DecodeError if data is shorter than it says, or is not version 6.
    """
    available = len(data) - offset
    if available < HEADER.size:
        raise DecodeError(f"ipv6: need {HEADER.size} bytes, got {available}")
    if data[offset] >> 4 != 6:
        raise DecodeError(f"ipv6: need version 6, got {data[offset] >> 4}")
    start = offset + HEADER.size
    length = data[offset + 4] << 8 | data[offset + 5]
    if start + length > len(data):
        raise DecodeError(f"ipv6: the header says {length} bytes of payload, got {len(data) - start}")
    return start, start + length
