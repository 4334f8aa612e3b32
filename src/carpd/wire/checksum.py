"""The Internet checksum. Ref: RFC 1071; RFC 8200 §8.1 for the pseudo header."""

from __future__ import annotations

import struct

_PSEUDO_TAIL = struct.Struct("!I3xB")  # length, zero, protocol


def internet_checksum(data: bytes) -> int:
    """The complement of the one's complement sum of the 16-bit words; 0 over data that contains its right checksum.

    The data read as one large number has the same remainder by 0xffff as the sum of its words, because 0x10000
    leaves 1: one division in C instead of a loop. A remainder of 0 stands for a sum of 0xffff, unless all is zero.
    """
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data, "big")
    remainder = number % 0xFFFF
    if remainder == 0 and number:
        return 0
    return 0xFFFF - remainder


def pseudo_header(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    """What IPv6 upper layers sum before their message. CARP version 2 does not (spec carp §4), ICMPv6 does."""
    return source + destination + _PSEUDO_TAIL.pack(length, protocol)
