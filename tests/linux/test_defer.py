"""Frames are taken out of an interface before they leave, and put back as they were.

The test runs on a router: its eth1 leads to the neighbour, its eth0 to a host that sends through it.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import defer, links, namespaces
from carpd.linux.defer import DEVICE, WAITING_MAX, DeferredPackets, Frame
from carpd.units import SECOND
from carpd.wire import frames
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.frames import ReceivedPacket
from tests.linux.segment import (
    ANSWER_LIMIT_S,
    HOST_MAC,
    NEIGHBOR,
    NEIGHBOR_MAC,
    SILENCE_S,
    Neighbor,
    ip,
    link,
    wait_until,
)

INSIDE = ("10.0.0.2", "2001:db8:5::2")
ROUTER = ("10.0.0.1", "2001:db8:5::1")
PORT = 4000
ABOVE = "192.0.5.3"
FOREVER_NS = 3600 * SECOND
UDP = 17


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

    def send(self, data: bytes, version: int = 4, port: int = PORT, to: str = "") -> None:
        """To the neighbour, by UDP."""
        (address,) = (str(a.ip) for a in NEIGHBOR if a.version == version)
        self._sockets[version].sendto(data, (to or address, port))

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
    def is_heard() -> bool:
        host.send(b"first", version, port=PORT - 1)
        return neighbor.hear(carrying(b"first"), SILENCE_S) is not None

    assert wait_until(is_heard)  # an interface that has just come up may not send yet
    neighbor.forget()


@pytest.fixture(params=[True, False], ids=["tcx", "clsact"])
def tcx(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def packets(inside: Inside, tcx: bool) -> Iterator[DeferredPackets]:
    """They hold what leaves by eth1."""
    opened = DeferredPackets(["eth1"], tcx=tcx)
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
    ((index, mark, data),) = received(packets, 1)
    assert neighbor.hear(carrying(b"held"), SILENCE_S) is None
    assert (index, mark) == (link("eth1").index, 0)
    packets.send([(index, mark, data)])
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
    assert [data[-3:] for _, _, data in received(packets, 2)] == [b"one", b"two"]
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
        own = (str(NEIGHBOR[family == socket.AF_INET6].ip), PORT)
        sender.sendto(b"own", own)
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect_ex(own)
    time.sleep(SILENCE_S)
    assert packets.receive() == []


def is_numbered(frame: bytes) -> bool:
    return frame[42:].strip().isdigit()


def test_more_than_are_received(inside: Inside, neighbor: Neighbor, packets: DeferredPackets) -> None:
    """What is beyond passes and is counted; nothing is lost. When they are received, there is room again."""
    for number in range(WAITING_MAX + 40):
        inside.send(b"%3d" % number, port=PORT + number)
    passed = [neighbor.hear(is_numbered) for _ in range(packets.counters.defer_passed)]
    assert 40 - (os.cpu_count() or 1) < len(passed) <= 40
    held = received(packets, WAITING_MAX + 40 - len(passed))
    numbers = sorted(int(frame[42:]) for frame in (*(data for _, _, data in held), *filter(None, passed)))
    assert numbers == [*range(WAITING_MAX + 40)]
    assert packets.receive() == []
    for number in range(WAITING_MAX):
        inside.send(b"again", port=PORT + 1000 + number)
    assert len(received(packets, WAITING_MAX)) == WAITING_MAX
    assert packets.counters.defer_passed == len(passed)


MARKING = f"""\
table inet operator {{
    chain early {{ type filter hook prerouting priority mangle; meta mark set ct mark; }}
    chain between {{ type filter hook forward priority mangle; meta mark set 5; }}
    chain late {{ type filter hook postrouting priority srcnat + 100; meta mark 5 counter; ct mark set meta mark; }}
}}
table netdev operator {{
    chain below {{
        type filter hook egress device "eth1" priority 0;
        meta mark 5 counter
        meta mark & {defer.FIRST_MARK | defer.LATER_MARK:#x} != 0 counter
    }}
}}
"""


def test_marks_of_an_operator(inside: Inside, neighbor: Neighbor, tcx: bool) -> None:
    """He finds his marks, and none but his, in postrouting, in the connection, and below the interface."""
    add_upper()
    subprocess.run(["nft", "-f", "-"], input=MARKING, text=True, check=True)
    packets = DeferredPackets(["upper"], tcx=tcx)
    assert packets.refresh() == []
    packets.hold_until(time.monotonic_ns() + FOREVER_NS)
    inside.send(b"held", to=ABOVE)
    (frame,) = received(packets, 1)
    assert frame.mark == 5
    packets.send([frame])
    assert neighbor.hear(carrying(b"held")) is not None
    time.sleep(0.05)
    inside.send(b"later", to=ABOVE)
    assert neighbor.hear(carrying(b"later")) is not None
    packets.let_pass()
    inside.send(b"passes", port=PORT + 2, to=ABOVE)
    assert neighbor.hear(carrying(b"passes")) is not None
    packets.close()
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"mark (.*) counter packets (\d+) ", rules) == [
        ("0x00000005", "3"),
        ("0x00000005", "3"),
        ("& 0x60000000 != 0x00000000", "0"),
    ]


def add_upper() -> None:
    """An interface on eth1, from which the neighbour has ABOVE."""
    ip("link add link eth1 name upper type macvlan mode bridge")
    ip("link set upper up")
    ip("address add 192.0.5.2/24 dev upper")
    ip(f"neigh add {ABOVE} lladdr {NEIGHBOR_MAC.hex(':')} dev upper")


def test_fragments_and_the_longest_frames(inside: Inside, neighbor: Neighbor, packets: DeferredPackets) -> None:
    """The first packet may be too long for the interface, and the interface longer than others."""
    data = os.urandom(4000)
    inside.send(data)
    held = received(packets, 3)
    packets.send(held)
    assert all(neighbor.hear(lambda frame, sent=sent: frame == sent) for _, _, sent in held)  # type: ignore[misc]
    with namespaces.inside(inside.namespace):
        ip("link set eth0 mtu 9000")
    for name in ("eth0", "eth1"):
        ip(f"link set {name} mtu 9000")
    neighbor.ip("link set eth1 mtu 9000")
    time.sleep(0.05)
    inside.send(data, port=PORT + 3)
    ((index, mark, frame),) = received(packets, 1)
    assert frame.endswith(data)
    packets.send([(index, mark, frame)])
    assert packets.counters.defer_errors == 0


def test_an_interface_on_another_one(inside: Inside, neighbor: Neighbor) -> None:
    """What it has held is not held again where it leaves the host. VLANs are like that."""
    add_upper()
    packets = DeferredPackets(["eth1", "upper"])
    assert packets.refresh() == []
    packets.hold_until(time.monotonic_ns() + FOREVER_NS)
    inside.send(b"above", to=ABOVE)
    ((index, mark, data),) = received(packets, 1)
    assert index == link("upper").index
    packets.send([(index, mark, data)])
    assert neighbor.hear(carrying(b"above")) == data
    assert packets.receive() == []
    packets.close()


def test_interfaces_come_and_go(inside: Inside, packets: DeferredPackets) -> None:
    ip(f"link set eth1 address {VIRTUAL.hex(':')}")
    assert packets.refresh() == []
    inside.send(b"again")
    ((_, _, data),) = received(packets, 1)
    assert data[6:12] == VIRTUAL
    ip("link delete eth1")
    assert packets.refresh() == ["there is no interface eth1"]
    packets.send([(1234, 0, data)])
    assert packets.counters.defer_errors == 1
    ip("link add eth1 type veth")
    assert packets.refresh() == []


VIRTUAL = bytes.fromhex("020000000077")


def test_what_has_no_mac_is_refused(namespace: None) -> None:
    packets = DeferredPackets(["tun1", "tun2"])
    ip("tuntap add tun1 mode tun")
    problems = packets.refresh()
    assert problems == ["there is no interface tun2", "defer packets on tun1: it is no Ethernet interface"]
    packets.close()


DAMAGES = {
    "down": (f"link set {DEVICE} down", f"somebody set {DEVICE} down: set it up again"),
    "no carrier": (f"link set {DEVICE} carrier off", ""),
    "renamed": (f"link set {DEVICE} name other", f"somebody deleted {DEVICE}: made it again"),
    "moved": (f"link set {DEVICE} netns %d", f"somebody deleted {DEVICE}: made it again"),
    "deleted": (f"link delete {DEVICE}", f"somebody deleted {DEVICE}: made it again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_somebody_damages_the_device(inside: Inside, neighbor: Neighbor, packets: DeferredPackets, damage: str) -> None:
    command, said = DAMAGES[damage]
    ip(command.replace("%d", f"/proc/{os.getpid()}/fd/{neighbor.namespace}"))
    assert wait_until(lambda: not any(found.name == DEVICE and found.up for found in links.links()))
    assert packets.mend_device() == said
    assert wait_until(lambda: link(DEVICE).up)
    assert packets.mend_device() == ""
    packets.hold_until(time.monotonic_ns() + FOREVER_NS)
    inside.send(b"held")
    assert select.select([packets], [], [], ANSWER_LIMIT_S)[0]
    (frame,) = received(packets, 1)
    packets.send([frame])
    assert neighbor.hear(carrying(b"held")) == frame.data


def test_without_a_device_all_pass(inside: Inside, neighbor: Neighbor, packets: DeferredPackets) -> None:
    ip(f"link delete {DEVICE}")
    with pytest.raises(SystemCallError, match="receive frames from carpd-defer: File descriptor in bad state"):
        packets.receive()
    ip(f"link add {DEVICE} type veth")
    for number in range(2):
        packets.hold_until(time.monotonic_ns() + FOREVER_NS)
        inside.send(b"passes", port=PORT + number)
        assert neighbor.hear(carrying(b"passes")) is not None
        assert not select.select([packets], [], [], 0)[0]
        with pytest.raises(SystemCallError, match="create the TAP device carpd-defer"):
            packets.mend_device()
    ip(f"link delete {DEVICE}")
    assert packets.mend_device() == f"somebody deleted {DEVICE}: made it again"
    packets.hold_until(time.monotonic_ns() + FOREVER_NS)
    inside.send(b"held", port=PORT + 2)
    assert len(received(packets, 1)) == 1


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
