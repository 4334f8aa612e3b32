"""Connections of every kind survive a failover between two firewalls with pfsyncd, and the way back.

Real packets through real rules, with tcp_loose and tcp_be_liberal 0, and nothing new passes a firewall that takes over.
Without pfsyncd they would not: see tests/linux/test_conntrack_traffic.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from carpd.lab import rootless
from carpd.lab.firewalls import CLIENT, LAN_GATEWAYS, SERVER, WAN_GATEWAYS, Firewall
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError, wait_until
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, TcpState
from tests.conftest import leave_out
from tests.daemon.carpd import LIMIT_NS
from tests.daemon.pfsync import SyncNode, are_equal, broken, empty, table
from tests.linux.conversations import Conversation, Ping, Sctp, Tcp, Udp, gre, unknown
from tests.linux.firewall_pair import FirewallPair

Opener = Callable[[FirewallPair], Conversation]
ANY: dict[str, Callable[..., Conversation]] = {
    "tcp": Tcp,
    "udp": Udp,
    "ping": Ping,
    "sctp": Sctp,
    "gre": gre,
    "unknown": unknown,
}
WITH_PORTS: dict[str, tuple[Callable[..., Conversation], int]] = {"tcp": (Tcp, 80), "udp": (Udp, 53)}


class Firewalls(FirewallPair):
    """Both run pfsyncd."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.daemons = SyncNode(self.a.node), SyncNode(self.b.node)
        for daemon in self.daemons:
            daemon.has_begun()

    def a_loses_all(self) -> None:
        """The first firewall is started again, and knows only what the second one tells it."""
        (daemon, _) = self.daemons
        assert daemon.stop() == 0
        empty(self.a.node)
        daemon.start()
        daemon.has_begun()

    def lets_nothing_new_pass(self, firewall: Firewall, *, new: str = "accept", **rules: str) -> None:
        """Give a firewall these rules, less the last word of `new`."""
        self.rules(firewall, new=f"{new.removesuffix('accept')} drop", **rules)


@pytest.fixture(scope="module")
def all_firewalls() -> Iterator[Firewalls]:
    try:
        rootless.check()
    except LabError as error:
        leave_out(str(error))
    with Lab() as lab:
        yield Firewalls(lab)


@pytest.fixture
def pair(all_firewalls: Firewalls) -> Firewalls:
    """Two firewalls that know of no connection; the first is active."""
    all_firewalls.clear()
    are_equal(all_firewalls.a.node, all_firewalls.b.node)
    all_firewalls.activate(all_firewalls.a)
    return all_firewalls


class Case(NamedTuple):
    """Conversations that go on at the same time, what the rules do to them, and what must be seen in their entries."""

    begin: dict[str, Opener]
    rules: dict[str, str]
    seen: Callable[[ConntrackEntry], bool]


def forth(kind: Callable[..., Conversation], address: str, **how: object) -> Opener:
    return lambda pair: kind(pair.client, pair.server, address, **how)


def back(kind: Callable[..., Conversation], address: str, **how: object) -> Opener:
    """From the outside to the inside."""
    return lambda pair: kind(pair.server, pair.client, address, **how)


def translated(entry: ConntrackEntry) -> tuple[bool, bool]:
    """Whether its source is, and its destination."""
    return conntrack.source_nat(entry) is not None, conntrack.destination_nat(entry) is not None


