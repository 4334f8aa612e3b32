"""A silent host on a switch: it hears what is flooded, so who advertises when, and who announces which address."""

from __future__ import annotations

import time
from typing import NamedTuple

from carpd.lab.topology import Lab, Switch
from carpd.wire import carp, ethernet
from carpd.wire.arp import ArpPacket
from carpd.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4
from carpd.wire.frames import decode_ip_frame


class Advertised(NamedTuple):
    """An advertisement over IPv4: CARP's and VRRP's have the number of the virtual host (or router) in one place."""

    time_ns: int
    """Monotonic."""
    source: bytes
    vhid: int


class Announced(NamedTuple):
    """A gratuitous ARP."""

    time_ns: int
    """Monotonic."""
    address: bytes
    mac: bytes


class Observer:
    """Plugged into a switch of the laboratory, and recording from then on."""

    def __init__(self, lab: Lab, switch: Switch, name: str = "observer") -> None:
        node = lab.node(name)
        lab.cable(node, "eth0", switch)
        self._capture = node.capture("eth0")

    def read(self) -> tuple[list[Advertised], list[Announced]]:
        """What was heard since the last call, in order."""
        advertised, announced = [], []
        to_monotonic = time.monotonic_ns() - time.time_ns()
        for stamp, frame, _ in self._capture.frames():
            time_ns = stamp + to_monotonic
            _, _, ethertype = ethernet.HEADER.unpack_from(frame)
            if ethertype == ETHERTYPE_ARP:
                arp = ArpPacket.from_bytes(frame[ethernet.HEADER.size :])
                if arp.sender_ip == arp.target_ip:
                    announced.append(Announced(time_ns, arp.sender_ip, arp.sender_mac))
            elif ethertype == ETHERTYPE_IPV4:
                packet = decode_ip_frame(frame)
                if packet is not None and packet.protocol == carp.PROTOCOL:
                    advertised.append(Advertised(time_ns, packet.source, packet.payload[1]))
        return advertised, announced
