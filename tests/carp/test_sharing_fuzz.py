"""A host whose nodes share traffic, and whatever happens to it, in any order: the contract of effects holds."""

from __future__ import annotations

import errno

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carpd.config.model import BalancingMode, VirtualHostConfig
from carpd.effects import Announce, Effect, OpenShare, SendAdvertisement, SendWithOwnMac, SurrenderLease
from carpd.events import (
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
from carpd.units import MILLISECOND, SECOND
from carpd.wire.carp import YIELDED
from tests.carp.harness import (
    BOTH_FAMILIES,
    IPV4_ONLY,
    IPV6_ONLY,
    PEER,
    Node,
    frame,
    host_config,
    interface,
    node_config,
    signed,
)

THIRD = {Family.IPV4: bytes((192, 0, 2, 3)), Family.IPV6: PEER[Family.IPV6][:15] + b"\x03"}

names = st.sampled_from(("lan:1", "lan:2", "lan:3", "dmz"))


@st.composite
def configurations(draw: st.DrawFn) -> tuple[VirtualHostConfig, ...]:
    """Nodes of one virtual host, and perhaps another one beside it that does not share."""
    vhids = draw(st.sampled_from(((1, 2), (1, 2, 3), (2, 3))))
    mode = draw(st.sampled_from((BalancingMode.IP, BalancingMode.ARP)))
    addresses = draw(st.sampled_from((BOTH_FAMILIES, BOTH_FAMILIES, IPV4_ONLY, IPV6_ONLY, ())))
    advbase, key = draw(st.integers(0, 2)), draw(st.sampled_from((b"secret", b"other")))
    nodes = [
        node_config(
            vhid,
            mode,
            vhids,
            addresses=addresses,
            advbase=advbase,
            key=key,
            advskew=draw(st.sampled_from((1, 100, 254))),
            preempt=draw(st.booleans()),
        )
        for vhid in vhids
    ]
    return (*nodes, *([host_config(name="dmz", vhid=9)] if draw(st.booleans()) else ()))


class AnyOrder(RuleBasedStateMachine):
    """One host, and everything that can happen to it. `EffectContract` follows every effect."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(node_config(1, preempt=True), node_config(2))
        self.last_left: dict[str, int] = {}
        """When an advertisement of a node last left."""

    def tell(self, event: Event) -> None:
        """Check, too, that no advertisement ever opens a share: nodes that were silent for a lease have closed it."""
        open_before = {name for name, is_open in self.node.contract.shares.items() if is_open}
        effects = self.node.tell(event)
        for effect in effects:
            self.follow(effect, open_before)

    def follow(self, effect: Effect, open_before: set[str]) -> None:
        name, now = getattr(effect, "host", ""), self.node.now
        if isinstance(effect, OpenShare):
            open_before.add(name)
        elif isinstance(effect, SurrenderLease):
            open_before.discard(name)
        elif isinstance(effect, SendAdvertisement) and not effect.message.is_bow_out and not self.node.send_errno:
            if name in open_before and name in self.node.engine.hosts:
                lease_ns = self.node.engine.hosts[name].config.lease_ns
                assert now - self.last_left.get(name, now) < lease_ns or now < self.last_left[name], effect
            self.last_left[name] = now
        assert not isinstance(effect, Announce) or ":" not in name
        if isinstance(effect, SendWithOwnMac) and ":" in name:
            assert effect.message.is_bow_out or effect.message.type == YIELDED

    @rule(ns=st.one_of(st.integers(0, 5 * SECOND), st.integers(0, 20 * MILLISECOND)), backlog=st.integers(0, SECOND))
    def time_passes(self, ns: int, backlog: int) -> None:
        self.node.at(ns)
        self.tell(TimersDue(self.node.now - backlog))

    @rule()
    def timers_expire(self) -> None:
        if self.node.engine.deadline is not None:
            self.node.now = max(self.node.now, self.node.engine.deadline)
            self.tell(TimersDue(self.node.now))
            if self.node.engine.deadline == self.node.now:  # a failed send demoted, which had to be told
                self.tell(TimersDue(self.node.now))
            assert self.node.engine.deadline is None or self.node.engine.deadline > self.node.now

    @rule(
        number=st.integers(0, 3),
        family=st.sampled_from(Family),
        source=st.sampled_from((PEER, THIRD)),
        kind=st.sampled_from((1, 1, YIELDED)),
        advbase=st.sampled_from((0, 1, 255)),
        advskew=st.sampled_from((0, 1, 100, 255)),
        demotion=st.sampled_from((0, 0, 1)),
        ago=st.integers(0, SECOND),
    )
    def a_peer_advertises(
        self,
        number: int,
        family: Family,
        source: dict[Family, bytes],
        kind: int,
        advbase: int,
        advskew: int,
        demotion: int,
        ago: int,
    ) -> None:
        hosts = list(self.node.engine.hosts.values())
        if not hosts:
            return
        config = hosts[number % len(hosts)].config
        message = signed(config, type=kind, advbase=advbase, advskew=advskew, demotion=demotion)
        now, self.node.now = self.node.now, self.node.now - ago  # kernel timestamps lie a little before
        self.tell(FrameReceived(config.interface, frame(message, family, source[family])))
        self.node.now = now

    @rule(configs=configurations())
    def configure(self, configs: tuple[VirtualHostConfig, ...]) -> None:
        self.tell(Configure(configs, 1))

    @rule()
    def everything_is_prepared(self) -> None:
        for name in list(self.node.engine.hosts):
            self.tell(HostPrepared(name))

    @rule(fails=st.booleans())
    def sending_fails_or_works_again(self, fails: bool) -> None:
        self.node.send_errno = errno.ENOBUFS if fails else 0

    @rule(
        event=st.one_of(
            st.builds(interface, st.just("eth0"), up=st.booleans()),
            st.builds(InterfaceGone, st.just("eth0")),
            st.builds(HostPrepared, names),
            st.builds(TakeFailed, names, st.just(errno.EPERM)),
            st.builds(ForceState, names, st.sampled_from(CarpState)),
            st.builds(SetDemotion, st.just("carp"), st.just("test"), st.integers(0, 3)),
        )
    )
    def something_happens(self, event: Event) -> None:
        self.tell(event)

    @invariant()
    def masters_and_no_others_have_what_a_master_has(self) -> None:
        hosts, contract = self.node.engine.hosts, self.node.contract
        for virtual_host in ("lan", "dmz"):
            of_it = [host for host in hosts.values() if host.config.virtual_host == virtual_host]
            masters = [host for host in of_it if host.state is CarpState.MASTER]
            held = {address.ip for address in contract.held.get(virtual_host, ())}
            assert held == ({address.ip for address in masters[0].config.addresses} if masters else set())
        for name, host in hosts.items():
            assert contract.state.get(name, CarpState.INIT) is host.state
            assert contract.shares.get(name, False) is (host.serves and host.config.balancing is not None)
        assert not any(is_open for name, is_open in contract.gate_open.items() if name not in hosts)

    @invariant()
    def nodes_and_holders_are_those_that_are_configured(self) -> None:
        nodes = {name for name, host in self.node.engine.hosts.items() if host.config.balancing}
        assert {node.config.name for s in self.node.engine.sharing.values() for node in s.nodes.values()} == nodes
        for sharing in self.node.engine.sharing.values():
            masters = {node.config.name for node in sharing.nodes.values() if node.state is CarpState.MASTER}
            assert sharing.holders == masters

    @invariant()
    def the_deadline_is_the_earliest(self) -> None:
        wanted = [host.deadline for host in self.node.engine.hosts.values() if host.deadline is not None]
        assert self.node.engine.deadline == min(wanted, default=None)

    def teardown(self) -> None:
        self.tell(Shutdown())
        while self.node.engine.deadline is not None:
            self.node.now = max(self.node.now, self.node.engine.deadline)
            self.tell(TimersDue(self.node.now))
        assert self.node.engine.stopped
        assert not any(self.node.contract.held.values())
        assert not any(self.node.contract.gate_open.values())
        assert not any(self.node.contract.shares.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40)
