"""The whole product of states and events: what each event does in each state, as one table.

A cell is the new state and what is done, in order. The node has one virtual host with an address of each family,
without preemption; `send` and `bow-out` are one advertisement a family. `EffectContract` checks every order of effects.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest

from carpd.config.model import MacMode, VirtualHostConfig
from carpd.effects import Announce, Effect, ReleaseAddresses, SendAdvertisement, TakeAddresses
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    Family,
    ForceState,
    FrameReceived,
    HostPrepared,
    InterfaceChanged,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TakeFailed,
    TimersDue,
)
from carpd.units import SECOND
from tests.carp.harness import (
    IPV4_ONLY,
    OURS,
    SEED,
    Node,
    address,
    frame,
    host_config,
    interface,
    sent,
    signed,
    transcript,
)

CONFIG = host_config()
MAKE: dict[str, Callable[[], Node]] = {
    "INIT, no device": lambda: Node(CONFIG, prepared=False),
    "INIT, no link": lambda: Node(CONFIG, up=False),
    "BACKUP": lambda: Node(CONFIG),
    "MASTER": lambda: Node.master(CONFIG),
    "MASTER, sent away": lambda: after(Node.master(CONFIG), ForceState("lan", CarpState.BACKUP)),
    "MASTER, shutting down": lambda: after(Node.master(CONFIG), Shutdown()),
}
"""The states. A master that was sent away, or is shutting down, has bowed out and waits to hear its successor."""


def after(node: Node, event: Event) -> Node:
    node.tell(event)
    return node


def heard(**fields: int) -> Callable[[Node], Event]:
    return lambda node: FrameReceived("eth0", frame(signed(CONFIG, **fields)))


def wrong_digest(node: Node) -> Event:
    message = signed(CONFIG, advskew=0)
    return FrameReceived("eth0", frame(dataclasses.replace(message, counter=message.counter + 1)))


def looped(node: Node) -> Event:
    """The last advertisement that this node sent, if any: a tie, from its own address."""
    message = node.contract.sent[-1].message if node.contract.sent else signed(CONFIG, advskew=100)
    return FrameReceived("eth0", frame(message, source=OURS[Family.IPV4]))


def configured(*configs: VirtualHostConfig) -> Callable[[Node], Event]:
    return lambda node: Configure(configs, SEED)


def changed(**changes: object) -> Callable[[Node], Event]:
    return configured(host_config(**changes))


def due(heard_until: int) -> Callable[[Node], Event]:
    def at_the_deadline(node: Node) -> Event:
        node.at(node.wait or 10 * SECOND)
        return TimersDue(node.now + heard_until)

    return at_the_deadline


def always(event: Event) -> Callable[[Node], Event]:
    return lambda node: event


OTHER_ADDRESSES = (IPV4_ONLY[0], address("192.0.2.11/24"))

# event -> what makes it, and then what follows in each of the states above
PRODUCT: dict[str, tuple[Callable[[Node], Event], str, str, str, str, str, str]] = {
    "configure, the same": (configured(CONFIG), "INIT", "INIT", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "configure, new advskew": (
        changed(advskew=50),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER send announce",
        "MASTER",
        "MASTER",
    ),
    "configure, preempt": (
        changed(preempt=True),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER send announce",
        "MASTER",
        "MASTER",
    ),
    "configure, other addresses": (
        changed(addresses=OTHER_ADDRESSES),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER take release send announce",
        "MASTER take release",
        "MASTER",
    ),
    "configure, no address": (
        changed(addresses=()),
        "INIT",
        "INIT",
        "INIT changed",
        "INIT surrender release changed",
        "INIT surrender release changed",
        "MASTER",
    ),
    "configure, other vhid": (
        changed(vhid=8),
        "INIT",
        "INIT",
        "INIT changed",
        "INIT bow-out surrender release changed",
        "INIT bow-out surrender release changed",
        "MASTER",
    ),
    "configure, other interface": (  # it is not there: that demotes
        changed(interface="eth1"),
        "INIT demotion",
        "INIT demotion demotion",
        "INIT changed demotion",
        "INIT bow-out surrender release changed demotion",
        "INIT bow-out surrender release changed demotion",
        "MASTER",
    ),
    "configure, real MAC": (
        changed(mac=MacMode.REAL),
        "INIT",
        "INIT",
        "INIT changed",
        "INIT bow-out surrender release changed",
        "INIT bow-out surrender release changed",
        "MASTER",
    ),
    "configure, removed": (
        configured(),
        "-",
        "-",
        "- changed",
        "- bow-out surrender release changed",
        "- bow-out surrender release changed",
        "MASTER",
    ),
    "configure, renamed": (
        changed(name="dmz"),
        "-",
        "-",
        "- changed",
        "- bow-out surrender release changed",
        "- bow-out surrender release changed",
        "MASTER",
    ),
    "interface, the same": (
        lambda node: node.engine.interfaces.get("eth0", interface()),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "link down": (
        always(interface(up=False)),
        "INIT demotion",
        "INIT",
        "INIT changed demotion",
        "INIT surrender release changed demotion",
        "INIT surrender release changed demotion",
        "INIT surrender release changed demotion",
    ),
    "link up": (always(interface()), "INIT", "BACKUP changed demotion", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "another MAC": (
        always(interface(mac=bytes(6))),
        "INIT",
        "BACKUP changed demotion",
        "BACKUP",
        "MASTER announce",
        "MASTER",
        "MASTER",
    ),
    "another own address": (
        always(interface(addresses=())),
        "INIT",
        "BACKUP changed demotion",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "another interface": (
        always(interface("eth9", up=False)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "interface gone": (
        always(InterfaceGone("eth0")),
        "INIT demotion",
        "INIT",
        "INIT changed demotion",
        "INIT surrender release changed demotion",
        "INIT surrender release changed demotion",
        "INIT surrender release changed demotion",
    ),
    "another interface gone": (
        always(InterfaceGone("eth9")),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "prepared": (
        always(HostPrepared("lan")),
        "BACKUP changed",
        "INIT",
        "BACKUP",
        "MASTER take send announce",
        "MASTER take",
        "MASTER",
    ),
    "another host prepared": (always(HostPrepared("dmz")), "INIT", "INIT", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "heard a better one": (
        heard(advskew=99),
        "INIT",
        "INIT",
        "BACKUP",
        "BACKUP surrender release own-mac surrender changed",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "heard an equal one": (
        heard(advskew=100),
        "INIT",
        "INIT",
        "BACKUP",
        "BACKUP surrender release changed",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "heard a worse one": (
        heard(advskew=101),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER send announce",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "heard a more demoted one": (
        heard(advskew=0, demotion=1),
        "INIT",
        "INIT",
        "MASTER take send announce changed",
        "MASTER send announce",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "heard a bow-out": (
        heard(advbase=255, advskew=255),
        "INIT",
        "INIT",
        "MASTER take send announce changed",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "heard a wrong digest": (wrong_digest, "INIT", "INIT", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "heard itself": (looped, "INIT", "INIT", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "heard noise": (
        always(FrameReceived("eth0", b"noise")),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "timers, not due": (lambda node: TimersDue(node.now), "INIT", "INIT", "BACKUP", "MASTER", "MASTER", "MASTER"),
    "timers, due": (
        due(0),
        "INIT",
        "INIT",
        "MASTER take send announce changed",
        "MASTER send",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "timers, due, with a backlog": (
        due(-1),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER send",
        "BACKUP surrender release changed",
        "INIT surrender release changed",
    ),
    "sent": (
        always(AdvertisementSent("lan", Family.IPV4)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "send failed": (
        always(AdvertisementSent("lan", Family.IPV6, errno.ENETDOWN)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "another host's send failed": (
        always(AdvertisementSent("dmz", Family.IPV6, errno.ENETDOWN)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "take failed": (
        always(TakeFailed("lan", errno.EPERM)),
        "INIT demotion",
        "INIT demotion",
        "BACKUP demotion",
        "BACKUP bow-out surrender release changed demotion",
        "BACKUP bow-out surrender release changed demotion",
        "MASTER",
    ),
    "another host's take failed": (
        always(TakeFailed("dmz", errno.EPERM)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "force MASTER": (
        always(ForceState("lan", CarpState.MASTER)),
        "INIT",
        "INIT",
        "MASTER take send announce changed",
        "MASTER",
        "MASTER send announce",
        "MASTER",
    ),
    "force BACKUP": (
        always(ForceState("lan", CarpState.BACKUP)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER bow-out",
        "MASTER bow-out",
        "MASTER",
    ),
    "force INIT": (
        always(ForceState("lan", CarpState.INIT)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "force another host": (
        always(ForceState("dmz", CarpState.MASTER)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "demote": (
        always(SetDemotion("carp", "pfsync", 32)),
        "INIT demotion",
        "INIT demotion",
        "BACKUP demotion",
        "MASTER demotion send",
        "MASTER demotion",
        "MASTER",
    ),
    "end a demotion that is not": (
        always(SetDemotion("carp", "pfsync", 0)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "demote another group": (
        always(SetDemotion("edge", "pfsync", 1)),
        "INIT",
        "INIT",
        "BACKUP",
        "MASTER",
        "MASTER",
        "MASTER",
    ),
    "shutdown": (
        always(Shutdown()),
        "INIT",
        "INIT",
        "INIT changed",
        "MASTER bow-out",
        "MASTER bow-out",
        "MASTER",
    ),
}

CELLS = {
    (name, situation): (make_event, cell)
    for name, (make_event, *cells) in PRODUCT.items()
    for situation, cell in zip(MAKE, cells, strict=True)
}


def families_sent(effects: list[Effect]) -> list[Family]:
    return [e.family for e in effects if isinstance(e, SendAdvertisement)]


@pytest.mark.parametrize(("name", "situation"), CELLS, ids=lambda part: part)
def test_every_pair(name: str, situation: str) -> None:
    make_event, expected = CELLS[name, situation]
    node = MAKE[situation]()
    assert node.state.value == situation.split(",")[0]
    effects = node.tell(make_event(node))
    assert transcript(node, effects) == expected
    check_step(node, effects)


def check_step(node: Node, effects: list[Effect]) -> None:
    """What holds after any event. The order of effects was checked by `EffectContract`."""
    for name, host in node.engine.hosts.items():
        assert node.contract.state.get(name, CarpState.INIT) is host.state
        assert bool(node.contract.held.get(name)) is (host.state is CarpState.MASTER)
        if host.state is not CarpState.MASTER:
            assert all(m.is_bow_out for e in effects for m in sent([e])), "only a MASTER advertises"
            assert not any(isinstance(e, Announce) for e in effects)
        assert (host.deadline is None) is (host.state is CarpState.INIT)


def test_no_pair_is_missing() -> None:
    assert set(CELLS) == set(product(PRODUCT, MAKE))
    assert {situation.split(",")[0] for situation in MAKE} == {state.value for state in CarpState}
    made = {type(make_event(Node(CONFIG))) for make_event, *_ in PRODUCT.values()}
    assert made == set(get_args(Event))


@pytest.mark.parametrize("name", PRODUCT)
def test_an_event_that_is_told_twice_does_no_harm(name: str) -> None:
    for make_node in MAKE.values():
        node = make_node()
        event = PRODUCT[name][0](node)
        node.tell(event)
        check_step(node, node.tell(event))


@pytest.mark.parametrize("first", PRODUCT)
def test_any_two_events_in_a_row(first: str) -> None:
    """No expected result here: the contract of effects, and the states."""
    for make_node, second in product(MAKE.values(), PRODUCT):
        node = make_node()
        node.tell(PRODUCT[first][0](node))
        check_step(node, node.tell(PRODUCT[second][0](node)))


def test_three_failed_sends_demote_in_each_state() -> None:
    for state, expected in (("BACKUP", "BACKUP demotion"), ("MASTER", "MASTER demotion send")):
        node = MAKE[state]()
        for _ in range(2):
            assert node.tell(AdvertisementSent("lan", Family.IPV4, errno.ENOBUFS)) == []
        effects = node.tell(AdvertisementSent("lan", Family.IPV4, errno.ENOBUFS))
        assert transcript(node, effects) == expected


def test_nothing_is_done_after_shutdown() -> None:
    for make_event, *_ in PRODUCT.values():
        node = MAKE["MASTER, shutting down"]()
        assert not node.engine.stopped
        node.expire()
        assert node.engine.stopped
        assert node.engine.deadline is None
        assert node.tell(make_event(node)) == []


def test_a_successor_is_waited_for_a_tenth_of_a_second() -> None:
    for situation in ("MASTER, sent away", "MASTER, shutting down"):
        node = MAKE[situation]()
        assert node.wait == SECOND // 10
        assert all(message.is_bow_out for message in sent(node.expire())), "the bow-out was its last word"
        assert node.contract.gate_open["lan"] is False


def test_a_virtual_host_that_never_leaves_is_no_obstacle() -> None:
    """Of two, one has no link: shutting down takes as long as the other needs."""
    node = Node.master(host_config(vhid=1), host_config(name="wan", vhid=2, interface="eth1"))
    node.tell(interface("eth1", up=False))
    node.tell(Shutdown())
    node.hear(advskew=200)
    assert node.engine.stopped


def test_an_address_that_stays_is_never_given_up() -> None:
    node = Node.master(CONFIG)
    effects = node.tell(Configure((host_config(addresses=OTHER_ADDRESSES),), SEED))
    assert [e.addresses for e in effects if isinstance(e, ReleaseAddresses)] == [CONFIG.addresses[1:]]
    assert [e.addresses for e in effects if isinstance(e, TakeAddresses)] == [OTHER_ADDRESSES[1:]]
    assert families_sent(effects) == [Family.IPV4], "there is no IPv6 address any more"


def test_swapped_vhids_are_two_new_hosts() -> None:
    one, two = host_config(name="one", vhid=1), host_config(name="two", vhid=2)
    node = Node.master(one, two)
    swapped = (dataclasses.replace(one, vhid=2), dataclasses.replace(two, vhid=1))
    node.tell(Configure(swapped, SEED))
    for config in swapped:
        node.tell(HostPrepared(config.name))
    node.configs = swapped
    node.hear(host=0, advskew=0)
    assert [host.heard is not None for host in node.engine.hosts.values()] == [True, False]


def test_an_event_of_no_known_type_is_a_defect() -> None:
    with pytest.raises(KeyError):
        Node().tell(InterfaceChanged)  # type: ignore[arg-type]
