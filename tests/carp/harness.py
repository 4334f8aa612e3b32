"""A node for tests: an engine, the time, and short ways to tell it what happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from ipaddress import ip_interface
from itertools import groupby, product
from typing import Any

from carpd.carp.engine import CarpEngine
from carpd.carp.virtual_host import VirtualHost
from carpd.config.model import Address, Balancing, BalancingMode, VirtualHostConfig
from carpd.effects import (
    Announce,
    Answer,
    DemotionChanged,
    Effect,
    OpenShare,
    PeerLeftBehind,
    ReleaseAddresses,
    SendAdvertisement,
    SendProbe,
    SendWithOwnMac,
    SharingChanged,
    StateChanged,
    SurrenderLease,
    TakeAddresses,
)
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    Family,
    FrameReceived,
    HostPrepared,
    InterfaceChanged,
    TimersDue,
)
from carpd.stats import CarpCounters
from carpd.units import SECOND
from carpd.wire.carp import GROUP4, GROUP6, YIELDED, Advertisement, virtual_mac
from carpd.wire.carp_auth import Authenticator
from carpd.wire.frames import advertisement_frame

START = 1_000 * SECOND
SEED = 0x1234_5678_9ABC_DEF0
MAC = bytes.fromhex("02 00 00 00 00 01")
OURS = {Family.IPV4: bytes((192, 0, 2, 1)), Family.IPV6: bytes.fromhex("fe80 0000 0000 0000 0000 0000 0000 0001")}
PEER = {Family.IPV4: bytes((192, 0, 2, 2)), Family.IPV6: bytes.fromhex("fe80 0000 0000 0000 0000 0000 0000 0002")}
GROUP = {Family.IPV4: GROUP4, Family.IPV6: GROUP6}
PEER_COUNTER = 0x0102_0304_0506_0708


def address(text: str) -> Address:
    return ip_interface(text)


BOTH_FAMILIES = (address("192.0.2.10/24"), address("2001:db8::a/64"))
IPV4_ONLY = BOTH_FAMILIES[:1]
IPV6_ONLY = BOTH_FAMILIES[1:]


def host_config(**changes: Any) -> VirtualHostConfig:
    """The virtual host of most tests: advbase 1, advskew 100, an address of each family, no preemption."""
    usual = VirtualHostConfig(name="lan", interface="eth0", vhid=7, addresses=BOTH_FAMILIES, key=b"secret", advskew=100)
    return dataclasses.replace(usual, **changes)


def node_config(
    vhid: int = 1, mode: BalancingMode = BalancingMode.IP, vhids: tuple[int, ...] = (1, 2), **changes: Any
) -> VirtualHostConfig:
    """One node of the virtual host "lan", whose nodes share its traffic."""
    balancing = Balancing(virtual_host="lan", mode=mode, vhids=vhids)
    return host_config(name=f"lan:{vhid}", vhid=vhid, balancing=balancing, **changes)


def interface(name: str = "eth0", **changes: Any) -> InterfaceChanged:
    usual = InterfaceChanged(name, up=True, mac=MAC, addresses=tuple(OURS.values()))
    return dataclasses.replace(usual, **changes)


def signed(config: VirtualHostConfig, counter: int = PEER_COUNTER, **fields: Any) -> Advertisement:
    """An advertisement of a peer that has the same vhid, addresses and key."""
    authenticator = Authenticator(
        config.key, config.vhid, config.addresses4, config.addresses6, send_link_local=config.digest_link_local
    )
    return Advertisement(vhid=config.vhid, counter=counter, digest=authenticator.sign(counter), **fields)


def frame(message: Advertisement, family: Family = Family.IPV4, source: bytes | None = None) -> bytes:
    return advertisement_frame(
        message, source_mac=virtual_mac(message.vhid), source=source or PEER[family], destination=GROUP[family]
    )


class Node:
    """Interfaces that are up and virtual hosts that are BACKUP, unless told otherwise. Every effect is checked.

    Where traffic is shared it answers each `SendAdvertisement`, with `send_errno`: without that a share has no lease.
    """

    send_errno = 0

    def __init__(self, *configs: VirtualHostConfig, prepared: bool = True, up: bool = True) -> None:
        self.engine = CarpEngine()
        self.now = START
        self.contract = EffectContract()
        self.configs = configs or (host_config(),)
        for name in sorted({config.interface for config in self.configs}):
            self.tell(interface(name, up=up))
        self.tell(Configure(self.configs, SEED))
        if prepared:
            for config in self.configs:
                self.tell(HostPrepared(config.name))

    @classmethod
    def master(cls, *configs: VirtualHostConfig) -> Node:
        """Every virtual host is MASTER, because its timer expired."""
        node = cls(*configs)
        while any(host.state is not CarpState.MASTER for host in node.engine.hosts.values()):
            node.expire()
        return node

    @property
    def host(self) -> VirtualHost:
        """The first virtual host."""
        return self.engine.hosts[self.configs[0].name]

    @property
    def state(self) -> CarpState:
        return self.host.state

    @property
    def counters(self) -> CarpCounters:
        """Those of the first interface."""
        return self.engine.interface_counters[self.configs[0].interface]

    @property
    def wait(self) -> int | None:
        """Nanoseconds until the deadline."""
        return None if self.engine.deadline is None else self.engine.deadline - self.now

    def tell(self, event: Event) -> list[Effect]:
        effects = self.engine.handle(self.now, event)
        self.contract.follow(effects)
        for effect in list(effects):
            if isinstance(effect, SendAdvertisement) and ":" in effect.host:
                effects += self.tell(AdvertisementSent(effect.host, effect.family, self.send_errno))
        return effects

    def hear(self, family: Family = Family.IPV4, host: int = 0, **fields: Any) -> list[Effect]:
        """A peer's advertisement for a virtual host, by its fields."""
        config = self.configs[host]
        return self.tell(FrameReceived(config.interface, frame(signed(config, **fields), family)))

    def expire(self) -> list[Effect]:
        """Wait for the deadline."""
        assert self.engine.deadline is not None
        self.now = max(self.now, self.engine.deadline)
        return self.tell(TimersDue(self.now))

    def expired(self) -> Node:
        """Wait for the deadline, whatever follows."""
        self.expire()
        return self

    def at(self, later_ns: int) -> Node:
        """Let time pass, without telling the engine."""
        self.now += later_ns
        return self


