"""From single measurements to a table for the reader and a JSON document for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Measured
from benchmarks.daemons import DEFAULT, FASTEST, Contender, versions
from carpd.lab.measure import percentile
from carpd.units import MILLISECOND

OURS = "carpd"

RESULTS = Path("benchmarks/results")
"""Where results go unless another directory is given."""


@dataclass(frozen=True, slots=True)
class Row:
    """All that was measured of one contender in one event: a case, or the undoing of one."""

    contender: Contender
    event: str
    bound_ns: int
    """What the protocol allows the gap to be."""
    planned: bool
    """A stop, or the return of the better node: nothing has failed, so nothing has to be lost."""
    measured: Sequence[Measured]

    @property
    def gaps_ns(self) -> list[int]:
        return [one.gap_ns for one in self.measured]

    @property
    def median_ns(self) -> int:
        return percentile(self.gaps_ns, 50)

    @property
    def lost_most(self) -> int:
        return max(one.lost for one in self.measured)

    @property
    def lost6_most(self) -> int:
        return max(one.lost6 for one in self.measured)

    @property
    def late_ns(self) -> list[int]:
        """Of failures: the take-over, after its time by the protocol."""
        return [one.late_ns for one in self.measured if one.late_ns is not None]

    @property
    def failed(self) -> int:
        """How often things had not come right some seconds later: nobody served, or the wrong node."""
        return sum(not one.over for one in self.measured)


def rows(contender: Contender, results: dict[Case, list[tuple[Measured, Measured]]]) -> Iterable[Row]:
    """Two for each case: what happened, and its undoing."""
    for case, pairs in results.items():
        planned = case is Case.STOP
        bound_ns = contender.leave_ns if planned else contender.master_down_ns
        yield Row(contender, case.value, bound_ns, planned, [failure for failure, _ in pairs])
        yield Row(contender, case.undoing, 0, True, [undoing for _, undoing in pairs])


def best_peer(row: Row, others: Iterable[Row]) -> Row | None:
    """The other daemon with the smallest median in the same event with the same timers."""
    peers = [
        other
        for other in others
        if other.contender.daemon != OURS
        and (other.contender.timers, other.event) == (row.contender.timers, row.event)
        and not other.failed
    ]
    return min(peers, key=lambda other: other.median_ns, default=None)


def ratio(row: Row, others: Iterable[Row]) -> float | None:
    """Our median gap in those of the best peer; None where there is no peer, or it has no gap."""
    peer = best_peer(row, others) if row.contender.daemon == OURS else None
    return round(row.median_ns / peer.median_ns, 3) if peer is not None and peer.median_ns else None


# The table

_TITLES = ("EVENT", "DAEMON", "BOUND", "MIN", "MEDIAN", "P95", "MAX", "LOST", "LATE", "MAX", "FAILED", "RATIO")
_NOTES = """\
Times in ms. BOUND: how long the protocol lets the client wait. MIN to MAX: the longest outage a client saw that probes
every millisecond. LOST: the most probes lost in one run. LATE: take-over after its time by the protocol, median and
maximum. FAILED: runs in which the shared address was not served by the right node some seconds after the bound.
RATIO: carpd's median in medians of the best peer. After kill -9 and in a hang the kernel of the dead node goes on
answering for ucarp and keepalived, even when the other node has taken over; carpd's lease makes it silent first."""


def table(all_rows: Sequence[Row]) -> str:
    """By timers and event, with the daemons side by side."""
    lines: list[str] = []
    for timers in dict.fromkeys(row.contender.timers for row in all_rows):
        of_timers = [row for row in all_rows if row.contender.timers == timers]
        settings = dict.fromkeys(f"{row.contender.daemon}: {row.contender.settings}" for row in of_timers)
        events = list(dict.fromkeys(row.event for row in of_timers))
        ordered = sorted(of_timers, key=lambda row: events.index(row.event))
        lines += ["", f"Timers: {timers}. " + "; ".join(settings)]
        lines += aligned([_TITLES, *(_cells(row, all_rows) for row in ordered)])
    return "\n".join([*lines, "", _NOTES])


