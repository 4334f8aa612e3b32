"""Load sharing: what its filter costs, what two hosts forward together, how long a take-over lasts, who answers ARP.

    python -m benchmarks.sharing            all of it: some six minutes
    python -m benchmarks.sharing --quick    a little of each, to see that it works

Two hosts share one address by carpd (`sharing_traffic`), beside an ordinary virtual host in the same run. All networks
are namespaces of this machine: what a packet costs on every host and switch that it comes to is paid by the core that
its sender runs on. So two hosts forward no more than one here; CPU a packet is what can be compared. Needs root.
"""

from __future__ import annotations

import argparse
import enum
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report, usage
from benchmarks.sharing_traffic import (
    CLIENTS,
    DEFAULT,
    FAST,
    ORDINARY,
    Flood,
    Interface,
    Questions,
    SharedNetwork,
    Timers,
    client,
    flood_frame,
    gateway,
    node_of,
    serves,
)
from carpd import __version__
from carpd.config.model import BalancingMode, MasterDownRule
from carpd.errors import CarpdError
from carpd.lab.firewalls import LAN_GATEWAYS
from carpd.lab.measure import ANSWER_NS, percentile
from carpd.lab.nodes import CapturedFrame
from carpd.lab.topology import Lab, Switch
from carpd.lab.waiting import LabError, wait_until
from carpd.linux import balance_programs, ebpf
from carpd.linux.balance import ShareGate
from carpd.linux.ebpf import Assembler, Register
from carpd.linux.packets import PacketSocket
from carpd.units import MICROSECOND, MILLISECOND, SECOND, interval_ns
from carpd.wire import arp, carp, ndp
from carpd.wire.carp import Advertisement
from carpd.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    EthernetFrame,
    format_mac,
    multicast_mac6,
)
from carpd.wire.frames import advertisement_frame
from carpd.wire.ipv6 import NEXT_HEADER_ICMPV6, IPv6Packet


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    frames: int
    """That a program judges in a row."""
    flood_s: float
    questions: int
    """For a MAC, of each protocol."""
    timers: tuple[Timers, ...]
    """For the take-overs, and the first ones for all the rest."""
    runs: int
    """Of each failure."""


ALL = Effort(1_000_000, 3, 500, (DEFAULT, FAST), 10)
QUICK = Effort(100_000, 0.5, 50, (FAST,), 1)

_ROUNDS = 5


# The filter


@dataclass(frozen=True, slots=True)
class Judged:
    """Nanoseconds that a program takes for a frame, the median of some rounds."""

    frame: str
    ipv4_ns: float
    ipv6_ns: float


_SHARED_MAC, _FOREIGN_MAC, _OWN_MAC = carp.multicast_mac(1), bytes.fromhex("020000000001"), bytes(6)
_LO = 1
"""The index of a loopback interface, the only one that a new node has."""
_CONTINUE, _DROP = -1, 2


def judged(effort: Effort) -> list[Judged]:
    """By both programs, and by one that looks at nothing. Raise SystemCallError."""
    nothing = Assembler()
    nothing.move(Register.R0, -1)
    nothing.exit()
    with Lab() as lab, lab.node("filter").inside():
        packets = PacketSocket(_LO)
        gate = ShareGate(_LO, "bench", [_SHARED_MAC], (1, 2), [SECOND * 3600] * 2)
        value = ebpf.create_array("bench", 1024)
        egress = ebpf.load("bench", balance_programs.egress(value, (1, 2)))
        empty = ebpf.load("nothing", nothing.to_bytes())
        try:
            found = [
                _judge(effort, empty, "an empty program", _SHARED_MAC),
                _judge(effort, gate.ingress, "ingress: not to the shared MAC", _FOREIGN_MAC),
                _judge(effort, gate.ingress, "ingress: another host's share", _SHARED_MAC, result=_DROP),
            ]
            gate.open(1)
            _advertise(packets, vhid=2)
            return [
                *found,
                _judge(effort, gate.ingress, "ingress: our share", _SHARED_MAC),
                _judge(effort, egress, "egress: no advertisement", _FOREIGN_MAC),
            ]
        finally:
            gate.detach()
            packets.close()
            for descriptor in (value, egress, empty):
                os.close(descriptor)


def _advertise(packets: PacketSocket, vhid: int) -> None:
    message = Advertisement(vhid=vhid)
    source = bytes((127, 0, 0, 1))
    packets.send(advertisement_frame(message, source_mac=_OWN_MAC, source=source, destination=carp.GROUP4))


