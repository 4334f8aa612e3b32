"""The whole product of states and events of a node that shares its addresses with another node of this host.

As in test_virtual_host_product: a cell is the new state of the node lan:1 and what is done, in order; what its sister
lan:2 does stands behind "2:". The peer is at PEER, and was master before this host where a state says "waits".
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest

from carpd.carp.share import YIELD_LIMIT_NS
from carpd.config.model import BalancingMode, VirtualHostConfig
from carpd.effects import Announce, Effect, OpenShare, SendAdvertisement, SendWithOwnMac, SurrenderLease
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    Family,
    ForceState,
    FrameReceived,
    HostPrepared,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TakeFailed,
    TimersDue,
)
from carpd.wire.carp import YIELDED
from tests.carp.harness import (
    IPV4_ONLY,
    OURS,
    PEER,
    SEED,
    Node,
    address,
    frame,
    interface,
    keep_backup,
    node_config,
    sharing,
    signed,
    transcript,
)

ONE, TWO = node_config(1), node_config(2)
THIRD_HOST = bytes((192, 0, 2, 3))


def took_over(node: Node) -> Node:
    """lan:1 did, from a living master, which has not yielded yet."""
    node.hear(demotion=1)
    return node


MAKE: dict[str, Callable[[], Node]] = {
    "INIT, no gate": lambda: Node(ONE, TWO, prepared=False),
    "INIT, no link": lambda: Node(ONE, TWO, up=False),
    "BACKUP": lambda: Node(ONE, TWO),
    "BACKUP, 2 is MASTER": lambda: sharing(2),
    "MASTER": lambda: sharing(1),
    "MASTER, 2 is MASTER": lambda: sharing(1, 2),
    "MASTER, late": lambda: keep_backup(sharing(1).at(ONE.lease_ns), 1),
    "MASTER, took over": lambda: took_over(Node(ONE, TWO)),
    "MASTER, waits": lambda: took_over(Node(ONE, TWO)).expired(),
    "MASTER, waits, 2 is MASTER": lambda: took_over(sharing(2)).expired(),
}
"""The states. "late": its lease has run out, and it did not say anything since. Who took over from a living master
"waits" for its word, from the moment on when the clock was looked at.
"""


def heard(source: bytes = PEER[Family.IPV4], **fields: int) -> Callable[[Node], Event]:
    return lambda node: FrameReceived("eth0", frame(signed(ONE, **fields), source=source))


def wrong_digest(node: Node) -> Event:
    message = signed(ONE, advskew=0)
    return FrameReceived("eth0", frame(dataclasses.replace(message, counter=message.counter + 1)))


def looped(node: Node) -> Event:
    return FrameReceived("eth0", frame(signed(ONE, advskew=100), source=OURS[Family.IPV4]))


def configured(*configs: VirtualHostConfig) -> Callable[[Node], Event]:
    return lambda node: Configure(configs, SEED)


def changed(**changes: object) -> Callable[[Node], Event]:
    """Both nodes are: what they have in common changes for both."""
    return configured(dataclasses.replace(ONE, **changes), dataclasses.replace(TWO, **changes))  # type: ignore[arg-type]


def at_the_deadline(node: Node, backlog: int = 0) -> Event:
    node.at(max(node.wait or 0, 0))
    return TimersDue(node.now - backlog)


def always(event: Event) -> Callable[[Node], Event]:
    return lambda node: event


def later(ns: int) -> Callable[[Node], Event]:
    return lambda node: TimersDue(node.at(ns).now)


OTHER_ADDRESSES = (IPV4_ONLY[0], address("192.0.2.11/24"))

NEW_NODES = {
    "BACKUP": "INIT changed 2:changed",
    "BACKUP, 2 is MASTER": "INIT changed 2:surrender 2:bow-out 2:release 2:changed",
    "MASTER": "INIT surrender bow-out release changed 2:changed",
    "MASTER, 2 is MASTER": "INIT surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
    "MASTER, late": "INIT surrender bow-out release changed 2:changed",
    "MASTER, took over": "INIT surrender bow-out release changed 2:changed",
    "MASTER, waits": "INIT surrender bow-out release changed 2:changed",
    "MASTER, waits, 2 is MASTER": "INIT surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
}

LOST = {
    "INIT, no gate": "INIT demotion",
    "BACKUP": "INIT changed 2:changed demotion",
    "BACKUP, 2 is MASTER": "INIT changed 2:surrender 2:release 2:changed demotion",
    "MASTER": "INIT surrender release changed 2:changed demotion",
    "MASTER, 2 is MASTER": "INIT surrender changed 2:surrender 2:release 2:changed demotion",
    "MASTER, late": "INIT surrender release changed 2:changed demotion",
    "MASTER, took over": "INIT surrender release changed 2:changed demotion",
    "MASTER, waits": "INIT surrender release changed 2:changed demotion",
    "MASTER, waits, 2 is MASTER": "INIT surrender changed 2:surrender 2:release 2:changed demotion",
}

YIELDED_TO_US = {
    "MASTER, took over": "MASTER open",
    "MASTER, waits": "MASTER open",
    "MASTER, waits, 2 is MASTER": "MASTER open",
}

# event -> what makes it, and what follows; in a state that is left out nothing does
PRODUCT: dict[str, tuple[Callable[[Node], Event], dict[str, str]]] = {
    "configure, the same": (configured(ONE, TWO), {}),
    "configure, new advskew": (
        changed(advskew=50),
        {
            "BACKUP, 2 is MASTER": "BACKUP 2:send",
            "MASTER": "MASTER send",
            "MASTER, 2 is MASTER": "MASTER send 2:send",
            "MASTER, late": "MASTER surrender take send",
            "MASTER, took over": "MASTER send",
            "MASTER, waits": "MASTER send",
            "MASTER, waits, 2 is MASTER": "MASTER send 2:send",
        },
    ),
    "configure, other addresses": (
        changed(addresses=OTHER_ADDRESSES),
        {
            "BACKUP, 2 is MASTER": "BACKUP 2:take 2:release 2:send",
            "MASTER": "MASTER take release send",
            "MASTER, 2 is MASTER": "MASTER take release send 2:take 2:release 2:send",
            "MASTER, late": "MASTER take release surrender take send",
            "MASTER, took over": "MASTER take release send",
            "MASTER, waits": "MASTER take release send",
            "MASTER, waits, 2 is MASTER": "MASTER take release send 2:take 2:release 2:send",
        },
    ),
    "configure, no address": (
        changed(addresses=()),
        {
            "BACKUP": "INIT changed 2:changed",
            "BACKUP, 2 is MASTER": "INIT changed 2:surrender 2:release 2:changed",
            "MASTER": "INIT surrender release changed 2:changed",
            "MASTER, 2 is MASTER": "INIT surrender changed 2:surrender 2:release 2:changed",
            "MASTER, late": "INIT surrender release changed 2:changed",
            "MASTER, took over": "INIT surrender release changed 2:changed",
            "MASTER, waits": "INIT surrender release changed 2:changed",
            "MASTER, waits, 2 is MASTER": "INIT surrender changed 2:surrender 2:release 2:changed",
        },
    ),
    "configure, another mode": (
        configured(node_config(1, BalancingMode.ARP), node_config(2, BalancingMode.ARP)),
        NEW_NODES,
    ),
    "configure, a third node": (configured(*(node_config(v, vhids=(1, 2, 3)) for v in (1, 2, 3))), NEW_NODES),
    "configure, removed": (
        configured(),
        {
            "INIT, no gate": "-",
            "INIT, no link": "-",
            "BACKUP": "- changed 2:changed",
            "BACKUP, 2 is MASTER": "- changed 2:surrender 2:bow-out 2:release 2:changed",
            "MASTER": "- surrender bow-out release changed 2:changed",
            "MASTER, 2 is MASTER": "- surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
            "MASTER, late": "- surrender bow-out release changed 2:changed",
            "MASTER, took over": "- surrender bow-out release changed 2:changed",
            "MASTER, waits": "- surrender bow-out release changed 2:changed",
            "MASTER, waits, 2 is MASTER": "- surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
        },
    ),
    "configure, 2 removed": (configured(node_config(1, vhids=(1, 3)), node_config(3, vhids=(1, 3))), NEW_NODES),
    "link down": (always(interface(up=False)), LOST),
    "link up": (
        always(interface()),
        {
            "INIT, no link": "BACKUP changed 2:changed demotion",
        },
    ),
    "another MAC": (
        always(interface(mac=bytes(6))),
        {
            "INIT, no link": "BACKUP changed 2:changed demotion",
        },
    ),
    "interface gone": (always(InterfaceGone("eth0")), LOST),
    "prepared": (
        always(HostPrepared("lan:1")),
        {
            "INIT, no gate": "BACKUP changed",
            "MASTER": "MASTER take send open",
            "MASTER, 2 is MASTER": "MASTER take send open",
            "MASTER, late": "MASTER take surrender take send",
            "MASTER, took over": "MASTER take send",
            "MASTER, waits": "MASTER take send",
            "MASTER, waits, 2 is MASTER": "MASTER take send",
        },
    ),
    "heard a better one": (
        heard(advskew=99),
        {
            "MASTER": "BACKUP surrender release yielded changed",
            "MASTER, 2 is MASTER": "BACKUP surrender yielded changed",
            "MASTER, late": "BACKUP surrender release yielded changed",
            "MASTER, took over": "BACKUP surrender release yielded changed",
            "MASTER, waits": "BACKUP surrender release yielded changed",
            "MASTER, waits, 2 is MASTER": "BACKUP surrender yielded changed",
        },
    ),
    "heard an equal one": (
        heard(advskew=100),
        {
            "MASTER": "BACKUP surrender release changed",
            "MASTER, 2 is MASTER": "BACKUP surrender changed",
            "MASTER, late": "BACKUP surrender release changed",
            "MASTER, took over": "BACKUP surrender release changed",
            "MASTER, waits": "BACKUP surrender release changed",
            "MASTER, waits, 2 is MASTER": "BACKUP surrender changed",
        },
    ),
    "heard a worse one": (
        heard(advskew=101),
        {
            "MASTER": "MASTER send",
            "MASTER, 2 is MASTER": "MASTER send",
            "MASTER, late": "MASTER surrender take send",
            "MASTER, took over": "MASTER send",
            "MASTER, waits": "MASTER send",
            "MASTER, waits, 2 is MASTER": "MASTER send",
        },
    ),
    "heard a more demoted one": (
        heard(advskew=0, demotion=1),
        {
            "BACKUP": "MASTER take send changed",
            "BACKUP, 2 is MASTER": "MASTER take send changed",
            "MASTER": "MASTER send",
            "MASTER, 2 is MASTER": "MASTER send",
            "MASTER, late": "MASTER surrender take send",
            "MASTER, took over": "MASTER send",
            "MASTER, waits": "MASTER send",
            "MASTER, waits, 2 is MASTER": "MASTER send",
        },
    ),
    "heard a bow-out": (
        heard(advbase=255, advskew=255),
        {
            "BACKUP": "MASTER take send changed",
            "BACKUP, 2 is MASTER": "MASTER take send changed",
        },
    ),
    "heard that it yielded": (heard(advskew=101, type=YIELDED), YIELDED_TO_US),
    "heard that another yielded": (heard(THIRD_HOST, advskew=101, type=YIELDED), {}),
    "heard a better one yield": (heard(advskew=0, type=YIELDED), YIELDED_TO_US),
    "heard a wrong digest": (wrong_digest, {}),
    "heard itself": (looped, {}),
    "heard noise": (always(FrameReceived("eth0", b"noise")), {}),
    "timers, not due": (
        lambda node: TimersDue(node.now),
        {
            "MASTER, late": "MASTER surrender take send probe",
        },
    ),
    "timers, due": (
        at_the_deadline,
        {
            "BACKUP": "MASTER take send open changed probe 2:take 2:send 2:open 2:changed",
            "BACKUP, 2 is MASTER": "BACKUP 2:send 2:probe",
            "MASTER": "MASTER send probe",
            "MASTER, 2 is MASTER": "MASTER send probe 2:send",
            "MASTER, late": "MASTER surrender take send probe",
            "MASTER, waits": "MASTER open",
            "MASTER, waits, 2 is MASTER": "MASTER open",
        },
    ),
    "timers, due, with a backlog": (
        lambda node: at_the_deadline(node, 1),
        {
            "BACKUP, 2 is MASTER": "BACKUP 2:send 2:probe",
            "MASTER": "MASTER send probe",
            "MASTER, 2 is MASTER": "MASTER send probe 2:send",
            "MASTER, late": "MASTER surrender take send probe",
        },
    ),
    "time to YIELD_LIMIT": (
        later(YIELD_LIMIT_NS),
        {
            "MASTER, late": "MASTER surrender take send probe",
            "MASTER, waits": "MASTER open",
            "MASTER, waits, 2 is MASTER": "MASTER open",
        },
    ),
    "time to the lease": (
        later(ONE.lease_ns),
        {
            "BACKUP, 2 is MASTER": "BACKUP 2:surrender 2:take 2:send 2:probe",
            "MASTER": "MASTER surrender take send probe",
            "MASTER, 2 is MASTER": "MASTER surrender take send probe 2:surrender 2:take 2:send",
            "MASTER, late": "MASTER surrender take send probe",
            "MASTER, took over": "MASTER surrender take send probe",
            "MASTER, waits": "MASTER surrender take send probe",
            "MASTER, waits, 2 is MASTER": "MASTER surrender take send probe 2:surrender 2:take 2:send",
        },
    ),
    "sent": (always(AdvertisementSent("lan:1", Family.IPV4)), {}),
    "send failed": (always(AdvertisementSent("lan:1", Family.IPV6, errno.ENETDOWN)), {}),
    "take failed": (
        always(TakeFailed("lan:1", errno.EPERM)),
        {
            "INIT, no gate": "INIT demotion",
            "INIT, no link": "INIT demotion",
            "BACKUP": "BACKUP demotion",
            "BACKUP, 2 is MASTER": "BACKUP demotion 2:send",
            "MASTER": "BACKUP surrender bow-out release changed demotion",
            "MASTER, 2 is MASTER": "BACKUP surrender bow-out changed demotion 2:send",
            "MASTER, late": "BACKUP surrender bow-out release changed demotion",
            "MASTER, took over": "BACKUP surrender bow-out release changed demotion",
            "MASTER, waits": "BACKUP surrender bow-out release changed demotion",
            "MASTER, waits, 2 is MASTER": "BACKUP surrender bow-out changed demotion 2:send",
        },
    ),
    "force MASTER": (
        always(ForceState("lan:1", CarpState.MASTER)),
        {
            "BACKUP": "MASTER take send changed",
            "BACKUP, 2 is MASTER": "MASTER take send changed",
        },
    ),
    "force BACKUP": (
        always(ForceState("lan:1", CarpState.BACKUP)),
        {
            "MASTER": "BACKUP surrender bow-out release changed",
            "MASTER, 2 is MASTER": "BACKUP surrender bow-out changed",
            "MASTER, late": "BACKUP surrender bow-out release changed",
            "MASTER, took over": "BACKUP surrender bow-out release changed",
            "MASTER, waits": "BACKUP surrender bow-out release changed",
            "MASTER, waits, 2 is MASTER": "BACKUP surrender bow-out changed",
        },
    ),
    "force INIT": (always(ForceState("lan:1", CarpState.INIT)), {}),
    "demote": (
        always(SetDemotion("carp", "pfsync", 32)),
        {
            "INIT, no gate": "INIT demotion",
            "INIT, no link": "INIT demotion",
            "BACKUP": "BACKUP demotion",
            "BACKUP, 2 is MASTER": "BACKUP demotion 2:send",
            "MASTER": "MASTER demotion send",
            "MASTER, 2 is MASTER": "MASTER demotion send 2:send",
            "MASTER, late": "MASTER demotion surrender take send",
            "MASTER, took over": "MASTER demotion send",
            "MASTER, waits": "MASTER demotion send",
            "MASTER, waits, 2 is MASTER": "MASTER demotion send 2:send",
        },
    ),
    "shutdown": (
        always(Shutdown()),
        {
            "BACKUP": "INIT changed 2:changed",
            "BACKUP, 2 is MASTER": "INIT changed 2:surrender 2:bow-out 2:release 2:changed",
            "MASTER": "INIT surrender bow-out release changed 2:changed",
            "MASTER, 2 is MASTER": "INIT surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
            "MASTER, late": "INIT surrender bow-out release changed 2:changed",
            "MASTER, took over": "INIT surrender bow-out release changed 2:changed",
            "MASTER, waits": "INIT surrender bow-out release changed 2:changed",
            "MASTER, waits, 2 is MASTER": "INIT surrender bow-out changed 2:surrender 2:bow-out 2:release 2:changed",
        },
    ),
}

CELLS = {
    (name, situation): (make_event, cells.get(situation, situation.split(",")[0]))
    for name, (make_event, cells) in PRODUCT.items()
    for situation in MAKE
}


@pytest.mark.parametrize(("name", "situation"), CELLS, ids=lambda part: part)
def test_every_pair(name: str, situation: str) -> None:
    make_event, expected = CELLS[name, situation]
    node = MAKE[situation]()
    assert node.engine.hosts["lan:1"].state.value == situation.split(",")[0]
    effects = node.tell(make_event(node))
    assert transcript(node, effects, "lan:1") == expected
    check_step(node, effects)


def check_step(node: Node, effects: list[Effect]) -> None:
    """What holds after any event. The order of effects was checked by `EffectContract`."""
    hosts = node.engine.hosts
    masters = {name for name, host in hosts.items() if host.state is CarpState.MASTER}
    assert bool(node.contract.held.get("lan")) is bool(masters), "the last node releases the addresses"
    assert {name for name, is_open in node.contract.gate_open.items() if is_open} == masters
    assert {name for name, is_open in node.contract.shares.items() if is_open} <= masters
    for name, host in hosts.items():
        assert host.serves is node.contract.shares.get(name, False)
        assert (host.deadline is None) is (host.state is CarpState.INIT)
    assert not any(isinstance(effect, Announce) for effect in effects)
    check_order(effects)


def check_order(effects: list[Effect]) -> None:
    """A share is surrendered before it is said that it is free, and opened behind an advertisement at the earliest."""
    closed: set[str] = set()
    for effect in effects:
        if isinstance(effect, SurrenderLease):
            closed.add(effect.host)
        elif isinstance(effect, (SendAdvertisement, SendWithOwnMac)):
            says_so = effect.message.is_bow_out or effect.message.type == YIELDED
            assert effect.host in closed or not says_so, f"not closed yet: {effect}"
        elif isinstance(effect, OpenShare):
            closed.discard(effect.host)


def test_no_pair_is_missing() -> None:
    assert all(set(cells) <= set(MAKE) for _, cells in PRODUCT.values())
    assert {situation.split(",")[0] for situation in MAKE} == {state.value for state in CarpState}
    made = {type(make_event(Node(ONE, TWO))) for make_event, _ in PRODUCT.values()}
    assert made == set(get_args(Event))


@pytest.mark.parametrize("first", PRODUCT)
def test_any_two_events_in_a_row(first: str) -> None:
    """No expected result here: the contract of effects, and the states."""
    for make_node, second in product(MAKE.values(), PRODUCT):
        node = make_node()
        node.tell(PRODUCT[first][0](node))
        check_step(node, node.tell(PRODUCT[second][0](node)))