def sharing(*masters: int, configs: Sequence[VirtualHostConfig] = ()) -> Node:
    """The nodes lan:1 and lan:2, or these; MASTER of some, as nobody was heard, and BACKUP of the others."""
    node = Node(*(configs or (node_config(1), node_config(2)))).at(SECOND)
    backups = [number for number, config in enumerate(node.configs) if config.vhid not in masters]
    keep_backup(node, *backups)
    if masters:
        node.expire()
        keep_backup(node, *backups)
    states = {host.config.vhid for host in node.engine.hosts.values() if host.state is CarpState.MASTER}
    assert states == set(masters), states
    return node


def keep_backup(node: Node, *numbers: int) -> Node:
    """A better master of these virtual hosts is heard."""
    for number, family in product(numbers, Family):
        node.hear(family, number, advskew=node.configs[number].advskew - 1)
    return node


WORDS = {
    TakeAddresses: "take",
    ReleaseAddresses: "release",
    SurrenderLease: "surrender",
    OpenShare: "open",
    Announce: "announce",
    Answer: "answer",
    SendProbe: "probe",
    StateChanged: "changed",
    DemotionChanged: "demotion",
    SharingChanged: "finding",
    PeerLeftBehind: "left-behind",
}


def word(effect: Effect) -> str:
    """An effect in short."""
    if isinstance(effect, SendAdvertisement):
        return "bow-out" if effect.message.is_bow_out else "send"
    if isinstance(effect, SendWithOwnMac):
        return "yielded" if effect.message.type == YIELDED else "own-mac"
    return WORDS[type(effect)]


