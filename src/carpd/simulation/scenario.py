"""A cluster of nodes with a transcript, and random scenarios of one seed each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface

from carpd.config.model import Address, DemotionMode, MasterDownRule, VirtualHostConfig
from carpd.effects import DemotionChanged, StateChanged
from carpd.events import CarpState
from carpd.simulation.faults import Fault, Target, random_fault
from carpd.simulation.invariants import Invariants, ViolationError, seconds
from carpd.simulation.network import Network, Quality
from carpd.simulation.node import Node
from carpd.simulation.world import World
from carpd.units import MICROSECOND, MILLISECOND

_TRANSCRIPT_LIMIT = 120
"""Lines that a failure shows: the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a cluster is made of."""

    configs: tuple[tuple[VirtualHostConfig, ...], ...]
    """The virtual hosts of each node: the same, but for what differs from node to node."""
    quality: Quality = Quality(delay_ns=MILLISECOND, jitter_ns=0, duplication=0.0, reordering=False)
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
        self.network = Network(self.world, self.rng, settings.quality)
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
            self.world, self.network, self.nodes, settings.lateness_ns, settings.drift_ppm
        )
        self.target = Target(self.rng, self.nodes, self.network)

    def start(self) -> None:
        for node in self.nodes:
            self.do(f"{node.number} starts", node.start)

    def do(self, text: str, action: object) -> None:
        """Something happens from outside."""
        assert callable(action)
        self.note(f"* {text}")
        try:
            action()
            self.invariants.conditions_changed()
            self.invariants.check()
        except ViolationError as error:
            raise self._explained(error) from None

    def begin(self, fault: Fault) -> None:
        self.do(fault.text, fault.begin)

    def end(self, fault: Fault) -> None:
        self.do(f"no more: {fault.text}", fault.end)

    def run(self, duration_ns: int) -> None:
        try:
            self.world.run(duration_ns, self.invariants.check)
        except ViolationError as error:
            raise self._explained(error) from None

    def settle(self) -> None:
        """Leave the nodes alone until nothing changes any more, and check that it is as it should be."""
        end = self.invariants.last_change + 2 * self.invariants.settling_ns()
        self.run(max(0, end - self.world.now))
        try:
            self.invariants.check_settled()
        except ViolationError as error:
            raise self._explained(error) from None

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

    def note(self, text: str) -> None:
        self.transcript.append(f"{seconds(self.world.now):>14}  {text}")

    def _explained(self, error: ViolationError) -> ViolationError:
        settings = [f"node {n}: {_describe(c)}" for n, configs in enumerate(self.settings.configs) for c in configs]
        quality = f"{self.settings.quality}, lateness {self.settings.lateness_ns} ns, drift {self.settings.drift_ppm}"
        lines = (f"seed {self.seed}: {error}", quality, *settings, *self.transcript[-_TRANSCRIPT_LIMIT:])
        return ViolationError("\n".join(lines))


def run(seed: int) -> Cluster:
    """One random scenario. Raise ViolationError, with the seed and what happened, if a promise is broken."""
    rng = random.Random(seed)
    cluster = Cluster(random_settings(rng), seed)
    unit = max(config.master_down_ns for config in cluster.nodes[0].configs.values())
    cluster.start()
    for _ in range(rng.randint(1, 3)):
        _round(cluster, rng, unit)
    return cluster


def _round(cluster: Cluster, rng: random.Random, unit: int) -> None:
    """Some faults that overlap, then silence: some last through it."""
    faults = [random_fault(cluster.target) for _ in range(rng.randint(1, 4))]
    ends = []
    for fault in faults:
        begin = cluster.world.now + rng.randint(0, 2 * unit)
        end = begin + int(unit * rng.choice((0.01, 0.3, 1.1, 4)))
        ends.append(end)
        cluster.world.at(begin, lambda fault=fault: cluster.begin(fault))
        if not (fault.lasting and rng.random() < 0.3):
            cluster.world.at(end, lambda fault=fault: cluster.end(fault))
    lasting = []
    cluster.run(max(ends) - cluster.world.now)
    cluster.settle()
    for fault in lasting:
        cluster.end(fault)
        cluster.run(rng.randint(0, unit))


def random_settings(rng: random.Random) -> Settings:
    """Two to five nodes with one to three virtual hosts, and a network that suits their intervals."""
    fast = rng.random() < 0.3
    nodes = rng.randint(2, 5)
    demotion = DemotionMode.COUNTER if fast else rng.choice(list(DemotionMode))
    factor = 240 if demotion.in_advskew else 1
    common = [
        {
            "name": name,
            "interface": interface,
            "vhid": vhid,
            "addresses": rng.choice((_addresses(vhid), _addresses(vhid)[:1], _addresses(vhid)[1:])),
            "group": group,
        }
        for vhid, (name, interface, group) in enumerate(_random_hosts(rng), start=1)
    ]
    shared = {
        "key": b"simulated",
        "advbase": 0 if fast else 1,
        "preempt": rng.random() < 0.5,
        "demotion": demotion,
        "master_down": rng.choice(list(MasterDownRule)),
        "ifdown_demotion_factor": factor,
        "senderr_demotion_factor": factor,
    }
    advskews = rng.sample(range(4, 12), nodes) if fast else rng.sample(range(255), nodes)
    scale = MICROSECOND if fast else MILLISECOND
    return Settings(
        configs=tuple(
            tuple(VirtualHostConfig(**host, **shared, advskew=advskew) for host in common) for advskew in advskews
        ),
        quality=Quality(
            delay_ns=rng.randint(20, 500) * (MICROSECOND if fast else 10 * MICROSECOND),
            jitter_ns=rng.choice((0, rng.randint(0, 500) * (MICROSECOND if fast else 100 * MICROSECOND))),
            duplication=rng.choice((0.0, 0.1)),
            reordering=rng.random() < 0.3,
        ),
        lateness_ns=rng.choice((0, scale, 20 * scale)),
        drift_ppm=rng.choice((0, 100)),
    )


def _random_hosts(rng: random.Random) -> Sequence[tuple[str, str, str]]:
    """Name, interface and group of each."""
    return rng.choice(
        (
            [("lan", "eth0", "edge")],
            [("lan", "eth0", "edge"), ("wan", "eth1", "edge")],
            [("lan", "eth0", "lan"), ("wan", "eth1", "wan")],
            [("lan", "eth0", "edge"), ("wan", "eth1", "edge"), ("dmz", "eth0", "dmz")],
        )
    )


def _addresses(vhid: int) -> tuple[Address, ...]:
    return ip_interface(f"192.0.2.{vhid}/24"), ip_interface(f"2001:db8::{vhid}/64")


def _describe(config: VirtualHostConfig) -> str:
    addresses = " ".join(str(address) for address in config.addresses)
    return (
        f"{config.name} on {config.interface}, {addresses}, group {config.group}, advbase {config.advbase}, "
        f"advskew {config.advskew}, {'preempt' if config.preempt else 'no preempt'}, "
        f"demotion {config.demotion.value}, master down {config.master_down.value}"
    )
