"""Demotion: named reasons that are summed for a group, and told to the peers. Ref: spec carp §10, §11."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.carp.demotion import Demotion
from carpd.config.model import DemotionMode, VirtualHostConfig
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Family,
    HostPrepared,
    InterfaceGone,
    SetDemotion,
    TakeFailed,
)
from carpd.units import SECOND, SKEW
from tests.carp.harness import SEED, Node, demotions, host_config, interface, sent

LAN = host_config(name="lan", interface="eth0", vhid=1, group="edge", advskew=0)
WAN = host_config(name="wan", interface="eth1", vhid=2, group="edge", advskew=0)
DMZ = host_config(name="dmz", interface="eth0", vhid=3, group="dmz", advskew=0)


def send_outcomes(node: Node, *errnos: int, host: str = "lan") -> list[tuple[str, int, int]]:
    """Tell these outcomes of sending, one after the other; which demotions changed."""
    families = (Family.IPV4, Family.IPV6)
    effects = [
        effect
        for number, code in enumerate(errnos)
        for effect in node.tell(AdvertisementSent(host, families[number % 2], code))
    ]
    return demotions(effects)


# The sum of named reasons


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), max_size=20))
def test_the_sum_is_that_of_the_last_amount_for_each_reason(settings: list[tuple[str, int]]) -> None:
    demotion = Demotion()
    for reason, amount in settings:
        demotion.set(reason, amount)
    last = dict(settings)
    assert demotion.total == sum(last.values())
    assert demotion.reasons == {reason: amount for reason, amount in last.items() if amount}
    for reason in last:
        demotion.set(reason, 0)
    assert demotion.total == 0


def test_each_change_is_told_once() -> None:
    node = Node.master(LAN)
    assert demotions(node.tell(SetDemotion("edge", "pfsync", 32))) == [("edge", 0, 32)]
    assert node.tell(SetDemotion("edge", "pfsync", 32)) == [], "saying it again changes nothing"
    assert demotions(node.tell(SetDemotion("edge", "carpctl", 1))) == [("edge", 32, 33)]
    assert demotions(node.tell(SetDemotion("edge", "pfsync", 0))) == [("edge", 33, 1)]
    assert node.tell(SetDemotion("edge", "pfsync", 0)) == []


def test_masters_of_the_group_say_it_at_once_and_others_do_not() -> None:
    node = Node.master(LAN, WAN, DMZ)
    effects = node.tell(SetDemotion("edge", "pfsync", 32))
    assert {message.vhid for message in sent(effects)} == {1, 2}
    assert {message.demotion for message in sent(effects)} == {32}
    assert Node(LAN).tell(SetDemotion("edge", "pfsync", 32))[1:] == [], "a BACKUP says nothing"


@pytest.mark.parametrize(
    ("mode", "advskew", "counter"),
    [(DemotionMode.COUNTER, 3, 10), (DemotionMode.ADVSKEW, 13, 0), (DemotionMode.BOTH, 13, 10)],
)
def test_how_the_peers_are_told(mode: DemotionMode, advskew: int, counter: int) -> None:
    node = Node.master(dataclasses.replace(LAN, advskew=3, demotion=mode))
    message = sent(node.tell(SetDemotion("edge", "test", 10)))[0]
    assert (message.advskew, message.demotion) == (advskew, counter)


def test_the_captures_of_freebsd() -> None:
    """freebsd-demotion.pcap: 0, 10, 250 and 0 show as advskew 3, 13, 240 and 3."""
    node = Node.master(dataclasses.replace(LAN, advskew=3, demotion=DemotionMode.ADVSKEW))
    shown = []
    for amount in (1, 0, 10, 250, 0):
        shown.append(sent(node.tell(SetDemotion("edge", "carp", amount)))[0].advskew)
    assert shown == [4, 3, 13, 240, 3]


def test_a_bow_out_carries_the_demotion_that_was_advertised() -> None:
    """A lower one would call every master of the group to step down. Ref: spec carp §11.3."""
    node = Node.master(LAN)
    node.tell(SetDemotion("edge", "test", 10))
    (message, _) = sent(node.tell(Configure((), SEED)))
    assert (message.is_bow_out, message.demotion) == (True, 10)


# Links


def test_a_link_that_is_down_demotes_its_groups_once() -> None:
    other = dataclasses.replace(LAN, name="lan2", vhid=9, ifdown_demotion_factor=5)
    node = Node.master(LAN, WAN, DMZ, other)
    effects = node.tell(interface("eth0", up=False))
    assert demotions(effects) == [("edge", 0, 5), ("dmz", 0, 1)], "the largest factor of a group's hosts on it"
    assert {m.vhid for m in sent(effects)} == {2}, "the masters that are left tell of it"
    assert node.tell(interface("eth0", up=False, mac=bytes(6))) == [], "down again"
    effects = node.tell(interface("eth0"))
    assert [type(e).__name__ for e in effects[:3]] == ["StateChanged"] * 3, "BACKUP first, then no longer demoted"
    assert demotions(effects) == [("edge", 5, 0), ("dmz", 1, 0)]


def test_each_link_is_a_reason_of_its_own() -> None:
    node = Node.master(LAN, WAN)
    node.tell(interface("eth0", up=False))
    node.tell(InterfaceGone("eth1"))
    assert node.engine.groups["edge"].total == 2
    node.tell(interface("eth1"))
    assert node.engine.groups["edge"].total == 1
    node.tell(interface("eth0"))
    assert node.engine.groups["edge"].total == 0


def test_an_interface_that_was_never_there_demotes() -> None:
    node = Node(LAN)
    node.tell(Configure((LAN, WAN), SEED))
    assert node.engine.groups["edge"].total == 1


# Send errors: spec carp §11.1

ERROR, OK = errno.ENETDOWN, 0
SEND_ERRORS: dict[str, tuple[tuple[int, ...], bool]] = {
    "two failures": ((ERROR,) * 2, False),
    "three failures": ((ERROR,) * 3, True),
    "a success below the threshold clears the failures": ((ERROR, ERROR, OK, ERROR, ERROR), False),
    "a success is not enough": ((ERROR,) * 3 + (OK,) * 2, True),
    "three successes are": ((ERROR,) * 3 + (OK,) * 3, False),
    "a failure starts the successes anew": ((ERROR,) * 3 + (OK, OK, ERROR, OK, OK), True),
    "until there are three in a row": ((ERROR,) * 3 + (OK, OK, ERROR, OK, OK, OK), False),
    "as many successes as it takes, not as there were failures": ((ERROR,) * 50 + (OK,) * 3, False),
    "and again": (((ERROR,) * 3 + (OK,) * 3) * 5 + (ERROR,) * 3, True),
}


@pytest.mark.parametrize(("outcomes", "demoted"), SEND_ERRORS.values(), ids=SEND_ERRORS)
def test_send_errors(outcomes: tuple[int, ...], demoted: bool) -> None:
    """Both families share the counts, as the alternating ones here."""
    node = Node.master(dataclasses.replace(LAN, senderr_demotion_factor=240))
    send_outcomes(node, *outcomes)
    assert node.engine.groups["edge"].total == (240 if demoted else 0)


@given(st.lists(st.sampled_from((OK, ERROR)), max_size=40))
def test_send_errors_never_leave_a_demotion_behind(outcomes: list[int]) -> None:
    """FreeBSD 13 does: there the first success forgets the failures, and the demotion stays."""
    node = Node.master(LAN)
    send_outcomes(node, *outcomes, OK, OK, OK)
    assert node.engine.groups["edge"].total == 0


def test_each_host_fails_for_itself() -> None:
    node = Node.master(LAN, WAN)
    send_outcomes(node, ERROR, ERROR, ERROR, host="lan")
    send_outcomes(node, ERROR, ERROR, ERROR, host="wan")
    assert node.engine.groups["edge"].total == 2
    send_outcomes(node, OK, OK, OK, host="lan")
    assert node.engine.groups["edge"].total == 1


@pytest.mark.parametrize("state", [CarpState.MASTER, CarpState.BACKUP])
def test_what_is_made_anew_is_not_blamed_for_what_failed_before(state: CarpState) -> None:
    """A backup sends nothing that could prove it: without this, who lost a share gate would be demoted for ever."""
    node = Node.master(LAN)
    send_outcomes(node, ERROR, ERROR, ERROR)
    if state is CarpState.BACKUP:
        node.hear(advskew=0, demotion=0)
    assert (node.state, node.engine.groups["edge"].total) == (state, 1)
    assert demotions(node.tell(HostPrepared("lan"))) == [("edge", 1, 0)]
    assert node.state is state
    assert send_outcomes(node, ERROR, ERROR) == []
    assert send_outcomes(node, ERROR) == [("edge", 0, 1)]


def test_sent_is_counted_before_it_fails() -> None:
    """Ref: spec carp §6.1: opackets counts the attempts, onomem those that lacked memory."""
    node = Node.master(LAN)
    send_outcomes(node, OK, errno.ENOBUFS, errno.ENOMEM, errno.ENETDOWN)
    counters = node.host.counters
    assert (counters.opackets, counters.opackets6, counters.onomem, counters.oerrors) == (2, 2, 2, 3)


# Addresses that can't be taken


def test_who_cannot_take_its_addresses_leaves_them_and_is_demoted() -> None:
    node = Node.master(LAN)
    effects = node.tell(TakeFailed("lan", errno.EPERM))
    assert node.state is CarpState.BACKUP
    assert all(message.is_bow_out for message in sent(effects))
    assert node.engine.groups["edge"].total == 1
    assert node.wait == 3 * SECOND, "somebody else has a master-down time to take them"


@pytest.mark.parametrize("preempt", [False, True])
def test_who_has_just_failed_is_not_called_by_a_bow_out(preempt: bool) -> None:
    """Otherwise two hosts that both can't would call each other for ever, at the speed of the network."""
    node = Node.master(dataclasses.replace(LAN, preempt=preempt))
    node.tell(TakeFailed("lan", errno.EPERM))
    for family in Family:
        assert node.at(SECOND).hear(family, advbase=255, advskew=255, demotion=5) == []
    assert node.at(SECOND).hear(advbase=255, advskew=255) != [], "after a master-down time it tries again"


