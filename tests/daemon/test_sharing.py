"""Several hosts answer for one address, each takes its part of the packets, and none is taken by two."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from tests.daemon.carpd import LIMIT_NS, Carpd
from tests.daemon.sharing import NAMES, RawClients, SharedSegment, sharing_host

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


PRUNE = """
table netdev prune {{
    chain out {{
        type filter hook egress device "{port}" priority 0;
        ether daddr 01:00:5e:00:01:01 drop
    }}
}}
"""


def test_a_switch_that_prunes_the_shared_mac_is_named(lab: Lab, share: Share) -> None:
    """The advertisements come through: without a word a part of the clients would just not be served."""
    segment = share("ip", 2)
    lab.backbone.run(["nft", "-f", "-"], stdin=PRUNE.format(port=segment.ports[1].name))
    b = segment.daemons[1]
    b.logs("frames of")
    finding = "to 01:00:5e:00:01:01 do not arrive: a switch must deliver them to every host"
    assert any(finding in text for host in b.hosts() for text in host["findings"])
    lab.backbone.run(["nft", "delete", "table", "netdev", "prune"])
    b.logs("lan: no longer: frames of")
    assert not any(host["findings"] for host in b.hosts())


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
