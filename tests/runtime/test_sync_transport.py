"""Sealed packets between two hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.linux import sync_device
from carpd.linux.seal_keys import SealKeys
from carpd.linux.sync_sockets import RawSyncSocket, UdpSyncSocket
from carpd.pfsync.sealed import OVERHEAD, SealedLink
from carpd.runtime.sync_transport import SealedTransport, SyncTransport
from tests.linux.segment import wait_until

SECRET = b"s" * 32
PORT = 5240
A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
Pair = tuple[SealedTransport, SealedTransport]


@pytest.fixture
def nodes(lab: Lab) -> tuple[Node, Node]:
    switch = lab.switch("sync")
    nodes = lab.node("a"), lab.node("b")
    for node, address in zip(nodes, (A, B), strict=True):
        lab.cable(node, "eth2", switch, f"{address}/24")
    return nodes


def sealed(node: Node, peer: IPv4Address, link: SealedLink | None = None) -> SealedTransport:
    with node.inside():
        udp = UdpSyncSocket(sync_device.find("eth2", [peer]), PORT)
    return SealedTransport(udp, link or SealedLink(SealKeys(), os.urandom, [SECRET]))


@pytest.fixture
def pair(nodes: tuple[Node, Node]) -> Iterator[Pair]:
    """Which know each other."""
    ours, theirs = sealed(nodes[0], B), sealed(nodes[1], A)
    heard = {ours: False, theirs: False}

    def both_hear() -> bool:
        for transport in heard:
            transport.send([b"hello"])
        for transport in heard:
            heard[transport] |= bool(transport.receive())
        return all(heard.values())

    assert wait_until(both_hear)
    while ours.receive() or theirs.receive():
        pass
    yield ours, theirs
    ours.close()
    theirs.close()


def receive(receiver: SyncTransport, count: int) -> list[bytes]:
    found: list[bytes] = []

    def is_there() -> bool:
        found.extend(packet for _, packet in receiver.receive())
        return len(found) >= count

    assert wait_until(is_there)
    return found


def test_packets_of_many_sizes(pair: Pair) -> None:
    """Some come with zeros behind them: a pfsync packet says how long it is."""
    ours, theirs = pair
    assert ours.max_payload == 1500 - 20 - 8 - OVERHEAD
    sizes = [ours.max_payload, 1200, ours.max_payload, 100, 1100, ours.max_payload, 20, 1]
    packets = [os.urandom(size) for size in sizes]
    assert ours.send(packets) == {}
    received = receive(theirs, len(packets))
    assert [found[: len(packet)] for packet, found in zip(packets, received, strict=True)] == packets
    assert not any(any(found[len(packet) :]) for packet, found in zip(packets, received, strict=True))
    assert [len(found) for found in received][3] == 100
    assert ours.send([b"alone"]) == {}
    assert receive(theirs, 1) == [b"alone"]


def test_another_socket_goes_on_with_the_link(nodes: tuple[Node, Node], pair: Pair) -> None:
    """The interface has another MTU now: peers notice nothing."""
    ours, theirs = pair
    proofs = theirs._link.counters.proofs
    ours.close()
    nodes[0].ip("link set eth2 mtu 1400")
    again = sealed(nodes[0], B, ours._link)
    assert again.max_payload == ours.max_payload - 100
    assert again.send([b"packet"]) == {}
    assert receive(theirs, 1) == [b"packet"]
    assert theirs._link.counters.proofs == proofs
    again.close()


def test_a_raw_socket_is_a_transport(nodes: tuple[Node, Node]) -> None:
    with nodes[0].inside():
        ours: SyncTransport = RawSyncSocket(sync_device.find("eth2", [B]))
    assert ours.send([b"packet"]) == {}
    ours.close()
