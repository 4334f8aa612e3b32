"""The lease as the client's link shows it: the old master is silent before the new one speaks, however it went."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

import pytest

from carpd.errors import DecodeError
from carpd.lab.nodes import CapturedFrame
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.wire import carp
from carpd.wire.frames import ReceivedPacket, decode_ip_frame
from tests.daemon.carpd import LIMIT_NS, Carpd, virtual_host
from tests.daemon.segment import Host, Segment

ADDRESSES = {7: ("192.0.2.1", "2001:db8::1"), 8: ("192.0.2.77", "2001:db8::77")}
"""Of two virtual hosts, by their vhids."""
MAC_MODES = {7: "virtual", 8: "real"}
"""Both ways of answering are tried at once."""

DEFAULT = {"advbase": 1, "advskew": 0}, {"advbase": 1, "advskew": 1}
"""The best placed host, whose master-down time is the shortest there is, and the next one."""
FASTEST = {"advbase": 0, "advskew": 12}, {"advbase": 0, "advskew": 13}


class Scene:
    """a is master, and b its backup, in both MAC modes. The client asks every millisecond, and listens."""

    def __init__(self, lab: Lab, a_timers: dict[str, int], b_timers: dict[str, int]) -> None:
        segment = Segment(lab, "a", "b")
        self.a_host, self.b_host = segment["a"], segment["b"]
        self.a = Carpd(self.a_host.node, *_tables(a_timers))
        self.a.becomes("MASTER")
        self.b = Carpd(self.b_host.node, *_tables(b_timers))
        self.b.becomes("BACKUP")
        targets = {address: address for addresses in ADDRESSES.values() for address in addresses}
        self._probe = Probe(segment.client.node, targets)
        self._capture = segment.client.node.capture("eth1")
        self.served()

    def served(self) -> None:
        """Wait until each address answers."""
        now = time.monotonic_ns()
        for address, record in self._probe.records.items():
            wait_until(lambda record=record: record.answered_since(now), LIMIT_NS, f"an answer from {address}")  # type: ignore[misc]

    def packets(self) -> list[tuple[int, ReceivedPacket]]:
        """All that came to the client since the last call, and when."""
        return list(_packets(self._capture.frames()))


def _tables(timers: dict[str, int]) -> list[str]:
    return [
        virtual_host(f"vhid{vhid}", vhid=vhid, addresses=addresses, mac=MAC_MODES[vhid], **timers)
        for vhid, addresses in ADDRESSES.items()
    ]


def _packets(frames: Iterable[CapturedFrame]) -> Iterator[tuple[int, ReceivedPacket]]:
    for frame in frames:
        if not frame.outgoing and (packet := decode_ip_frame(frame.frame)):
            yield frame.time_ns, packet


def answers(host: Host, vhid: int, packets: Iterable[tuple[int, ReceivedPacket]]) -> list[int]:
    """When this host answered for a virtual host. In both MAC modes answers leave with the MAC of the interface."""
    shared = [ip_address(address).packed for address in ADDRESSES[vhid]]
    return [time_ns for time_ns, packet in packets if packet.source_mac == host.mac and packet.source in shared]


def advertisements(host: Host, vhid: int, packets: Iterable[tuple[int, ReceivedPacket]]) -> list[int]:
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
@pytest.mark.parametrize("timers", [DEFAULT, FASTEST], ids=["default", "fastest"])
@pytest.mark.parametrize("placed", ["better", "worse"])
def test_silent_before_the_new_master_speaks(
    lab: Lab, placed: str, timers: tuple[dict[str, int], dict[str, int]], end: Callable[[Carpd], None]
) -> None:
    """Every process of the master is killed, or stopped: its last answer comes before the other's advertisement."""
    scene = Scene(lab, *(timers if placed == "better" else timers[::-1]))
    scene.packets()
    end(scene.a)
    scene.b.becomes("MASTER")
    scene.served()
    packets = scene.packets()
    for vhid in ADDRESSES:
        last_answer = max(answers(scene.a_host, vhid, packets))
        taken_over = min(advertisements(scene.b_host, vhid, packets))
        print(end, timers, placed, vhid, (taken_over-last_answer)/1e6)
        assert last_answer < taken_over
        assert min(answers(scene.b_host, vhid, packets)) > taken_over


@pytest.mark.parametrize("placed", ["better", "worse"])
def test_a_former_master_is_silent_until_it_has_won_again(lab: Lab, placed: str) -> None:
    """One that goes on after a hang still believes to be master: it advertises first, or it is a backup."""
    scene = Scene(lab, *(FASTEST if placed == "better" else FASTEST[::-1]))
    hang(scene.a)
    scene.b.becomes("MASTER")
    scene.served()
    scene.packets()
    scene.a.process.signal_all(signal.SIGCONT)
    scene.a.becomes("MASTER" if placed == "better" else "BACKUP")
    scene.b.becomes("BACKUP" if placed == "better" else "MASTER")
    scene.served()
    packets = scene.packets()
    for vhid in ADDRESSES:
        answered = answers(scene.a_host, vhid, packets)
        if placed == "better":
            assert min(answered) > min(advertisements(scene.a_host, vhid, packets))
        else:
            assert not answered