def test_it_ends_when_it_was_master_for_an_interval_without_a_failure() -> None:
    node = Node.master(LAN)
    node.tell(TakeFailed("lan", errno.EPERM))
    node.expire()
    assert (node.state, node.engine.groups["edge"].total) == (CarpState.MASTER, 1)
    effects = node.expire()
    assert node.engine.groups["edge"].total == 0
    assert len(sent(effects)) == 2, "one advertisement a family, not two"
    assert node.wait == SECOND


# No demotion can stay behind

CAUSES: dict[str, Callable[[Node], object]] = {
    "link": lambda node: node.tell(interface("eth0", up=False)),
    "interface": lambda node: node.tell(InterfaceGone("eth0")),
    "send errors": lambda node: send_outcomes(node, ERROR, ERROR, ERROR),
    "addresses": lambda node: node.tell(TakeFailed("lan", errno.EPERM)),
}


def moved(**changes: object) -> tuple[VirtualHostConfig, ...]:
    return (dataclasses.replace(LAN, **changes), WAN)  # type: ignore[arg-type]


CHANGES: dict[str, tuple[VirtualHostConfig, ...]] = {
    "removed": (WAN,),
    "renamed": moved(name="net"),
    "to another interface": moved(interface="eth1"),
    "to another group": moved(group="dmz"),
    "to another vhid": moved(vhid=8),
    "another factor": moved(ifdown_demotion_factor=100, senderr_demotion_factor=100),
    "without addresses": moved(addresses=()),
}


