"""What goes wrong, and what operators do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from carpd.simulation.faults import Fault, lossy
from carpd.simulation.network import Network
from carpd.simulation.sync.node import LINK, SyncNode
from carpd.units import MILLISECOND


class Roles(Protocol):
    """Who carries traffic, and how that changes."""

    def replace(self, node: SyncNode) -> None: ...
    def hand_over(self) -> None: ...
    def quarrel(self) -> None: ...
    def agree(self) -> None: ...


class Target(NamedTuple):
    """What faults happen to."""

    rng: random.Random
    nodes: list[SyncNode]
    network: Network[Any]
    roles: Roles

    @property
    def node(self) -> SyncNode:
        return self.rng.choice(self.nodes)


def random_fault(target: Target) -> Fault:
    return target.rng.choice(_KINDS)(target)


def killed(node: SyncNode) -> Fault:
    return Fault(f"pfsyncd of {node.number} is killed", node.kill, node.start)


def powered_off(roles: Roles, node: SyncNode) -> Fault:
    """Another one takes over; when it comes back it is nobody's master."""

    def off() -> None:
        node.power_off()
        roles.replace(node)

    return Fault(f"{node.number} loses its power", off, node.start)


def hanging(node: SyncNode) -> Fault:
    return Fault(f"pfsyncd of {node.number} hangs", node.hang, node.resume)


def link_lost(node: SyncNode) -> Fault:
    return Fault(f"{node.number} loses the link", lambda: node.set_link(False), lambda: node.set_link(True))


def partitioned(target: Target) -> Fault:
    """Some do not hear some others; now and then in one direction only."""
    numbers = [node.number for node in target.nodes]
    here = target.rng.sample(numbers, target.rng.randint(1, len(numbers) - 1))
    there = [number for number in numbers if number not in here]
    paths = target.network.paths([LINK], here, there)
    if target.rng.random() < 0.7:
        paths |= target.network.paths([LINK], there, here)
    cuts = target.network.cuts
    return Fault(f"{here} are not heard by {there}", lambda: cuts.append(paths), lambda: cuts.remove(paths))


def overflowing(target: Target) -> Fault:
    node, count = target.node, target.rng.randint(1, 20)
    return Fault(f"{node.number} misses {count} events", lambda: node.lose_events(count), lambda: None)


def full(node: SyncNode) -> Fault:
    """Its kernel has no room."""
    limit = node.kernel.limit

    def set_limit(value: int) -> Callable[[], None]:
        return lambda: setattr(node.kernel, "limit", value)

    return Fault(f"the table of {node.number} is full", set_limit(5), set_limit(limit))


def handed_over(roles: Roles) -> Fault:
    return Fault("a planned take-over", roles.hand_over, lambda: None)


def quarrelling(roles: Roles) -> Fault:
    """Two think that they carry the traffic."""
    return Fault("two masters", roles.quarrel, roles.agree)


_KINDS: tuple[Callable[[Target], Fault], ...] = (
    lambda target: killed(target.node),
    lambda target: powered_off(target.roles, target.node),
    lambda target: hanging(target.node),
    lambda target: link_lost(target.node),
    lambda target: lossy(target.network, target.rng.choice((0.05, 0.3, 0.9))),
    partitioned,
    overflowing,
    lambda target: full(target.node),
    lambda target: handed_over(target.roles),
    lambda target: handed_over(target.roles),
    lambda target: quarrelling(target.roles),
)

LENGTHS_NS = (10 * MILLISECOND, 500 * MILLISECOND, 5_000 * MILLISECOND, 20_000 * MILLISECOND)
"""How long they last."""