def aligned(table_rows: Sequence[Sequence[str]], words: int = 2) -> list[str]:
    """Columns of equal width; all but the first `words` are numbers."""
    widths = [max(map(len, column)) for column in zip(*table_rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table_rows
    ]


def _cells(row: Row, others: Iterable[Row]) -> tuple[str, ...]:
    gaps, late = row.gaps_ns, row.late_ns
    times_better = ratio(row, others)
    return (
        row.event,
        row.contender.daemon,
        _ms(row.bound_ns),
        *(_ms(value) for value in (min(gaps), row.median_ns, percentile(gaps, 95), max(gaps))),
        str(row.lost_most),
        _ms(percentile(late, 50)) if late else "",
        _ms(max(late)) if late else "",
        f"{row.failed} of {len(gaps)}" if row.failed else "",
        f"{times_better:.2f}" if times_better is not None else "",
    )


def _ms(time_ns: int) -> str:
    return f"{time_ns / MILLISECOND:.1f}"


# What carpd is to reach


def aims(all_rows: Sequence[Row]) -> Iterable[tuple[str, bool]]:
    """Each aim in words, with what was measured, and whether it is reached."""
    ours = [row for row in all_rows if row.contender.daemon == OURS]
    for row in ours:
        name = f"{row.event}, {row.contender.timers} timers"
        median, worst = _ms(row.median_ns), _ms(max(row.gaps_ns))
        if row.event == Case.POWER.value and row.contender.timers == DEFAULT:
            limit = row.bound_ns + 5 * MILLISECOND
            late = percentile(row.late_ns, 50)
            text = f"{name}: {worst} ms at most, {_ms(late)} ms late (aim: {_ms(limit)}, 5)"
            yield text, max(row.gaps_ns) <= limit and late <= 5 * MILLISECOND
        elif row.event == Case.POWER.value and row.contender.timers == FASTEST:
            yield f"{name}: median {median} ms (aim: 15)", row.median_ns <= 15 * MILLISECOND
        elif row.planned:
            text = f"{name}: {row.lost_most} probes lost at most, {row.lost6_most} over IPv6 (aim: 1)"
            yield text, max(row.lost_most, row.lost6_most) <= 1
    if ours:
        failed = sum(row.failed for row in ours)
        yield f"never without the right master in the end: {failed} failed (aim: 0)", failed == 0


# JSON


def document(all_rows: Sequence[Row], seed: int) -> dict[str, Any]:
    return {
        "benchmark": "failover",
        "seed": seed,
        "machine": machine(),
        "versions": versions(),
        "aims": [{"aim": text, "reached": reached} for text, reached in aims(all_rows)],
        "results": [_result(row, all_rows) for row in all_rows],
    }


def machine() -> dict[str, Any]:
    """Where it was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?")
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "processor": model,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _result(row: Row, others: Iterable[Row]) -> dict[str, Any]:
    gaps6 = [one.gap6_ns for one in row.measured if one.gap6_ns is not None]
    return {
        "daemon": row.contender.daemon,
        "timers": row.contender.timers,
        "settings": row.contender.settings,
        "event": row.event,
        "planned": row.planned,
        "bound_ms": row.bound_ns / MILLISECOND,
        "gap_ms": summary(row.gaps_ns),
        "gap6_ms": summary(gaps6),
        "lost": [one.lost for one in row.measured],
        "lost6": [one.lost6 for one in row.measured],
        "late_ms": summary(row.late_ns),
        "failed": row.failed,
        "ratio_to_best_peer": ratio(row, others),
    }


def summary(values_ns: Sequence[int]) -> dict[str, Any] | None:
    """In milliseconds; None of nothing."""
    if not values_ns:
        return None
    percentiles = {"min": 0.0, "median": 50.0, "p95": 95.0, "max": 100.0}
    of_all = {name: percentile(values_ns, percent) / MILLISECOND for name, percent in percentiles.items()}
    return of_all | {"all": [value / MILLISECOND for value in values_ns]}


def write(path: Path, content: dict[str, Any]) -> None:
    """As JSON, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwritten to {path}")
