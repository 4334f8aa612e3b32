"""How late timers are: a histogram with fixed bounds, cheap enough to be kept always."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from carpd.units import MILLISECOND, SECOND

BOUNDS_NS = (
    *(MILLISECOND // 10, MILLISECOND // 4, MILLISECOND // 2),
    *(MILLISECOND, 5 * MILLISECOND // 2, 5 * MILLISECOND, 10 * MILLISECOND, 25 * MILLISECOND, 50 * MILLISECOND),
    *(SECOND // 10, SECOND // 4, SECOND),
)
"""The upper bounds of the buckets, in nanoseconds; what is later is in one more. From what a real-time process does to
what makes peers with advbase 1 take over."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """Since the start: how many timers were in each bucket, and the sum of what they were late."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_NS) + 1)
    sum_ns: int = 0


NONE_YET = Lateness()


class LatenessMeter:
    """Counts them."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0

    def add(self, late_ns: int) -> None:
        self._counts[bisect_left(BOUNDS_NS, late_ns)] += 1
        self._sum_ns += late_ns

    @property
    def lateness(self) -> Lateness:
        return Lateness(tuple(self._counts), self._sum_ns)
