"""A peer that goes on by what a virtual host was before it was configured anew: each refuses the other."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from carpd.carp.engine import LEFT_BEHIND_AGAIN_NS
from carpd.config.model import VirtualHostConfig
from carpd.effects import Effect, PeerLeftBehind
from carpd.events import Configure, Family, FrameReceived
from tests.carp.harness import BOTH_FAMILIES, OURS, PEER, SEED, Node, frame, host_config, interface, signed

OLD = host_config()
TOLD = [PeerLeftBehind("lan", PEER[Family.IPV4])]


def node_with(*new: VirtualHostConfig, old: tuple[VirtualHostConfig, ...] = (OLD,)) -> Node:
    """A backup that had the old configuration, and has the new one."""
    node = Node(*old)
    for name in {config.interface for config in new}:
        node.tell(interface(name))
    node.tell(Configure(new, SEED))
    return node


def hears(node: Node, config: VirtualHostConfig = OLD, source: bytes | None = None) -> list[Effect]:
    """What follows from an advertisement of a peer with this configuration."""
    effects = node.tell(FrameReceived(config.interface, frame(signed(config), source=source)))
    return [effect for effect in effects if isinstance(effect, PeerLeftBehind)]


REFUSED = {
    "another password": host_config(key=b"new"),
    "an address more": host_config(addresses=(*BOTH_FAMILIES, ip_interface("192.0.2.11/24"))),
    "an address less": host_config(addresses=BOTH_FAMILIES[:1]),
    "another vhid": host_config(vhid=8),
    "another interface": host_config(interface="eth1"),
}


@pytest.mark.parametrize("new", REFUSED.values(), ids=REFUSED.keys())
def test_who_has_the_former_settings_is_told_of(new: VirtualHostConfig) -> None:
    assert hears(node_with(new)) == TOLD


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        host_config(advskew=1, preempt=True, group="edge"),
        host_config(addresses=tuple(reversed(BOTH_FAMILIES))),
        host_config(addresses=(ip_interface("192.0.2.10/25"), BOTH_FAMILIES[1])),
    ],
    ids=["nothing", "what is ours alone", "the order of the addresses", "a prefix length"],
)
def test_who_is_believed_is_not(new: VirtualHostConfig) -> None:
    node = node_with(new)
    assert hears(node) == []
    assert node.host.heard is not None


def test_whoever_has_neither_is_a_stranger() -> None:
    node = node_with(host_config(key=b"new"))
    assert hears(node, host_config(key=b"strange")) == []
    assert node.counters.badauth == 1


def test_a_virtual_host_that_was_removed_is_the_peers_alone() -> None:
    node = node_with(host_config(name="wan", vhid=9), old=(OLD, host_config(name="wan", vhid=9)))
    assert hears(node) == []
    assert node.counters.badvhid == 1


def test_our_own_last_word_comes_back() -> None:
    assert hears(node_with(host_config(key=b"new")), source=OURS[Family.IPV4]) == []


def test_it_is_told_again_but_not_of_every_packet() -> None:
    node = node_with(host_config(key=b"new"))
    assert hears(node) == TOLD
    assert hears(node.at(LEFT_BEHIND_AGAIN_NS - 1)) == []
    assert hears(node.at(1)) == TOLD


def test_it_goes_by_the_last_change_of_what_peers_prove() -> None:
    """A change of something else forgets nothing; who went back is in turn the one that others have left."""
    node = node_with(host_config(key=b"new"))
    node.tell(Configure((host_config(key=b"new", advskew=7),), SEED))
    assert hears(node) == TOLD
    node.tell(Configure((OLD,), SEED))
    assert hears(node) == []
    assert hears(node, host_config(key=b"new")) == TOLD


def test_exchanged_vhids() -> None:
    """The vhid is another virtual host's now: it is the former owner that is told of."""
    other = host_config(name="wan", vhid=8, addresses=(ip_interface("198.51.100.1/24"),))
    node = node_with(host_config(vhid=8), replace(other, vhid=7), old=(OLD, other))
    assert hears(node) == TOLD
    assert hears(node, other) == [PeerLeftBehind("wan", PEER[Family.IPV4])]
