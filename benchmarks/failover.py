"""Failover side by side: what a client sees that probes the shared address every millisecond.

    python -m benchmarks.failover                         all of it, 10 runs each: about half an hour
    python -m benchmarks.failover --quick                 one run each, to see that it works
    python -m benchmarks.failover --only carpd fastest    some of it: daemons, timers, cases (any that are named)

Needs root, ucarp and keepalived.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.cases import Case, Measured, Pair
from benchmarks.daemons import CONTENDERS, DAEMONS, TIMERS, Contender
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError

RUNS = 10


def main() -> int:
    args = _arguments()
    seed = args.seed if args.seed is not None else secrets.randbits(32)
    chance = random.Random(seed)
    runs = 1 if args.quick else args.runs
    cases = _chosen(args.only, [case.value for case in Case])
    print(f"seed {seed}, {runs} runs of each case", flush=True)
    rows: list[report.Row] = []
    try:
        for contender in _contenders(args.only):
            wanted = [
                case for case in Case if case.value in cases and (case is Case.STOP or not contender.planned_only)
            ]
            rows += report.rows(contender, _measure(contender, wanted, runs, chance)) if wanted else ()
    except LabError as error:
        print(f"failover: {error}", file=sys.stderr)
        return 1
    print(report.table(rows))
    print()
    for text, reached in report.aims(rows):
        print(f"{'reached' if reached else 'MISSED '}  {text}")
    report.write(args.out / "failover.json", report.document(rows, seed))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description="Failover side by side.")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each case (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one run of each case")
    choices = [*DAEMONS, *TIMERS, *(case.value for case in Case)]
    parser.add_argument("--only", nargs="+", default=[], choices=choices, metavar="WHAT", help=", ".join(choices))
    parser.add_argument("--seed", type=int, help="of the moments at which things happen")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    return parser.parse_args()


def _chosen(only: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Those of the choices that were named; all of them if none was."""
    return [choice for choice in choices if choice in only] or list(choices)


def _contenders(only: Sequence[str]) -> list[Contender]:
    daemons, timers = _chosen(only, DAEMONS), _chosen(only, TIMERS)
    return [contender for contender in CONTENDERS if contender.daemon in daemons and contender.timers in timers]


def _measure(
    contender: Contender, cases: Sequence[Case], runs: int, chance: random.Random
) -> dict[Case, list[tuple[Measured, Measured]]]:
    """Play every case so many times, in one laboratory."""
    results: dict[Case, list[tuple[Measured, Measured]]] = {case: [] for case in cases}
    began = time.monotonic()
    with Lab() as lab:
        pair = Pair(lab, contender)
        pair.settle(chance.randrange(contender.interval_ns))
        for _ in range(runs):
            for case in cases:
                # what happens next comes at any time between two advertisements
                results[case].append(pair.play(case, chance.randrange(contender.interval_ns)))
    print(f"{contender.name}: {time.monotonic() - began:.0f} s", flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
