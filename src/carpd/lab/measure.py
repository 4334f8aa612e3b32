"""From the records of probes and downloads to gaps, losses and throughput. All times are monotonic nanoseconds.

A *record* is two sequences, one entry a probe in the order of sending: when it was sent, and when its answer came
(0: not yet). An answer that comes later than ANSWER_NS is none: whoever waited for it has noticed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from carpd.units import MILLISECOND, SECOND

ANSWER_NS = 100 * MILLISECOND
"""A hundred times what the slowest answer takes in the laboratory when nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Consecutive probes without an answer.

    It lasts from the sending of the last probe that was answered before to the sending of the first one answered
    after: the client could not know less, and nobody measured what was in between. Without such a probe in the
    window, the window's edge takes its place.
    """

    start_ns: int
    end_ns: int
    lost: int

    @property
    def gap_ns(self) -> int:
        return self.end_ns - self.start_ns


def outages(sent: Sequence[int], received: Sequence[int], start_ns: int, end_ns: int) -> Iterator[Outage]:
    """The outages among the probes that were sent from start_ns to end_ns, in order.

    Probes younger than ANSWER_NS may still be answered: end_ns has to be as old.
    """
    before, lost = start_ns, 0
    for index in range(bisect_left(sent, start_ns), bisect_right(sent, end_ns)):
        if _answered(sent[index], received[index]):
            if lost:
                yield Outage(before, sent[index], lost)
            before, lost = sent[index], 0
        else:
            lost += 1
    if lost:
        yield Outage(before, end_ns, lost)


def joined(several: Iterable[Outage]) -> list[Outage]:
    """Outages of several streams as one: those that overlap are one, from the first's start to the last's end."""
    result: list[Outage] = []
    for outage in sorted(several, key=lambda o: o.start_ns):
        if result and outage.start_ns <= result[-1].end_ns:
            before = result.pop()
            end_ns = max(before.end_ns, outage.end_ns)
            outage = Outage(before.start_ns, end_ns, before.lost + outage.lost)
        result.append(outage)
    return result


@dataclass(frozen=True, slots=True)
class Loss:
    """What a client missed in a window."""

    gap_ns: int
    """The longest outage; 0 if every probe was answered."""
    lost: int
    """Probes without an answer, in all outages."""
    sent: int

    @classmethod
    def of(cls, sent: Sequence[int], received: Sequence[int], start_ns: int, end_ns: int) -> Self:
        """Read the window from start_ns to end_ns of a record."""
        found = list(outages(sent, received, start_ns, end_ns))
        return cls(
            gap_ns=max((outage.gap_ns for outage in found), default=0),
            lost=sum(outage.lost for outage in found),
            sent=bisect_right(sent, end_ns) - bisect_left(sent, start_ns),
        )


def answered_since(sent: Sequence[int], received: Sequence[int], since_ns: int) -> bool:
    """Whether any probe sent at since_ns or later has its answer."""
    return any(received[index] for index in range(bisect_left(sent, since_ns), len(sent)))


def share_answered(
    sent: Sequence[int], received: Sequence[int], start_ns: int, end_ns: int, bins: int
) -> list[float | None]:
    """The share of probes answered in each of so many equal parts of a window; None where none was sent."""
    width = (end_ns - start_ns) / bins
    counts, answers = [0] * bins, [0] * bins
    for index in range(bisect_left(sent, start_ns), bisect_left(sent, end_ns)):
        part = min(int((sent[index] - start_ns) / width), bins - 1)
        counts[part] += 1
        answers[part] += _answered(sent[index], received[index])
    return [answers[part] / counts[part] if counts[part] else None for part in range(bins)]


def throughput(
    counts: Sequence[int], first_ns: int, width_ns: int, start_ns: int, end_ns: int, bins: int
) -> list[float]:
    """Bits per second in each of so many equal parts of a window.

    `counts` are the bytes that arrived in consecutive intervals of width_ns, the first of which began at first_ns.
    """
    part_ns = (end_ns - start_ns) / bins
    totals = [0] * bins
    for index in range(max(0, (start_ns - first_ns) // width_ns), min(len(counts), (end_ns - first_ns) // width_ns)):
        middle = first_ns + index * width_ns + width_ns // 2
        part = int((middle - start_ns) / part_ns)
        if 0 <= part < bins:
            totals[part] += counts[index]
    return [total * 8 * SECOND / part_ns for total in totals]


def longest_stall(counts: Sequence[int], first_ns: int, width_ns: int, start_ns: int, end_ns: int) -> int:
    """The longest run of whole intervals in a window in which nothing arrived; 0 if something did in each.

    `counts` are as for `throughput`; what comes after them are intervals without anything.
    """
    begin, end = max(0, -((first_ns - start_ns) // width_ns)), (end_ns - first_ns) // width_ns
    longest = run = 0
    for index in range(begin, end):
        run = run + 1 if index >= len(counts) or not counts[index] else 0
        longest = max(longest, run)
    return longest * width_ns


def percentile(values: Sequence[int], percent: float) -> int:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def _answered(sent_ns: int, received_ns: int) -> bool:
    return 0 < received_ns <= sent_ns + ANSWER_NS
