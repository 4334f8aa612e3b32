"""The measurements. Each builds a laboratory of its own, so that none inherits anything from another.

All raise LabError if a daemon does not do what it is asked for; what it does badly is a result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks import usage
from benchmarks.conntrack_floor import Bench, own_network, tcp_entry
from benchmarks.state_sync import network
from benchmarks.state_sync.births import births
from benchmarks.state_sync.candidates import Candidate
from benchmarks.state_sync.flood import Flood
from benchmarks.state_sync.network import Network
from carpd.lab.measure import ANSWER_NS, percentile
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import LabError, LabTimeoutError, wait_until
from carpd.units import MILLISECOND, SECOND

PER = 100_000
"""CPU time is that of so many new states."""

_WARM_UP = 1000
_ENDLESS_RATE = 10_000_000
_CALM_S = 0.5
_PROBE_NS = 4 * MILLISECOND
_QUIET_NS = 5 * SECOND
FOR_GOOD_NS = 60 * SECOND
_SYNC_NS = 60 * SECOND
_MICROSECOND = 1000


class Pair:
    """Both firewalls with their daemons."""

    def __init__(self, lab: Lab, candidate: Candidate) -> None:
        self.network = Network(lab)
        self.a, self.b = (candidate.daemon(node) for node in (self.network.a, self.network.b))

    def start(self) -> None:
        self.b.start()
        self.a.start()

    def warm_up(self) -> None:
        """A second of traffic, which both must know afterwards: everything is loaded, learned and connected."""
        Flood(self.network.client, _WARM_UP, _WARM_UP).wait()
        wait_until(lambda: self.missing() == 0, _QUIET_NS, "the standby knows the first flows")

    def flood(self, rate: int, count: int) -> Flood:
        """Flows that were not there before. Return when all are sent."""
        flood = Flood(self.network.client, rate, count, network.states(self.network.a))
        flood.wait()
        return flood

    def missing(self) -> int | None:
        """How many states the standby lacks; None if its daemon does not answer."""
        with suppress(LabError):
            return network.states(self.network.a) - self.b.states()
        return None

    def missing_after(self, limit_ns: int) -> int | None:
        """How many it lacks in the end: at once if none, or after this time."""
        with suppress(LabTimeoutError):
            wait_until(lambda: self.missing() == 0, limit_ns, "")
        return self.missing()


@contextmanager
def _running(candidate: Candidate) -> Iterator[Pair]:
    with Lab() as lab:
        pair = Pair(lab, candidate)
        pair.start()
        pair.warm_up()
        yield pair


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds per 100 000 new states."""

    rate: int
    """New flows a second."""
    sender: float
    receiver: float
    machine: float
    """Everything: the generator, the kernel's forwarding, both daemons, and whatever else ran."""


def cpu(candidate: Candidate, rate: int, flows: int) -> Cpu:
    with _running(candidate) as pair:
        before = _used(pair)
        sent = pair.flood(rate, flows).sent
        pair.missing_after(_QUIET_NS)
        time.sleep(_CALM_S)  # acknowledgements
        used = [(now - then) * PER / sent for now, then in zip(_used(pair), before, strict=True)]
    return Cpu(rate, *used)


def cpu_alone(rate: int, flows: int) -> Cpu:
    """Of the traffic, with no daemon there."""
    with Lab() as lab:
        net = Network(lab)
        before = usage.machine_cpu_s()
        Flood(net.client, rate, flows).wait()
        time.sleep(_CALM_S)
        return Cpu(rate, 0, 0, (usage.machine_cpu_s() - before) * PER / flows)


def _used(pair: Pair) -> tuple[float, float, float]:
    return usage.cpu_s(pair.network.a), usage.cpu_s(pair.network.b), usage.machine_cpu_s()


@dataclass(frozen=True, slots=True)
class Load:
    """What became of a flood of new flows."""

    offered: int
    """New flows a second that were asked for."""
    rate: float
    """New flows a second that the generator came to: less if it was starved."""
    sent: int
    dropped: int
    """Packets that did not leave fw-a on the other side."""
    untracked: int
    """Flows that even fw-a has no state of."""
    missing: int | None
    """States that the standby lacks after 5 s of quiet; None if its daemon does not answer."""
    missing_for_good: int | None
    """The same after the patience that was asked for: what is missing then is lost."""

    @property
    def lossless(self) -> bool:
        """Everything was sent in time, passed, and is known to the standby."""
        in_time = self.rate >= 0.97 * self.offered
        return in_time and (self.dropped, self.untracked, self.missing) == (0, 0, 0)


def load(candidate: Candidate, rate: int, seconds: float, patience_ns: int = FOR_GOOD_NS) -> Load:
    """Wait so long for what is missing after 5 s."""
    with _running(candidate) as pair:
        a = pair.network.a
        states, forwarded = network.states(a), network.forwarded(a)
        flood = pair.flood(rate, int(rate * seconds))
        missing = pair.missing_after(_QUIET_NS)
        return Load(
            offered=rate,
            rate=round(flood.rate, 1),
            sent=flood.sent,
            dropped=max(flood.sent - (network.forwarded(a) - forwarded), 0),
            untracked=flood.sent - (network.states(a) - states),
            missing=missing,
            missing_for_good=missing if missing == 0 else pair.missing_after(patience_ns),
        )