def with_port(address: str, port: int | str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def cases() -> Iterator[tuple[str, Case]]:
    everything: dict[str, Opener] = {}
    straight, to_port, to_shared, from_outside = ({} for _ in range(4))
    snat, ports, inwards, outwards, port_only = ([] for _ in range(5))
    for ip, client, server, lan, wan in zip(("ip", "ip6"), CLIENT, SERVER, LAN_GATEWAYS, WAN_GATEWAYS, strict=True):
        everything |= {f"{name} {ip}": forth(kind, server) for name, kind in ANY.items()}
        snat.append(f"oif eth2 {ip} daddr {server} snat {ip} to {wan}")
        for name, (kind, port) in WITH_PORTS.items():
            straight[f"{name} {ip}"] = forth(kind, server)
            to_port[f"{name} {ip}"] = forth(kind, server, asked=(server, 8080))
            to_shared[f"{name} {ip}"] = forth(kind, server, asked=(lan, 8080))
            from_outside[f"{name} {ip}"] = back(kind, client, asked=(wan, 8080))
            asked = f"{name} dport 8080 dnat {ip} to"
            ports.append(f"oif eth2 meta l4proto {name} snat {ip} to {with_port(wan, '61000-61010')}")
            inwards.append(f"{ip} daddr {wan} {asked} {with_port(client, port)}")
            outwards.append(f"{ip} daddr {lan} {asked} {with_port(server, port)}")
            port_only.append(f"{ip} daddr {server} {asked} {with_port(server, port)}")

    def rules(**chains: list[str]) -> dict[str, str]:
        return {name: "\n".join(lines) for name, lines in chains.items()}

    zone = {"raw": "ct zone set 7"}
    yield "untranslated", Case(everything, {}, lambda e: translated(e) == (False, False))
    yield "source nat", Case(everything, rules(srcnat=snat), lambda e: translated(e) == (True, False))
    yield "source port and zone", Case(straight, zone | rules(srcnat=ports), lambda e: translated(e)[0] and e.zone == 7)
    yield "destination nat", Case(from_outside, rules(dstnat=inwards), lambda e: translated(e) == (False, True))
    yield "destination port", Case(to_port, rules(dstnat=port_only), lambda e: translated(e) == (False, True))
    yield "both", Case(to_shared, rules(dstnat=outwards, srcnat=ports), lambda e: translated(e) == (True, True))
    marked = {"new": "ct mark set 0x2a ct label set 5 accept"}
    yield "mark and label", Case(everything, marked, lambda e: (e.mark, e.labels) == (0x2A, b"\x20" + bytes(15)))
    yield "original zone", Case(straight, {"raw": "iif eth1 ct original zone set 7"}, lambda e: e.original_zone == 7)
    reply = {"raw": "iif eth1 ct reply zone set 7\n iif eth2 ct reply zone set 7"}
    yield "reply zone", Case(straight, reply, lambda e: e.reply_zone == 7)


CASES = dict(cases())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_flows_survive(pair: Firewalls, case: Case) -> None:
    """To the second firewall, and back to the first, which was emptied, started again, and given all at once."""
    pair.same_rules(**case.rules)
    with contextlib.ExitStack() as stack:
        conversations = {name: stack.enter_context(begin(pair)) for name, begin in case.begin.items()}
        for conversation in conversations.values():
            conversation.open()
            conversation.talk()
        entries = table(pair.a.node)
        assert len(entries) == len(conversations)
        assert all(case.seen(entry) for entry in entries.values())
        are_equal(pair.a.node, pair.b.node)
        pair.activate(pair.b)
        assert broken(conversations) == []

        pair.a_loses_all()
        pair.lets_nothing_new_pass(pair.a, **case.rules)
        are_equal(pair.a.node, pair.b.node)
        assert table(pair.a.node).keys() == entries.keys()
        pair.activate(pair.a)
        assert broken(conversations) == []


def test_ftp(pair: Firewalls) -> None:
    """Adjusted sequence numbers, an expectation, and the connection that was expected, there and back."""
    rules = {"new": 'tcp dport 21 ct helper set "ftp"\n accept', "srcnat": f"oif eth2 snat ip to {WAN_GATEWAYS[0]}"}
    pair.same_rules(**rules)
    with Tcp(pair.client, pair.server, SERVER[0], port=21) as control:
        control.open()
        control.send(b"USER anonymous\r\n")
        # The firewall writes its own address into the command, which makes it longer.
        assert control.send(b"PORT 192,0,2,10,4,1\r\n") == b"PORT 198,51,100,1,4,1\r\n"
        control.talk()
        (entry,) = table(pair.a.node).values()
        assert entry.helper == "ftp"
        assert entry.original_adjustment
        assert entry.original_adjustment.after == 2
        (expected,) = pair.expectations(pair.a)
        are_equal(pair.a.node, pair.b.node)
        wait_until(lambda: len(pair.expectations(pair.b)) == 1, LIMIT_NS, "an expectation")
        (copy,) = pair.expectations(pair.b)
        assert copy._replace(id=0, timeout=0) == expected._replace(id=0, timeout=0)

        pair.activate(pair.b)
        assert broken({"control": control}) == []
        with pair.client.inside():
            listener = socket.create_server((CLIENT[0], 1025))
        with pair.server.inside():
            data = socket.create_connection((WAN_GATEWAYS[0], 1025), 5, source_address=(SERVER[0], 20))
        with listener, data, listener.accept()[0] as received:
            pair.a_loses_all()
            pair.lets_nothing_new_pass(pair.a, **rules)
            are_equal(pair.a.node, pair.b.node)
            assert {e.master for e in table(pair.a.node).values()} == {None, entry[:5]}
            pair.activate(pair.a)
            data.sendall(b"content")
            assert received.recv(100) == b"content"
            assert broken({"control": control}) == []


@pytest.mark.parametrize("address", SERVER)
def test_closing(pair: Firewalls, address: str) -> None:
    """A connection whose one half is closed: the other still sends, through the second firewall, and closes."""
    pair.same_rules()
    with Tcp(pair.client, pair.server, address) as connection:
        connection.open()
        connection.talk()
        connection.client.shutdown(socket.SHUT_WR)
        connection.server.settimeout(5)
        assert connection.server.recv(1) == b""
        are_equal(pair.a.node, pair.b.node)
        pair.activate(pair.b)
        assert connection.send_back(b"still here") == b"still here"
        connection.server.close()
        assert connection.client.recv(1) == b""


HALF_OPEN = {
    # What the first firewall must lose before it tracks it, so that it gets no further than this state.
    TcpState.SYN_SENT: "iif eth2 tcp flags & (syn|ack) == syn|ack drop",
    TcpState.SYN_RECV: "iif eth1 tcp flags & (syn|ack) == ack drop",
}


@pytest.mark.parametrize(("state", "lost"), HALF_OPEN.items(), ids=lambda value: getattr(value, "name", ""))
def test_half_open_connections(pair: Firewalls, state: TcpState, lost: str) -> None:
    """The second firewall sees the rest of the handshake only: retransmissions, a second later."""
    pair.same_rules(early=lost)
    with Tcp(pair.client, pair.server, SERVER[0]) as connection:
        connection.begin()

        def has_come_so_far(firewall: Firewall) -> bool:
            return [entry.state for entry in table(firewall.node).values()] == [state]

        wait_until(lambda: has_come_so_far(pair.b), LIMIT_NS, f"a connection in {state.name}")
        pair.activate(pair.b)
        connection.talk()
        assert not has_come_so_far(pair.b)
