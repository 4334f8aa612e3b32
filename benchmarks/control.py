"""What elections feel of those who ask: 1000 virtual hosts, asked for their status all the time, and not at all.

    python -m benchmarks.control

Two nodes as in `benchmarks.scale`. In one run a client on each asks for the whole status ten times a second, and for
the metrics each second. Measured is how late advertisements leave, and how late the take-over comes. Needs root.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.daemons import versions
from benchmarks.many import ManyCarp, Size
from benchmarks.scale import Cost, Network, costs
from carpd.control import client
from carpd.lab.firewalls import Firewall
from carpd.lab.measure import percentile
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError, wait_until
from carpd.units import MILLISECOND, SECOND

SIZE = Size(1000, 4)
POLL_S = 0.1
SCRAPE_S = 1.0
STEADY_S = 30

_START_NS = 180 * SECOND
_TAKE_OVER_NS = 30 * SECOND


class Asked(ManyCarp):
    """carpd with metrics."""

    def configuration(self, firewall: Firewall, size: Size) -> str:
        return f'{super().configuration(firewall, size)}[metrics]\nlisten = "{_metrics_socket(firewall)}"\n'


def _metrics_socket(firewall: Firewall) -> Path:
    return firewall.node.directory / "metrics.sock"


def _control_socket(firewall: Firewall) -> Path:
    return firewall.node.directory / "carpd.sock"


# The client, in a process of its own


def ask(control: Path, metrics: Path) -> None:
    """Until killed; each second a line that says how often, and how long the answers took."""
    took: dict[str, list[float]] = {"polls": [], "scrapes": []}
    next_poll = next_scrape = time.monotonic()
    while True:
        began = time.monotonic()
        client.request(control, "status")
        took["polls"].append(time.monotonic() - began)
        if began >= next_scrape:
            scraping = time.monotonic()
            _scrape(metrics)
            took["scrapes"].append(time.monotonic() - scraping)
            next_scrape += SCRAPE_S
            print(json.dumps({name: _summary(seconds) for name, seconds in took.items()}), flush=True)
        next_poll += POLL_S
        time.sleep(max(next_poll - time.monotonic(), 0.0))


def _scrape(metrics: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(metrics))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: carpd\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"number": len(seconds), "median_ms": round(1000 * sorted(seconds)[len(seconds) // 2], 1)}


@contextmanager
def clients(*firewalls: Firewall) -> Iterator[list[Path]]:
    """One for each; what they say."""
    outputs = [firewall.node.directory / "client.log" for firewall in firewalls]
    running = []
    for firewall, output in zip(firewalls, outputs, strict=True):
        argv = (
            sys.executable,
            "-m",
            "benchmarks.control",
            "--ask",
            _control_socket(firewall),
            _metrics_socket(firewall),
        )
        with output.open("wb") as log:
            running.append(subprocess.Popen(argv, stdout=log, stderr=log))
    try:
        yield outputs
    finally:
        for one in running:
            one.kill()
            one.wait()


def _said(output: str) -> dict[str, Any]:
    """Raise LabError if a client has failed."""
    try:
        return dict(json.loads(output.splitlines()[-1]))
    except ValueError:
        raise LabError(f"a client has ended: {output[-1000:]}") from None


# What is measured


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run. Times are in milliseconds."""

    asked: bool
    beat_median_ms: float
    """How late an advertisement leaves, measured against the promptest of its virtual host."""
    beat_p99_ms: float
    beat_max_ms: float
    advertisements: int
    late_median_ms: float
    """Of take-overs, as in benchmarks.scale."""
    late_max_ms: float
    master: Cost
    backup: Cost
    clients: list[dict[str, Any]]
    """What those who asked say."""