def _judge(effort: Effort, program: int, name: str, mac: bytes, *, result: int = _CONTINUE) -> Judged:
    """Frames of the second node."""
    packet6 = IPv6Packet(
        source=bytes(15) + b"\1", destination=bytes(16), hop_limit=1, next_header=59, payload=bytes(20)
    )
    frame6 = EthernetFrame(mac, _OWN_MAC, ETHERTYPE_IPV6, packet6.to_bytes()).to_bytes()
    times = []
    for frame in (flood_frame(mac, _OWN_MAC, 1), frame6):
        runs = [ebpf.test_run(program, frame, effort.frames) for _ in range(_ROUNDS)]
        assert {run.result for run in runs} == {result}, f"{name}: {runs}"
        times.append(median(run.ns for run in runs))
    return Judged(name, *times)


# Forwarding

NO_HOST = "no host"
"""The frames are to a MAC behind the switch, and dropped there: what sender and switch cost."""

_WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A flood through the hosts."""

    setup: str
    senders: int
    """Processes, each on a core of its own."""
    sent_pps: float
    forwarded_pps: float
    """Packets a second that left the hosts on the other side."""
    cpu_us: float
    """CPU of the whole machine for each of them: sender, switches, both hosts, server; less what it uses when idle."""
    senders_cpu_us: float
    """CPU of the senders' processes for each of them, with all of the kernel's work that is done at once."""
    idle_cores: float
    """What the machine was busy with before: where that is much, others were at work, and only the senders' CPU counts.
    """
    shares_percent: list[float]
    """What each host forwarded."""


def forwarded(network: SharedNetwork, setup: str, effort: Effort) -> list[Forwarded]:
    """By way of the MAC of the shared address."""
    mac = carp.multicast_mac(1) if setup == BalancingMode.IP.value else carp.virtual_mac(1)
    return _flooded(network, setup, mac, effort, lambda: [Interface.of(h.node, "eth2").sent for h in network.hosts])


def not_forwarded(network: SharedNetwork, effort: Effort) -> list[Forwarded]:
    """To a host that drops everything."""
    silent = network.lab.node("silent")
    port = network.lab.cable(silent, "eth0", Switch("lan"))
    silent.run(("nft", "-f", "-"), stdin=_DROP_ALL)
    mac = Interface.of(silent, "eth0").mac
    network.lab.backbone.run(("bridge", "fdb", "replace", format_mac(mac), "dev", port.name, "master", "static"))
    return _flooded(network, NO_HOST, mac, effort, lambda: [Interface.of(silent, "eth0").received])


_DROP_ALL = """
table netdev silent {
    chain in {
        type filter hook ingress device "eth0" priority 0; policy drop;
    }
}
"""


def _flooded(
    network: SharedNetwork, setup: str, mac: bytes, effort: Effort, carried: Callable[[], list[int]]
) -> list[Forwarded]:
    """From one core and from two; `carried` is what each host has forwarded so far. Raise LabError if none does."""
    before = usage.machine_cpu_s()
    time.sleep(effort.flood_s)
    idle = (usage.machine_cpu_s() - before) / effort.flood_s
    floods: list[Flood] = []
    found = []
    for core in (1, 0):
        floods.append(Flood(network.client, mac, core))
        time.sleep(_WARM_UP_S)

        def look() -> tuple[float, float, float, int, list[int]]:
            cpu_s = usage.machine_cpu_s(), usage.cpu_s(network.client)
            return time.monotonic(), *cpu_s, sum(flood.sent for flood in floods), carried()

        first = look()
        time.sleep(effort.flood_s)
        last = look()
        seconds, cpu_s, senders_s, sent = (now - then for now, then in zip(last[:4], first[:4], strict=True))
        of_hosts = [now - then for now, then in zip(last[4], first[4], strict=True)]
        total = sum(of_hosts)
        if not total:
            raise LabError(f"{setup}: nothing was forwarded")
        found.append(
            Forwarded(
                setup,
                len(floods),
                round(sent / seconds),
                round(total / seconds),
                round(1_000_000 * (cpu_s - idle * seconds) / total, 3),
                round(1_000_000 * senders_s / total, 3),
                round(idle, 3),
                [round(100 * count / total, 2) for count in of_hosts],
            )
        )
    for flood in floods:
        flood.stop()
    return found


# Who asks for the shared addresses

_ASK_S = 0.003
_ASKERS = bytes.fromhex("025500")


@dataclass(frozen=True, slots=True)
class Answered:
    """Microseconds from a request on the client's interface to its answer there."""

    setup: str
    protocol: str
    p50_us: float
    p99_us: float
    unanswered: int


