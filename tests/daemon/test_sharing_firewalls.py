"""Two firewalls that share the load of both networks: connections go through one and come back through the other.

IPv4 is translated to the shared address outside, so an answer has another hash than its question: with `defer` none
comes before its firewall knows the connection. Rules are strict: what is unknown does not pass.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from carpd.lab.firewalls import CLIENT, SERVER, SYNC_PEERS, WAN_GATEWAYS, Firewall, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from tests.daemon.carpd import LIMIT_NS, virtual_host
from tests.daemon.pfsync import SECRET, SyncNode, are_equal
from tests.daemon.test_failover import LAN, WAN

CLIENTS = 128
PORT, FORWARDED_PORT, SERVICE_PORT = 8000, 443, 8443
RULES = """
table inet firewall {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        meta l4proto {{ icmp, icmpv6 }} accept
        iif lo accept
        iifname "eth3" accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        iifname "eth1" oifname "eth2" accept
        ct status dnat accept
    }}
    chain destination {{
        type nat hook prerouting priority dstnat;
        iifname "eth2" ip daddr {shared} tcp dport {forwarded} dnat ip to {client}:{service}
    }}
    chain source {{
        type nat hook postrouting priority srcnat;
        oifname "eth2" ip saddr 192.0.2.0/24 meta l4proto {{ tcp, udp }} snat ip to {shared}:{ports}
    }}
}}
"""
"""Each firewall has ports of its own, or both might give the same one to two connections at the same time."""
PORTS = {"fw-a": "1024-32767", "fw-b": "32768-65535"}


def client_address(number: int, family: int) -> str:
    return f"192.0.2.{100 + number}" if family == 4 else f"2001:db8:1::1{number:02x}"


class Echo:
    """Answers everything that is said on the connections to some addresses, in a thread of its own."""

    def __init__(self, node: Node, *addresses: tuple[str, int]) -> None:
        self._selector = selectors.DefaultSelector()
        self._end, self._ended = socket.socketpair()
        self._selector.register(self._ended, selectors.EVENT_READ, None)
        with node.inside():
            for address in addresses:
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                listener = socket.create_server(address, family=family, backlog=512)
                self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        self._selector.register(accepted, selectors.EVENT_READ, self._answer)

    def _answer(self, connection: socket.socket) -> None:
        try:
            said = connection.recv(4096)
        except OSError:
            said = b""
        if said:
            connection.sendall(said)
        else:
            self._selector.unregister(connection)
            connection.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data(key.fileobj)

    def close(self) -> None:
        self._end.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # all of them are sockets
        self._selector.close()
        self._end.close()


class Pair:
    """The firewalls, the clients, and a server on each side."""

    def __init__(self, lab: Lab, mode: str) -> None:
        self.lab, self.mode = lab, mode
        self.network = FirewallNetwork(lab)
        if mode == "ip-unicast":  # hubs
            lab.backbone.ip(*(f"link set {switch} type bridge ageing_time 0" for switch in ("lan", "wan")))
        clients = [f"address add {client_address(n, 4)}/24 dev eth0" for n in range(CLIENTS)]
        clients += [f"address add {client_address(n, 6)}/64 dev eth0" for n in range(CLIENTS)]
        self.network.client.ip(*clients)
        for firewall in self.network.firewalls:
            self._set_up(firewall)
        self.daemons = [self._start(firewall, place, mode) for place, firewall in enumerate(self.network.firewalls)]
        self.echoes = [
            Echo(self.network.server, (SERVER[0], PORT), (SERVER[1], PORT)),
            Echo(self.network.client, (CLIENT[0], SERVICE_PORT)),
        ]
        self.share_alike()

    def _set_up(self, firewall: Firewall) -> None:
        rules = RULES.format(
            shared=WAN_GATEWAYS[0],
            client=CLIENT[0],
            forwarded=FORWARDED_PORT,
            service=SERVICE_PORT,
            ports=PORTS[firewall.node.name],
        )
        firewall.node.run(("nft", "-f", "-"), stdin=rules)
        firewall.node.sysctl(netfilter__nf_conntrack_tcp_loose=0, netfilter__nf_conntrack_tcp_be_liberal=0)

    @staticmethod
    def _start(firewall: Firewall, place: int, mode: str) -> SyncNode:
        """Intervals of 47 ms for its own node, of 70 ms for the other's."""
        nodes = "nodes = {{ 1 = {}, 2 = {} }}\n".format(*((12, 18) if place == 0 else (18, 12)))
        tables = [
            virtual_host(
                name, interface=interface, addresses=addresses, advbase=0, preempt=True, group="edge", balancing=mode
            ).replace("vhid = 7\n", nodes if name == "lan" else nodes.replace("1 =", "3 =").replace("2 =", "4 ="))
            for name, interface, addresses in (("lan", "eth1", LAN), ("wan", "eth2", WAN))
        ]
        return SyncNode(firewall.node, *tables, secrets=(SECRET,), syncpeer=SYNC_PEERS, defer=["eth1", "eth2"])

    def share_alike(self) -> None:
        """Wait until each firewall has its half, and all states."""
        own = [("lan:1", "wan:3"), ("lan:2", "wan:4")]
        for daemon, names in zip(self.daemons, own, strict=True):
            wait_until(partial(self._has, daemon, names), LIMIT_NS, f"{daemon.node.name} takes its half")
        for daemon in self.daemons:
            daemon.says(lambda status: len(status["peers"]) == 1, "it hears the other")
            daemon.has_begun()

    @staticmethod
    def _has(daemon: SyncNode, names: tuple[str, ...]) -> bool:
        return {name for name, state in daemon.states().items() if state == "MASTER"} == set(names)

    def open(self, number: int, family: int) -> socket.socket:
        """A connection of a client to the server."""
        kind, server = (socket.AF_INET, SERVER[0]) if family == 4 else (socket.AF_INET6, SERVER[1])
        with self.network.client.inside():
            connection = socket.socket(kind, socket.SOCK_STREAM)
        connection.settimeout(20)
        connection.bind((client_address(number, family), 0))
        connection.connect((server, PORT))
        return connection

    def open_inwards(self) -> socket.socket:
        """A connection from outside to the service that the firewalls forward."""
        with self.network.server.inside():
            connection = socket.socket()
        connection.settimeout(20)
        connection.connect((WAN_GATEWAYS[0], FORWARDED_PORT))
        return connection

    def close(self) -> None:
        for echo in self.echoes:
            echo.close()