def measure(*, asked: bool) -> Result:
    """One run. Raise LabError if any of it does not come."""
    with Lab() as lab, ExitStack() as running:
        network = Network(lab, SIZE.interfaces)
        daemon = Asked()
        daemon.start(network.a, SIZE)
        network.wait_announced(SIZE, _START_NS, f"one node is master of {SIZE.hosts}")
        daemon.start(network.b, SIZE)
        wait_until(lambda: daemon.listens(SIZE), _START_NS, f"the other is backup of {SIZE.hosts}")
        outputs = running.enter_context(clients(*((network.a, network.b) if asked else ())))
        network.forget()
        network.advertised.clear()
        master, backup = costs(STEADY_S, network.a.node, network.b.node)
        network.forget()
        beats = lateness(network.advertised.values())
        network.cut_power(network.a)
        due = network.due(SIZE)
        network.wait_announced(SIZE, _TAKE_OVER_NS, f"all {SIZE.hosts} are taken over")
        late = [network.announced[address] - due[address] for address in due]
        said = [_said(output.read_text()) for output in outputs]
    return Result(
        asked=asked,
        beat_median_ms=percentile(beats, 50) / MILLISECOND,
        beat_p99_ms=percentile(beats, 99) / MILLISECOND,
        beat_max_ms=max(beats) / MILLISECOND,
        advertisements=len(beats),
        late_median_ms=percentile(late, 50) / MILLISECOND,
        late_max_ms=max(late) / MILLISECOND,
        master=master,
        backup=backup,
        clients=said,
    )


def lateness(advertised: Iterable[Sequence[int]]) -> list[int]:
    """Of each advertisement: behind the beat of its virtual host, which sends one a second. In nanoseconds."""
    late = []
    for times in advertised:
        phases = [time_ns - round((time_ns - times[0]) / SECOND) * SECOND for time_ns in times]
        late += [phase - min(phases) for phase in phases]
    return late


# The table

_TITLES = ("ASKED", "BEAT", "P99", "MAX", "TAKE-OVER", "MAX", *2 * ("CPU %", "RSS MiB"), "POLLS", "ANSWER")
_NOTES = """\
Times in ms. ASKED: whether a client on each node asks for the status of all 1000 virtual hosts ten times a second, and
for the metrics each second. BEAT, P99, MAX: how late an advertisement leaves, median, 99th percentile and maximum.
TAKE-OVER, MAX: how much later than the protocol says an address is announced by the backup after the master's power
cut. CPU (of one core) and memory of all processes of a node, the master's and then the backup's. POLLS, ANSWER: how
often the master was asked, and the median time until the whole answer was read."""


def _cells(result: Result) -> tuple[str, ...]:
    times = (result.beat_median_ms, result.beat_p99_ms, result.beat_max_ms, result.late_median_ms, result.late_max_ms)
    uses = [f"{value:.1f}" for cost in (result.master, result.backup) for value in (cost.cpu_percent, cost.rss_mib)]
    polls = result.clients[0]["polls"] if result.clients else None
    asked = (str(polls["number"]), f"{polls['median_ms']:.0f}") if polls else ("", "")
    return ("yes" if result.asked else "no", *(f"{value:.2f}" for value in times), *uses, *asked)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description="What elections feel of clients.")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    parser.add_argument("--ask", nargs=2, type=Path, metavar="SOCKET", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        ask(*args.ask)
    try:
        alone, asked = measure(asked=False), measure(asked=True)
    except LabError as error:
        print(f"control: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.aligned([_TITLES, _cells(alone), _cells(asked)], words=1)))
    print(f"\n{_NOTES}")
    ratio = {
        "beat_median": round(asked.beat_median_ms / alone.beat_median_ms, 2),
        "beat_p99": round(asked.beat_p99_ms / alone.beat_p99_ms, 2),
        "take_over_median": round(asked.late_median_ms / alone.late_median_ms, 2),
    }
    document = {"benchmark": "control", "machine": report.machine(), "versions": versions(), "ratio": ratio}
    report.write(args.out / "control.json", document | {"results": [asdict(alone), asdict(asked)]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
