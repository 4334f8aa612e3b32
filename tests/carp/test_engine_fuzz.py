"""Whatever comes from the network, and in whatever order things happen: nothing raises and the contract holds."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carpd.config.model import DemotionMode, MacMode, MasterDownRule
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
from carpd.wire.carp import PROTOCOL, Advertisement
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from tests.carp.harness import (
    BOTH_FAMILIES,
    IPV4_ONLY,
    IPV6_ONLY,
    MAC,
    OURS,
    PEER,
    Node,
    frame,
    host_config,
    interface,
    signed,
)

CONFIG = host_config(preempt=True)
VALID = [frame(signed(CONFIG, advskew=advskew), family) for advskew in (0, 100, 254) for family in Family]


@pytest.fixture(scope="module", params=["BACKUP", "MASTER"])
def node(request: pytest.FixtureRequest) -> Node:
    return Node(CONFIG) if request.param == "BACKUP" else Node.master(CONFIG)


def state_of(node: Node) -> tuple[Any, ...]:
    host = node.host
    return host.state, node.engine.deadline, host.heard, host.since, node.engine.groups["carp"].total


@given(data=st.binary(max_size=200))
def test_random_bytes(node: Node, data: bytes) -> None:
    before = state_of(node)
    assert node.tell(FrameReceived("eth0", data)) == []
    assert state_of(node) == before


@given(
    data=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.integers(0, 75), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.one_of(st.none(), st.integers(0, 100)),
)
@settings(max_examples=500)
def test_mutated_advertisements(data: bytes, edits: list[tuple[int, int]], length: int | None) -> None:
    """Bytes changed, cut off or added. Only what the digest does not cover can make a difference (spec carp §2)."""
    for node in (Node(CONFIG), Node.master(CONFIG)):
        mutated = bytearray(data)
        for offset, value in edits:
            mutated[offset % len(mutated)] = value
        cut = bytes(mutated) if length is None else bytes(mutated[:length]).ljust(length, b"\0")
        node.tell(FrameReceived("eth0", cut))
        refused = dataclasses.replace(node.counters, ipackets=0, ipackets6=0)
        assert sum(dataclasses.astuple(refused)) <= 1, "one counter for one packet"


@given(payload=st.binary(max_size=60), family=st.sampled_from(Family), ttl=st.sampled_from((255, 254)))
def test_random_payloads_for_us(node: Node, payload: bytes, family: Family, ttl: int) -> None:
    """With right headers around it a payload is counted once as received, and once for what is wrong with it."""
    if family is Family.IPV4:
        packet = IPv4Packet(
            source=PEER[family], destination=OURS[family], ttl=ttl, protocol=PROTOCOL, payload=payload
        ).to_bytes()
    else:
        packet = IPv6Packet(
            source=PEER[family], destination=OURS[family], hop_limit=ttl, next_header=PROTOCOL, payload=payload
        ).to_bytes()
    before = sum(dataclasses.astuple(node.counters))
    ethertype = ETHERTYPE_IPV4 if family is Family.IPV4 else ETHERTYPE_IPV6
    assert node.tell(FrameReceived("eth0", EthernetFrame(MAC, bytes(6), ethertype, packet).to_bytes())) == []
    assert sum(dataclasses.astuple(node.counters)) == before + 2


names = st.sampled_from(("lan", "wan", "dmz"))
interfaces = st.sampled_from(("eth0", "eth1"))
errnos = st.sampled_from((0, 0, errno.ENOBUFS, errno.ENETDOWN))
configs = st.builds(
    host_config,
    name=names,
    interface=interfaces,
    vhid=st.integers(1, 3),
    addresses=st.sampled_from((BOTH_FAMILIES, IPV4_ONLY, IPV6_ONLY, ())),
    advbase=st.integers(0, 3),
    advskew=st.sampled_from((0, 1, 100, 254)),
    preempt=st.booleans(),
    group=st.sampled_from(("edge", "core")),
    mac=st.sampled_from(MacMode),
    demotion=st.sampled_from(DemotionMode),
    master_down=st.sampled_from(MasterDownRule),
    senderr_demotion_factor=st.sampled_from((1, 240)),
)
configurations = st.lists(configs, max_size=3, unique_by=(lambda c: c.name, lambda c: (c.interface, c.vhid))).map(tuple)


class AnyOrder(RuleBasedStateMachine):
    """One node, and everything that can happen to it. `EffectContract` follows every effect: it is what tells, for one,
    that nobody advertises but a master that has its addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(host_config(name="lan", vhid=1), host_config(name="wan", vhid=2, interface="eth1"))

    @rule(ns=st.integers(0, 5 * SECOND), backlog=st.integers(0, 5 * SECOND))
    def time_passes(self, ns: int, backlog: int) -> None:
        self.node.at(ns)
        self.node.tell(TimersDue(self.node.now - backlog))

    @rule()
    def timers_expire(self) -> None:
        if self.node.engine.deadline is not None:
            self.node.expire()
            assert self.node.engine.deadline is None or self.node.engine.deadline > self.node.now

    @rule(
        number=st.integers(0, 2),
        family=st.sampled_from(Family),
        advbase=st.sampled_from((0, 1, 2, 255)),
        advskew=st.sampled_from((0, 1, 100, 255)),
        demotion=st.sampled_from((0, 1, 255)),
        ago=st.integers(0, 2 * SECOND),
    )
    def a_peer_advertises(
        self, number: int, family: Family, advbase: int, advskew: int, demotion: int, ago: int
    ) -> None:
        hosts = list(self.node.engine.hosts.values())
        if not hosts:
            return
        config = hosts[number % len(hosts)].config
        message = signed(config, advbase=advbase, advskew=advskew, demotion=demotion)
        now, self.node.now = self.node.now, self.node.now - ago  # kernel timestamps lie a little before
        self.node.tell(FrameReceived(config.interface, frame(message, family)))
        self.node.now = now

    @rule(name=interfaces, number=st.integers(0, 100))
    def our_own_comes_back(self, name: str, number: int) -> None:
        if self.node.contract.sent:
            effect = self.node.contract.sent[-1 - number % len(self.node.contract.sent)]
            self.node.tell(FrameReceived(name, frame(effect.message, effect.family, OURS[effect.family])))

    @rule(name=interfaces, number=st.integers(0, 2), family=st.sampled_from(Family))
    def a_master_says_farewell_on_some_interface(self, name: str, number: int, family: Family) -> None:
        hosts = list(self.node.engine.hosts.values())
        if hosts:
            message = signed(hosts[number % len(hosts)].config, advbase=255, advskew=255)
            self.node.tell(FrameReceived(name, frame(message, family)))

    @rule(name=interfaces, vhid=st.integers(0, 4), advskew=st.integers(0, 255))
    def a_stranger_advertises(self, name: str, vhid: int, advskew: int) -> None:
        before = {name: host.state for name, host in self.node.engine.hosts.items()}
        self.node.tell(FrameReceived(name, frame(Advertisement(vhid=vhid, advskew=advskew))))
        assert before == {name: host.state for name, host in self.node.engine.hosts.items()}

    @rule(event=st.builds(Configure, configurations, st.integers(0, 2**64 - 1)))
    def configure(self, event: Configure) -> None:
        self.node.tell(event)

    @rule(
        event=st.one_of(
            st.builds(interface, interfaces, up=st.booleans()),
            st.builds(InterfaceChanged, interfaces, st.booleans(), st.just(bytes(6))),
            st.builds(InterfaceGone, interfaces),
            st.builds(HostPrepared, names),
            st.builds(AdvertisementSent, names, st.sampled_from(Family), errnos),
            st.builds(TakeFailed, names, st.just(errno.EPERM)),
            st.builds(ForceState, names, st.sampled_from(CarpState)),
            st.builds(SetDemotion, st.sampled_from(("edge", "core")), st.just("test"), st.integers(0, 300)),
        )
    )
    def something_happens(self, event: Event) -> None:
        self.node.tell(event)

    @invariant()
    def masters_and_no_others_have_addresses(self) -> None:
        for name, host in self.node.engine.hosts.items():
            held = self.node.contract.held.get(name, set())
            expected = {a.ip for a in host.config.addresses} if host.state is CarpState.MASTER else set()
            assert {a.ip for a in held} == expected
            assert self.node.contract.state.get(name, CarpState.INIT) is host.state
        assert not any(held for name, held in self.node.contract.held.items() if name not in self.node.engine.hosts)

    @invariant()
    def the_deadline_is_the_earliest(self) -> None:
        wanted = [host.deadline for host in self.node.engine.hosts.values() if host.deadline is not None]
        assert self.node.engine.deadline == min(wanted, default=None)

    @invariant()
    def a_link_that_is_up_demotes_nobody(self) -> None:
        down = {"eth0", "eth1"} - {name for name, known in self.node.engine.interfaces.items() if known.up}
        for name, group in self.node.engine.groups.items():
            hosts = [host.config for host in self.node.engine.hosts.values() if host.config.group == name]
            expected = {f"link of {c.interface} is down" for c in hosts if c.interface in down}
            assert {reason for reason in group.reasons if reason.startswith("link")} == expected
            failures = {reason.split(":")[0] for reason in group.reasons if ": " in reason}
            assert failures <= {config.name for config in hosts}, "only its own hosts' failures"

    def teardown(self) -> None:
        self.node.tell(Shutdown())
        while self.node.engine.deadline is not None:
            self.node.expire()
        assert self.node.engine.stopped
        assert not any(self.node.contract.held.values())
        assert not any(self.node.contract.gate_open.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40)
