"""A LAN of the laboratory with hosts for carpd and a client that wants the shared addresses.

    client -- lan switch --+-- a
                           +-- b, c, ...

Every host has one interface, eth1. The shared addresses, and what the client can ask for them, are those of
tests/linux/segment.py: the client is its neighbour, `a` is its host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from ipaddress import ip_interface

from carpd.config.model import Address
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Switch
from tests.linux.segment import HOST, HOST_MAC, NEIGHBOR, NEIGHBOR_MAC, VIRTUAL, Neighbor

ADDRESSES = tuple(str(address) for address in VIRTUAL)
ADDRESS4, ADDRESS6 = (str(address.ip) for address in VIRTUAL)


class Host:
    """A machine on the LAN, by its one interface."""

    def __init__(self, lab: Lab, switch: Switch, name: str, mac: bytes, interfaces: Iterable[Address]) -> None:
        self.node = lab.node(name)
        self.mac = mac
        self._lab = lab
        self._switch = switch
        self._ipv4, self._ipv6 = interfaces
        self.connect()

    @property
    def ipv4(self) -> str:
        return str(self._ipv4.ip)

    @property
    def ipv6(self) -> str:
        return str(self._ipv6.ip)

    def connect(self) -> None:
        """Give it eth1, also when it had one before and lost it."""
        self.port = self._lab.cable(self.node, "eth1", self._switch)
        self.node.ip(
            "link set eth1 down",  # so that its link-local address is of this MAC
            f"link set eth1 address {self.mac.hex(':')}",
            "link set eth1 up",
            f"address add {self._ipv4} dev eth1",
            f"address add {self._ipv6} dev eth1",
        )

    def cable(self) -> Neighbor:
        """The switch's end of its cable: it sends any frame to this host alone, and sees all that this one sends.

        The caller closes it.
        """
        return Neighbor(os.dup(self._lab.backbone.network), self.port.name)


class Segment:
    """The LAN, with these hosts: segment["a"] and so on."""

    def __init__(self, lab: Lab, *names: str) -> None:
        switch = lab.switch("lan")
        self.client = Host(lab, switch, "client", NEIGHBOR_MAC, NEIGHBOR)
        self._hosts = {names[0]: Host(lab, switch, names[0], HOST_MAC, HOST)}
        for number, name in enumerate(names[1:], start=10):
            interfaces = ip_interface(f"192.0.2.{number}/24"), ip_interface(f"2001:db8::{number:x}/64")
            self._hosts[name] = Host(lab, switch, name, HOST_MAC[:5] + bytes((number,)), interfaces)

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]


def addresses(node: Node) -> set[str]:
    """Every address of every interface of a node, with its prefix length."""
    links = json.loads(node.run(["ip", "-json", "address"]))
    return {f"{info['local']}/{info['prefixlen']}" for link in links for info in link["addr_info"]}
