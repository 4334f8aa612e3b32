"""A cluster of firewalls with a transcript, and random scenarios of one seed each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from carpd.simulation.faults import Fault
from carpd.simulation.invariants import seconds
from carpd.simulation.network import Network, Quality
from carpd.simulation.sync.faults import LENGTHS_NS, Target, random_fault
from carpd.simulation.sync.invariants import Invariants
from carpd.simulation.sync.node import Datagram, SyncNode
from carpd.simulation.sync.traffic import Flow, Traffic
from carpd.simulation.world import World
from carpd.units import MICROSECOND, MILLISECOND, SECOND

SETTLED_NS = 60 * SECOND
"""So long after the last fault, and the last change, all is as it stays."""
QUIET_NS = 15 * SECOND
EXPIRED_NS = 130 * SECOND
"""Whatever nobody wants any more has ended after this."""
ROOM = 2_000
"""Entries of a kernel's table."""
_TRANSCRIPT_LIMIT = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a cluster is made of."""

    nodes: int
    all_carry: bool
    """Whether all carry traffic, or one, and the others wait."""
    quality: Quality
    latency_ns: int
    """The longest time until an event is read."""
    interval_ns: int
    """Between two new connections."""


class Cluster:
    """Nodes, their traffic, and who carries it. Everything that is random comes from the seed."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.seed = seed
        self.settings = settings
        self.transcript: list[str] = []
        self.world = World()
        self.rng = random.Random(seed)
        self.network: Network[Datagram] = Network(self.world, self.rng, settings.quality)
        self.traffic = Traffic(self.world, self.rng, self, settings.nodes, settings.interval_ns)
        self.nodes: list[SyncNode] = []
        self.invariants = Invariants(self.world, self.nodes, self.traffic, self.note, self.explain)
        self.nodes += [
            SyncNode(
                number,
                self.world,
                self.network,
                self.rng,
                self.invariants,
                latency_ns=settings.latency_ns,
                limit=ROOM,
            )
            for number in range(settings.nodes)
        ]
        self.master = self.nodes[0]
        """Through which traffic goes, if not through all."""
        self._succession = False
        """Whether the master has fallen silent, and nobody has taken over yet."""
        self.target = Target(self.rng, self.nodes, self.network, self)

    def start(self) -> None:
        for node in self.nodes:
            node.carrying = self.settings.all_carry or node is self.master
            self.do(f"{node.number} starts", node.start)

    def do(self, text: str, action: Callable[[], None]) -> None:
        """Something happens from outside."""
        self.note(f"* {text}")
        self.invariants.trouble_ns = self.world.now
        action()

    def begin(self, fault: Fault) -> None:
        self.do(fault.text, fault.begin)

    def end(self, fault: Fault) -> None:
        self.do(f"no more: {fault.text}", fault.end)

    def run(self, duration_ns: int) -> None:
        self.world.run(duration_ns, lambda: None)

    def settle(self) -> None:
        """Let traffic change nothing any more, until all is as it stays."""
        self.traffic.calm = True
        end = self.world.now + SETTLED_NS
        while what := self.invariants.unsettled():
            if self.world.now >= end:
                self.invariants.fail(f"after {SETTLED_NS // SECOND} s: {what}")
            self.run(SECOND + self.rng.randint(0, 100) * MILLISECOND)
        self.note("settled")

    def expire(self) -> None:
        """Let what nobody wants end; then nothing happens any more, and little is said."""
        self.run(EXPIRED_NS)
        self.settle()
        before = [node.sent for node in self.nodes]
        self.run(QUIET_NS)
        self.invariants.check_quiet(before, QUIET_NS)

    # Who carries the traffic

    def carrier(self, flow: Flow) -> SyncNode | None:
        node = self.master
        if self.settings.all_carry:
            powered = [node for node in self.nodes if node.powered]
            if not powered:
                return None
            node = self.nodes[flow.home]
            if flow.asymmetric or not node.powered:
                node = self.rng.choice(powered)
        return node if node.powered and not self._succession else None

    def broken(self, flow: Flow, node: SyncNode) -> None:
        self.invariants.broken(flow, node)

    def replace(self, node: SyncNode) -> None:
        """It has fallen silent: another one finds out, if it was the master."""
        if self.settings.all_carry:
            return
        node.carrying = False
        if node is self.master:
            self._succession = True
            self.world.after(self.rng.randint(200, 3000) * MILLISECOND, partial(self._succeed, node))

    def _succeed(self, node: SyncNode) -> None:
        powered = [other for other in self.nodes if other.powered]
        if not self._succession:
            return
        if not powered:
            self.world.after(SECOND, partial(self._succeed, node))
            return
        self.master, self._succession = self.rng.choice(powered), False
        self.do(f"{self.master.number} takes over", partial(self.master.set_role, True))

    def hand_over(self) -> None:
        """To any other one, that has all; their roles and the traffic move in any order."""
        others = [
            n for n in self.nodes if n is not self.master and n.powered and n.engine is not None and n.engine.bulk.done
        ]
        if self.settings.all_carry or self._succession or not others:
            return
        old, new = self.master, self.rng.choice(others)
        self.note(f"* from {old.number} to {new.number}")

        def move() -> None:
            if new.powered and not self._succession:
                self.master = new

        steps = [lambda: self._give_up(old), lambda: new.set_role(True) if new.powered else None, move]
        for step in steps:
            self.world.after(self.rng.randint(0, 50) * MILLISECOND, step)
        self.world.after(60 * MILLISECOND, self.agree)

    def _give_up(self, node: SyncNode) -> None:
        node.set_role(False)

    def quarrel(self) -> None:
        if not self.settings.all_carry:
            self.rng.choice([node for node in self.nodes if node.powered] or self.nodes).set_role(True)

    def agree(self) -> None:
        """All know who is the master."""
        if self.settings.all_carry:
            return
        for node in self.nodes:
            is_master = node is self.master and not self._succession
            if node.carrying != is_master:
                node.set_role(is_master)

    # What is told

    def note(self, text: str) -> None:
        self.transcript.append(f"{seconds(self.world.now):>14}  {text}")

    def explain(self, what: str) -> str:
        """What is wrong, how to repeat it, and what led to it."""
        return "\n".join((f"seed {self.seed}: {what}", str(self.settings), *self.transcript[-_TRANSCRIPT_LIMIT:]))


