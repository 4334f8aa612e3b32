"""What the daemons tell a service manager, whose socket the test has: sd_notify(3)."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from carpd.lab.firewalls import SYNC_PEERS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabTimeoutError, wait_until
from tests.daemon.carpd import FAST, LIMIT_NS, Carpd, virtual_host
from tests.daemon.pfsync import SyncNode
from tests.daemon.segment import ADDRESSES, Segment
from tests.daemon.test_processes import election_of

WATCHDOG_S = 0.2
"""Far below a second, so that many would come while it is proved that none comes."""

SHARED = " ".join(ADDRESSES)


class Manager:
    """The service manager of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.path = node.directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        self.told: list[dict[str, str]] = []
        """Every datagram."""

    def program(self, module: str, *, watchdog: bool = False) -> list[str]:
        """How it starts a module."""
        watched = [f"WATCHDOG_USEC={WATCHDOG_S * 1_000_000:.0f}"] if watchdog else []
        return ["env", f"NOTIFY_SOCKET={self.path}", *watched, sys.executable, "-m", module]

    def read(self) -> None:
        with suppress(BlockingIOError):
            while True:
                lines = self.socket.recv(1 << 16).decode().splitlines()
                self.told.append(dict(line.split("=", 1) for line in lines))

    def said(self, name: str) -> list[str]:
        """The values that it was told of one, in order."""
        self.read()
        return [told[name] for told in self.told if name in told]

    def hears(self, name: str, value: str) -> None:
        """Wait for it."""
        self.waits(lambda: value in self.said(name), f"{name}={value}")

    def waits(self, condition: Callable[[], bool], what: str) -> None:
        """Raise LabTimeoutError with all that was told, and the logs."""
        try:
            wait_until(condition, LIMIT_NS, what)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error}; told was {self.told}, and logged {self._node.logs()}") from None


@pytest.fixture
def manager(segment: Segment) -> Iterator[Manager]:
    manager = Manager(segment["a"].node)
    yield manager
    manager.socket.close()


def test_a_life(segment: Segment, manager: Manager) -> None:
    """Ready once, when carpctl is answered; the state and its changes; reloads, also by SIGHUP; and the end."""
    host = segment["a"]
    lan = virtual_host(addresses=ADDRESSES, **FAST)
    a = Carpd(host.node, lan, program=manager.program("carpd.cli.carpd"))
    manager.hears("READY", "1")
    assert a.hosts()
    manager.hears("STATUS", "MASTER of lan")
    host.port.unplug()
    manager.hears("STATUS", "INIT of lan; demoted by 1: link of eth1 is down")
    host.port.plug()
    manager.waits(lambda: manager.said("STATUS")[-1] == "MASTER of lan", "MASTER again")
    dmz = virtual_host("dmz", vhid=8, addresses=["192.0.2.9/24"], **FAST)
    (host.node.directory / "carpd.toml").write_text(lan + dmz)
    before = len(manager.told)
    a.process.signal(signal.SIGHUP)
    manager.hears("STATUS", "MASTER of lan, dmz")
    begin, end = (told for told in manager.told[before:] if "STATUS" not in told)
    assert begin.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert end == {"READY": "1"}
    assert a.stop() == 0
    manager.read()
    assert manager.told[-1] == {"STOPPING": "1", "STATUS": ""}
    assert manager.said("WATCHDOG") == []


def test_nothing_to_do(segment: Segment, manager: Manager) -> None:
    """An empty file is good for a daemon that is ready, and alive; what it is to do comes and goes by reloads."""
    nothing = "no virtual host is configured"
    a = Carpd(segment["a"].node, program=manager.program("carpd.cli.carpd", watchdog=True))
    manager.hears("READY", "1")
    manager.hears("STATUS", nothing)
    manager.waits(lambda: len(manager.said("WATCHDOG")) > 2, "life")
    assert a.reload(virtual_host(addresses=ADDRESSES, **FAST)) == [f"+ virtual host lan (vhid 7 on eth1): {SHARED}"]
    manager.hears("STATUS", "MASTER of lan")
    assert a.reload("# all gone") == [f"- virtual host lan (vhid 7 on eth1): {SHARED}"]
    manager.waits(lambda: manager.said("STATUS")[-1] == nothing, nothing)
    assert a.stop() == 0


def test_the_watchdog(segment: Segment, manager: Manager) -> None:
    """It is fed for as long as the election process answers; not by the supervisor alone; and again by the next one."""
    program = manager.program("carpd.cli.carpd", watchdog=True)
    a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES), program=program)
    manager.hears("WATCHDOG", "1")
    os.kill(int(election_of(a.process.pid).name), signal.SIGSTOP)
    before = len(manager.said("WATCHDOG"))
    a.logs("does not answer: ending it")
    assert len(manager.said("WATCHDOG")) <= before + 1  # the answer that was under way
    manager.waits(lambda: len(manager.said("WATCHDOG")) > before + 1, "life of another election process")
    assert a.status()["election"]["restarts"] == 1
    assert manager.said("READY") == ["1"]


def test_pfsyncd_alone(lab: Lab) -> None:
    """The same, by whether the process answers that synchronises."""
    node = lab.node("alone")
    lab.cable(node, "eth3", lab.switch("sync"), f"{SYNC_PEERS[0]}/24")
    manager = Manager(node)
    daemon = SyncNode(node, program=manager.program("carpd.cli.pfsyncd", watchdog=True))
    manager.hears("READY", "1")
    manager.hears("STATUS", "requested, no peer has answered yet")
    manager.hears("WATCHDOG", "1")
    os.kill(daemon.child(), signal.SIGSTOP)
    before = len(manager.said("WATCHDOG"))
    assert daemon.pfsync()["waits_for"] == "an answer of pfsyncd"
    assert len(manager.said("WATCHDOG")) <= before + 1
    os.kill(daemon.child(), signal.SIGCONT)
    manager.waits(lambda: len(manager.said("WATCHDOG")) > before + 1, "an answer")
    assert daemon.stop() == 0
    assert manager.said("STOPPING") == ["1"]
    manager.socket.close()
