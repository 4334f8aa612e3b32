"""Many random scenarios of the simulator: python -m benchmarks.simulate --seeds 10000 [--start S] [--jobs N]

With --sync those of state synchronisation. Ends at the first broken promise, with its seed and transcript, and exit
status 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import Pool
from typing import NamedTuple

from carpd.simulation import scenario
from carpd.simulation.invariants import ViolationError
from carpd.simulation.sync import scenario as sync_scenario
from carpd.units import SECOND


class Outcome(NamedTuple):
    """What became of one scenario; `failure` is empty if every promise was kept."""

    seed: int
    virtual_ns: int
    transitions: int
    failure: str


def run_one(seed: int) -> Outcome:
    return _outcome(seed, scenario.run)


def run_one_of_sync(seed: int) -> Outcome:
    return _outcome(seed, sync_scenario.run)


def _outcome(seed: int, run: Callable[[int], scenario.Cluster | sync_scenario.Cluster]) -> Outcome:
    try:
        cluster = run(seed)
    except ViolationError as error:
        return Outcome(seed, 0, 0, str(error))
    transitions = sum(" -> " in line for line in cluster.transcript)
    return Outcome(seed, cluster.world.now, transitions, "")


def run_many(seeds: Iterable[int], jobs: int, run: Callable[[int], Outcome] = run_one) -> int:
    """The number of seeds until the first failure, which is printed, or 0 if there is none."""
    begin = time.monotonic()
    done = virtual_ns = transitions = 0
    with Pool(jobs) as pool:
        for outcome in pool.imap(run, seeds, chunksize=16):
            done += 1
            virtual_ns += outcome.virtual_ns
            transitions += outcome.transitions
            if outcome.failure:
                print(outcome.failure)
                return done
    took = time.monotonic() - begin
    hours = virtual_ns / SECOND / 3600
    print(f"{done} scenarios in {took:.1f} s ({done / took:.0f} a second): no promise broken")
    print(f"{hours:.1f} virtual hours, {transitions} changes of state")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="random scenarios of the simulator, until a promise is broken")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (0: until one fails)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--sync", action="store_true", help="of state synchronisation, not of the election")
    options = parser.parse_args(argv)
    end = options.start + options.seeds
    seeds = range(options.start, end) if options.seeds else itertools.count(options.start)
    return 1 if run_many(seeds, options.jobs, run_one_of_sync if options.sync else run_one) else 0


if __name__ == "__main__":
    sys.exit(main())
