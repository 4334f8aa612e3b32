"""The benchmark of state synchronisation: what it concludes from its figures, and that each measurement works."""

from __future__ import annotations

import socket

import pytest

from benchmarks.state_sync import measures, network, results
from benchmarks.state_sync.births import births
from benchmarks.state_sync.candidates import CANDIDATES
from benchmarks.state_sync.flood import PORTS, Flood, Ring
from benchmarks.state_sync.measures import Cpu, Latency, Load, TakeOver
from benchmarks.state_sync.network import Network
from benchmarks.state_sync.results import Alone, Measured
from carpd.lab.topology import Lab
from carpd.linux.conntrack import ConntrackTable
from carpd.wire import conntrack
from carpd.wire.conntrack import Translation, source_nat
from tests.conftest import need

BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
OURS, PEER = BY_NAME["pfsyncd sealed"], BY_NAME["conntrackd FTFW direct"]


def load(offered: int, *, rate: float | None = None, dropped: int = 0, missing: int | None = 0) -> Load:
    came_to = offered if rate is None else rate
    return Load(
        offered, came_to, sent=10 * offered, dropped=dropped, untracked=0, missing=missing, missing_for_good=missing
    )


def take_over(complete_s: float | None, *, gap_ms: float | None = 0, missing: int | None = 0) -> TakeOver:
    return TakeOver(100_000, 0.1, complete_s, missing, 300, 400, gap_ms, 0, {})


LOADS = {
    "all there": (load(1000), True),
    "somewhat late": (load(1000, rate=980), True),
    "starved": (load(1000, rate=900), False),
    "a packet dropped": (load(1000, dropped=1), False),
    "a state missing": (load(1000, missing=1), False),
    "a daemon that does not answer": (load(1000, missing=None), False),
}


@pytest.mark.parametrize(("one", "lossless"), LOADS.values(), ids=LOADS)
def test_what_is_lossless(one: Load, lossless: bool) -> None:
    assert one.lossless is lossless


def test_the_highest_rate_is_the_median_of_what_each_search_found() -> None:
    searches = [[load(1000), load(3000, missing=1), load(2000)], [load(1000, missing=1)], [load(1000), load(3000)]]
    assert Measured(OURS, searches=searches).highest == 2000
    assert Measured(OURS).highest is None


AIMS = {
    "half of the peer's": (Measured(OURS, cpu=[Cpu(1000, 1, 1, 5)]), [True, True]),
    "more than half": (Measured(OURS, cpu=[Cpu(1000, 1.1, 0.9, 5)]), [False, True]),
    "another rate": (Measured(OURS, cpu=[Cpu(2000, 9, 9, 9)]), []),
    "fast enough": (Measured(OURS, searches=[[load(45_000)]]), [True]),
    "too slow": (Measured(OURS, searches=[[load(40_000)]]), [False]),
    "lost for good": (Measured(OURS, beyond=[load(60_000), load(60_000, missing=1)]), [False]),
    "no answer": (Measured(OURS, beyond=[load(60_000, missing=None)]), [False]),
    "quick": (Measured(OURS, latency=[Latency(1000, 200, 1000, 9999)]), [True]),
    "a late percent": (Measured(OURS, latency=[Latency(1000, 200, 1001, 9999)]), [False]),
    "complete, no stall, small": (Measured(OURS, take_overs=[take_over(0.9)]), [True, True, True]),
    "never complete": (Measured(OURS, take_overs=[take_over(None, missing=7)]), [False, True, True]),
    "once of three": (Measured(OURS, take_overs=[take_over(0.9), take_over(0.8), take_over(None)]), [True, True, True]),
    "a stall": (Measured(OURS, take_overs=[take_over(0.9, gap_ms=4)]), [True, False, True]),
    "never again": (Measured(OURS, take_overs=[take_over(0.9, gap_ms=None)]), [True, False, True]),
}


@pytest.mark.parametrize(("ours", "reached"), AIMS.values(), ids=AIMS)
def test_aims(ours: Measured, reached: list[bool]) -> None:
    peer = Measured(PEER, cpu=[Cpu(1000, 2, 2, 5)], searches=[[load(1)]])
    assert [one for _, one in results.aims([ours, peer])] == reached


def test_what_was_not_measured_is_in_no_table() -> None:
    assert list(results.tables(Alone(), [Measured(OURS)])) == []
    (table,) = results.tables(Alone(), [Measured(PEER, take_overs=[take_over(None, gap_ms=None, missing=5000)])])
    row = " ".join(table.splitlines()[-1].split())
    assert row == "conntrackd FTFW direct 100000 0.10 – 5000 5.0 300 400 – 0.00"


def test_no_two_flows_are_the_same() -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        assert Ring().send(sender.fileno(), PORTS - 2, 4) == 4
        packets = [receiver.recv(100) for _ in range(4)]
    flows = [(socket.inet_ntoa(p[16:20]), int.from_bytes(p[20:22], "big")) for p in packets]
    first, last = "198.18.0.0", "198.18.0.1"
    assert flows == [(first, 1024 + PORTS - 2), (first, 1024 + PORTS - 1), (last, 1024), (last, 1025)]


@pytest.fixture
def net(lab: Lab) -> Network:
    need("nft")
    return Network(lab)


def test_a_flood_makes_translated_states_and_the_kernel_notes_when(net: Network) -> None:
    net.a.sysctl(netfilter__nf_conntrack_timestamp=1)
    before = network.forwarded(net.a)
    flood = Flood(net.client, 1_000_000, 1000)
    flood.wait()
    assert (flood.sent, network.states(net.a), network.states(net.b)) == (1000, 1000, 0)
    assert network.forwarded(net.a) - before == 1000
    with net.a.inside(), ConntrackTable() as table:
        entries = [entry for some in table.dump() for entry in some]
    translations = {source_nat(entry) for entry in entries}
    assert translations == {Translation(socket.inet_aton(network.SNAT_ADDRESS), e.source_port) for e in entries}
    times = births(net.a)
    assert times.keys() == {conntrack.flow_key(entry) for entry in entries}
    assert max(times.values()) - min(times.values()) < 10**9


def test_a_table_is_filled_with_translated_connections(net: Network) -> None:
    network.fill(net.a, 2000)
    with net.a.inside(), ConntrackTable() as table:
        outside = {source_nat(entry) for some in table.dump() for entry in some}
    assert outside == {Translation(socket.inet_aton(network.SNAT_ADDRESS), 1024 + n) for n in range(2000)}


@pytest.mark.parametrize("name", ["conntrackd FTFW", "conntrackd NOTRACK direct"])
def test_each_measurement_works(name: str, lab: Lab) -> None:
    """With conntrackd, which is there for comparison: the figures mean nothing here."""
    del lab  # only for whether there can be one
    need("conntrackd")
    candidate = BY_NAME[name]
    assert measures.cpu(candidate, 10_000, 1000).sender >= 0
    assert measures.load(candidate, 1000, 0.1, patience_ns=0).sent == 100
    late = measures.latency(candidate, 1000, 100)
    assert (late is not None) == candidate.in_kernel
    moved = measures.take_over(candidate, 1000)
    assert (moved.missing, moved.gap_ms is not None) == (0, True)
