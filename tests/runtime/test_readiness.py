"""What the service manager is told, on a socket like its own, and the line that says what carpd does."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carpd.config.model import VirtualHostConfig
from carpd.runtime.notices import Notice
from carpd.runtime.readiness import Readiness, ServiceManager, Summary


class Manager:
    """The other end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        """Each datagram since the last time, its lines with spaces in between."""
        told = []
        while True:
            try:
                told.append(self.socket.recv(1 << 16).decode().replace("\n", " "))
            except BlockingIOError:
                return told


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    end = Manager(str(tmp_path / "notify") if request.param == "path" else f"@carpd-test-{os.getpid()}")
    yield end
    end.socket.close()


def notice(kind: str, **fields: Any) -> Notice:
    return Notice(kind, logging.INFO, "", fields, 0.0)


def test_a_life(manager: Manager) -> None:
    """Ready with the first answer, alive with each, a status when it is another; reloads; and the end."""
    readiness = Readiness(ServiceManager(manager.address, watchdog_s=10.0))
    readiness.hear(notice("reload", phase="begin"))  # before it is ready there is nothing to take back
    assert manager.told() == []
    readiness.answers("INIT of lan")
    readiness.answers("INIT of lan")
    readiness.answers("MASTER of\nlan")
    assert manager.told() == ["READY=1 STATUS=INIT of lan WATCHDOG=1", "WATCHDOG=1", "STATUS=MASTER of lan WATCHDOG=1"]
    readiness.hear(notice("reload", phase="begin"))
    (reloading,) = manager.told()
    assert re.fullmatch(r"RELOADING=1 MONOTONIC_USEC=\d+", reloading)
    readiness.hear(notice("reload", phase="end"))
    readiness.hear(notice("state", name="lan", new="BACKUP"))
    assert manager.told() == ["READY=1"]
    readiness.stopping()
    readiness.answers("BACKUP of lan")
    readiness.hear(notice("reload", phase="end"))
    assert manager.told() == ["STOPPING=1 STATUS="]


@pytest.mark.parametrize(("watchdog_s", "interval_s"), [(None, 1.0), (10.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.1, 0.05)])
def test_how_often(watchdog_s: float | None, interval_s: float) -> None:
    """At half of its patience at the latest."""
    assert Readiness(ServiceManager("", watchdog_s)).interval_s(1.0) == interval_s


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "15000000"}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "nonsense"}, None),
    ],
    ids=["none", "ours", "ours by name", "another's", "nonsense"],
)
def test_environment(
    environment: dict[str, str], watchdog_s: float | None, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is for this process alone."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ours = ServiceManager.of_environment()
    assert ours.watchdog_s == watchdog_s
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    ours.tell(READY=1)
    ServiceManager.of_environment().tell(READY=1)  # nobody
    assert manager.told() == ["READY=1"]


def test_nobody_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and hurts nobody."""
    ServiceManager(str(tmp_path / "gone")).tell(READY=1, STATUS="well")
    assert caplog.messages == ["the service manager can't be told READY, STATUS: [Errno 2] No such file or directory"]


def host(name: str, group: str = "carp") -> VirtualHostConfig:
    return VirtualHostConfig(name=name, interface="eth1", vhid=1, addresses=(), key=b"", group=group)


def becomes(name: str, state: str) -> Notice:
    return notice("state", name=name, new=state)


def demotes(group: str, reason: str, old: int, new: int) -> Notice:
    return notice("demotion", group=group, reason=reason, old=old, new=new)


LAN, WAN, DMZ = host("lan", "edge"), host("wan", "edge"), host("dmz")
BULK, LINK = "pfsync bulk update", "link of eth1 is down"


@pytest.mark.parametrize(
    ("hosts", "notices", "line"),
    [
        ([], [], "no virtual host is configured"),
        ([LAN, WAN], [], "INIT of lan, wan"),
        (
            [LAN, WAN, DMZ],
            [
                *(becomes(name, "BACKUP") for name in ("lan", "dmz", "wan")),
                *(becomes(name, "MASTER") for name in ("wan", "lan")),
                *(demotes(group, BULK, 0, 32) for group in ("carp", "edge")),
            ],
            f"MASTER of lan, wan; BACKUP of dmz; demoted by 32: {BULK}",
        ),
        (
            [LAN, DMZ],
            [demotes("edge", BULK, 0, 32), demotes("edge", LINK, 32, 33), demotes("carp", BULK, 0, 32)],
            f"INIT of lan, dmz; edge demoted by 33: {BULK}, {LINK}; carp demoted by 32: {BULK}",
        ),
        (
            [LAN],
            [demotes("edge", BULK, 0, 32), demotes("edge", LINK, 32, 33), demotes("edge", BULK, 33, 1)],
            f"INIT of lan; demoted by 1: {LINK}",
        ),
        ([LAN], [demotes("edge", BULK, 0, 32), demotes("edge", BULK, 32, 0)], "INIT of lan"),
        ([LAN, WAN], [becomes("gone", "MASTER"), demotes("gone", LINK, 0, 1), becomes("lan", "MASTER")],
         "MASTER of lan; INIT of wan"),
        ([LAN], [becomes("lan", "MASTER"), demotes("edge", LINK, 0, 1), notice("election", how="")], "INIT of lan"),
        (
            [host(f"n{number}") for number in range(1, 251)],
            [becomes(f"n{number}", "MASTER") for number in range(1, 241)],
            "MASTER of n1, n2, n3, n4, n5, n6, n7, n8 and 232 more; "
            "INIT of n241, n242, n243, n244, n245, n246, n247, n248 and 2 more",
        ),
    ],
    ids=["none", "start", "all groups", "groups", "reasons end", "no demotion", "removed", "election anew", "many"],
)  # fmt: skip
def test_summary(hosts: list[VirtualHostConfig], notices: list[Notice], line: str) -> None:
    summary = Summary(lambda: hosts)
    for each in notices:
        summary.hear(each)
    assert summary.line() == line


def test_reload() -> None:
    """Whoever comes back after a reload without him is another one."""
    hosts = [LAN, DMZ]
    summary = Summary(lambda: hosts)
    for each in (becomes("lan", "MASTER"), demotes("edge", LINK, 0, 1), becomes("dmz", "MASTER")):
        summary.hear(each)
    hosts = [DMZ]
    summary.hear(notice("reload", phase="end"))
    hosts = [LAN, DMZ]
    assert summary.line() == "MASTER of dmz; INIT of lan"
