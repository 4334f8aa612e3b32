"""Nodes, switches and cables.

    with Lab() as lab:
        lan = lab.switch("lan")
        a, b = lab.node("a"), lab.node("b")
        port = lab.cable(a, "eth0", lan)
        lab.cable(b, "eth0", lan)
        port.drop_everything()

All switches are Linux bridges in one network namespace of their own, so that several ports lose their power in one
transaction. When the block ends, or the process is killed, nothing is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from carpd.lab import rootless
from carpd.lab.nodes import Node

_INTERFACE_NAME_LIMIT = 15

_POWER = """
table netdev power
delete table netdev power
table netdev power {{
    chain in {{ type filter hook ingress devices = {{ {ports} }} priority -500; policy drop; }}
    chain out {{ type filter hook egress devices = {{ {ports} }} priority -500; policy drop; }}
}}
"""
_POWER_OFF_NOWHERE = "table netdev power\ndelete table netdev power\n"


@dataclass(frozen=True, slots=True)
class Switch:
    """A learning Ethernet switch without spanning tree and multicast snooping."""

    name: str


@dataclass(frozen=True, slots=True)
class Port:
    """The place on a switch where a node's cable ends."""

    lab: Lab
    name: str

    def drop_everything(self) -> None:
        """Drop all frames both ways, as if the node had lost its power: carrier and learned MAC addresses stay."""
        self.lab.power_cut([self])

    def restore(self) -> None:
        """End `drop_everything`."""
        self.lab.power_back([self])

    def unplug(self) -> None:
        """Take the cable out: the node's interface loses its carrier, the switch forgets its addresses."""
        self.lab.backbone.ip(f"link set {self.name} down")

    def plug(self) -> None:
        """Put the cable in again."""
        self.lab.backbone.ip(f"link set {self.name} up")


class Lab:
    """A set of nodes and switches that lives in a `with` block. Entering it raises LabError where that can't work."""

    def __enter__(self) -> Self:
        rootless.check()
        self.nodes: dict[str, Node] = {}
        self._dead: set[str] = set()
        self._ends = contextlib.ExitStack()
        try:
            self.backbone = self.node("backbone")
            self.backbone.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ends.close()

    def node(self, name: str) -> Node:
        """A new machine with nothing but a loopback interface, without any delay for new IPv6 addresses."""
        node = self.nodes[name] = Node(name)
        self._ends.callback(node.close)
        node.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        node.ip("link set lo up")
        return node

    def switch(self, name: str) -> Switch:
        """A new switch."""
        self.backbone.ip(
            f"link add {name} up type bridge mcast_snooping 0 forward_delay 0 stp_state 0",
        )
        return Switch(name)

    def cable(self, node: Node, interface: str, switch: Switch, *addresses: str) -> Port:
        """Give the node a new interface, up and with these addresses (with prefix length), plugged into the switch."""
        name = f"{node.name}.{interface}"
        assert len(name) <= _INTERFACE_NAME_LIMIT, f"too long for the name of a switch port: {name}"
        self.backbone.ip(
            f"link add {name} type veth peer name {interface} netns /proc/self/fd/{node.network}",
            f"link set {name} master {switch.name} up",
            pass_fds=(node.network,),
        )
        node.ip(f"link set {interface} up", *(f"address add {address} dev {interface}" for address in addresses))
        return Port(self, name)

    def power_cut(self, ports: Iterable[Port]) -> None:
        """`Port.drop_everything` for several ports at the same moment."""
        self._drop_at(self._dead | {port.name for port in ports})

    def power_back(self, ports: Iterable[Port]) -> None:
        """`Port.restore` for several ports at the same moment."""
        self._drop_at(self._dead - {port.name for port in ports})

    def _drop_at(self, ports: set[str]) -> None:
        rules = _POWER.format(ports=", ".join(f'"{port}"' for port in sorted(ports))) if ports else _POWER_OFF_NOWHERE
        self.backbone.run(("nft", "-f", "-"), stdin=rules)
        self._dead = ports
