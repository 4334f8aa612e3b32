"""The lease as the client's link shows it: the old master is silent before the new one speaks, however it went."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address

import pytest

from carpd.lab.nodes import CapturedFrame
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND
from carpd.wire import carp
from carpd.wire.ethernet import format_mac
from carpd.wire.frames import ReceivedPacket, decode_ip_frame
from tests.daemon.carpd import LIMIT_NS, Carpd, virtual_host
from tests.daemon.segment import Host, Segment

ADDRESSES = {7: ("192.0.2.1", "2001:db8::1"), 8: ("192.0.2.77", "2001:db8::77")}
"""Of two virtual hosts, by their vhids."""
MAC_MODES = {7: "virtual", 8: "real"}
"""Both ways of answering are tried at once."""

Heard = list[tuple[int, ReceivedPacket]]
"""Packets that came to the client, and when."""


class Scene:
    """a is master, and b its backup, in both MAC modes. The client listens, and asks a every millisecond or so.

    It asks a whoever is master: its neighbour entries are fixed, so that nothing but a itself keeps a silent.
    """

    def __init__(self, lab: Lab, advbase: int, a_advskew: int, b_advskew: int, interval_ns: int = MILLISECOND) -> None:
        segment = Segment(lab, "a", "b")
        self.a_host, self.b_host = segment["a"], segment["b"]
        tables = list(_tables(advbase, a_advskew, b_advskew))
        self.a = Carpd(self.a_host.node, *tables)
        self.a.becomes("MASTER")
        self.b = Carpd(self.b_host.node, *tables)
        self.b.becomes("BACKUP")
        self.b.hears_a_master()
        client = segment.client.node
        targets = [address for addresses in ADDRESSES.values() for address in addresses]
        entry = f"lladdr {format_mac(self.a_host.mac)} dev eth1 nud permanent"
        client.ip(*(f"neigh replace {address} {entry}" for address in targets))
        self._probe = Probe(client, {address: address for address in targets}, interval_ns=interval_ns)
        self._capture = client.capture("eth1", outgoing=False)
        self.a_answers()

    def a_answers(self) -> None:
        """Wait until a answers for each address."""
        now = time.monotonic_ns()
        for address, record in self._probe.records.items():
            wait_until(partial(record.answered_since, now), LIMIT_NS, f"an answer from {address}")

    def a_falls_silent(self) -> None:
        """Wait until no probe of the last moment was answered."""

        def silent() -> bool:
            packets = self.packets()
            return not any(answers(self.a_host, vhid, packets) for vhid in ADDRESSES)

        wait_until(silent, LIMIT_NS, "a is silent")

    def packets(self) -> Heard:
        """All since the last call."""
        return list(_packets(self._capture.frames()))


def _tables(advbase: int, a_advskew: int, b_advskew: int) -> Iterator[str]:
    for vhid, addresses in ADDRESSES.items():
        name = MAC_MODES[vhid]
        yield virtual_host(name, vhid=vhid, addresses=addresses, mac=name, advbase=advbase, advskew=a_advskew)
        yield f"[node.b.carp.{name}]\nadvskew = {b_advskew}\n"


def _packets(frames: Iterable[CapturedFrame]) -> Iterator[tuple[int, ReceivedPacket]]:
    for frame in frames:
        if packet := decode_ip_frame(frame.frame):
            yield frame.time_ns, packet


def answers(host: Host, vhid: int, packets: Heard) -> list[int]:
    """When this host answered for a virtual host. In both MAC modes answers leave with the MAC of the interface."""
    shared = [ip_address(address).packed for address in ADDRESSES[vhid]]
    return [time_ns for time_ns, packet in packets if packet.source_mac == host.mac and packet.source in shared]


def advertisements(host: Host, vhid: int, packets: Heard) -> list[int]:
    """When it advertised over IPv4, which it does before it does over IPv6."""
    source = ip_address(host.ipv4).packed
    return [
        time_ns
        for time_ns, packet in packets
        if packet.protocol == carp.PROTOCOL
        and packet.source == source
        and carp.Advertisement.from_bytes(packet.payload).vhid == vhid
    ]


def kill(carpd: Carpd) -> None:
    carpd.process.signal_all(signal.SIGKILL)


def hang(carpd: Carpd) -> None:
    carpd.process.signal_all(signal.SIGSTOP)


@pytest.mark.parametrize("end", [kill, hang])
@pytest.mark.parametrize(
    ("advbase", "a_advskew", "b_advskew"),
    [
        pytest.param(1, 1, 0, id="default, the backup is better placed"),
        pytest.param(0, 12, 14, id="fast, the master is better placed"),
        pytest.param(0, 14, 12, id="fast, the backup is better placed"),
    ],
)
def test_silent_before_the_new_master_speaks(
    lab: Lab, advbase: int, a_advskew: int, b_advskew: int, end: Callable[[Carpd], None]
) -> None:
    """Every process of the master is killed, or stopped: its last answer comes before the other's advertisement."""
    scene = Scene(lab, advbase, a_advskew, b_advskew)
    scene.packets()
    end(scene.a)
    scene.b.becomes("MASTER")
    packets = scene.packets()
    for vhid in ADDRESSES:
        last_answer = max(answers(scene.a_host, vhid, packets))
        assert last_answer < min(advertisements(scene.b_host, vhid, packets))


def test_a_former_master_goes_on(lab: Lab) -> None:
    """After a hang it still believes to be master. It advertises first, and if it is better placed it wins."""
    scene = Scene(lab, advbase=0, a_advskew=12, b_advskew=14)
    hang(scene.a)
    scene.b.becomes("MASTER")
    scene.a_falls_silent()
    scene.a.process.signal_all(signal.SIGCONT)
    scene.b.becomes("BACKUP")
    scene.a_answers()
    packets = scene.packets()
    for vhid in ADDRESSES:
        first_answer = min(answers(scene.a_host, vhid, packets))
        assert first_answer > min(advertisements(scene.a_host, vhid, packets))


def test_a_former_master_yields(lab: Lab) -> None:
    """After a hang it reads its socket first, finds a better placed master there, and is a backup without an answer.

    It is asked so often that a gate which is open for a moment would be noticed.
    """
    scene = Scene(lab, advbase=0, a_advskew=14, b_advskew=12, interval_ns=MILLISECOND // 10)
    hang(scene.a)
    scene.b.becomes("MASTER")
    scene.a_falls_silent()
    scene.a.process.signal_all(signal.SIGCONT)
    scene.a.becomes("BACKUP")
    packets = scene.packets()
    for vhid in ADDRESSES:
        assert answers(scene.a_host, vhid, packets) == []
