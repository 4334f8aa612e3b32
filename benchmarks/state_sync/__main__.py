"""State synchronisation side by side: conntrackd's modes and pfsyncd, in the same laboratory and the same run.

    python -m benchmarks.state_sync                             all of it: about an hour and a half
    python -m benchmarks.state_sync --rounds 1                  half an hour
    python -m benchmarks.state_sync --quick                     one small round, to see that it works
    python -m benchmarks.state_sync --only cpu latency          some measurements
    python -m benchmarks.state_sync --only rate pfsyncd "FTFW direct"    of some candidates (parts of their names)

Needs root, conntrackd, conntrack and a quiet machine: generator and both firewalls share its cores, and meanwhile the
machine's limit of connections is raised. What a power cut costs a TCP connection: `benchmarks.state_sync.power`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import report
from benchmarks.state_sync import measures, results
from benchmarks.state_sync.candidates import CANDIDATES, Candidate
from benchmarks.state_sync.measures import Load
from benchmarks.state_sync.network import room_for_many
from benchmarks.state_sync.results import Alone, Measured
from carpd.errors import CarpdError


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int
    """Of everything but what takes long."""
    cpu: Sequence[tuple[int, int]]
    """Rates, and how many flows."""
    rates: Sequence[int]
    """Tried upwards until one loses something, and then the one in between."""
    seconds: float
    beyond: int
    latency: tuple[int, int]
    take_over: Sequence[tuple[int, int]]
    """Numbers of states, and how many rounds of each at most."""
    floor: int


_FULL = Plan(
    rounds=3,
    cpu=((2_000, 20_000), (10_000, 100_000), (25_000, 100_000)),
    rates=(10_000, 20_000, 30_000, 40_000, 50_000, 60_000),
    seconds=10,
    beyond=60_000,
    latency=(1000, 10_000),
    take_over=((100_000, 3), (1_000_000, 1)),
    floor=100_000,
)
_QUICK = Plan(
    rounds=1,
    cpu=((10_000, 20_000),),
    rates=(20_000, 40_000),
    seconds=1,
    beyond=60_000,
    latency=(1000, 2000),
    take_over=((20_000, 1),),
    floor=20_000,
)


# The measurements by name: each adds to what is known of one candidate, or of the traffic alone.


def _cpu(plan: Plan, one: Measured) -> None:
    for _ in range(plan.rounds):
        one.cpu += [measures.cpu(one.candidate, rate, flows) for rate, flows in plan.cpu]


def _rate(plan: Plan, one: Measured) -> None:
    for _ in range(plan.rounds):
        one.searches.append(_search(plan, one.candidate))
        one.beyond.append(measures.load(one.candidate, plan.beyond, plan.seconds))


def _search(plan: Plan, candidate: Candidate) -> list[Load]:
    def tried(rate: int) -> Load:
        return measures.load(candidate, rate, plan.seconds, patience_ns=0)

    loads: list[Load] = []
    for rate in plan.rates:
        loads.append(tried(rate))
        if not loads[-1].lossless:
            below = loads[-2].offered if len(loads) > 1 else 0
            return [*loads, tried((below + rate) // 2)]
    return loads


def _latency(plan: Plan, one: Measured) -> None:
    found = (measures.latency(one.candidate, *plan.latency) for _ in range(plan.rounds))
    one.latency += (latency for latency in found if latency is not None)


def _take_over(plan: Plan, one: Measured) -> None:
    one.take_overs += (
        measures.take_over(one.candidate, states)
        for states, most in plan.take_over
        for _ in range(min(most, plan.rounds))
    )


_MEASURES: dict[str, Callable[[Plan, Measured], None]] = {
    "cpu": _cpu,
    "rate": _rate,
    "latency": _latency,
    "take-over": _take_over,
}


def _alone(plan: Plan, names: Sequence[str]) -> Alone:
    alone = Alone()
    if "cpu" in names:
        for _ in range(plan.rounds):
            alone.cpu += [measures.cpu_alone(rate, flows) for rate, flows in plan.cpu]
        alone.floor = measures.floor(plan.floor, plan.rounds)
    if "rate" in names:
        alone.rates += [measures.rate_alone(int(plan.beyond * plan.seconds)) for _ in range(plan.rounds)]
    return alone


def main() -> int:
    args = _arguments()
    plan = _QUICK if args.quick else replace(_FULL, rounds=args.rounds)
    names = [name for name in _MEASURES if name in args.only] or list(_MEASURES)
    measured = [Measured(candidate) for candidate in _wanted([word for word in args.only if word not in _MEASURES])]
    if not measured:
        print("state_sync: no such candidate or measurement", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the machine's limit is put back
    try:
        with room_for_many():
            alone = _alone(plan, names)
            for one in measured:
                _measure(plan, names, one)
    except CarpdError as error:
        print(f"state_sync: {error}", file=sys.stderr)
        return 1
    for table in results.tables(alone, measured):
        print(f"\n{table}")
    print()
    for text, reached in results.aims(measured):
        print(f"{'reached' if reached else 'MISSED '}  {text}")
    report.write(args.out / "state_sync.json", results.document(alone, measured))
    return 1 if any(one.failures for one in measured) else 0


def _measure(plan: Plan, names: Iterable[str], one: Measured) -> None:
    """What fails is noted, and does not keep the others from being measured."""
    candidate = one.candidate
    for name in names:
        began = time.monotonic()
        try:
            _MEASURES[name](plan, one)
        except CarpdError as error:
            one.failures.append(f"{name}: {error}")
            print(f"{candidate.name}, {name}: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{candidate.name}, {name}: {time.monotonic() - began:.0f} s", flush=True)


def _wanted(words: Sequence[str]) -> list[Candidate]:
    """Those whose names contain any of the words (without words: all), if they are installed."""
    wanted = []
    for candidate in CANDIDATES:
        if words and not any(word in candidate.name for word in words):
            continue
        if candidate.installed:
            wanted.append(candidate)
        else:
            print(f"{candidate.name} is left out: {candidate.program} is not installed", flush=True)
    return wanted


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_sync", description="State sync side by side.")
    parser.add_argument("--quick", action="store_true", help="one small round")
    parser.add_argument("--rounds", type=int, default=_FULL.rounds, help="of each measurement (%(default)s)")
    choices = ", ".join([*_MEASURES, *(candidate.name for candidate in CANDIDATES)])
    parser.add_argument("--only", nargs="+", default=[], metavar="WHAT", help=f"{choices}, or a part of a name")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
