"""The network of the demo, the benchmarks and most tests: two firewalls between a client and a server.

    client -- lan switch --+-- fw-a --+-- wan switch -- server
                           |    |     |
                           |   sync   |
                           |    |     |
                           +-- fw-b --+

The firewalls forward and, unless `rules` say otherwise, keep no state. Their shared addresses are the client's and the
server's gateways; which program makes them move is not said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port

LAN_GATEWAYS = ("192.0.2.1", "2001:db8:1::1")
WAN_GATEWAYS = ("198.51.100.1", "2001:db8:2::1")
"""The shared addresses, IPv4 and IPv6; prefixes are /24 and /64."""

CLIENT = ("192.0.2.10", "2001:db8:1::10")
SERVER = ("198.51.100.10", "2001:db8:2::10")

SYNC_PEERS = ("10.0.0.1", "10.0.0.2")
"""The addresses of fw-a and fw-b on the link between them; they have fd00::1 and fd00::2 there too."""


@dataclass(frozen=True, slots=True)
class Firewall:
    """One firewall: eth1 is plugged into the LAN switch, eth2 into the WAN switch, eth3 into the sync link."""

    node: Node
    lan: Port
    wan: Port
    sync: Port | None = None

    @property
    def ports(self) -> tuple[Port, ...]:
        """All that it has: what loses its power with it."""
        return (self.lan, self.wan, self.sync) if self.sync else (self.lan, self.wan)


class FirewallNetwork:
    """The network above, built in a laboratory. Nobody answers for the gateways yet."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._lan, self._wan, self._sync = lab.switch("lan"), lab.switch("wan"), lab.switch("sync")
        self.client = self._host("client", CLIENT, LAN_GATEWAYS)
        self.server = self._host("server", SERVER, WAN_GATEWAYS)
        self.a = self._firewall("fw-a", 1)
        self.b = self._firewall("fw-b", 2)

    @property
    def firewalls(self) -> tuple[Firewall, Firewall]:
        return self.a, self.b

    def _host(self, name: str, addresses: Iterable[str], gateways: Iterable[str]) -> Node:
        node = self.lab.node(name)
        self.lab.cable(node, "eth0", self._lan if name == "client" else self._wan, *_with_prefix(addresses))
        node.ip(*(f"route add default via {gateway}" for gateway in gateways))
        return node

    def _firewall(self, name: str, number: int) -> Firewall:
        node = self.lab.node(name)
        node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        lan = (f"192.0.2.{1 + number}", f"2001:db8:1::{1 + number}")
        wan = (f"198.51.100.{1 + number}", f"2001:db8:2::{1 + number}")
        sync = (SYNC_PEERS[number - 1], f"fd00::{number}")
        return Firewall(
            node,
            self.lab.cable(node, "eth1", self._lan, *_with_prefix(lan)),
            self.lab.cable(node, "eth2", self._wan, *_with_prefix(wan)),
            self.lab.cable(node, "eth3", self._sync, *_with_prefix(sync)),
        )


def _with_prefix(addresses: Iterable[str]) -> list[str]:
    return [f"{address}/64" if ":" in address else f"{address}/24" for address in addresses]
