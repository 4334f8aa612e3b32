"""Whole Ethernet frames: what we send, and the way from a received frame to a CARP payload.

Ref: spec carp §1, §12.
"""

from __future__ import annotations

from typing import NamedTuple

from carpd.errors import DecodeError
from carpd.wire import carp, ethernet, ipv4, ipv6, ndp
from carpd.wire.arp import ArpPacket
from carpd.wire.carp import Advertisement
from carpd.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    EthernetFrame,
    multicast_mac4,
    multicast_mac6,
)
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from carpd.wire.ndp import NeighborAdvertisement


class ReceivedPacket(NamedTuple):
    """An IP packet and its link-layer addresses; all addresses are packed, `family` is 4 or 6.

    Of a fragment the payload is only a part.
    """

    family: int
    source_mac: bytes
    destination_mac: bytes
    source: bytes
    destination: bytes
    ttl: int
    protocol: int
    payload: bytes
    fragment: bool


def decode_ip_frame(frame: bytes) -> ReceivedPacket | None:
    """The packet of a received frame, None if it is not IP.

    Raise DecodeError if the IP header is short, lies about a length, or (IPv4) has a wrong checksum: hosts drop it.
    """
    if len(frame) < ethernet.HEADER.size:
        raise DecodeError(f"ethernet: need {ethernet.HEADER.size} bytes, got {len(frame)}")
    destination_mac, source_mac, ethertype = ethernet.HEADER.unpack_from(frame)
    packet = decode_ip(ethertype, frame, ethernet.HEADER.size, source_mac, destination_mac)
    if ethertype == ETHERTYPE_IPV4 and not ipv4.header_checksum_ok(frame, ethernet.HEADER.size):
        raise DecodeError("ipv4: the header checksum is wrong")
    return packet


def decode_ip(
    ethertype: int, data: bytes, offset: int, source_mac: bytes, destination_mac: bytes
) -> ReceivedPacket | None:
    """The packet that begins at offset, None if it is not IP. Raise DecodeError if its header is short or lies.

    The IPv4 header checksum is left to the caller: in a capture made on the sender it may not be filled in yet.
    """
    if ethertype == ETHERTYPE_IPV4:
        start, end = ipv4.payload_bounds(data, offset)
        _, _, _, _, fragment, ttl, protocol, _, source, destination = ipv4.HEADER.unpack_from(data, offset)
        is_fragment = fragment & (ipv4.MORE_FRAGMENTS | ipv4.FRAGMENT_OFFSET) != 0
        family = 4
    elif ethertype == ETHERTYPE_IPV6:
        start, end = ipv6.payload_bounds(data, offset)
        _, _, protocol, ttl, source, destination = ipv6.HEADER.unpack_from(data, offset)
        is_fragment = protocol == ipv6.NEXT_HEADER_FRAGMENT
        family = 6
    else:
        return None
    return ReceivedPacket(
        family, source_mac, destination_mac, source, destination, ttl, protocol, data[start:end], is_fragment
    )


def advertisement_frame(
    message: Advertisement,
    *,
    source_mac: bytes,
    source: bytes,
    destination: bytes,
    destination_mac: bytes | None = None,
    identification: int = 0,
) -> bytes:
    """An advertisement over IPv4 or IPv6, by the length of the source address.

    Without a destination_mac the destination is a multicast group.
    """
    payload = message.to_bytes()
    if len(source) == 4:
        ethertype, multicast_mac = ETHERTYPE_IPV4, multicast_mac4
        packet = IPv4Packet(
            source=source,
            destination=destination,
            ttl=carp.TTL,
            protocol=carp.PROTOCOL,
            payload=payload,
            identification=identification,
        ).to_bytes()
    else:
        ethertype, multicast_mac = ETHERTYPE_IPV6, multicast_mac6
        packet = IPv6Packet(
            source=source,
            destination=destination,
            hop_limit=carp.TTL,
            next_header=carp.PROTOCOL,
            payload=payload,
        ).to_bytes()
    return EthernetFrame(destination_mac or multicast_mac(destination), source_mac, ethertype, packet).to_bytes()


def arp_frame(arp: ArpPacket, ethernet_source: bytes | None = None, destination: bytes = BROADCAST) -> bytes:
    """An ARP packet, to all hosts unless told; it comes from the MAC that it tells of unless another is given."""
    return EthernetFrame(destination, ethernet_source or arp.sender_mac, ETHERTYPE_ARP, arp.to_bytes()).to_bytes()


def neighbor_advertisement_frame(
    advertisement: NeighborAdvertisement,
    ethernet_source: bytes | None = None,
    destination: bytes = ndp.ALL_NODES,
    destination_mac: bytes | None = None,
) -> bytes:
    """A neighbour advertisement, to all nodes unless told, from the address and, likewise, the MAC that it tells of."""
    packet = IPv6Packet(
        source=advertisement.target,
        destination=destination,
        hop_limit=ndp.HOP_LIMIT,
        next_header=ipv6.NEXT_HEADER_ICMPV6,
        payload=advertisement.to_bytes(advertisement.target, destination),
    )
    mac = destination_mac or multicast_mac6(destination)
    return EthernetFrame(mac, ethernet_source or advertisement.mac, ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()