@pytest.fixture(params=["ip", "ip-stealth", "ip-unicast", "arp"])
def pair(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(lab, request.param)
    yield made
    made.close()


def talk(connections: list[socket.socket], text: bytes) -> None:
    """Every connection carries this there and back. Raise TimeoutError."""
    for connection in connections:
        connection.sendall(text)
    for connection in connections:
        got = b""
        while len(got) < len(text):
            got += connection.recv(4096)
        assert got == text


def test_connections_go_on_while_a_firewall_dies_and_returns(pair: Pair) -> None:
    """Both ways, both families, through SNAT and DNAT; some of them have one firewall there and the other back."""
    connections = [pair.open(number, family) for number in range(CLIENTS) for family in (4, 6)]
    connections += [pair.open_inwards() for _ in range(8)]
    talk(connections, b"we have begun")
    a, b = (firewall.node for firewall in pair.network.firewalls)
    are_equal(a, b)
    shares = [sum(host["taken"] for host in daemon.hosts()) for daemon in pair.daemons]
    if pair.mode != "arp":  # there all clients of one MAC have one host
        assert min(shares) > sum(shares) / 5, f"each carries a part: {shares}"

    first = pair.network.a
    pair.lab.power_cut(first.ports)
    first.node.kill()
    pair.daemons[1].becomes("MASTER")
    talk(connections, b"one firewall is enough")
    connections += [pair.open(number, family) for number in range(8) for family in (4, 6)]

    pair.lab.power_back(first.ports)
    pair.daemons[0].start()
    pair.share_alike()
    talk(connections, b"both are there again")

    assert pair.daemons[1].stop() == 0
    pair.daemons[0].becomes("MASTER")
    talk(connections, b"and the other one")
    pair.daemons[1].start()
    pair.share_alike()
    talk(connections, b"all is as it was")
    for connection in connections:
        connection.close()