def answered(network: SharedNetwork, setup: str, effort: Effort) -> list[Answered]:
    """Requests of so many MACs, one after the other. Raise LabError if none is answered."""
    with network.client.inside():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    capture = network.client.capture("eth0")
    found = []
    with packets:
        packets.bind(("eth0", 0))
        for protocol, request in (("ARP", _arp_request), ("ND", _neighbor_solicitation)):
            for number in range(effort.questions):
                packets.send(request(_ASKERS + bytes((2, number >> 8, number & 0xFF))))
                time.sleep(_ASK_S)
            took = list(answer_times(capture.frames()))
            if not took:
                raise LabError(f"{setup}: no answer by {protocol}")
            p50, p99 = (percentile(took, percent) / MICROSECOND for percent in (50, 99))
            found.append(Answered(setup, protocol, p50, p99, effort.questions - len(took)))
    capture.close()
    return found


def _arp_request(mac: bytes) -> bytes:
    asker, target = (ip_address(address).packed for address in (client(0), LAN_GATEWAYS[0]))
    request = arp.ArpPacket(arp.REQUEST, mac, asker, bytes(6), target)
    return EthernetFrame(BROADCAST, mac, ETHERTYPE_ARP, request.to_bytes()).to_bytes()


def _neighbor_solicitation(mac: bytes) -> bytes:
    asker, target = (ip_address(address).packed for address in (client(2), LAN_GATEWAYS[1]))
    group = ndp.solicited_node(target)
    message = ndp.NeighborSolicitation(target, mac).to_bytes(asker, group)
    packet = IPv6Packet(
        source=asker,
        destination=group,
        hop_limit=ndp.HOP_LIMIT,
        next_header=NEXT_HEADER_ICMPV6,
        payload=message,
    )
    return EthernetFrame(multicast_mac6(group), mac, ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()


def answer_times(frames: Iterable[CapturedFrame]) -> Iterator[int]:
    """Nanoseconds from each asker's request to the first answer to its MAC."""
    asked: dict[bytes, int] = {}
    for time_ns, frame, outgoing in frames:
        destination, source = frame[:6], frame[6:12]
        if outgoing and source.startswith(_ASKERS):
            asked[source] = time_ns
        elif not outgoing and destination in asked:
            yield time_ns - asked.pop(destination)


# Take-over

_CALM_NS = 300 * MILLISECOND
"""In so long every client asks: nothing lost in it, and something is over."""
_PATIENCE_NS = 15 * SECOND
_LIMIT_NS = 600 * SECOND


class Failure(enum.Enum):
    """What happens to a host, and how it is undone: it returns and takes its share back."""

    KILL = "kill -9", "start after kill"
    """To all its processes at once. What they had set up in the kernel stays."""
    POWER = "power cut", "power back"
    """Its switch ports drop everything, and its processes end."""
    STOP = "stop", "start after stop"
    """SIGTERM, as service managers do."""
    CUT = "cut off", "link back"
    """Its switch ports drop everything, and it lives: when they don't any more there are two masters, until the worse
    one has heard the other."""

    @property
    def happens(self) -> str:
        return self.value[0]

    @property
    def undoing(self) -> str:
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Run:
    """What the clients saw of one thing that happened to a host."""

    host: str
    silence_ms: float
    """The longest time without an answer for the clients of its node, of whom one asks every other millisecond."""
    by_none: int
    """Their questions that no host took."""
    others_silence_ms: float
    """The longest of all other clients, who should notice nothing."""
    by_two: int
    """Questions of any client that both hosts took."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """All runs of one event with certain timers."""

    timers: Timers
    event: str
    bound_ms: float
    """The master-down time of who takes over a node whose master says nothing; 0 where it says so."""
    runs: list[Run]


def take_overs(timers: Timers, effort: Effort, chance: random.Random) -> list[TakeOver]:
    """Of either host in turn. Raise LabError if traffic is not shared again in time."""
    bound_ms = MasterDownRule.CLASSIC.master_down_ns(timers.advbase, timers.other) / MILLISECOND
    # With slow timers it would take another minute, and the same in seconds instead of fractions of one.
    failures = [failure for failure in Failure if not (failure is Failure.CUT and timers.advbase)]
    found = []
    for failure in failures:
        found.append(TakeOver(timers, failure.happens, 0 if failure is Failure.STOP else bound_ms, []))
        found.append(TakeOver(timers, failure.undoing, 0, []))
    with Lab() as lab:
        scene = _Scene(SharedNetwork(lab, BalancingMode.IP.value, timers), timers, chance)
        for number in range(effort.runs):
            for position, failure in enumerate(failures):
                for row, run in zip(found[2 * position :][:2], scene.play(failure, number % 2), strict=True):
                    row.runs.append(run)
    return found


class _Scene:
    """Hosts and clients, to let things happen to one of the hosts."""

    def __init__(self, network: SharedNetwork, timers: Timers, chance: random.Random) -> None:
        self._network, self._timers, self._chance = network, timers, chance
        self._all = frozenset(range(CLIENTS))
        self._of_nodes = [
            frozenset(number for number in self._all if node_of(client(number), gateway(number)) == node)
            for node in (0, 1)
        ]
        network.settle()
        self._questions = Questions(network, _LIMIT_NS)
        self._await("traffic is shared", lambda: True)
        self._measured_until = time.monotonic_ns() - ANSWER_NS

    def play(self, failure: Failure, number: int) -> tuple[Run, Run]:
        """Let something happen to a host at any time between two advertisements, and undo it."""
        network = self._network
        host, daemon, other = network.hosts[number], network.daemons[number], network.daemons[1 - number]
        dark = failure in (Failure.POWER, Failure.CUT)
        if dark:
            network.lab.power_cut(host.ports)
        if failure in (Failure.POWER, Failure.KILL):
            host.node.kill()
        if failure is Failure.STOP:
            daemon.stop()
        self._await(f"{failure.happens}: the other host takes over", lambda: len(serves(other)) == 2)
        seen = self._measure(number)
        if dark:
            network.lab.power_back(host.ports)
        if failure is not Failure.CUT:
            daemon.start()
        self._await(f"{failure.undoing}: the host takes its share back", lambda: network.settled)
        interval = interval_ns(self._timers.advbase, self._timers.advskew)
        time.sleep(self._chance.randrange(interval) / SECOND)
        return seen, self._measure(number)

    def _await(self, what: str, come_right: Callable[[], bool]) -> None:
        """Until it has come right, and since then every client was answered."""
        wait_until(come_right, _PATIENCE_NS, what, poll_s=0.02)
        since_ns = time.monotonic_ns()

        def calm() -> bool:
            end = time.monotonic_ns() - ANSWER_NS
            start = end - _CALM_NS
            return start >= since_ns and self._questions.record.seen(self._all, start, end).loss.lost == 0

        wait_until(calm, _PATIENCE_NS, f"{what}, and every client is answered", poll_s=0.02)

    def _measure(self, number: int) -> Run:
        """Since it was measured last: nothing in between is left out."""
        since, self._measured_until = self._measured_until, time.monotonic_ns() - ANSWER_NS
        record = self._questions.record
        theirs, others = (
            record.seen(self._of_nodes[node], since, self._measured_until) for node in (number, 1 - number)
        )
        return Run(
            self._network.hosts[number].node.name,
            round(theirs.loss.gap_ns / MILLISECOND, 3),
            theirs.taken_by_none,
            round(others.loss.gap_ns / MILLISECOND, 3),
            theirs.taken_by_two + others.taken_by_two,
        )


# The report

_FILTER_TITLES = ("FILTER", "IPv4", "IPv6")
_FORWARDED_TITLES = ("HOSTS", "SENDERS", "SENT/S", "FORWARDED/S", "CPU", "SENDERS'", "IDLE", "FW-A %", "FW-B %")
_ANSWERED_TITLES = ("HOSTS", "BY", "P50", "P99", "UNANSWERED")
_TAKE_OVER_TITLES = ("ADVBASE, ADVSKEWS", "EVENT", "BOUND", "MEDIAN", "MAX", "BY NONE", "OTHERS", "BY TWO")
_NOTES = """\
FILTER: ns that a program takes for a frame. SENT/S, FORWARDED/S: packets a second. CPU: µs of the whole machine for a
forwarded packet, less what it uses when idle (IDLE, cores); SENDERS': that of their processes. The work of all hosts
and switches is done in them: so two hosts can't forward more than one here, and a packet costs more, since it comes to
both. What the hosts add is what a row has beyond "no host". P50, P99: µs from an ARP request or neighbour solicitation
to its answer, which the kernel gives for the ordinary virtual host, and carpd where hosts share.
Take-over in ms: the longest silence for the clients of the host's node, median and maximum of the runs, beside what the
protocol lets it be. BY NONE: the most of their questions that no host took in one run. OTHERS: the longest silence of
all other clients. BY TWO: questions that both hosts took, in all runs; where a host that lived without its link gets it
back, until one has heard the other. After a stop the other host waits 10 ms, for a third one may have taken over at
the same moment; and both have one kernel here, so that what the first takes down can keep the second from setting up
anything for some 25 ms."""


def tables(
    filters: Sequence[Judged], floods: Sequence[Forwarded], answers: Sequence[Answered], overs: Sequence[TakeOver]
) -> str:
    """All of it for the reader."""
    parts = [
        report.aligned(
            [_FILTER_TITLES, *((x.frame, f"{x.ipv4_ns:.0f}", f"{x.ipv6_ns:.0f}") for x in filters)], words=1
        ),
        report.aligned([_FORWARDED_TITLES, *map(_forwarded_cells, floods)], words=1),
        report.aligned([_ANSWERED_TITLES, *map(_answered_cells, answers)]),
        report.aligned([_TAKE_OVER_TITLES, *map(_take_over_cells, overs)]),
        [_NOTES],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _forwarded_cells(one: Forwarded) -> tuple[str, ...]:
    shares = [f"{share:.1f}" for share in one.shares_percent] if one.setup != NO_HOST else ["", ""]
    rates, costs = (one.sent_pps, one.forwarded_pps), (one.cpu_us, one.senders_cpu_us, one.idle_cores)
    return one.setup, str(one.senders), *(f"{x:.0f}" for x in rates), *(f"{x:.2f}" for x in costs), *shares


def _answered_cells(one: Answered) -> tuple[str, ...]:
    return one.setup, one.protocol, f"{one.p50_us:.0f}", f"{one.p99_us:.0f}", str(one.unanswered or "")


def _take_over_cells(one: TakeOver) -> tuple[str, ...]:
    silences = [run.silence_ms for run in one.runs]
    return (
        f"{one.timers.advbase}, {one.timers.advskew}/{one.timers.other}",
        one.event,
        f"{one.bound_ms:.1f}",
        f"{median(silences):.1f}",
        f"{max(silences):.1f}",
        str(max(run.by_none for run in one.runs)),
        f"{max(run.others_silence_ms for run in one.runs):.1f}",
        str(sum(run.by_two for run in one.runs)),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description="Load sharing.")
    parser.add_argument("--quick", action="store_true", help="a little of each")
    parser.add_argument("--seed", type=int, help="of the moments at which things happen")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    effort = QUICK if args.quick else ALL
    seed = args.seed if args.seed is not None else secrets.randbits(32)
    machine = report.machine()  # with its load, to which we are about to add
    print(f"seed {seed}", flush=True)
    floods: list[Forwarded] = []
    answers: list[Answered] = []
    try:
        filters = judged(effort)
        for setup in (ORDINARY, *(mode.value for mode in _MEASURED)):
            with Lab() as lab:
                network = SharedNetwork(lab, setup, effort.timers[0])
                network.settle()
                answers += answered(network, setup, effort)
                if (
                    setup != BalancingMode.ARP.value
                ):  # every sender is told one host's MAC: there is nothing to share out
                    floods += forwarded(network, setup, effort)
                if setup == ORDINARY:
                    floods += not_forwarded(network, effort)
            print(f"{setup}: done", flush=True)
        chance = random.Random(seed)
        overs = []
        for timers in effort.timers:
            overs += take_overs(timers, effort, chance)
            print(f"take-overs with advbase {timers.advbase}: done", flush=True)
    except CarpdError as error:
        print(f"sharing: {error}", file=sys.stderr)
        return 1
    print(f"\n{tables(filters, floods, answers, overs)}")
    report.write(
        args.out / "sharing.json",
        {
            "benchmark": "sharing",
            "seed": seed,
            "machine": machine,
            "versions": {"carpd": __version__},
            "filter": [asdict(one) for one in filters],
            "forwarding": [asdict(one) for one in floods],
            "answers": [asdict(one) for one in answers],
            "take_over": [_document(one) for one in overs],
        },
    )
    return 0


def _document(one: TakeOver) -> dict[str, Any]:
    return asdict(one) | {"timers": one.timers._asdict()}


_MEASURED = (BalancingMode.IP, BalancingMode.IP_STEALTH, BalancingMode.ARP)


if __name__ == "__main__":
    sys.exit(main())
