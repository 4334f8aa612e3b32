"""Several hosts answer for one address, each takes its part of the packets, and none is taken by two."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from carpd.linux import ebpf
from carpd.linux.ebpf import Assembler, Register
from carpd.wire import tc
from tests.daemon.carpd import LIMIT_NS, Carpd, virtual_host
from tests.daemon.sharing import (
    CLIENTS,
    FREEBIND,
    NAMES,
    PORT,
    SHARED,
    RawClients,
    SharedSegment,
    expected_index,
    sharing_host,
)
from tests.linux.tcx import detach_all

FLOODED = ("ip", "ip-stealth", "ip-unicast")
Share = Callable[[str, int], SharedSegment]


@pytest.fixture
def share(lab: Lab) -> Iterator[Share]:
    """So many hosts that share in this mode; all have taken their part."""
    made: list[SharedSegment] = []

    def make(mode: str, hosts: int) -> SharedSegment:
        made.append(SharedSegment(lab, mode, hosts))
        made[0].settle()
        return made[0]

    yield make
    for segment in made:
        segment.close()


@pytest.mark.parametrize("hosts", [2, 3, 4])
@pytest.mark.parametrize("mode", FLOODED)
def test_every_packet_is_served_by_the_host_that_the_hash_names(share: Share, mode: str, hosts: int) -> None:
    segment = share(mode, hosts)
    asked = segment.crowd.ask_all()
    answers = segment.crowd.answers()
    assert {q: answers.get(q) for q in asked} == {q: [segment.expected(q.number, q.family)] for q in asked}
    assert {q: segment.servers.taken.get(q) for q in asked} == answers
    assert not any(host["findings"] for daemon in segment.daemons for host in daemon.hosts())


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_arp_balancing_tells_every_client_the_mac_of_one_node(share: Share, hosts: int) -> None:
    """Which one is for the hash to say (tests/carp/test_balancing.py); that host serves the client."""
    segment = share("arp", hosts)
    with closing(RawClients(segment)) as clients:
        told = {number: clients.told_mac(number, 4) for number in clients.numbers}
        assert {number: clients.told_mac(number, 6) for number in clients.numbers} == told
        vhids = {number: mac[5] for number, mac in told.items() if mac[:5] == b"\x00\x00\x5e\x00\x01"}
        counts = [list(vhids.values()).count(vhid) for vhid in segment.vhids]
        assert sum(counts) == len(clients.numbers)
        assert min(counts) > len(clients.numbers) / hosts / 2, f"a hash that prefers some: {counts}"
        asked = [clients.ask(number, 4, told[number]) for number in clients.numbers]
        answers = segment.crowd.answers()
    assert {q: answers.get(q) for q in asked} == {q: [NAMES[vhids[q.number] - 1]] for q in asked}


def test_who_looks_for_a_duplicate_moves_nobody_to_another_node(share: Share) -> None:
    """In `arp` balancing: it hears that the address is taken, as all do; they keep the MAC that they were told."""
    segment = share("arp", 2)

    def known() -> str:
        (entry,) = segment.client.run(["ip", "-6", "neighbor", "show", SHARED[1]]).splitlines()
        return entry.split()[entry.split().index("lladdr") + 1]

    segment.client.run(["ping", "-c", "1", "-W", "5", SHARED[1]])
    before = known()
    with closing(RawClients(segment)) as clients:
        told = {clients.told_of_a_duplicate(number).hex(":"): known() for number in range(16)}
    nodes = ("00:00:5e:00:01:01", "00:00:5e:00:01:02")
    assert told == dict.fromkeys(nodes, before), "clients of either node have asked"


@contextmanager
def questions(segment: SharedSegment) -> Iterator[None]:
    """All clients ask without a pause, some 1000 times a second; in the end no question was taken by two hosts."""
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            for number in range(256):
                segment.crowd.ask(number, 4 if number % 2 else 6)
                time.sleep(0.001)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        segment.crowd.answers()
    twice = {question: hosts for question, hosts in segment.servers.taken.items() if len(hosts) > 1}
    assert twice == {}


def all_are_served(segment: SharedSegment) -> None:
    """Every client gets one answer."""
    segment.crowd.answers()
    asked = segment.crowd.ask_all()
    answers = segment.crowd.answers()
    assert {q: len(answers.get(q, [])) for q in asked} == dict.fromkeys(asked, 1)


@pytest.mark.parametrize("mode", ["ip", "ip-stealth"])
def test_no_packet_is_taken_by_two_while_hosts_die_and_return(share: Share, mode: str) -> None:
    segment = share(mode, 3)
    _, b, c = segment.daemons
    with questions(segment):
        b.node.kill()
        segment.all_are_open()
    all_are_served(segment)

    with questions(segment):
        segment.daemons[1] = segment.start(1)
        segment.settle()
    all_are_served(segment)

    with questions(segment):
        assert c.stop() == 0
        segment.all_are_open()
        c.start()
        segment.settle()
    all_are_served(segment)

    with questions(segment):
        segment.lab.power_cut([segment.ports[0]])
        segment.daemons[0].node.kill()
        wait_until(
            lambda: sum(h["serves"] for d in segment.daemons[1:] for h in d.hosts()) == 3,
            LIMIT_NS,
            "a's share is taken",
        )
        segment.lab.power_back([segment.ports[0]])
        segment.daemons[0] = segment.start(0)
        segment.settle()
    all_are_served(segment)


def test_a_host_that_hangs_is_silent_before_the_others_take_its_share(share: Share) -> None:
    """Supervisor and election process are stopped: what the kernel takes is for the lease to end."""
    segment = share("ip", 2)
    a, b = segment.daemons
    with questions(segment):
        a.process.signal_all(signal.SIGSTOP)
        b.becomes("MASTER")
    all_are_served(segment)
    a.process.signal_all(signal.SIGCONT)
    segment.settle()
    all_are_served(segment)


def test_a_killed_host_answers_nothing_although_its_addresses_are_there(share: Share) -> None:
    """Its programs are gone with it; the frames still reach its kernel, which finds its own addresses in them."""
    segment = share("ip", 2)
    a, b = segment.daemons
    with questions(segment):
        a.process.signal_all(signal.SIGKILL)
        b.becomes("MASTER")
    assert "10.1.255.1/32" in a.node.run(["ip", "address", "show", "dev", "lo"])
    all_are_served(segment)
    a.start()
    segment.settle()
    assert "left behind by a daemon that was killed: removed address 10.1.255.1 from lo" in a.log()


def test_everything_is_put_back_at_the_end(share: Share) -> None:
    segment = share("ip", 2)
    for daemon in segment.daemons:
        assert daemon.stop() == 0
        assert "10.1.255.1" not in daemon.node.run(["ip", "address"])
        assert daemon.node.run(["nft", "list", "ruleset"]) == ""
        for family in ("ipv4", "ipv6"):
            setting = f"net.{family}.conf.eth1.drop_unicast_in_l2_multicast"
            assert daemon.node.run(["sysctl", "-n", setting]).strip() == "0"


def test_somebody_undoes_the_share_gate(share: Share) -> None:
    """By `bpftool link detach`; then by programs that accept all, and stand before ours. Both at one host."""
    segment = share("ip", 2)
    all_are_served(segment)
    b = segment.daemons[1]
    with b.node.inside():
        index = socket.if_nametoindex("eth1")
        detach_all(index)
        assert [ebpf.attached(index, place) for place in (tc.INGRESS, tc.EGRESS)] == [([], []), ([], [])]
    b.logs("lan:2: IPv4 advertisements leave past the share gate, so that nothing is taken")
    again = "somebody detached the share gate of lan, or stands before it: attaching it anew"
    b.logs(again)
    segment.settle()
    all_are_served(segment)

    with b.node.inside(), ExitStack() as theirs:
        for place in (tc.INGRESS, tc.EGRESS):
            theirs.callback(accept_all(index, place))
        wait_until(lambda: b.log().count(again) == 2, LIMIT_NS, "b is attached again")
        segment.settle()
        all_are_served(segment)
    assert [host["demotion"] for daemon in segment.daemons for host in daemon.hosts()] == [0] * 4


def accept_all(index: int, place: int) -> Callable[[], None]:
    to = Assembler()
    to.move(Register.R0, 0)
    to.exit()
    program = ebpf.load("theirs", to.to_bytes())
    try:
        return ebpf.attach(program, index, place, name="theirs", handle=1, use_tcx=True, first=True)
    finally:
        os.close(program)


def test_ordinary_virtual_hosts_beside_it_take_nothing(share: Share) -> None:
    """Their macvlans get copies of multicast frames: by chance of their filter, or all of them if somebody listens."""

    def plain(number: int) -> str:
        addresses = ["10.1.252.1/16", "2001:db8:1::fd:1/64"]
        return virtual_host("plain", vhid=100, addresses=addresses, advbase=0, advskew=12 + 6 * number)

    segment = share("ip", 2)
    a, b = segment.daemons
    for number, daemon in enumerate(segment.daemons):
        daemon.reload(sharing_host("ip", segment.vhids, number), plain(number))
        daemon.becomes(("MASTER", "BACKUP")[number], "plain")
        daemon.node.ip("link set carp-plain promisc on")
    segment.all_are_open()
    all_are_served(segment)
    with questions(segment):
        a.process.signal_all(signal.SIGKILL)
        b.becomes("MASTER")
    all_are_served(segment)

    b.reload(plain(1))
    for family in ("ipv4", "ipv6"):
        settings = [f"net.{family}.conf.{name}.drop_unicast_in_l2_multicast" for name in ("eth1", "carp-plain")]
        assert b.node.run(["sysctl", "-n", *settings]).split() == ["0", "1"]


def test_what_a_router_says_of_a_connection_comes_to_the_host_that_has_it(lab: Lab, share: Share) -> None:
    """Behind the router is a link for shorter packets; of its errors nothing but what they are about tells the flow."""
    segment = share("ip", 2)
    router, customer, far = lab.node("router"), lab.node("customer"), lab.switch("far")
    sources = [form.format(number) for form in ("10.9.1.{}", "fd00:9::1:{}") for number in range(1, 5)]
    router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    lab.cable(router, "eth1", segment.lan, "10.1.253.7/16", "2001:db8:1::fd:7/64")
    lab.cable(router, "eth2", far, "10.9.0.1/16", "fd00:9::1/64")
    router.ip("link set eth2 mtu 1300")
    lab.cable(customer, "eth1", far, *(source + ("/64" if ":" in source else "/16") for source in sources))
    customer.ip("route add default via 10.9.0.1", "route add default via fd00:9::1")
    with ExitStack() as servers:
        for node in segment.nodes:
            node.sysctl(ipv4__tcp_mtu_probing=0)
            node.ip("route add 10.9.0.0/16 via 10.1.253.7", "route add fd00:9::/64 via 2001:db8:1::fd:7")
            for address in SHARED:
                servers.enter_context(serving(node, address))
        for source in sources:
            with customer.inside():
                client = socket.socket(kind_of(source))
            with client:
                client.settimeout(5)
                client.bind((source, 0))
                client.connect((SHARED[":" in source], PORT))
                size = 0
                while data := client.recv(65536):
                    size += len(data)
                assert size == LONG_ANSWER, source
    for family in (sources[:4], sources[4:]):
        assert {expected_index(source, SHARED[":" in source], 2) for source in family} == {0, 1}


LONG_ANSWER = 50_000


def kind_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def serving(node: Node, address: str) -> Iterator[None]:
    """A long answer to whoever connects to the node."""
    with node.inside():
        listener = socket.socket(kind_of(address))
    level, option = FREEBIND[kind_of(address)]
    listener.setsockopt(level, option, 1)
    listener.bind((address, PORT))
    listener.listen()

    def serve() -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    connection.sendall(bytes(LONG_ANSWER))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


PRUNE = """
table netdev prune {{
    chain out {{
        type filter hook egress device "{port}" priority 0;
        ether daddr 01:00:5e:00:01:01 drop
    }}
}}
"""


def lost(host: Carpd) -> list[str]:
    """Of which families it misses packets, in order."""
    named = (finding for shared in host.hosts() for finding in shared["findings"] if "do not arrive" in finding)
    return sorted({finding.partition(" packets of")[0] for finding in named})


def misses(host: Carpd, *families: str) -> None:
    """Wait until it says so, of these alone."""
    wait_until(lambda: lost(host) == [*families], LIMIT_NS, f"{host.node.name} misses {families}")


def test_a_switch_that_prunes_the_shared_mac_is_named(lab: Lab, share: Share) -> None:
    """The advertisements come through: without a word a part of the clients would just not be served."""
    segment = share("ip", 2)
    lab.backbone.run(["nft", "-f", "-"], stdin=PRUNE.format(port=segment.ports[1].name))
    b = segment.daemons[1]
    b.logs("to 01:00:5e:00:01:01 do not arrive: switch IGMP and MLD snooping off")
    misses(b, "IPv4", "IPv6")
    lab.backbone.run(["nft", "delete", "table", "netdev", "prune"])
    b.logs("lan: no longer: IPv4 packets of")
    misses(b)


def test_a_bridge_that_snoops_is_named_and_what_is_to_be_done_helps(lab: Lab, share: Share) -> None:
    """With a querier a bridge sends IP in multicast frames to the ports of multicast routers alone; all else, and so
    advertisements, ARP and ND, it sends to all. It queries by itself, over IPv6 if it has an address for that.
    """
    segment = share("ip", 2)
    bridge, (a, b) = segment.lan.name, segment.daemons
    all_are_served(segment)
    assert (lost(a), lost(b)) == ([], [])
    assert sum(host["taken"] for daemon in (a, b) for host in daemon.hosts()) == 2 * CLIENTS, "probes are not counted"
    lab.backbone.ip(
        f"link set {bridge} type bridge mcast_query_response_interval 1"
    )  # 10 ms: so soon it believes itself
    lab.backbone.ip(f"link set {bridge} type bridge mcast_snooping 1 mcast_querier 1")
    for host in (a, b):
        misses(host, "IPv4")
    segment.crowd.answers()
    asked = segment.crowd.ask_all()
    answers = segment.crowd.answers()
    assert {question.family for question in asked if question not in answers} == {4}

    ports = [port.name for port in segment.ports]
    lab.backbone.ip(*(f"link set {port} type bridge_slave mcast_router 2" for port in ports))
    for host in (a, b):
        misses(host)
    all_are_served(segment)

    lab.backbone.sysctl(**{f"ipv6__conf__{bridge}__disable_ipv6": 0})
    lab.backbone.ip(
        f"address add fe80::1/64 dev {bridge} nodad",
        f"link set {bridge} type bridge mcast_querier 0",
        f"link set {bridge} type bridge mcast_querier 1",
        *(f"link set {port} type bridge_slave mcast_router 1" for port in ports),
    )
    for host in (a, b):
        misses(host, "IPv4", "IPv6")
    lab.backbone.ip(f"link set {bridge} type bridge mcast_snooping 0")
    for host in (a, b):
        misses(host)
    all_are_served(segment)


@pytest.mark.parametrize(
    ("table", "finding"),
    [
        (sharing_host("ip", (1, 2, 3), 1), "has the nodes 1, 2, 3, this host 1, 2: list the same on all hosts"),
        (sharing_host("ip-stealth", (1, 2), 1), "has balancing ip-stealth, this host ip: set the same on all hosts"),
    ],
    ids=["nodes", "mode"],
)
def test_hosts_that_share_otherwise_are_named(share: Share, table: str, finding: str) -> None:
    segment = share("ip", 2)
    a, b = segment.daemons
    b.stop()
    segment.daemons[1] = Carpd(b.node, table)
    a.logs(finding)
    assert any(finding in text for host in a.hosts() for text in host["findings"])
