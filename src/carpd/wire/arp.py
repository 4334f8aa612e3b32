"""ARP for IPv4 over Ethernet. Ref: RFC 826."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from carpd.errors import DecodeError

REQUEST = 1
REPLY = 2

_ETHERNET_IPV4 = bytes.fromhex("0001 0800 06 04")  # hardware and protocol type, and the lengths of their addresses
_LAYOUT = struct.Struct("!6sH6s4s6s4s")


@dataclass(frozen=True, slots=True)
class ArpPacket:
    """An ARP request or reply; addresses are packed."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> ArpPacket:
        """Padding is ignored. Raise DecodeError if data is too short or is about other kinds of addresses."""
        if len(data) < _LAYOUT.size:
            raise DecodeError(f"arp: need {_LAYOUT.size} bytes, got {len(data)}")
        kinds, *fields = _LAYOUT.unpack_from(data)
        if kinds != _ETHERNET_IPV4:
            raise DecodeError(f"arp: need {_ETHERNET_IPV4.hex()} (IPv4 over Ethernet), got {kinds.hex()}")
        return cls(*fields)

    def to_bytes(self) -> bytes:
        fields = (self.operation, self.sender_mac, self.sender_ip, self.target_mac, self.target_ip)
        return _LAYOUT.pack(_ETHERNET_IPV4, *fields)


def gratuitous_arp(mac: bytes, address: bytes) -> ArpPacket:
    """Tells the link that an address is at mac now.

    It has the form of a request, with a target hardware address of zero, as the BSDs send it: Linux ignores the
    reply form within its lock time. Ref: spec carp §12; RFC 5227 §3.
    """
    return ArpPacket(REQUEST, mac, address, bytes(6), address)
