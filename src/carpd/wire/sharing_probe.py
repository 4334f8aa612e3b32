"""What hosts that share traffic tell each other of how they do it; no BSD sends or reads it.

    "carpd", version (2)   mode (1)   number of vhids (1)   vhids (1 each)   HMAC-SHA1 over all of it (20)

It goes to CARP's multicast MAC, where everybody hears it, in a frame of its own kind, which no IP stack or firewall
sees. And it goes to the MAC that the nodes share, in a packet of each family like those that clients send: switches
that snoop IGMP or MLD treat IP in multicast frames unlike all else. Who hears the one without the other sits behind a
switch that does not deliver what is to be shared.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from carpd.errors import DecodeError
from carpd.wire import carp
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame, multicast_mac4
from carpd.wire.frames import ReceivedPacket
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet

ETHERTYPE = 0x88B5
"""For local experiments. Ref: IEEE 802 §9.2.4."""
GROUP_MAC = multicast_mac4(carp.GROUP4)

UDP = 17
PORT = 9
"""The port whose datagrams are thrown away. Ref: RFC 863."""
TTL = 255
"""What is sent, and the only one that is accepted: no router has passed it on. Ref: RFC 5082."""

_HEAD = b"carpd\x02"
_DIGEST = 20
_UDP_HEADER = struct.Struct("!HHHH")  # ports, length, checksum


@dataclass(frozen=True, slots=True)
class SharingProbe:
    """The sender's mode, by its number, and the vhids of its nodes, ascending."""

    mode: int
    vhids: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> SharingProbe:
        """Padding is ignored; who sent it is `is_authentic`'s to tell. Raise DecodeError if it is none."""
        start = len(_HEAD) + 2
        if len(data) < start or not data.startswith(_HEAD):
            raise DecodeError("sharing probe: it does not begin like one")
        end = start + data[start - 1]
        if len(data) < end + _DIGEST:
            raise DecodeError(f"sharing probe: need {end + _DIGEST} bytes, got {len(data)}")
        return cls(data[start - 2], data[start:end])

    def to_bytes(self, key: bytes) -> bytes:
        """Signed with the password."""
        body = _HEAD + bytes((self.mode, len(self.vhids))) + self.vhids
        return body + hmac.digest(key, body, "sha1")

    def is_authentic(self, data: bytes, key: bytes) -> bool:
        """Whether the data that this was read from was signed with the password."""
        signed = self.to_bytes(key)
        return hmac.compare_digest(signed, data[: len(signed)])


def group_frame(data: bytes, source_mac: bytes) -> bytes:
    """A probe to all hosts that speak CARP."""
    return EthernetFrame(GROUP_MAC, source_mac, ETHERTYPE, data).to_bytes()


def packet_frame(data: bytes, *, source_mac: bytes, destination_mac: bytes, source: bytes, destination: bytes) -> bytes:
    """A probe as a UDP datagram over IPv4 or IPv6, by the length of the addresses."""
    header = _UDP_HEADER.pack(PORT, PORT, _UDP_HEADER.size + len(data), 0)
    pseudo = pseudo_header(source, destination, len(header) + len(data), UDP)
    checksum = internet_checksum(pseudo + header + data) or 0xFFFF  # 0 would say that there is none
    payload = _UDP_HEADER.pack(PORT, PORT, len(header) + len(data), checksum) + data
    if len(source) == 4:
        ethertype = ETHERTYPE_IPV4
        packet = IPv4Packet(
            source=source, destination=destination, ttl=TTL, protocol=UDP, payload=payload, tos=0
        ).to_bytes()
    else:
        ethertype = ETHERTYPE_IPV6
        packet = IPv6Packet(
            source=source, destination=destination, hop_limit=TTL, next_header=UDP, payload=payload
        ).to_bytes()
    return EthernetFrame(destination_mac, source_mac, ethertype, packet).to_bytes()


def data_of_packet(packet: ReceivedPacket) -> bytes:
    """What a probe's packet brings; its digest says more than UDP's length and checksum, which are not looked at.

    Raise DecodeError if it can't be one.
    """
    if packet.protocol != UDP or packet.ttl != TTL or packet.fragment or len(packet.payload) < _UDP_HEADER.size:
        raise DecodeError("sharing probe: no such packet")
    if _UDP_HEADER.unpack_from(packet.payload)[1] != PORT:
        raise DecodeError("sharing probe: another port")
    return packet.payload[_UDP_HEADER.size :]
