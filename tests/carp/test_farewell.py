"""A master that has lost its link says so on the group's other interfaces: peers that are carpd take over at once."""

from __future__ import annotations

import dataclasses

import pytest

from carpd.effects import Reason, SendWithOwnMac
from carpd.events import CarpState, Family, FrameReceived, InterfaceGone
from carpd.wire.carp import Advertisement
from tests.carp.harness import Node, frame, host_config, interface, signed

LAN = host_config(name="lan", interface="eth0", vhid=1, group="edge", advskew=0)
WAN = host_config(name="wan", interface="eth1", vhid=2, group="edge", advskew=0)
DMZ = host_config(name="dmz", interface="eth2", vhid=3, group="dmz", advskew=0)
BOW_OUT = signed(LAN, advbase=255, advskew=255)


def farewells(node: Node, event: object) -> list[tuple[str, str, Family]]:
    effects = node.tell(event)  # type: ignore[arg-type]
    said = [effect for effect in effects if isinstance(effect, SendWithOwnMac)]
    assert all(effect.message.is_bow_out for effect in said)
    return [(effect.host, effect.interface, effect.family) for effect in said]


@pytest.mark.parametrize("event", [interface("eth0", up=False), InterfaceGone("eth0")], ids=["link", "interface"])
def test_it_is_said_once_a_family_where_the_group_can(event: object) -> None:
    node = Node.master(LAN, WAN, DMZ)
    assert farewells(node, event) == [("lan", "eth1", Family.IPV4), ("lan", "eth1", Family.IPV6)]
    assert farewells(node, event) == [], "it is no master any more"


def test_who_was_no_master_says_nothing() -> None:
    node = Node(LAN, WAN)
    assert farewells(node, interface("eth0", up=False)) == []


def test_there_may_be_no_other_way() -> None:
    node = Node.master(LAN, WAN)
    node.tell(interface("eth1", up=False))
    assert farewells(node, interface("eth0", up=False)) == []


@pytest.mark.parametrize("family", Family, ids=lambda family: family.name)
def test_a_backup_that_hears_it_takes_over(family: Family) -> None:
    node = Node(LAN, WAN)
    node.tell(FrameReceived("eth1", frame(BOW_OUT, family)))
    assert {name: host.state for name, host in node.engine.hosts.items()} == {
        "lan": CarpState.MASTER,
        "wan": CarpState.BACKUP,
    }
    assert node.engine.hosts["lan"].reason is Reason.MASTER_LEFT


# what comes on another interface and is no farewell for us -> the counters of that interface
REFUSED: dict[str, tuple[Advertisement, str]] = {
    "an advertisement": (signed(LAN, advskew=200), "badvhid"),
    "a forged one": (dataclasses.replace(BOW_OUT, counter=1), "badvhid"),
    "of another group": (signed(DMZ, advbase=255, advskew=255), "badvhid"),
    "of an unknown vhid": (dataclasses.replace(BOW_OUT, vhid=9), "badvhid"),
    "of this interface's vhid, forged": (dataclasses.replace(BOW_OUT, vhid=2), "badauth"),
}


@pytest.mark.parametrize(("message", "counter"), REFUSED.values(), ids=REFUSED)
def test_refused(message: Advertisement, counter: str) -> None:
    node = Node(LAN, WAN, DMZ)
    assert node.tell(FrameReceived("eth1", frame(message))) == []
    assert getattr(node.engine.interface_counters["eth1"], counter) == 1


def test_a_vhid_that_is_in_use_on_both_interfaces() -> None:
    """The digest tells whose it is: the addresses differ."""
    wan = dataclasses.replace(WAN, vhid=1, addresses=WAN.addresses[:1])
    node = Node(LAN, wan)
    node.tell(FrameReceived("eth1", frame(BOW_OUT)))
    node.tell(FrameReceived("eth0", frame(signed(wan, advbase=255, advskew=255))))
    assert [host.state for host in node.engine.hosts.values()] == [CarpState.MASTER, CarpState.MASTER]


def test_our_own_comes_back() -> None:
    node = Node.master(LAN, WAN)
    effects = node.tell(interface("eth0", up=False))
    for effect in effects:
        if isinstance(effect, SendWithOwnMac):
            assert node.tell(FrameReceived("eth1", frame(effect.message, effect.family))) == []
    assert node.engine.hosts["lan"].state is CarpState.INIT
