"""Connections survive: what one firewall's kernel says of a flow is enough for another's to let it pass.

Real packets through real rules, with tcp_loose and tcp_be_liberal 0, and nothing new passes the second firewall.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from carpd.lab import rootless
from carpd.lab.firewalls import CLIENT, LAN_GATEWAYS, SERVER, WAN_GATEWAYS
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError
from carpd.linux.conntrack import ConntrackTable
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, TcpState, flow_key
from tests.conftest import leave_out
from tests.linux.conversations import SILENCE_S, Conversation, Ping, Sctp, Tcp, Udp, gre, unknown
from tests.linux.firewall_pair import FirewallPair, comparable

Rules = dict[str, str]
Opener = Callable[..., Conversation]


@pytest.fixture(scope="module")
def whole() -> Iterator[FirewallPair]:
    try:
        rootless.check()
    except LabError as error:
        leave_out(str(error))
    with Lab() as lab:
        yield FirewallPair(lab)


@pytest.fixture
def pair(whole: FirewallPair) -> FirewallPair:
    """Two firewalls that know of no connection; the first is active."""
    whole.clear()
    whole.activate(whole.a)
    return whole


class Case(NamedTuple):
    """How a conversation looks, what the rules do to it, and what must be seen in its entry."""

    begin: Callable[[FirewallPair], Conversation]
    rules: Rules
    seen: Callable[[ConntrackEntry], bool]


def forth(opener: Opener, address: str, **how: object) -> Callable[[FirewallPair], Conversation]:
    return lambda pair: opener(pair.client, pair.server, address, **how)


def back(opener: Opener, address: str, **how: object) -> Callable[[FirewallPair], Conversation]:
    """From the outside to the inside."""
    return lambda pair: opener(pair.server, pair.client, address, **how)


def untranslated(entry: ConntrackEntry) -> bool:
    return conntrack.source_nat(entry) is None and conntrack.destination_nat(entry) is None


def source_translated(entry: ConntrackEntry) -> bool:
    return conntrack.source_nat(entry) is not None and conntrack.destination_nat(entry) is None


def destination_translated(entry: ConntrackEntry) -> bool:
    return conntrack.source_nat(entry) is None and conntrack.destination_nat(entry) is not None


def both_translated(entry: ConntrackEntry) -> bool:
    return conntrack.source_nat(entry) is not None and conntrack.destination_nat(entry) is not None


def cases() -> Iterator[tuple[str, Case]]:
    protocols: dict[str, Opener] = {"tcp": Tcp, "udp": Udp, "ping": Ping, "sctp": Sctp, "gre": gre, "unknown": unknown}
    for i, ip in enumerate(("ip", "ip6")):
        client, server, lan, wan = CLIENT[i], SERVER[i], LAN_GATEWAYS[i], WAN_GATEWAYS[i]
        client_host, server_host, wan_host = (f"[{a}]" if ":" in a else a for a in (client, server, wan))
        snat = {"srcnat": f"oif eth2 {ip} daddr {server} snat {ip} to {wan}"}
        for name, opener in protocols.items():
            yield f"{name} {ip}", Case(forth(opener, server), {}, untranslated)
            yield f"{name} {ip} source nat", Case(forth(opener, server), snat, source_translated)
        for name, transport, port in (("tcp", Tcp, 80), ("udp", Udp, 53)):
            ports = {"srcnat": f"oif eth2 meta l4proto {name} snat {ip} to {wan_host}:61000-61010"}
            from_outside = {"dstnat": f"{ip} daddr {wan} {name} dport 8080 dnat {ip} to {client_host}:{port}"}
            from_inside = {"dstnat": f"{ip} daddr {lan} {name} dport 8080 dnat {ip} to {server_host}:{port}"}
            port_only = {"dstnat": f"{ip} daddr {server} {name} dport 8080 dnat {ip} to {server_host}:{port}"}
            yield f"{name} {ip} source port", Case(forth(transport, server), ports, source_translated)
            yield (
                f"{name} {ip} destination nat",
                Case(back(transport, client, asked=(wan, 8080)), from_outside, destination_translated),
            )
            yield (
                f"{name} {ip} destination port",
                Case(forth(transport, server, asked=(server, 8080)), port_only, destination_translated),
            )
            yield (
                f"{name} {ip} both",
                Case(forth(transport, server, asked=(lan, 8080)), from_inside | ports, both_translated),
            )
        tcp = forth(Tcp, server)
        zone = {"raw": "ct zone set 7"}
        yield f"mark {ip}", Case(tcp, {"new": "ct mark set 0x2a accept"}, lambda e: e.mark == 0x2A)
        yield f"label {ip}", Case(tcp, {"new": "ct label set 5 accept"}, lambda e: e.labels == b"\x20" + bytes(15))
        yield f"zone {ip}", Case(tcp, zone, lambda e: e.zone == 7)
        yield f"zone and nat {ip}", Case(tcp, zone | snat, lambda e: e.zone == 7 and source_translated(e))
        original = {"raw": "iif eth1 ct original zone set 7"}
        yield f"original zone {ip}", Case(tcp, original, lambda e: e.original_zone == 7)
        reply = {"raw": "iif eth1 ct reply zone set 7\n iif eth2 ct reply zone set 7"}
        yield f"reply zone {ip}", Case(tcp, reply, lambda e: e.reply_zone == 7)
    helper = {"new": 'tcp dport 21 ct helper set "ftp"\n accept'}
    yield "helper", Case(forth(Tcp, SERVER[0], port=21), helper, lambda e: e.helper == "ftp")


CASES = dict(cases())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_flows_survive(pair: FirewallPair, case: Case) -> None:
    pair.same_rules(**case.rules)
    with case.begin(pair) as conversation:
        conversation.open()
        conversation.talk()
        (entry,) = pair.entries(pair.a, conversation.protocol)
        assert case.seen(entry)
        assert pair.insert(pair.b, [entry]) == []
        pair.activate(pair.b)
        (copy,) = pair.entries(pair.b, conversation.protocol)
        assert comparable(copy) == comparable(entry)
        conversation.talk()
        conversation.talk()


STRANGERS: dict[str, Opener] = {"tcp": Tcp, "udp": Udp, "ping": Ping, "sctp": Sctp, "gre": gre, "unknown": unknown}


@pytest.mark.parametrize("opener", STRANGERS.values(), ids=STRANGERS)
def test_flows_that_nobody_told_of_do_not(pair: FirewallPair, opener: Opener) -> None:
    """Or else the other tests would prove nothing."""
    pair.same_rules()
    with opener(pair.client, pair.server, SERVER[0]) as conversation:
        conversation.open()
        conversation.talk()
        pair.activate(pair.b)
        with pytest.raises(TimeoutError):
            conversation.talk(SILENCE_S)


HELD_S, TRIMMED_S = 2_000_000, 50


@pytest.mark.parametrize("opener", STRANGERS.values(), ids=STRANGERS)
def test_held_flows(pair: FirewallPair, opener: Opener) -> None:
    """Inserted to live long, and given less time while packets pass: they pass before and after.

    The packets renew the normal timeout of all but GRE, of which they leave alone whatever it was given.
    """
    pair.same_rules()
    with opener(pair.client, pair.server, SERVER[0]) as conversation:
        conversation.open()
        conversation.talk()
        (entry,) = pair.entries(pair.a, conversation.protocol)
        assert pair.insert(pair.b, [entry._replace(timeout=HELD_S)]) == []
        pair.activate(pair.b)
        conversation.talk()
        (held,) = pair.entries(pair.b, conversation.protocol)
        assert held.timeout
        assert (held.timeout > HELD_S // 2) is (entry.protocol == conntrack.GRE)
        with pair.b.node.inside(), ConntrackTable() as table:
            assert table.set_timeouts([(flow_key(held), TRIMMED_S)]) == []
        conversation.talk()
        (trimmed,) = pair.entries(pair.b, conversation.protocol)
        assert trimmed.timeout
        assert trimmed.timeout < HELD_S // 2


HALF_OPEN = {
    # What the first firewall must lose before it tracks it, so that it gets no further than this state.
    TcpState.SYN_SENT: "iif eth2 tcp flags & (syn|ack) == syn|ack drop",
    TcpState.SYN_RECV: "iif eth1 tcp flags & (syn|ack) == ack drop",
}


@pytest.mark.parametrize("address", SERVER)
@pytest.mark.parametrize(("state", "lost"), HALF_OPEN.items(), ids=lambda value: getattr(value, "name", ""))
def test_half_open_connections(pair: FirewallPair, state: TcpState, lost: str, address: str) -> None:
    """The second firewall sees the rest of the handshake only: retransmissions, a second later."""
    pair.same_rules(early=lost)
    with Tcp(pair.client, pair.server, address) as connection, pair.a.node.inside(), ConntrackTable() as table:
        connection.begin()
        entry = None
        while entry is None or entry.state != state:
            found = [e for piece in table.dump() for e in piece if e.protocol == conntrack.TCP]
            entry = found[0] if found else None
        assert pair.insert(pair.b, [entry]) == []
        pair.activate(pair.b)
        connection.talk()
        (copy,) = pair.entries(pair.b, conntrack.TCP)
        assert copy.state == TcpState.ESTABLISHED


def test_ftp(pair: FirewallPair) -> None:
    """Adjusted sequence numbers, an expectation, and the connection that was expected, there and back."""
    pair.same_rules(new='tcp dport 21 ct helper set "ftp"\n accept', srcnat=f"oif eth2 snat ip to {WAN_GATEWAYS[0]}")
    with Tcp(pair.client, pair.server, SERVER[0], port=21) as control:
        control.open()
        control.send(b"USER anonymous\r\n")
        # The firewall writes its own address into the command, which makes it longer.
        assert control.send(b"PORT 192,0,2,10,4,1\r\n") == b"PORT 198,51,100,1,4,1\r\n"
        control.talk()
        (entry,) = pair.entries(pair.a, conntrack.TCP)
        assert entry.original_adjustment
        assert entry.original_adjustment.after == 2
        (expected,) = pair.expectations(pair.a)

        assert pair.insert(pair.b, [entry]) == []
        with pair.b.node.inside(), ConntrackTable() as table:
            assert table.insert_expectations([expected]) == []
        pair.activate(pair.b)
        (copy,) = pair.entries(pair.b, conntrack.TCP)
        assert comparable(copy) == comparable(entry)
        (expected_copy,) = pair.expectations(pair.b)
        assert expected_copy._replace(id=0, timeout=0) == expected._replace(id=0, timeout=0)
        control.talk()
        control.talk()

        with pair.client.inside():
            listener = socket.create_server((CLIENT[0], 1025))
        with pair.server.inside():
            data = socket.create_connection((WAN_GATEWAYS[0], 1025), 5, source_address=(SERVER[0], 20))
        with listener, data, listener.accept()[0] as received:
            entries = sorted(pair.entries(pair.b, conntrack.TCP), key=lambda e: e.master is not None)
            assert [e.master for e in entries] == [None, entry[:5]]
            # What the second firewall has seen begin, and been told of, goes back to the first.
            with pair.a.node.inside(), ConntrackTable() as table:
                assert table.delete([flow_key(entry)]) == []
            assert pair.insert(pair.a, entries) == []
            pair.activate(pair.a)
            data.sendall(b"content")
            assert received.recv(100) == b"content"
            control.talk()
            with pair.a.node.inside(), ConntrackTable() as table:
                assert table.update(pair.entries(pair.a, conntrack.TCP)) == []


@pytest.mark.parametrize("address", SERVER)
def test_closing(pair: FirewallPair, address: str) -> None:
    """A connection whose one half is closed: the other still sends, through the second firewall, and closes."""
    pair.same_rules()
    with Tcp(pair.client, pair.server, address) as connection:
        connection.open()
        connection.talk()
        connection.client.shutdown(socket.SHUT_WR)
        connection.server.settimeout(5)
        assert connection.server.recv(1) == b""
        (entry,) = pair.entries(pair.a, conntrack.TCP)
        assert entry.state in (TcpState.FIN_WAIT, TcpState.CLOSE_WAIT)
        assert entry.original_flags & conntrack.CLOSE_INIT
        assert pair.insert(pair.b, [entry]) == []
        pair.activate(pair.b)
        assert connection.send_back(b"still here") == b"still here"
        connection.server.close()
        assert connection.client.recv(1) == b""