def run(seed: int) -> Cluster:
    """One random scenario. Raise ViolationError, with the seed and what happened, if a promise is broken."""
    rng = random.Random(seed)
    cluster = Cluster(random_settings(rng), seed)
    cluster.start()
    for _ in range(rng.randint(1, 2)):
        cluster.traffic.begin()
        cluster.run(rng.randint(0, 5) * SECOND)
        _some_faults(cluster, rng)
        cluster.settle()
    cluster.expire()
    return cluster


def _some_faults(cluster: Cluster, rng: random.Random) -> None:
    """Some that overlap; all of them end."""
    latest = 0
    for _ in range(rng.randint(1, 4)):
        fault = random_fault(cluster.target)
        begin = rng.randint(0, 5_000) * MILLISECOND
        end = begin + rng.choice(LENGTHS_NS)
        cluster.world.after(begin, partial(cluster.begin, fault))
        cluster.world.after(end, partial(cluster.end, fault))
        latest = max(latest, end)
    cluster.run(latest + 3 * SECOND)
    cluster.do("all is well", partial(_mend, cluster))


def _mend(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.start()
    cluster.agree()


def random_settings(rng: random.Random) -> Settings:
    return Settings(
        nodes=rng.choice((2, 2, 3, 4)),
        all_carry=rng.random() < 0.3,
        quality=Quality(
            delay_ns=rng.randint(20, 500) * MICROSECOND,
            jitter_ns=rng.choice((0, rng.randint(0, 500) * MICROSECOND, rng.randint(0, 10) * MILLISECOND)),
            duplication=rng.choice((0.0, 0.1)),
            reordering=rng.random() < 0.4,
        ),
        latency_ns=rng.choice((100 * MICROSECOND, 2 * MILLISECOND, 100 * MILLISECOND)),
        interval_ns=rng.choice((20, 100, 500)) * MILLISECOND,
    )
