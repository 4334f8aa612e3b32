"""Many virtual hosts: what they cost, and how long it takes until all of them are taken over.

    python -m benchmarks.scale                    250 on one interface and 1000 on four, carpd and keepalived
    python -m benchmarks.scale --only keepalived

Two nodes with default timers: an advertisement a second for each virtual host. Needs root and keepalived.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import report, usage
from benchmarks.daemons import versions
from benchmarks.many import DAEMONS, MASTER_DOWN_NS, SIZES, Daemon, Size
from benchmarks.observer import Observer
from carpd.lab.firewalls import Firewall
from carpd.lab.measure import percentile
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port, Switch
from carpd.lab.waiting import LabError, wait_until
from carpd.units import MILLISECOND, SECOND

STEADY_S = 20
"""How long the cost of advertising, and of listening, is measured."""

_START_NS = 180 * SECOND
_TAKE_OVER_NS = 30 * SECOND


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all processes of a node together."""

    cpu_percent: float
    """Of one core, in user and kernel mode."""
    pss_mib: float
    """Memory: what several processes share counts in parts."""
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one daemon. Times are in milliseconds."""

    daemon: str
    hosts: int
    interfaces: int
    start_ms: float
    """From the start of the first node until it is master of everything: at least a master-down time."""
    master: Cost
    backup: Cost
    first_ms: float
    """From the master's power cut until the first address is announced by the backup."""
    all_ms: float
    """Until all are."""
    late_median_ms: float
    """Between when an address had to be taken over by the protocol's rule, and when it was announced."""
    late_max_ms: float


class Network:
    """Two nodes on several switches, each switch with an observer."""

    def __init__(self, lab: Lab, interfaces: int) -> None:
        switches = [lab.switch(f"lan{i}") for i in range(interfaces)]
        self._lab = lab
        self._ports: dict[str, list[Port]] = {}
        self.a, self.b = (self._firewall(name, number, switches) for number, name in ((2, "fw-a"), (3, "fw-b")))
        self._observers = [Observer(lab, switch, f"observer{i}") for i, switch in enumerate(switches)]
        self.advertised: dict[tuple[int, int], list[int]] = {}
        """When each virtual host, by interface and vhid, was advertised."""
        self.announced: dict[str, int] = {}
        """When each address was announced first since `forget`."""

    def _firewall(self, name: str, number: int, switches: Sequence[Switch]) -> Firewall:
        node = self._lab.node(name)
        ports = [self._lab.cable(node, f"eth{i}", lan, f"10.{i}.0.{number}/16") for i, lan in enumerate(switches)]
        self._ports[name] = ports
        return Firewall(node, lan=ports[0], wan=ports[-1])

    def cut_power(self, firewall: Firewall) -> int:
        """Return when."""
        self._lab.power_cut(self._ports[firewall.node.name])
        return time.monotonic_ns()

    def observe(self) -> None:
        """Take notice of what was flooded."""
        for interface, observer in enumerate(self._observers):
            advertised, announced = observer.read()
            for advertisement in advertised:
                self.advertised.setdefault((interface, advertisement.vhid), []).append(advertisement.time_ns)
            for announcement in announced:
                self.announced.setdefault(socket.inet_ntoa(announcement.address), announcement.time_ns)

    def due(self, size: Size) -> dict[str, int]:
        """When each address must be taken over, if nobody advertises any more."""
        self.observe()
        return {host.address: self.advertised[host[:2]][-1] + MASTER_DOWN_NS for host in size.virtual_hosts()}

    def forget(self) -> None:
        self.observe()
        self.announced.clear()

    def wait_announced(self, size: Size, limit_ns: int, what: str) -> None:
        """Wait until every address has been announced. Raise LabTimeoutError."""

        def all_announced() -> bool:
            self.observe()
            return len(self.announced) >= size.hosts

        wait_until(all_announced, limit_ns, what)


def measure(daemon: Daemon, size: Size) -> Result:
    """From the start of both nodes to the take-over. Raise LabError if any of it does not come."""
    with Lab() as lab:
        network = Network(lab, size.interfaces)
        began = time.monotonic_ns()
        daemon.start(network.a, size)
        network.wait_announced(size, _START_NS, f"{daemon.name}: one node is master of {size.hosts}")
        start_ns = max(network.announced.values()) - began
        daemon.start(network.b, size)
        wait_until(lambda: daemon.listens(size), _START_NS, f"{daemon.name}: the other is backup of {size.hosts}")
        master, backup = costs(STEADY_S, network.a.node, network.b.node)
        network.forget()
        cut = network.cut_power(network.a)
        due = network.due(size)
        network.wait_announced(size, _TAKE_OVER_NS, f"{daemon.name}: all {size.hosts} are taken over")
    late = [network.announced[address] - due[address] for address in due]
    return Result(
        daemon=daemon.name,
        hosts=size.hosts,
        interfaces=size.interfaces,
        start_ms=start_ns / MILLISECOND,
        master=master,
        backup=backup,
        first_ms=(min(network.announced.values()) - cut) / MILLISECOND,
        all_ms=(max(network.announced.values()) - cut) / MILLISECOND,
        late_median_ms=percentile(late, 50) / MILLISECOND,
        late_max_ms=max(late) / MILLISECOND,
    )


def costs(seconds: float, *nodes: Node) -> list[Cost]:
    """Of what runs in each, from now on for so long."""
    before = [usage.cpu_s(node) for node in nodes]
    time.sleep(seconds)
    found = []
    for node, since in zip(nodes, before, strict=True):
        cpu = (usage.cpu_s(node) - since) / seconds
        found.append(Cost(round(100 * cpu, 2), *(round(kib / 1024, 1) for kib in usage.memory(node))))
    return found


# The table

_TITLES = ("HOSTS", "DAEMON", "START", *2 * ("CPU %", "PSS MiB", "RSS MiB"), "FIRST", "ALL", "LATE", "MAX")
_NOTES = """\
Times in ms. START: until the first node is master of all. CPU (of one core) and memory of all processes: the master's,
then the backup's. FIRST, ALL: from the power cut of the master until the first and the last address is announced by the
backup. LATE: the announcement, after the take-over's time by the protocol, median and maximum. The backup's master-down
time is 3390.6 ms."""


def _cells(result: Result) -> tuple[str, ...]:
    costs = [
        text
        for cost in (result.master, result.backup)
        for text in (f"{cost.cpu_percent:.1f}", f"{cost.pss_mib:.1f}", f"{cost.rss_mib:.1f}")
    ]
    late = (f"{result.late_median_ms:.1f}", f"{result.late_max_ms:.1f}")
    name = f"{result.hosts} on {result.interfaces}"
    return (
        name,
        result.daemon,
        f"{result.start_ms:.0f}",
        *costs,
        f"{result.first_ms:.0f}",
        f"{result.all_ms:.0f}",
        *late,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Many virtual hosts.")
    names = [daemon.name for daemon in DAEMONS]
    parser.add_argument("--only", choices=names, help="one daemon")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    results = []
    try:
        for size in SIZES:
            for daemon in DAEMONS:
                if args.only in (None, daemon.name):
                    results.append(measure(daemon(), size))
                    print(f"{daemon.name}, {size.hosts}: done", flush=True)
    except LabError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.aligned([_TITLES, *map(_cells, results)])))
    print(f"\n{_NOTES}")
    document = {"benchmark": "scale", "machine": report.machine(), "versions": versions()}
    report.write(args.out / "scale.json", document | {"results": [asdict(result) for result in results]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
