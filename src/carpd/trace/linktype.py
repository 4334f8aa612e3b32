"""Where the IP packet is in a captured frame. Ref: https://www.tcpdump.org/linktypes.html."""

from __future__ import annotations

import struct
from typing import NamedTuple

from carpd.errors import DecodeError
from carpd.trace.pcap import ETHERNET, LINUX_COOKED, LINUX_COOKED2, RAW_IP, CapturedFrame
from carpd.wire import ethernet
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6

_VLAN_TAGS = (0x8100, 0x88A8)  # IEEE 802.1Q and 802.1ad
_VLAN_TAG = struct.Struct("!2xH")  # priority and VLAN, the next ethertype
_COOKED = struct.Struct("!2x2xH8sH")  # length of the sender's address, the address, ethertype
_COOKED2 = struct.Struct("!H2x4x2xxB8s")  # ethertype, length of the sender's address, the address
_ETHERTYPE_OF_VERSION = {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}


class UnsupportedLinkTypeError(DecodeError):
    """A capture of some other kind of network."""


class NetworkPacket(NamedTuple):
    """A network-layer packet at an offset of a frame; the MACs are b"" where the capture has none."""

    ethertype: int
    offset: int
    source_mac: bytes = b""
    destination_mac: bytes = b""


def find_packet(frame: CapturedFrame) -> NetworkPacket | None:
    """Look through the link layer and VLAN tags; None if the frame is too short to have a packet.

    Raise UnsupportedLinkTypeError for another link type.
    """
    data = frame.data
    try:
        packet = _link_layer(frame.linktype, data)
        while packet.ethertype in _VLAN_TAGS:
            (ethertype,) = _VLAN_TAG.unpack_from(data, packet.offset)
            packet = packet._replace(ethertype=ethertype, offset=packet.offset + _VLAN_TAG.size)
    except struct.error:
        return None
    return packet


def _link_layer(linktype: int, data: bytes) -> NetworkPacket:
    """Raise struct.error if data is too short."""
    if linktype == ETHERNET:
        destination_mac, source_mac, ethertype = ethernet.HEADER.unpack_from(data)
        return NetworkPacket(ethertype, ethernet.HEADER.size, source_mac, destination_mac)
    if linktype == LINUX_COOKED:
        length, address, ethertype = _COOKED.unpack_from(data)
        return NetworkPacket(ethertype, _COOKED.size, address[:length])
    if linktype == LINUX_COOKED2:
        ethertype, length, address = _COOKED2.unpack_from(data)
        return NetworkPacket(ethertype, _COOKED2.size, address[:length])
    if linktype == RAW_IP:
        (first,) = struct.unpack_from("B", data)
        return NetworkPacket(_ETHERTYPE_OF_VERSION.get(first >> 4, 0), 0)
    raise UnsupportedLinkTypeError(f"link type {linktype} is not supported")
