"""Frames are taken out of an interface before they leave, and put back as they were.

The test runs on a router: its eth1 leads to the neighbour, its eth0 to a host that sends through it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import defer, links, namespaces
from carpd.linux.defer import DeferredPackets, Frame
from carpd.units import SECOND
from carpd.wire import frames
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.frames import ReceivedPacket
from tests.linux.segment import HOST_MAC, NEIGHBOR, NEIGHBOR_MAC, SILENCE_S, Neighbor, ip, link, wait_until

INSIDE = ("10.0.0.2", "2001:db8:5::2")
ROUTER = ("10.0.0.1", "2001:db8:5::1")
PORT = 4000
FOREVER_NS = 3600 * SECOND
UDP, ICMP = 17, 1


class Inside:
    """The host that sends through the router. Its kernel leaves checksums to the interface, as on a real one."""

    def __init__(self) -> None:
        self.namespace = namespaces.new_network_namespace()
        ip(f"link add eth0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{self.namespace}")
        for address in ROUTER:
            ip(f"address add {address}/{64 if ':' in address else 24} dev eth0 {'nodad' if ':' in address else ''}")
        ip("link set eth0 up")
        with namespaces.inside(self.namespace):
            Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0")
            ip("link set eth0 up")
            for address, gateway in zip(INSIDE, ROUTER, strict=True):
                ip(f"address add {address}/{64 if ':' in address else 24} dev eth0")
                ip(f"route add default via {gateway}")
            self._sockets = {
                4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                6: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
            }

    def send(self, data: bytes, version: int = 4, port: int = PORT) -> None:
        """To the neighbour, by UDP."""
        (address,) = (str(a.ip) for a in NEIGHBOR if a.version == version)
        self._sockets[version].sendto(data, (address, port))

    def close(self) -> None:
        for sender in self._sockets.values():
            sender.close()
        os.close(self.namespace)


@pytest.fixture
def inside(neighbor: Neighbor) -> Iterator[Inside]:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1")
    host = Inside()
    for version in (4, 6):  # so that everybody knows his neighbours
        neighbor_hears(neighbor, host, version)
    yield host
    host.close()


def neighbor_hears(neighbor: Neighbor, host: Inside, version: int) -> None:
    host.send(b"first", version, port=PORT + 1)
    assert neighbor.hear(carrying(b"first")) is not None
    neighbor.forget()


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def packets(inside: Inside, request: pytest.FixtureRequest) -> Iterator[DeferredPackets]:
    """They hold what leaves by eth1."""
    opened = DeferredPackets(["eth1"], tcx=request.param)
    assert opened.refresh() == []
    opened.hold_until(time.monotonic_ns() + FOREVER_NS)
    yield opened
    opened.close()


def carrying(data: bytes) -> Callable[[bytes], bool]:
    return lambda frame: frame.endswith(data)


def received(packets: DeferredPackets, count: int) -> list[Frame]:
    found: list[Frame] = []

    def are_there() -> bool:
        found.extend(packets.receive())
        return len(found) >= count

    assert wait_until(are_there)
    return found


def has_its_checksum(packet: ReceivedPacket) -> bool:
    pseudo = pseudo_header(packet.source, packet.destination, len(packet.payload), packet.protocol)
    return internet_checksum(pseudo + packet.payload) == 0


@pytest.mark.parametrize("version", [4, 6])
def test_there_and_back(inside: Inside, neighbor: Neighbor, packets: DeferredPackets, version: int) -> None:
    """The frame that leaves is the one that would have left, with the checksum that an interface would have made."""
    inside.send(b"held", version)
    ((index, data),) = received(packets, 1)
    assert neighbor.hear(carrying(b"held"), SILENCE_S) is None
    assert index == link("eth1").index
    packets.send([(index, data)])
    heard = neighbor.hear(carrying(b"held"))
    assert heard == data
    packet = frames.decode_ip_frame(data)
    assert packet is not None
    assert (packet.source_mac, packet.destination_mac, packet.protocol) == (HOST_MAC, NEIGHBOR_MAC, UDP)
    assert has_its_checksum(packet)


def test_later_packets_pass(inside: Inside, neighbor: Neighbor, packets: DeferredPackets) -> None:
    """Those that follow closely don't. Of a flow that nobody answers all are new to the kernel."""
    inside.send(b"one")
    inside.send(b"two")
    assert [data[-3:] for _, data in received(packets, 2)] == [b"one", b"two"]
    time.sleep(0.05)
    inside.send(b"three")
    assert neighbor.hear(carrying(b"three")) is not None
    inside.send(b"another", port=PORT + 2)
    assert len(received(packets, 1)) == 1


