"""What the gate of an interface knows: always, and while its virtual hosts change."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from carpd.config.model import Balancing, BalancingMode, MacMode, VirtualHostConfig
from carpd.linux import lease
from carpd.linux.lease import Guard
from carpd.linux.links import Link
from carpd.runtime import preparation
from carpd.runtime.preparation import Preparation
from carpd.units import SKEW
from carpd.wire.carp import virtual_mac

ONE, TWO, THREE = (ip_interface(f"192.0.2.{number}/24") for number in (1, 2, 3))
LAN = VirtualHostConfig(name="lan", interface="eth1", vhid=1, addresses=(ONE, TWO), key=b"", advbase=0, advskew=10)
DMZ = replace(LAN, name="dmz", vhid=2, addresses=(THREE,))
LEASE_NS = 30 * SKEW


def guard(vhid: int, *addresses: Any, lease_ns: int = LEASE_NS, mac: bool = True, nodes: tuple[int, ...] = ()) -> Guard:
    return Guard(vhid=vhid, mac=virtual_mac(vhid) if mac else None, addresses=addresses, lease_ns=lease_ns, nodes=nodes)


def nodes(*advskews: int) -> list[VirtualHostConfig]:
    balancing = Balancing(virtual_host="www", mode=BalancingMode.IP, vhids=tuple(range(5, 5 + len(advskews))))
    return [
        replace(LAN, name=f"www:{vhid}", vhid=vhid, advskew=advskew, balancing=balancing)
        for vhid, advskew in zip(balancing.vhids, advskews, strict=True)
    ]


class Gate:
    """The kernel's part: what was installed last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *hosts: VirtualHostConfig) -> None:
        self.installed: list[list[Guard]] = []
        link = Link("eth1", 2, bytes(6), True, True, "", "", 0, 1500)
        monkeypatch.setattr(preparation, "links", lambda: [link])
        monkeypatch.setattr(lease, "installed", lambda: ["eth1"] if self.installed else [])
        monkeypatch.setattr(lease, "install", lambda parent, guards: self.installed.append([*guards]))
        monkeypatch.setattr(preparation.Preparation, "_device", lambda self, host, parent: host.vhid)
        monkeypatch.setattr(preparation, "delete_links", lambda indexes: None)
        self.preparation = Preparation(hosts, tmp_path)
        self.preparation.prepare()

    def change(self, hosts: list[VirtualHostConfig]) -> None:
        assert self.preparation.change(hosts) == []
        self.preparation.prepare()


CHANGES: dict[str, tuple[list[VirtualHostConfig], list[VirtualHostConfig], list[Guard] | None, list[Guard] | None]] = {
    "what the gate does not know": ([LAN], [replace(LAN, preempt=True, group="edge")], None, None),
    "addresses": (
        [LAN],
        [replace(LAN, addresses=(TWO, THREE))],
        [guard(1, ONE, TWO, THREE)],
        [guard(1, TWO, THREE)],
    ),
    "a longer lease": (
        [LAN],
        [replace(LAN, advskew=20)],
        [guard(1, ONE, TWO, lease_ns=2 * LEASE_NS)],
        None,
    ),
    "a shorter lease": (
        [replace(LAN, advskew=20)],
        [LAN],
        None,
        [guard(1, ONE, TWO)],
    ),
    "a virtual host more": ([LAN], [LAN, DMZ], None, [guard(1, ONE, TWO), guard(2, THREE)]),
    "one less": ([LAN, DMZ], [LAN], None, [guard(1, ONE, TWO)]),
    "another vhid": (
        [LAN],
        [replace(LAN, vhid=7)],
        None,
        [guard(7, ONE, TWO)],
    ),
    "another MAC": ([LAN], [replace(LAN, mac=MacMode.REAL)], None, [guard(1, ONE, TWO, mac=False)]),
    "an address of another": (
        [LAN, DMZ],
        [replace(LAN, addresses=(ONE,)), replace(DMZ, addresses=(TWO, THREE))],
        None,
        [guard(1, ONE), guard(2, TWO, THREE)],
    ),
    "nodes": (
        nodes(10, 20),
        nodes(30, 10),
        [guard(5, ONE, TWO, lease_ns=3 * LEASE_NS, mac=False, nodes=(5, 6))],
        None,
    ),
    "a node more": (
        nodes(10, 10),
        nodes(10, 10, 10),
        None,
        [guard(5, ONE, TWO, mac=False, nodes=(5, 6, 7))],
    ),
}


@pytest.mark.parametrize(("old", "new", "during", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_the_gate_during_a_change_and_after(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    old: list[VirtualHostConfig],
    new: list[VirtualHostConfig],
    during: list[Guard] | None,
    after: list[Guard] | None,
) -> None:
    """None: it is not touched."""
    gate = Gate(monkeypatch, tmp_path, *old)
    for step, wanted in ((gate.preparation.widen, during), (gate.change, after)):
        before = len(gate.installed)
        step(new)
        assert gate.installed[before:] == ([wanted] if wanted else [])
    gate.preparation.prepare()
    assert sorted(gate.preparation.prepared) == sorted(host.name for host in new)
