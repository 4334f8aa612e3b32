"""The rules of the demo's firewalls, with real packets: what passes, how it is translated, what a state is worth."""

from __future__ import annotations

import socket
from typing import NamedTuple

import pytest

from carpd.lab.firewalls import CLIENT, LAN_GATEWAYS, SERVER, SYNC_PEERS, WAN_GATEWAYS, Firewall, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.rules import FORWARDED_PORT, SERVICE_PORT, be_stateful
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError

SILENCE_S = 0.3
ANSWER_S = 5.0


@pytest.fixture
def network(lab: Lab) -> FirewallNetwork:
    """Both firewalls have the rules, fw-a the gateways' addresses."""
    network = FirewallNetwork(lab)
    for firewall in network.firewalls:
        be_stateful(firewall.node)
    move(network, "add", network.a)
    return network


def move(network: FirewallNetwork, command: str, firewall: Firewall) -> None:
    for interface, gateways in (("eth1", LAN_GATEWAYS), ("eth2", WAN_GATEWAYS)):
        firewall.node.ip(*(f"address {command} {gateway} dev {interface}" for gateway in gateways))
    for host in (network.client, network.server):
        host.ip("neigh flush dev eth0")


def fail_over(network: FirewallNetwork) -> None:
    move(network, "del", network.a)
    move(network, "add", network.b)


def listener(node: Node, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with node.inside():
        listener = socket.create_server((address, port), family=family)
    listener.settimeout(ANSWER_S)
    return listener


def connect(node: Node, address: str, port: int, limit_s: float = ANSWER_S) -> socket.socket:
    with node.inside():
        return socket.create_connection((address, port), timeout=limit_s)


class Case(NamedTuple):
    """Whether a connection that is begun inside (or else outside) passes, and whom the other end sees."""

    inside: bool
    asked: tuple[str, int]
    listens: tuple[str, int]
    seen: str | None


CASES = {
    "out, IPv4": Case(True, (SERVER[0], 80), (SERVER[0], 80), WAN_GATEWAYS[0]),
    "out, IPv6": Case(True, (SERVER[1], 80), (SERVER[1], 80), CLIENT[1]),
    "service, IPv4": Case(False, (WAN_GATEWAYS[0], FORWARDED_PORT), (CLIENT[0], SERVICE_PORT), SERVER[0]),
    "service, IPv6": Case(False, (CLIENT[1], SERVICE_PORT), (CLIENT[1], SERVICE_PORT), SERVER[1]),
    "another port, IPv4": Case(False, (CLIENT[0], SERVICE_PORT + 1), (CLIENT[0], SERVICE_PORT + 1), None),
    "another port, IPv6": Case(False, (CLIENT[1], SERVICE_PORT + 1), (CLIENT[1], SERVICE_PORT + 1), None),
    "past the translation": Case(False, (CLIENT[0], SERVICE_PORT), (CLIENT[0], SERVICE_PORT), None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_who_may_begin(network: FirewallNetwork, case: Case) -> None:
    opener, other = (network.client, network.server) if case.inside else (network.server, network.client)
    with listener(other, *case.listens) as waiting:
        if case.seen is None:
            with pytest.raises(TimeoutError):
                connect(opener, *case.asked, limit_s=SILENCE_S)
        else:
            with connect(opener, *case.asked), waiting.accept()[0] as accepted:
                assert accepted.getpeername()[0] == case.seen


@pytest.mark.parametrize("address", SERVER)
def test_a_connection_that_the_other_firewall_does_not_know_breaks(network: FirewallNetwork, address: str) -> None:
    """Which is what the demo is about. A new one passes there."""
    with listener(network.server, address, 80) as waiting:
        with connect(network.client, address, 80) as old, waiting.accept()[0] as accepted:
            old.sendall(b"before")
            assert accepted.recv(100) == b"before"
            fail_over(network)
            for one, another in ((old, accepted), (accepted, old)):
                one.sendall(b"after")
                another.settimeout(SILENCE_S)
                with pytest.raises(TimeoutError):
                    another.recv(100)
        connect(network.client, address, 80).close()


@pytest.mark.parametrize("address", [*LAN_GATEWAYS, *SERVER])
def test_pings_pass(network: FirewallNetwork, address: str) -> None:
    network.client.run(("ping", "-n", "-c", "1", "-W", "2", address))


@pytest.mark.parametrize(("address", "port", "passes"), [(SYNC_PEERS[1], 5240, True), (SYNC_PEERS[1], 5241, False)])
def test_the_sync_link_is_for_pfsync(network: FirewallNetwork, address: str, port: int, passes: bool) -> None:
    with network.b.node.inside():
        receiver = socket.socket(type=socket.SOCK_DGRAM)
    with network.a.node.inside():
        sender = socket.socket(type=socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((address, port))
        receiver.settimeout(ANSWER_S if passes else SILENCE_S)
        sender.sendto(b"state", (address, port))
        if passes:
            assert receiver.recv(100) == b"state"
        else:
            with pytest.raises(TimeoutError):
                receiver.recv(100)


def test_the_firewalls_reach_each_other_on_the_sync_link(network: FirewallNetwork) -> None:
    """And lose that with everything else when one has no power."""
    ping = ("ping", "-n", "-c", "1", "-W", "0.3", "fd00::2")
    network.a.node.run(ping)
    network.lab.power_cut(network.a.ports)
    with pytest.raises(LabError):
        network.a.node.run(ping)