@pytest.mark.parametrize("how", ["let pass", "too late"])
def test_nothing_is_held_for_ever(inside: Inside, neighbor: Neighbor, packets: DeferredPackets, how: str) -> None:
    if how == "let pass":
        packets.let_pass()
    else:
        packets.hold_until(time.monotonic_ns())
    inside.send(b"passes")
    assert neighbor.hear(carrying(b"passes")) is not None
    assert packets.receive() == []


@pytest.mark.parametrize("address", ["224.0.0.251", "ff0e::fb"])
def test_what_is_for_many_passes(packets: DeferredPackets, address: str) -> None:
    """Nobody answers it. That of this host itself is not held either."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
        sender.sendto(b"all", (address, PORT))
        sender.sendto(b"own", (str(NEIGHBOR[family == socket.AF_INET6].ip), PORT))
    time.sleep(SILENCE_S)
    assert packets.receive() == []


def test_fragments_and_the_longest_frames(inside: Inside, neighbor: Neighbor, packets: DeferredPackets) -> None:
    """The first packet may be too long for the interface, and the interface longer than others."""
    data = os.urandom(4000)
    inside.send(data)
    held = received(packets, 3)
    packets.send(held)
    assert all(neighbor.hear(lambda frame, sent=sent: frame == sent) for _, sent in held)  # type: ignore[misc]
    with namespaces.inside(inside.namespace):
        ip("link set eth0 mtu 9000")
    for name in ("eth0", "eth1"):
        ip(f"link set {name} mtu 9000")
    neighbor.ip("link set eth1 mtu 9000")
    time.sleep(0.05)
    inside.send(data, port=PORT + 3)
    ((_, frame),) = received(packets, 1)
    assert frame.endswith(data)
    packets.send([(link("eth1").index, frame)])


def test_an_interface_on_another_one(inside: Inside, neighbor: Neighbor) -> None:
    """What it has held is not held again where it leaves the host. VLANs are like that."""
    ip("link add link eth1 name upper type macvlan mode bridge")
    ip("link set upper up")
    ip("address add 192.0.5.2/24 dev upper")
    ip(f"neigh add 192.0.5.3 lladdr {NEIGHBOR_MAC.hex(':')} dev upper")
    packets = DeferredPackets(["eth1", "upper"])
    assert packets.refresh() == []
    packets.hold_until(time.monotonic_ns() + FOREVER_NS)
    with namespaces.inside(inside.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"above", ("192.0.5.3", PORT))
    ((index, data),) = received(packets, 1)
    assert index == link("upper").index
    packets.send([(index, data)])
    assert neighbor.hear(carrying(b"above")) == data
    assert packets.receive() == []
    packets.close()


def test_interfaces_come_and_go(inside: Inside, packets: DeferredPackets) -> None:
    ip(f"link set eth1 address {VIRTUAL.hex(':')}")
    assert packets.refresh() == []
    inside.send(b"again")
    ((_, data),) = received(packets, 1)
    assert data[6:12] == VIRTUAL
    ip("link delete eth1")
    assert packets.refresh() == ["there is no interface eth1"]
    packets.send([(1234, data)])
    ip("link add eth1 type veth")
    assert packets.refresh() == []


VIRTUAL = bytes.fromhex("020000000077")


def test_what_has_no_mac_is_refused(namespace: None) -> None:
    packets = DeferredPackets(["tun1", "tun2"])
    ip("tuntap add tun1 mode tun")
    problems = packets.refresh()
    assert problems == ["there is no interface tun2", "defer packets on tun1: it is no Ethernet interface"]
    packets.close()


def test_nothing_is_left(inside: Inside) -> None:
    """And there can't be two."""
    packets = DeferredPackets(["eth1"])
    assert defer.is_table_installed()
    device = links.find_link(defer.DEVICE)
    assert device is not None
    assert device.mtu >= link("eth1").mtu
    with pytest.raises(SystemCallError, match="create the TAP device carpd-defer"):
        DeferredPackets(["eth1"])
    packets.close()
    assert not defer.is_table_installed()
    assert links.find_link(defer.DEVICE) is None
    defer.remove_table()


@pytest.mark.parametrize("name", ['e"th', "a*", "a\nb"])
def test_names_that_nft_can_not_write(namespace: None, name: str) -> None:
    with pytest.raises(SystemCallError, match="nft cannot write the name"):
        DeferredPackets([name])
    assert links.find_link(defer.DEVICE) is None
