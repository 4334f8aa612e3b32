"""A cluster of nodes with a transcript, and random scenarios of one seed each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_interface

from carpd.config.model import (
    Address,
    Balancing,
    BalancingMode,
    DemotionMode,
    MacMode,
    MasterDownRule,
    VirtualHostConfig,
)
from carpd.effects import DemotionChanged, StateChanged
from carpd.events import CarpState
from carpd.simulation.faults import Fault, Target, random_fault
from carpd.simulation.invariants import Invariants, seconds
from carpd.simulation.network import Network, Quality, Transmission
from carpd.simulation.node import Node
from carpd.simulation.world import Action, World
from carpd.units import MICROSECOND, MILLISECOND

_FAMILIES = (slice(0, 2), slice(0, 1), slice(1, 2))
"""Of a virtual host's addresses: both, IPv4, IPv6."""
_TRANSCRIPT_LIMIT = 120
"""Lines that a failure shows: the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a cluster is made of."""

    configs: tuple[tuple[VirtualHostConfig, ...], ...]
    """The virtual hosts of each node: the same, but for what differs from node to node."""
    quality: Quality
    lateness_ns: int = 0
    """A timer is late by up to this much."""
    drift_ppm: int = 0
    """Clocks are fast or slow by up to this much."""


class Cluster:
    """Nodes on a network, watched by the invariants. Everything that is random comes from the seed."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.seed = seed
        self.settings = settings
        self.transcript: list[str] = []
        self.world = World()
        self.rng = random.Random(seed)
        self.network: Network[Transmission] = Network(self.world, self.rng, settings.quality)
        self.nodes = [
            Node(
                number,
                configs,
                self.world,
                self.network,
                self.rng,
                self,
                drift_ppm=self.rng.randint(-settings.drift_ppm, settings.drift_ppm),
                lateness_ns=settings.lateness_ns,
            )
            for number, configs in enumerate(settings.configs)
        ]
        self.invariants = Invariants(
            self.world, self.network, self.nodes, settings.lateness_ns, settings.drift_ppm, self.explain
        )
        self.target = Target(self.rng, self.nodes, self.network)

    def start(self) -> None:
        for node in self.nodes:
            self.do(f"{node.number} starts", node.start)

    def do(self, text: str, action: Action) -> None:
        """Something happens from outside."""
        self.note(f"* {text}")
        action()
        self.invariants.conditions_changed()
        self.invariants.check()

    def begin(self, fault: Fault) -> None:
        self.do(fault.text, fault.begin)

    def end(self, fault: Fault) -> None:
        self.do(f"no more: {fault.text}", fault.end)

    def run(self, duration_ns: int) -> None:
        self.world.run(duration_ns, self.invariants.check)

    def settle(self) -> None:
        """Leave the nodes alone until nothing changes any more, and for as long again; then all is as it should be."""
        end = self.invariants.last_change + 2 * self.invariants.settling_ns()
        self.run(max(end - self.world.now, 0))
        self.invariants.check_settled()

    def masters(self, host: str) -> list[int]:
        return [node.number for node in self.nodes if node.state(host) is CarpState.MASTER]

    def answering(self, host: str) -> list[int]:
        return [node.number for node in self.nodes if node.answers(host)]

    # What the nodes tell

    def state_changed(self, node: Node, change: StateChanged) -> None:
        reason = change.reason.value
        self.note(f"{node.number}: {change.host} {change.old.value} -> {change.new.value} ({reason})")
        self.invariants.state_changed(node, change)

    def demotion_changed(self, node: Node, change: DemotionChanged) -> None:
        self.note(f"{node.number}: {change.group} demoted from {change.old} to {change.new} ({change.reason})")

    def bowed_out(self, node: Node, host: str) -> None:
        self.note(f"{node.number}: {host} bows out")
        self.invariants.bowed_out(node, host)

    def ended(self, node: Node) -> None:
        self.note(f"{node.number}: has ended")
        self.invariants.conditions_changed()

    def acted(self, node: Node) -> None:
        self.invariants.check_silence(node)

    def note(self, text: str) -> None:
        self.transcript.append(f"{seconds(self.world.now):>14}  {text}")

    def explain(self, what: str) -> str:
        """What is wrong, how to repeat it, and what led to it."""
        settings = [f"node {n}: {_describe(c)}" for n, configs in enumerate(self.settings.configs) for c in configs]
        clocks = f"timers up to {self.settings.lateness_ns} ns late, clocks off by up to {self.settings.drift_ppm} ppm"
        lines = (f"seed {self.seed}: {what}", *settings, str(self.settings.quality), clocks)
        return "\n".join((*lines, *self.transcript[-_TRANSCRIPT_LIMIT:]))


def run(seed: int) -> Cluster:
    """One random scenario. Raise ViolationError, with the seed and what happened, if a promise is broken."""
    rng = random.Random(seed)
    cluster = Cluster(random_settings(rng), seed)
    cluster.start()
    for _ in range(rng.randint(1, 3)):
        _some_faults(cluster, rng)
    return cluster


def _some_faults(cluster: Cluster, rng: random.Random) -> None:
    """Some that overlap, then silence: a few last through it."""
    unit = max(config.master_down_ns for config in cluster.nodes[0].configs.values())
    lasting = []
    latest = 0
    for _ in range(rng.randint(1, 4)):
        fault = random_fault(cluster.target)
        begin = rng.randint(0, 2 * unit)
        end = begin + int(unit * rng.choice((0.01, 0.3, 1.1, 4)))
        cluster.world.after(begin, partial(cluster.begin, fault))
        if fault.lasting and rng.random() < 0.3:
            lasting.append(fault)
        else:
            cluster.world.after(end, partial(cluster.end, fault))
        latest = max(latest, end)
    cluster.run(latest)
    cluster.settle()
    for fault in lasting:
        cluster.end(fault)
        cluster.run(rng.randint(0, unit))


def random_settings(rng: random.Random) -> Settings:
    """Two to five nodes with one to three virtual hosts, and a network that suits their intervals."""
    fast = rng.random() < 0.3
    advskews = range(4, 12) if fast else range(255)
    number = rng.randint(2, 5)
    of_each_host = [_of_each_node(config, rng.sample(advskews, number)) for config in _random_hosts(rng, fast)]
    return Settings(
        configs=tuple(zip(*of_each_host, strict=True)),
        quality=Quality(
            delay_ns=rng.randint(20, 500) * MICROSECOND,
            jitter_ns=rng.choice((0, rng.randint(0, 500) * (MICROSECOND if fast else 100 * MICROSECOND))),
            duplication=rng.choice((0.0, 0.1)),
            reordering=rng.random() < 0.3,
        ),
        lateness_ns=rng.choice((0, MILLISECOND if fast else 20 * MILLISECOND)),
        drift_ppm=rng.choice((0, 100)),
    )


def _of_each_node(config: VirtualHostConfig, advskews: Sequence[int]) -> list[VirtualHostConfig]:
    """The virtual host of every node, which knows of the others what their common configuration file says."""
    configs = [replace(config, advskew=advskew) for advskew in advskews]
    waits = [config.master_down_ns for config in configs]
    return [
        replace(config, others_master_down_ns=min(waits[:number] + waits[number + 1 :]))
        for number, config in enumerate(configs)
    ]


def _random_hosts(rng: random.Random, fast: bool) -> list[VirtualHostConfig]:
    """Advskew is left open. With advbase 0 an advskew that is raised by 240 would be 60 times the interval."""
    hosts = rng.choice(
        (
            [("lan", "eth0", "edge")],
            [("lan", "eth0", "edge"), ("wan", "eth1", "edge")],
            [("lan", "eth0", "lan"), ("wan", "eth1", "wan")],
            [("lan", "eth0", "edge"), ("wan", "eth1", "edge"), ("dmz", "eth0", "dmz")],
            [("lan:1", "eth0", "edge"), ("lan:2", "eth0", "edge"), ("wan", "eth1", "edge")],
            [("lan:1", "eth0", "lan"), ("lan:2", "eth0", "lan"), ("lan:3", "eth0", "lan")],
        )
    )
    shared = {name for name, _, _ in hosts if ":" in name}
    balancing = Balancing(
        virtual_host="lan", mode=rng.choice(list(BalancingMode)), vhids=tuple(range(1, len(shared) + 1))
    )
    families = rng.choice(_FAMILIES)
    demotion = DemotionMode.COUNTER if fast else rng.choice(list(DemotionMode))
    master_down = rng.choice(list(MasterDownRule))
    preempt = rng.random() < 0.5
    mac = rng.choice(list(MacMode))
    factor = 240 if demotion.in_advskew else 1
    return [
        VirtualHostConfig(
            name=name,
            interface=interface,
            vhid=vhid,
            addresses=_addresses(1)[families] if name in shared else _addresses(vhid)[rng.choice(_FAMILIES)],
            key=b"simulated",
            advbase=0 if fast else 1,
            preempt=preempt,
            group=group,
            mac=MacMode.VIRTUAL if name in shared else mac,
            balancing=balancing if name in shared else None,
            demotion=demotion,
            master_down=master_down,
            ifdown_demotion_factor=factor,
            senderr_demotion_factor=factor,
        )
        for vhid, (name, interface, group) in enumerate(hosts, start=1)
    ]


def _addresses(vhid: int) -> tuple[Address, ...]:
    return ip_interface(f"192.0.2.{vhid}/24"), ip_interface(f"2001:db8::{vhid}/64")


def _describe(config: VirtualHostConfig) -> str:
    addresses = " ".join(str(address) for address in config.addresses)
    return (
        f"{config.name} on {config.interface}, {addresses}, group {config.group}, advbase {config.advbase}, "
        f"advskew {config.advskew}, {'preempt' if config.preempt else 'no preempt'}, "
        f"demotion {config.demotion.value}, master down {config.master_down.value}, {config.mac.value} MAC"
    )
