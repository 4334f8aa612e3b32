"""Interfaces that come, go and change under a running daemon, and an administrator who tidies up too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND, SECOND
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, Carpd, served, virtual_host
from tests.daemon.segment import ADDRESS4, ADDRESS6, ADDRESSES, Segment, addresses

REAL4 = "192.0.2.77"


def tables(**timers: Any) -> list[str]:
    """A virtual host in each MAC mode."""
    return [
        virtual_host(addresses=ADDRESSES, preempt=True, **timers),
        virtual_host("real", vhid=8, addresses=[f"{REAL4}/24"], mac="real", preempt=True, **timers),
    ]


class Scene:
    """a is master, b its backup, and the client asks."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.segment = Segment(lab, "a", "b")
        self.node = self.segment["a"].node
        self.a = Carpd(self.node, *tables(**FAST))
        self.a.becomes("MASTER")
        self.b = Carpd(self.segment["b"].node, *tables(**SLOWER))
        self.b.becomes("BACKUP")
        targets = {address: address for address in (ADDRESS4, ADDRESS6, REAL4)}
        self.probe = Probe(self.segment.client.node, targets, interval_ns=5 * MILLISECOND)

    def b_takes_over(self) -> None:
        self.b.becomes("MASTER")
        served(self.probe)
        assert set(self.a.states().values()) == {"INIT"}

    def a_returns(self) -> None:
        self.a.becomes("MASTER")
        self.b.becomes("BACKUP")
        served(self.probe)
        assert {host["demotion"] for host in self.a.hosts()} == {0}

    def gate_is_live(self) -> bool:
        """Whether both virtual hosts have a lease in a gate that has its rules."""
        ruleset = self.node.run(["nft", "list", "ruleset"])
        return ruleset.count("expires") == 2 and "hook ingress" in ruleset and "hook egress" in ruleset

    def ends_clean(self) -> None:
        """a leaves nothing."""
        assert self.a.stop() == 0
        assert not {f"{ADDRESS4}/32", f"{ADDRESS6}/128", f"{REAL4}/32"} & addresses(self.node)
        assert "carp-" not in self.node.run(["ip", "link"])
        assert "carpd_" not in self.node.run(["nft", "list", "tables"])
        assert "ERROR" not in self.a.log()


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    scene = Scene(lab)
    yield scene
    scene.probe.stop()


def test_set_down_and_up(scene: Scene) -> None:
    scene.node.ip("link set eth1 down")
    scene.b_takes_over()
    scene.node.ip("link set eth1 up", f"address add {scene.segment['a'].ipv6}/64 dev eth1")
    scene.a_returns()
    scene.ends_clean()


def test_renamed_away_and_back(scene: Scene) -> None:
    """Interfaces are known by their names: under another one it is not ours."""
    scene.node.ip("link set eth1 name eth7")
    scene.b_takes_over()
    assert {host["waits_for"] for host in scene.a.hosts()} == {"interface eth1 does not exist"}
    scene.node.ip("link set eth7 name eth1")
    scene.a_returns()
    scene.ends_clean()


def test_deleted_and_made_again(scene: Scene) -> None:
    """An interface that comes back is another one, with another index: all is prepared anew."""
    scene.node.ip("link delete eth1")
    scene.b_takes_over()
    scene.segment["a"].connect()
    scene.a_returns()
    scene.ends_clean()


def test_not_there_at_the_start(lab: Lab) -> None:
    """The daemon waits for it."""
    segment = Segment(lab, "a")
    node = segment["a"].node
    node.ip("link set eth1 name eth7")
    a = Carpd(node, *tables(**FAST))
    wait_until(lambda: len(a.states()) == 2, LIMIT_NS, "a answers")
    assert {host["waits_for"] for host in a.hosts()} == {"interface eth1 does not exist"}
    node.ip("link set eth7 name eth1")
    a.becomes("MASTER")


@pytest.mark.parametrize(
    "command",
    [
        "ip link delete carp-lan",
        "ip link set carp-lan down",
        "ip address flush dev carp-lan",
        f"ip address delete {REAL4}/32 dev eth1",
        "nft flush ruleset",
        "nft delete table netdev carpd_eth1",
        "nft flush table netdev carpd_eth1",
    ],
)
def test_what_somebody_else_undid(scene: Scene, command: str) -> None:
    """The master makes it again, and serves behind its gate."""
    scene.node.run(command.split())
    wait_until(scene.gate_is_live, LIMIT_NS, "the gate is there, and open")
    served(scene.probe, limit_ns=3 * SECOND)
    assert set(scene.a.states().values()) == {"MASTER"}
    scene.ends_clean()