def transcript(node: Node, effects: list[Effect], name: str = "lan") -> str:
    """The state ("-": there is no such virtual host) and the effects; one send for each family is one word.

    What another virtual host does stands behind its vhid, as "2:send".
    """
    words = [node.engine.hosts[name].state.value if name in node.engine.hosts else "-"]
    for (host, kind), group in groupby(effects, lambda effect: (getattr(effect, "host", name), word(effect))):
        mark = "" if host == name else host.rpartition(":")[2] + ":"
        words += [mark + kind] * (1 if kind in ("send", "bow-out", "own-mac", "yielded") else len(list(group)))
    return " ".join(words)


def sent(effects: list[Effect]) -> list[Advertisement]:
    return [e.message for e in effects if isinstance(e, SendAdvertisement)]


def demotions(effects: list[Effect]) -> list[tuple[str, int, int]]:
    return [(e.group, e.old, e.new) for e in effects if isinstance(e, DemotionChanged)]


class EffectContract:
    """What a driver has that performs all effects in order, and what it may rely on (design §4, §6).

    A node that shares is called NAME:vhid. What NAME holds is held for all of its nodes.
    """

    def __init__(self) -> None:
        self.state: dict[str, CarpState] = {}
        self.held: dict[str, set[Address]] = {}
        self.gate_open: dict[str, bool] = {}
        self.shares: dict[str, bool] = {}
        """Of nodes that share: whether their part of the traffic is taken, as far as the gate is open."""
        self.sent: list[SendAdvertisement] = []

    def follow(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, DemotionChanged):
                assert effect.old != effect.new, effect
            elif not isinstance(effect, SharingChanged):
                self._follow(effect.host, effect)

    def _follow(self, host: str, effect: Effect) -> None:
        name, _, vhid = host.partition(":")
        held = self.held.setdefault(name, set())
        others = any(self.gate_open[node] for node in self.gate_open if node.startswith(name + ":") and node != host)
        match effect:
            case TakeAddresses():
                held |= set(effect.addresses)
            case SendAdvertisement():
                assert held, f"advertised before the addresses were taken, or after they were released: {effect}"
                assert len(effect.message.digest) == 20, effect
                if not (vhid and effect.message.is_bow_out):
                    self.gate_open[host] = True
                else:
                    assert not self.shares.get(host), f"bowed out while it still takes its share: {effect}"
                self.sent.append(effect)
            case SendWithOwnMac():
                assert vhid or not held, f"who has an address advertises from the MAC that answers: {effect}"
                assert not self.shares.get(host), f"yields while it still takes its share: {effect}"
                self.gate_open[host] = not effect.message.is_bow_out and not vhid
            case Announce():
                assert not vhid, f"one of many announced: {effect}"
                assert self.gate_open.get(host), f"announced behind a closed gate: {effect}"
            case OpenShare():
                assert vhid, f"an only node has no share: {effect}"
                assert self.gate_open.get(host), f"opened without advertising: {effect}"
                self.shares[host] = True
            case Answer() | SendProbe():
                assert vhid, f"the kernel answers for an only node: {effect}"
                assert held, f"spoke for addresses that it does not have: {effect}"
            case SurrenderLease():
                assert held or self.gate_open[host], f"nothing to surrender: {effect}"
                self.gate_open[host] = self.shares[host] = False
            case ReleaseAddresses():
                assert set(effect.addresses) <= held or others, f"released what was not held: {effect}"
                held -= set(effect.addresses)
                assert held or not (self.gate_open[host] or others), f"released before it was surrendered: {effect}"
            case StateChanged():
                assert effect.old is self.state.get(host, CarpState.INIT), effect
                assert effect.new is not effect.old, effect
                self.state[host] = effect.new
        if isinstance(effect, StateChanged):
            is_master = effect.new is CarpState.MASTER
            assert bool(held) is (is_master or others), f"{effect}, with {held}"
            assert self.gate_open.get(host, False) is is_master, f"{effect}: the gate stands otherwise"