def rate_alone(flows: int) -> float:
    """New flows a second that generator and firewall come to with no daemon there."""
    with Lab() as lab:
        flood = Flood(Network(lab).client, _ENDLESS_RATE, flows)
        flood.wait()
        return flood.rate


@dataclass(frozen=True, slots=True)
class Latency:
    """From when an entry was made in fw-a's kernel until it was made in fw-b's, in microseconds."""

    rate: int
    p50_us: float
    p99_us: float
    max_us: float


def latency(candidate: Candidate, rate: int, flows: int) -> Latency | None:
    """None if the standby's kernel knows nothing before a take-over."""
    if not candidate.in_kernel:
        return None
    with Lab() as lab:
        pair = Pair(lab, candidate)
        for firewall in (pair.network.a, pair.network.b):
            firewall.sysctl(netfilter__nf_conntrack_timestamp=1)
        pair.start()
        pair.warm_up()
        warm = births(pair.network.a).keys()
        pair.flood(rate, flows)
        if pair.missing_after(_QUIET_NS) != 0:
            raise LabError(f"{candidate.name}: states are missing at {rate} a second")
        there, here = births(pair.network.a), births(pair.network.b)
        late = [here[flow] - born for flow, born in there.items() if flow not in warm]
    return Latency(rate, *(percentile(late, percent) / _MICROSECOND for percent in (50, 99, 100)))


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A standby that starts empty beside a full table, and soon afterwards gets the traffic."""

    states: int
    first_s: float
    """From the start of the standby's daemon until it has the first state."""
    complete_s: float | None
    """From the same start until the standby has every state; None if it has not after 60 s."""
    missing: int | None
    """States that it lacks in the end."""
    sender_bytes: float
    receiver_bytes: float
    """Memory (PSS) that each daemon uses for a state."""
    gap_ms: float | None
    """The longest time without an answer for any of eight flows that were there before; None if one is never answered
    again."""
    script_s: float
    """How long the steps of the take-over last."""
    steps_s: Mapping[str, float]

    @property
    def bulk_s(self) -> float | None:
        """From the first state to the last; None if it was never complete."""
        return None if self.complete_s is None else self.complete_s - self.first_s


def take_over(candidate: Candidate, count: int) -> TakeOver:
    empty_a, empty_b = _memory_when_empty(candidate)
    with Lab() as lab:
        pair = Pair(lab, candidate)
        net = pair.network
        network.fill(net.a, count)
        pair.a.start()
        begin = time.monotonic_ns()
        pair.b.join()
        wait_until(lambda: pair.missing() not in (None, count), _SYNC_NS, f"{candidate.name}: the first state")
        first_ns = time.monotonic_ns() - begin
        missing = pair.missing_after(_SYNC_NS)
        complete_ns = time.monotonic_ns() - begin
        memory_a, memory_b = (usage.memory(node).pss for node in (net.a, net.b))
        gap_ns, steps = _move(pair)
    return TakeOver(
        states=count,
        first_s=first_ns / SECOND,
        complete_s=complete_ns / SECOND if missing == 0 else None,
        missing=missing,
        sender_bytes=(memory_a - empty_a) * 1024 / count,
        receiver_bytes=(memory_b - empty_b) * 1024 / count,
        gap_ms=None if gap_ns is None else gap_ns / MILLISECOND,
        script_s=sum(steps.values()),
        steps_s=steps,
    )


def _memory_when_empty(candidate: Candidate) -> tuple[int, int]:
    """PSS of both daemons in KiB."""
    with _running(candidate) as pair:
        return usage.memory(pair.network.a).pss, usage.memory(pair.network.b).pss


def _move(pair: Pair) -> tuple[int | None, Mapping[str, float]]:
    """Move the traffic to fw-b while some flows live: their longest gap, and how long each step of a script lasted."""
    net = pair.network
    known = network.states(net.a)
    probe = Probe(net.client, {s: s for s in network.SERVERS}, interval_ns=_PROBE_NS, limit_ns=600 * SECOND)

    def all_answered(since_ns: int) -> bool:
        return all(record.answered_since(since_ns) for record in probe.records.values())

    begin = time.monotonic_ns()
    wait_until(lambda: all_answered(begin), _QUIET_NS, "answers through fw-a")
    assert network.states(net.a) == known + len(network.SERVERS), "each is a flow of its own"
    time.sleep(_QUIET_NS / SECOND)  # whatever else is going on, these few states have had time to get there
    net.refuse_new()
    moved = time.monotonic_ns()
    net.move_traffic()
    steps = pair.b.take_over()
    done = time.monotonic_ns()
    try:
        wait_until(lambda: all_answered(done), FOR_GOOD_NS, "")
    except LabTimeoutError:
        return None, steps
    time.sleep(_CALM_S)
    end = time.monotonic_ns() - ANSWER_NS
    return max(record.loss(moved, end).gap_ns for record in probe.records.values()), steps


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU seconds per 100 000 states of plain loops: one that only reads events, one that only inserts what lay ready;
    and of carpd's own reader and writer alone."""

    read: float
    insert: float
    our_read: float
    our_insert: float


def floor(count: int, rounds: int) -> Floor:
    with own_network():
        bench = Bench([tcp_entry(number, translated=True) for number in range(1, count + 1)], rounds)
        read, insert = bench.new_events(), bench.inserts()
        bench.close()
    seconds = PER / 1_000_000
    return Floor(read.floor * seconds, insert.floor * seconds, read.ours * seconds, insert.ours * seconds)
