"""Two firewalls with carpd on both sides, and a client that goes on: the product's main job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND, SECOND
from carpd.wire.carp import virtual_mac
from carpd.wire.ethernet import format_mac
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, Carpd, served, virtual_host
from tests.daemon.segment import addresses

LAN = ["192.0.2.1/24", "192.0.2.99/24", "2001:db8:1::1/64", "2001:db8:1::99/64"]
WAN = ["198.51.100.1/24", "2001:db8:2::1/64"]
TARGETS = {"server4": SERVER[0], "server6": SERVER[1]} | {
    name: address.partition("/")[0] for name, address in zip(("lan4", "other4", "lan6", "other6"), LAN, strict=True)
}


@dataclass
class Pair:
    """Two firewalls of which `a` is the better one, and master when a test begins."""

    network: FirewallNetwork
    a: Carpd
    b: Carpd
    probe: Probe
    a_addresses: set[str]
    """Before there was a daemon."""

    @property
    def client(self) -> Node:
        return self.network.client


def pair_of(lab: Lab, **settings: Any) -> Pair:
    def tables(**timers: Any) -> list[str]:
        common = {"group": "edge", "preempt": True, **settings, **timers}
        return [
            virtual_host("lan", interface="eth1", vhid=1, addresses=LAN, **common),
            virtual_host("wan", interface="eth2", vhid=2, addresses=WAN, **common),
        ]

    network = FirewallNetwork(lab)
    a_addresses = addresses(network.a.node)
    a = Carpd(network.a.node, *tables(**FAST))
    a.becomes("MASTER")
    b = Carpd(network.b.node, *tables(**SLOWER))
    b.becomes("BACKUP")
    pair = Pair(network, a, b, Probe(network.client, TARGETS, interval_ns=5 * MILLISECOND), a_addresses)
    served(pair.probe)
    return pair


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    pair = pair_of(lab)
    yield pair
    pair.probe.stop()


def neighbor(node: Node, address: str) -> str:
    """The link-layer address that a node knows for an IP address."""
    (entry,) = json.loads(node.run(["ip", "-json", "neigh", "show", address]))
    return str(entry["lladdr"])


def neighbors(pair: Pair) -> set[str]:
    return {neighbor(pair.client, address) for address in LAN_GATEWAYS}


def test_power_cut_and_return(pair: Pair) -> None:
    """b takes everything over, the client's entries for the gateways stay what they are; a returns and preempts."""
    assert neighbors(pair) == {format_mac(virtual_mac(1))}
    pair.network.lab.power_cut(pair.network.a.ports)
    pair.b.becomes("MASTER")
    served(pair.probe)
    assert neighbors(pair) == {format_mac(virtual_mac(1))}
    pair.network.lab.power_back(pair.network.a.ports)
    pair.b.becomes("BACKUP")
    pair.a.becomes("MASTER")
    served(pair.probe)
    assert neighbors(pair) == {format_mac(virtual_mac(1))}


def test_stop_and_return(pair: Pair) -> None:
    """SIGTERM: b is called by the bow-out, a's addresses and devices are away, exit status 0. a comes back later."""
    assert pair.a.stop() == 0
    assert pair.a.log().splitlines()[-1].endswith("INFO: stopped")
    assert addresses(pair.a.node) == pair.a_addresses
    assert "carp-" not in pair.a.node.run(["ip", "link"])
    pair.b.becomes("MASTER")
    assert pair.b.host()["reason"] != "master timed out"
    served(pair.probe)
    pair.a.start()
    pair.a.becomes("MASTER")
    pair.b.becomes("BACKUP")
    served(pair.probe)


def test_a_lost_link_moves_the_whole_group(pair: Pair) -> None:
    """One cable out: the other interface moves too, for a gateway with one leg forwards nothing. It comes back so.

    Nobody waits for a timer: on the interface that is left the master says that it leaves the lost one.
    """
    pair.network.a.lan.unplug()
    pair.b.becomes("MASTER")
    assert "master timed out" not in {host["reason"] for host in pair.b.hosts()}
    served(pair.probe)
    assert pair.a.states() == {"lan": "INIT", "wan": "BACKUP"}
    assert pair.a.host("wan")["demotion_reasons"] == {"link of eth1 is down": 1}
    assert pair.a.host("lan")["waits_for"] == "link of eth1 is down"
    pair.network.a.lan.plug()
    pair.a.becomes("MASTER")
    pair.b.becomes("BACKUP")
    assert pair.a.host("wan")["demotion"] == 0
    served(pair.probe)


def test_without_preempt_the_returning_node_waits(lab: Lab) -> None:
    """A better node that comes back leaves the addresses where they are until their master goes."""
    pair = pair_of(lab, preempt=False)
    pair.network.lab.power_cut(pair.network.a.ports)
    pair.b.becomes("MASTER")
    pair.a.stop()
    pair.network.lab.power_back(pair.network.a.ports)
    pair.a.start()
    pair.a.becomes("BACKUP")
    wait_until(lambda: pair.a.host()["counters"]["ipackets"] >= 3, LIMIT_NS, "a hears three advertisements of b")
    assert set(pair.a.states().values()) == {"BACKUP"}
    assert set(pair.b.states().values()) == {"MASTER"}
    pair.b.stop()
    pair.a.becomes("MASTER")
    served(pair.probe)


def mac_of(daemon: Carpd) -> str:
    (link,) = json.loads(daemon.node.run(["ip", "-json", "link", "show", "eth1"]))
    return str(link["address"])


def test_real_mac(lab: Lab) -> None:
    """The addresses stand on the interfaces themselves, and the client's entries follow to the new master's MAC."""
    pair = pair_of(lab, mac="real")
    assert neighbors(pair) == {mac_of(pair.a)}
    assert pair.a.stop() == 0
    assert addresses(pair.a.node) == pair.a_addresses
    pair.b.becomes("MASTER")
    served(pair.probe)
    assert neighbors(pair) == {mac_of(pair.b)}
    pair.a.start()
    pair.a.becomes("MASTER")
    pair.b.becomes("BACKUP")
    served(pair.probe)
    assert neighbors(pair) == {mac_of(pair.a)}


def test_real_mac_after_a_partition(lab: Lab) -> None:
    """Both were master. The better one tells where it is when they hear each other again, before the client gives up.

    The client's own doubts about an entry take more than five seconds.
    """
    pair = pair_of(lab, mac="real")
    pair.network.lab.power_cut(pair.network.a.ports)
    pair.b.becomes("MASTER")
    served(pair.probe)
    assert neighbors(pair) == {mac_of(pair.b)}
    pair.network.lab.power_back(pair.network.a.ports)
    pair.b.becomes("BACKUP")
    served(pair.probe, limit_ns=3 * SECOND)
    assert neighbors(pair) == {mac_of(pair.a)}
