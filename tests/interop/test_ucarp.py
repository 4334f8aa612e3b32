"""ucarp of Debian and carpd share addresses, in both roles. Ref: spec carp §18."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from carpd.lab.nodes import Process
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND
from tests.conftest import need
from tests.daemon.carpd import LIMIT_NS, PASSWORD, Carpd, served, virtual_host
from tests.daemon.segment import Host, Segment, addresses


@pytest.fixture(autouse=True)
def ucarp_is_there() -> None:
    need("ucarp")


ADDRESSES = {"virtual": "192.0.2.77", "real": "192.0.2.88"}
"""Of two virtual hosts, in carpd's two MAC modes: ucarp can have one IPv4 address each."""
VHIDS = {"virtual": 7, "real": 8}
STRANGERS = "192.0.2.99"
"""Of a third virtual host, for which they have different passwords."""
STRANGERS_VHID = 9

UP = '#!/bin/sh\nip address add "$2/32" dev "$1"\n'
DOWN = '#!/bin/sh\nip address delete "$2/32" dev "$1"\n'


def carpd(host: Host, advskew: int) -> Carpd:
    timers = {"advbase": 1, "advskew": advskew, "preempt": True}
    shared = (
        virtual_host(mac, vhid=VHIDS[mac], mac=mac, addresses=[address], **timers) for mac, address in ADDRESSES.items()
    )
    stranger = virtual_host(
        "strangers", vhid=STRANGERS_VHID, addresses=[STRANGERS], group="strangers", **timers | {"password": "another"}
    )
    return Carpd(host.node, *shared, stranger)


class Ucarp:
    """A process for each address."""

    def __init__(self, host: Host, advskew: int) -> None:
        self.host = host
        for name, text in (("up", UP), ("down", DOWN)):
            script = host.node.directory / name
            script.write_text(text)
            script.chmod(0o755)
        vhids = {VHIDS[mac]: address for mac, address in ADDRESSES.items()} | {STRANGERS_VHID: STRANGERS}
        self._processes = [self._start(vhid, address, advskew) for vhid, address in vhids.items()]

    def _start(self, vhid: int, address: str, advskew: int) -> Process:
        directory = self.host.node.directory
        options = {
            "--interface": "eth1",
            "--srcip": self.host.ipv4,
            "--pass": PASSWORD,
            "--vhid": vhid,
            "--addr": address,
            "--advbase": 1,
            "--advskew": advskew,
            "--upscript": directory / "up",
            "--downscript": directory / "down",
        }
        arguments = [f"{name}={value}" for name, value in options.items()]
        return self.host.node.start(["/usr/sbin/ucarp", "--preempt", "--neutral", *arguments], log=f"ucarp-{vhid}.log")

    def has(self, *wanted: str) -> bool:
        """Whether these are the addresses that it is master of."""
        everything = {*ADDRESSES.values(), STRANGERS}
        return {address for address in everything if f"{address}/32" in addresses(self.host.node)} == set(wanted)


@pytest.fixture
def segment(lab: Lab) -> Segment:
    return Segment(lab, "a", "b")


@pytest.fixture
def probe(segment: Segment) -> Iterator[Probe]:
    """The client asks for both addresses that the two share."""
    probe = Probe(segment.client.node, {mac: ADDRESSES[mac] for mac in ADDRESSES}, interval_ns=5 * MILLISECOND)
    yield probe
    probe.stop()


def test_carpd_is_better_placed(segment: Segment, probe: Probe) -> None:
    """It is master. Killed it is replaced, started again it preempts, and its bow-out at the end is understood."""
    ucarp = Ucarp(segment["b"], advskew=50)
    daemon = carpd(segment["a"], advskew=0)
    daemon.becomes("MASTER")
    wait_until(lambda: ucarp.has(STRANGERS), LIMIT_NS, "ucarp is master where the passwords differ, and there alone")
    served(probe)

    daemon.process.signal_all(signal.SIGKILL)
    daemon.process.wait()
    wait_until(lambda: ucarp.has(*ADDRESSES.values(), STRANGERS), LIMIT_NS, "ucarp takes over")
    served(probe)

    daemon.start()
    daemon.becomes("MASTER")
    assert daemon.host("virtual")["reason"] == daemon.host("real")["reason"] == "preempting a slower master"
    wait_until(lambda: ucarp.has(STRANGERS), LIMIT_NS, "ucarp steps down")
    served(probe)
    check_counters(daemon)

    assert daemon.stop() == 0
    wait_until(lambda: ucarp.has(*ADDRESSES.values(), STRANGERS), LIMIT_NS, "ucarp takes over")
    served(probe)


def test_ucarp_is_better_placed(segment: Segment, probe: Probe) -> None:
    """carpd is its backup, takes over when its power is cut, and steps down when it is back."""
    ucarp = Ucarp(segment["b"], advskew=0)
    daemon = carpd(segment["a"], advskew=50)
    daemon.becomes("MASTER", "strangers")
    wait_until(lambda: ucarp.has(*ADDRESSES.values(), STRANGERS), LIMIT_NS, "ucarp is master")
    daemon.becomes("BACKUP", *ADDRESSES)
    assert {(host["master"]["source"], host["master"]["advskew"]) for host in shared(daemon)} == {("192.0.2.10", 0)}
    served(probe)

    ucarp.host.port.drop_everything()
    daemon.becomes("MASTER", *ADDRESSES)
    assert {host["reason"] for host in shared(daemon)} == {"master timed out"}
    served(probe)

    ucarp.host.port.restore()
    daemon.becomes("BACKUP", *ADDRESSES)
    assert {host["reason"] for host in shared(daemon)} == {"more frequent advertisement received"}
    served(probe)
    check_counters(daemon)


def shared(daemon: Carpd) -> list[dict[str, Any]]:
    """What carpd says of the virtual hosts for which both have one password."""
    return [daemon.host(mac) for mac in ADDRESSES]


def check_counters(daemon: Carpd) -> None:
    """Everything of ucarp was accepted, and of the stranger nothing."""
    for host in shared(daemon):
        assert host["counters"]["ipackets"] > 0
        assert host["counters"]["badauth"] == 0
    assert daemon.host("strangers")["state"] == "MASTER"
    counters = daemon.host("strangers")["counters"]
    assert 0 < counters["badauth"] == counters["ipackets"]
