"""A host under test and a neighbour on one link: their addresses, and the frames that go between them."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from carpd.linux import links, namespaces
from carpd.linux.links import Link
from carpd.wire import frames, ipv6, ndp
from carpd.wire.arp import REPLY, REQUEST, ArpPacket
from carpd.wire.carp import Advertisement
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    EthernetFrame,
    multicast_mac6,
)
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet

HOST = [ip_interface("192.0.2.2/24"), ip_interface("2001:db8::2/64")]
NEIGHBOR = [ip_interface("192.0.2.3/24"), ip_interface("2001:db8::3/64")]
VIRTUAL = (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64"))
HOST4, HOST6 = (address.ip.packed for address in HOST)
NEIGHBOR4, NEIGHBOR6 = (address.ip.packed for address in NEIGHBOR)
VIRTUAL4, VIRTUAL6 = (address.ip.packed for address in VIRTUAL)

HOST_MAC = bytes.fromhex("020000000002")
NEIGHBOR_MAC = bytes.fromhex("020000000003")
VIRTUAL_MAC = bytes.fromhex("00005e000107")
VHID = 7

ANSWER_LIMIT_S = 5.0
"""How long an answer that must come may take."""
SILENCE_S = 0.15
"""How long we listen where none may come; an answer takes less than a millisecond."""


def ip(command: str) -> str:
    return subprocess.run(["ip", *command.split()], check=True, stdout=subprocess.PIPE, text=True).stdout


def link(name: str) -> Link:
    return next(found for found in links.links() if found.name == name)


def wait_until(condition: Callable[[], bool], limit_s: float = ANSWER_LIMIT_S) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class Neighbor:
    """The other host on the link: it sends frames, and sees all that the host under test sends."""

    def __init__(self, namespace: int, interface: str = "eth1") -> None:
        self.namespace = namespace
        with namespaces.inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind((interface, 0))
            self._socket.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING

    def close(self) -> None:
        self._socket.close()
        os.close(self.namespace)

    def ip(self, command: str) -> None:
        with namespaces.inside(self.namespace):
            ip(command)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def hear(self, wanted: Callable[[bytes], bool], limit_s: float = ANSWER_LIMIT_S) -> bytes | None:
        """The first frame of this kind from the host under test; None if there is none within the limit."""
        deadline = time.monotonic() + limit_s
        while True:
            ready, _, _ = select.select([self._socket], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return None
            frame = self._socket.recv(2048)
            if wanted(frame):
                return frame

    def forget(self) -> None:
        """Drop what came up to now."""
        while self.hear(lambda _: False, 0):
            pass


def configure(addresses: list[IPv4Interface | IPv6Interface]) -> None:
    """Bring the link up with these addresses, usable at once: no duplicate address detection."""
    Path("/proc/sys/net/ipv6/conf/eth1/accept_dad").write_text("0")
    Path("/proc/sys/net/ipv6/conf/all/accept_dad").write_text("0")
    ip("link set lo up")
    ip("link set eth1 up")
    for address in addresses:
        ip(f"address add {address} dev eth1")


def advertisement(
    family: int = 4, *, vhid: int = VHID, source_mac: bytes = VIRTUAL_MAC, bow_out: bool = False
) -> bytes:
    times = {"advbase": 255, "advskew": 255} if bow_out else {"advbase": 1, "advskew": 0}
    return frames.advertisement_frame(
        Advertisement(vhid=vhid, demotion=0, counter=1, digest=bytes(20), **times),
        source_mac=source_mac,
        source=HOST4 if family == 4 else HOST6,
        destination=bytes([224, 0, 0, 18]) if family == 4 else bytes.fromhex("ff02" + 13 * "00" + "12"),
    )


def arp_request(target: bytes, sender: bytes = NEIGHBOR4) -> bytes:
    request = ArpPacket(REQUEST, NEIGHBOR_MAC, sender, bytes(6), target)
    return EthernetFrame(BROADCAST, NEIGHBOR_MAC, ETHERTYPE_ARP, request.to_bytes()).to_bytes()


def is_arp_reply(sender: bytes) -> Callable[[bytes], bool]:
    def matches(frame: bytes) -> bool:
        if frame[12:14] != ETHERTYPE_ARP.to_bytes(2, "big"):
            return False
        heard = ArpPacket.from_bytes(frame[14:])
        return heard.operation == REPLY and heard.sender_ip == sender

    return matches


def solicitation(target: bytes) -> bytes:
    group = ndp.solicited_node(target)
    body = ndp.NeighborSolicitation(target, NEIGHBOR_MAC).to_bytes(NEIGHBOR6, group)
    packet = IPv6Packet(
        source=NEIGHBOR6, destination=group, hop_limit=255, next_header=ipv6.NEXT_HEADER_ICMPV6, payload=body
    )
    return EthernetFrame(multicast_mac6(group), NEIGHBOR_MAC, ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()


def echo_request(target: bytes, mac: bytes) -> bytes:
    """A ping, over IPv4 or IPv6 by the length of the target."""
    if len(target) == 4:
        body = _with_checksum(8, b"")
        packet = IPv4Packet(source=NEIGHBOR4, destination=target, ttl=64, protocol=1, payload=body).to_bytes()
        return EthernetFrame(mac, NEIGHBOR_MAC, ETHERTYPE_IPV4, packet).to_bytes()
    body = _with_checksum(128, pseudo_header(NEIGHBOR6, target, 16, 58))
    packet = IPv6Packet(source=NEIGHBOR6, destination=target, hop_limit=64, next_header=58, payload=body).to_bytes()
    return EthernetFrame(mac, NEIGHBOR_MAC, ETHERTYPE_IPV6, packet).to_bytes()


def _with_checksum(kind: int, pseudo: bytes) -> bytes:
    rest = bytes.fromhex("0001 0001") + b"carpd..."
    checksum = internet_checksum(pseudo + bytes([kind, 0, 0, 0]) + rest)
    return bytes([kind, 0]) + checksum.to_bytes(2, "big") + rest


def is_from(source: bytes) -> Callable[[bytes], bool]:
    """An ICMP message other than an error from this IP address: an echo reply, or a neighbour advertisement."""

    def matches(frame: bytes) -> bool:
        if len(source) == 4:
            return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[26:30] == source
        return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[22:38] == source

    return matches