@pytest.mark.parametrize(("cause", "change"), list(product(CAUSES, CHANGES)), ids=str)
def test_a_changed_configuration_leaves_no_demotion_behind(cause: str, change: str) -> None:
    """Whatever demoted the group, and whatever then becomes of the host: once all is well nothing is left."""
    node = Node.master(LAN, WAN)
    CAUSES[cause](node)
    assert node.engine.groups["edge"].total > 0
    node.configs = CHANGES[change]
    node.tell(Configure(CHANGES[change], SEED))
    node.tell(interface("eth0"))
    for config in CHANGES[change]:
        node.tell(HostPrepared(config.name))
    for _ in range(8):
        node.expire()
        for config in CHANGES[change]:
            send_outcomes(node, OK, OK, host=config.name)
    assert {name: dict(group.reasons) for name, group in node.engine.groups.items() if group.total} == {}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_host_that_is_gone_demotes_nobody_at_once(cause: str) -> None:
    node = Node.master(LAN, WAN)
    CAUSES[cause](node)
    effects = node.tell(Configure((WAN,), SEED))
    assert ("edge", 1, 0) in demotions(effects)
    assert {message.vhid for message in sent(effects) if message.demotion == 0} == {2}


def test_a_group_starts_afresh_when_it_is_configured_again() -> None:
    node = Node(LAN)
    node.tell(SetDemotion("edge", "test", 7))
    node.tell(Configure((), SEED))
    node.tell(Configure((LAN,), SEED))
    assert node.engine.groups["edge"].total == 0


def test_a_reason_survives_a_reload_of_its_group() -> None:
    node = Node.master(LAN)
    node.tell(SetDemotion("edge", "pfsync", 32))
    node.tell(Configure((dataclasses.replace(LAN, advskew=7),), SEED))
    assert sent(node.expire())[0].demotion == 32


# Together: lose one link, move all


@pytest.mark.parametrize("mode", DemotionMode, ids=lambda mode: mode.value)
def test_a_lost_link_makes_the_other_node_take_all(mode: DemotionMode) -> None:
    """The other one is told by what we then send: by the counter without preemption, by advskew with it."""
    factor = 240 if mode.in_advskew else 1
    settings = {"demotion": mode, "preempt": not mode.in_counter, "ifdown_demotion_factor": factor}
    ours = [dataclasses.replace(config, **settings) for config in (LAN, WAN)]  # type: ignore[arg-type]
    theirs = [dataclasses.replace(config, advskew=100) for config in ours]
    node, other = Node.master(*ours), Node(*theirs)
    told = sent(node.tell(interface("eth0", up=False)))
    for message in told:
        other.hear(host=1, advskew=message.advskew, demotion=message.demotion)
    assert other.engine.hosts["wan"].state is CarpState.MASTER
    assert other.engine.hosts["lan"].state is CarpState.BACKUP, "the link is lost: it waits for its timer"
    answer = other.contract.sent[-1].message
    node.hear(host=1, advskew=answer.advskew, demotion=answer.demotion)
    assert node.engine.hosts["wan"].state is CarpState.BACKUP


def test_a_master_down_time_is_never_demoted() -> None:
    for mode in DemotionMode:
        node = Node(dataclasses.replace(LAN, demotion=mode, advskew=10))
        node.tell(SetDemotion("edge", "test", 200))
        node.at(SECOND).hear(advskew=10, demotion=200)
        node.hear(Family.IPV6, advskew=10, demotion=200)
        assert (node.state, node.wait) == (CarpState.BACKUP, 3 * SECOND + 10 * SKEW)
