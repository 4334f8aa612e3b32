"""What goes wrong, and what operators do: each fault begins, and ends again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from errno import ENETDOWN, ENOBUFS
from typing import Any, NamedTuple

from carpd.events import CarpState, ForceState
from carpd.simulation.network import Network, Transmission
from carpd.simulation.node import Node
from carpd.simulation.world import Action


class Fault(NamedTuple):
    """Something that happens, and how it is undone."""

    text: str
    begin: Action
    end: Action
    lasting: bool = True
    """Whether nodes can settle while it goes on."""


class Target(NamedTuple):
    """What faults happen to."""

    rng: random.Random
    nodes: Sequence[Node]
    network: Network[Transmission]

    @property
    def node(self) -> Node:
        return self.rng.choice(self.nodes)

    def interface(self, node: Node) -> str:
        return self.rng.choice(sorted({config.interface for config in node.configs.values()}))


def random_fault(target: Target) -> Fault:
    """Any of them, to anybody."""
    return target.rng.choice(_KINDS)(target)


def killed(node: Node) -> Fault:
    """As SIGKILL: the kernel goes on by itself."""
    return Fault(f"{node.number} is killed", node.kill, node.start)


def powered_off(node: Node) -> Fault:
    return Fault(f"{node.number} loses its power", node.power_off, node.start)


def stopped(node: Node) -> Fault:
    return Fault(f"{node.number} is stopped", node.stop, node.start)


def hanging(node: Node) -> Fault:
    return Fault(f"{node.number} hangs", node.hang, node.resume)


def link_lost(node: Node, interface: str) -> Fault:
    return Fault(
        f"{node.number} loses the link of {interface}",
        lambda: node.set_link(interface, False),
        lambda: node.set_link(interface, True),
    )


def interface_removed(node: Node, interface: str) -> Fault:
    return Fault(
        f"{interface} of {node.number} is removed",
        lambda: node.remove_interface(interface),
        lambda: node.restore_interface(interface),
    )


def partitioned(target: Target, apart: Sequence[Node], interfaces: Sequence[str]) -> Fault:
    """Those nodes do not hear the others any more, nor the others them."""
    here = [node.number for node in apart]
    there = [node.number for node in target.nodes if node not in apart]
    paths = target.network.paths(interfaces, here, there) | target.network.paths(interfaces, there, here)
    cuts = target.network.cuts
    return Fault(
        f"{here} are parted from {there} on {', '.join(interfaces)}",
        lambda: cuts.append(paths),
        lambda: cuts.remove(paths),
    )


def deaf(target: Target, node: Node, interface: str) -> Fault:
    """A cut of one way: the others hear it, it hears nobody."""
    everybody = [other.number for other in target.nodes]
    paths = target.network.paths([interface], everybody, [node.number])
    cuts = target.network.cuts
    text = f"{node.number} hears nobody on {interface}"
    return Fault(text, lambda: cuts.append(paths), lambda: cuts.remove(paths), lasting=False)


def lossy(network: Network[Any], probability: float) -> Fault:
    return Fault(
        f"the network loses {probability:.0%}",
        lambda: network.losses.append(probability),
        lambda: network.losses.remove(probability),
        lasting=False,
    )


def sends_fail(node: Node, errno: int) -> Fault:
    def set_errno(value: int) -> Action:
        return lambda: setattr(node, "send_errno", value)

    return Fault(f"{node.number} can't send (errno {errno})", set_errno(errno), set_errno(0), lasting=False)


def takes_fail(node: Node) -> Fault:
    def set_failing(value: bool) -> Action:
        return lambda: setattr(node, "take_fails", value)

    return Fault(f"{node.number} can't take addresses", set_failing(True), set_failing(False), lasting=False)


def demoted(node: Node, group: str, amount: int) -> Fault:
    return Fault(
        f"{node.number} is demoted by {amount} in {group}",
        lambda: node.demote(group, amount),
        lambda: node.demote(group, 0),
    )


def forced(node: Node, host: str, state: CarpState) -> Fault:
    def force() -> None:
        if node.awake:
            node.tell(ForceState(host, state))

    return Fault(f"{node.number} is told to be {state.value} for {host}", force, lambda: None)


def reconfigured(node: Node, host: str) -> Fault:
    """Its preemption is turned over, and back."""

    def turn() -> None:
        node.reconfigure(host, preempt=not node.configs[host].preempt)

    return Fault(f"{node.number} changes its mind about preempting for {host}", turn, turn)


def _any_partition(target: Target) -> Fault:
    number = target.rng.randint(1, len(target.nodes) - 1)
    interfaces = sorted({config.interface for config in target.nodes[0].configs.values()})
    chosen = interfaces if target.rng.random() < 0.5 else [target.rng.choice(interfaces)]
    return partitioned(target, target.rng.sample(target.nodes, number), chosen)


def _any_deafness(target: Target) -> Fault:
    node = target.node
    return deaf(target, node, target.interface(node))


def _any_link(target: Target) -> Fault:
    node = target.node
    return link_lost(node, target.interface(node))


def _any_removal(target: Target) -> Fault:
    node = target.node
    return interface_removed(node, target.interface(node))


def _any_demotion(target: Target) -> Fault:
    node = target.node
    group = target.rng.choice(sorted({config.group for config in node.configs.values()}))
    return demoted(node, group, target.rng.choice((1, 32, 240, 300)))


def _any_force(target: Target) -> Fault:
    node = target.node
    return forced(
        node, target.rng.choice(sorted(node.configs)), target.rng.choice((CarpState.MASTER, CarpState.BACKUP))
    )


def _any_reconfiguration(target: Target) -> Fault:
    node = target.node
    return reconfigured(node, target.rng.choice(sorted(node.configs)))


_KINDS: tuple[Callable[[Target], Fault], ...] = (
    lambda target: killed(target.node),
    lambda target: powered_off(target.node),
    lambda target: stopped(target.node),
    lambda target: hanging(target.node),
    lambda target: lossy(target.network, target.rng.choice((0.05, 0.3, 0.9))),
    lambda target: sends_fail(target.node, target.rng.choice((ENETDOWN, ENOBUFS))),
    lambda target: takes_fail(target.node),
    _any_partition,
    _any_deafness,
    _any_link,
    _any_removal,
    _any_demotion,
    _any_force,
    _any_reconfiguration,
)
