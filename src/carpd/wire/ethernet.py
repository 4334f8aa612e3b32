"""Ethernet II frames without a VLAN tag, and link-layer addresses. Ref: RFC 894, RFC 1112 §6.4, RFC 2464 §7."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from carpd.errors import DecodeError

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

BROADCAST = b"\xff" * 6

HEADER = struct.Struct("!6s6sH")
"""Destination, source, ethertype."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class EthernetFrame:
    """A frame without its check sequence; the payload of a short one ends with padding."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> EthernetFrame:
        """Raise DecodeError if data is shorter than the header."""
        if len(data) < HEADER.size:
            raise DecodeError(f"ethernet: need {HEADER.size} bytes, got {len(data)}")
        destination, source, ethertype = HEADER.unpack_from(data)
        return cls(destination, source, ethertype, data[HEADER.size :])

    def to_bytes(self) -> bytes:
        return HEADER.pack(self.destination, self.source, self.ethertype) + self.payload


def format_mac(mac: bytes) -> str:
    """Six bytes as 00:00:5e:00:01:07."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """The reverse of format_mac. Raise ValueError for any other form."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"need a link-layer address like 00:00:5e:00:01:07, got {text!r}")
    return bytes.fromhex(text.replace(":", ""))


def multicast_mac4(group: bytes) -> bytes:
    """The link-layer address of an IPv4 multicast group: its low 23 bits."""
    return b"\x01\x00\x5e" + bytes((group[1] & 0x7F,)) + group[2:]


def multicast_mac6(group: bytes) -> bytes:
    """The link-layer address of an IPv6 multicast group: its low 32 bits."""
    return b"\x33\x33" + group[12:]
