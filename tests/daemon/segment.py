"""A LAN of the laboratory with hosts for carpd and a client that wants the shared addresses.

    client -- lan switch --+-- a
                           +-- b, c, ...

Every host has one interface, eth1. The shared addresses, and what the client can ask for them, are those of
tests/linux/segment.py: the client is its neighbour, `a` is its host.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port
from tests.linux.segment import HOST, HOST_MAC, NEIGHBOR, NEIGHBOR_MAC, VIRTUAL, Neighbor

ADDRESSES = tuple(str(address) for address in VIRTUAL)
ADDRESS4, ADDRESS6 = (str(address.ip) for address in VIRTUAL)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine on the LAN, by its one interface."""

    node: Node
    port: Port
    mac: bytes
    ipv4: str
    ipv6: str


class Segment:
    """The LAN, with these hosts: segment["a"] and so on."""

    def __init__(self, lab: Lab, *names: str) -> None:
        self._lab = lab
        self._switch = lab.switch("lan")
        self.client = self._host("client", NEIGHBOR_MAC, *map(str, NEIGHBOR))
        self._hosts: dict[str, Host] = {}
        for number, name in enumerate(names):
            if number == 0:
                self._hosts[name] = self._host(name, HOST_MAC, *map(str, HOST))
            else:
                address = number + 9
                mac = HOST_MAC[:5] + bytes((address,))
                self._hosts[name] = self._host(name, mac, f"192.0.2.{address}/24", f"2001:db8::{address:x}/64")

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def cable(self, host: Host) -> Neighbor:
        """The switch's end of a host's cable: it sends any frame to that host alone, and sees all that it sends.

        The caller closes it.
        """
        return Neighbor(os.dup(self._lab.backbone.network), host.port.name)

    def _host(self, name: str, mac: bytes, ipv4: str, ipv6: str) -> Host:
        node = self._lab.node(name)
        port = self._lab.cable(node, "eth1", self._switch)
        node.ip(
            "link set eth1 down",  # so that its link-local address is of this MAC
            f"link set eth1 address {mac.hex(':')}",
            "link set eth1 up",
            f"address add {ipv4} dev eth1",
            f"address add {ipv6} dev eth1",
        )
        return Host(node, port, mac, ipv4.partition("/")[0], ipv6.partition("/")[0])


def addresses(node: Node) -> set[str]:
    """Every address of every interface of a node, with its prefix length."""
    links = json.loads(node.run(["ip", "-json", "address"]))
    return {f"{info['local']}/{info['prefixlen']}" for link in links for info in link["addr_info"]}
