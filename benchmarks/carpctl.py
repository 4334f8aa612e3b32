"""How long carpctl takes, from the start of the process to its end.

    python -m benchmarks.carpctl

It asks a daemon with two virtual hosts; the interpreter alone is measured beside it. Runs of all commands alternate,
so that whatever else the machine does meanwhile meets all alike. Needs root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.daemons import versions
from carpd.lab.daemons import Carpd
from carpd.lab.firewalls import FirewallNetwork
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError, wait_until
from carpd.units import SECOND

RUNS = 100
AIM_MS = 60.0
"""Of `carpctl status`, wall clock, median."""

CARPCTL = Path(sys.executable).with_name("carpctl")


class Run(NamedTuple):
    """In milliseconds."""

    wall_ms: float
    cpu_ms: float


def run(argv: Sequence[str | Path]) -> Run:
    """Raise LabError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise LabError(f"{argv}: exit status {process.returncode}")
    return Run(1000 * wall, 1000 * (used.ru_utime + used.ru_stime))


def measure() -> dict[str, list[Run]]:
    """RUNS of each command. Raise LabError."""
    with Lab() as lab:
        daemon = Carpd(FirewallNetwork(lab).a)
        daemon.start()
        wait_until(lambda: set(daemon.states().values()) == {"MASTER"}, 30 * SECOND, "a master")
        asking = ("--socket", daemon.socket)
        commands: dict[str, Sequence[str | Path]] = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "carpctl status": (CARPCTL, "status", *asking),
            "carpctl status --json": (CARPCTL, "status", "--json", *asking),
            "carpctl is-master lan": (CARPCTL, "is-master", "lan", *asking),
            "carpctl names": (CARPCTL, "names", "hosts", *asking),
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, argv in commands.items():
                runs[name].append(run(argv))
    return runs


_TITLES = ("COMMAND", "MIN", "MEDIAN", "P95", "CPU MIN", "CPU MEDIAN")


def _summary(runs: Sequence[Run]) -> dict[str, float]:
    wall, cpu = sorted(one.wall_ms for one in runs), sorted(one.cpu_ms for one in runs)
    middle, most = len(runs) // 2, len(runs) * 95 // 100
    figures = {"min_ms": wall[0], "median_ms": wall[middle], "p95_ms": wall[most]}
    figures |= {"cpu_min_ms": cpu[0], "cpu_median_ms": cpu[middle]}
    return {name: round(value, 1) for name, value in figures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.carpctl", description="How long carpctl takes.")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    try:
        results = {name: _summary(runs) for name, runs in measure().items()}
    except LabError as error:
        print(f"carpctl: {error}", file=sys.stderr)
        return 1
    rows = [(name, *(f"{value:.1f}" for value in figures.values())) for name, figures in results.items()]
    print("\n".join(report.aligned([_TITLES, *rows], words=1)))
    reached = results["carpctl status"]["median_ms"] < AIM_MS
    print(f"\nTimes in ms, {RUNS} runs. Aim: carpctl status in {AIM_MS:.0f} ms: {'reached' if reached else 'missed'}")
    document: dict[str, Any] = {"benchmark": "carpctl", "machine": report.machine(), "versions": versions()}
    document |= {"runs": RUNS, "aim_ms": AIM_MS, "reached": reached, "results": results}
    report.write(args.out / "carpctl.json", document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
