"""The network of the measurements: two stateful firewalls with a link of their own for synchronisation.

    client -- lan switch --+-- fw-a --+-- wan switch -- server
                           |    | sync|
                           +-- fw-b --+

The client opens flows to a range of addresses behind the server; both firewalls show them outside as SNAT_ADDRESS,
which the server reaches by way of whichever firewall carries the traffic. No daemon moves addresses here: traffic moves
when the routes of client and server do, at once and without ARP.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager

from carpd.lab.firewalls import SYNC_PEERS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Switch
from carpd.linux import sysctls
from carpd.linux.conntrack import ConntrackTable
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, TcpState

CLIENT = "192.0.2.10"
SERVERS = tuple(f"198.51.100.{number}" for number in range(10, 18))
"""Addresses of one server, for as many flows of probes."""
SNAT_ADDRESS = "203.0.113.1"
DESTINATIONS = "198.18.0.0/15"
FLOOD_PORT = 5000
SYNC_DEVICE = "eth3"
SYNC = dict(zip(("fw-a", "fw-b"), SYNC_PEERS, strict=True))

_LIMIT = 2_500_000
_BUCKETS = 1 << 20
_TIMEOUT_S = 3600
_CHUNK = 10_000

# What the firewalls say themselves is not tracked, so that every entry is a client's flow. New flows are admitted by
# the chain that `Network.refuse_new` empties.
_RULES = f"""
table ip firewall {{
    chain untracked_in {{
        type filter hook prerouting priority raw;
        ip daddr {{ 192.0.2.2/31, 198.51.100.2/31, 10.0.0.0/8 }} notrack
    }}
    chain untracked_out {{
        type filter hook output priority raw;
        notrack
    }}
    chain new {{
        iifname "eth1" accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ct state new jump new
    }}
    chain translate {{
        type nat hook postrouting priority srcnat;
        ip saddr 192.0.2.0/24 snat to {SNAT_ADDRESS}
    }}
}}
"""
_REFUSE_NEW = "flush chain ip firewall new\n"

# The server has nothing to say to the flood, and need not look at it.
_SINK = f"""
table netdev sink {{
    chain in {{
        type filter hook ingress device "eth0" priority 0;
        ip protocol udp udp dport {FLOOD_PORT} drop
    }}
}}
"""


@contextmanager
def room_for_many() -> Iterator[None]:
    """A table for millions of states, for as long as the block lasts: limit and hash size are the whole machine's."""
    wanted = {"nf_conntrack_max": _LIMIT, "nf_conntrack_buckets": _BUCKETS}
    now = {name: int(sysctls.read("netfilter", name) or 0) for name in wanted}
    before = {name: value for name, value in now.items() if value < wanted[name]}
    try:
        for name in before:
            sysctls.write(str(wanted[name]), "netfilter", name)
        yield
    finally:
        for name, value in before.items():
            sysctls.write(str(value), "netfilter", name)


class Network:
    """The network above, built in a laboratory, with the traffic on fw-a."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lan, wan, sync = (lab.switch(name) for name in ("lan", "wan", "sync"))
        self.client = self._host("client", lan, f"{CLIENT}/24")
        self.server = self._host("server", wan, *(f"{address}/24" for address in SERVERS))
        self.server.run(("nft", "-f", "-"), stdin=_SINK)
        self.a, self.b = (self._firewall(name, number, lan, wan, sync) for name, number in (("fw-a", 2), ("fw-b", 3)))
        self._route("add", self.a)

    def move_traffic(self) -> None:
        """To fw-b."""
        self._route("replace", self.b)

    def refuse_new(self) -> None:
        """From now on only flows that a firewall knows pass it."""
        for firewall in (self.a, self.b):
            firewall.run(("nft", "-f", "-"), stdin=_REFUSE_NEW)

    def _route(self, action: str, firewall: Node) -> None:
        number = {"fw-a": 2, "fw-b": 3}[firewall.name]
        self.client.ip(f"route {action} default via 192.0.2.{number}")
        self.server.ip(f"route {action} {SNAT_ADDRESS} via 198.51.100.{number}")

    def _host(self, name: str, switch: Switch, *addresses: str) -> Node:
        node = self.lab.node(name)
        node.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
        self.lab.cable(node, "eth0", switch, *addresses)
        return node

    def _firewall(self, name: str, number: int, lan: Switch, wan: Switch, sync: Switch) -> Node:
        node = self.lab.node(name)
        node.sysctl(ipv4__ip_forward=1, ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
        self.lab.cable(node, "eth1", lan, f"192.0.2.{number}/24")
        self.lab.cable(node, "eth2", wan, f"198.51.100.{number}/24")
        self.lab.cable(node, SYNC_DEVICE, sync, f"{SYNC[name]}/24")
        node.ip(f"route add {DESTINATIONS} via {SERVERS[0]}")
        node.run(("nft", "-f", "-"), stdin=_RULES)
        timeouts = {f"netfilter__nf_conntrack_{kind}_timeout": _TIMEOUT_S for kind in ("udp", "icmp")}
        node.sysctl(netfilter__nf_conntrack_events=1, netfilter__nf_conntrack_tcp_loose=0, **timeouts)
        # Whoever sends first must not wait for an answer to its ARP request.
        node.run(("ping", "-nqc1", "-W1", SERVERS[0]))
        return node


def states(node: Node) -> int:
    """How many entries the kernel of a node has."""
    with node.inside():
        return int(sysctls.read("netfilter", "nf_conntrack_count") or 0)


def forwarded(firewall: Node) -> int:
    """How many packets a firewall has sent to the WAN."""
    (link,) = json.loads(firewall.run(("ip", "-json", "-stats", "link", "show", "dev", "eth2")))
    return int(link["stats64"]["tx"]["packets"])


def fill(firewall: Node, count: int) -> None:
    """Give it so many established TCP connections of its clients, as if they had been there before. Raise LabError."""
    with firewall.inside(), ConntrackTable() as table:
        entries = (_connection(number) for number in range(count))
        while some := list(itertools.islice(entries, _CHUNK)):
            refused = table.insert(some)
            assert not refused, refused[0]


_STATUS = conntrack.SEEN_REPLY | conntrack.ASSURED | conntrack.CONFIRMED
_FLAGS = conntrack.WINDOW_SCALE | conntrack.SACK_PERMITTED
_SNAT = bytes(map(int, SNAT_ADDRESS.split(".")))


def _connection(number: int) -> ConntrackEntry:
    """One of a million clients, each with a server address and port for itself behind the translation."""
    source = bytes([100]) + (0x400000 + number).to_bytes(3, "big")  # 100.64.0.0/10
    destination = bytes([198, 18]) + (number // 60_000).to_bytes(2, "big")
    port = 1024 + number % 60_000
    return ConntrackEntry(
        source, destination, conntrack.TCP, port, 443,
        destination, _SNAT, 443, port,
        status=_STATUS, timeout=86_400, state=TcpState.ESTABLISHED,
        original_scale=7, reply_scale=7, original_flags=_FLAGS, reply_flags=_FLAGS,
    )  # fmt: skip
