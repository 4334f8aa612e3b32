"""How late timers were, by buckets."""

from __future__ import annotations

from carpd.runtime.lateness import BOUNDS_NS, Lateness, LatenessMeter
from carpd.units import MILLISECOND, SECOND


def test_buckets() -> None:
    """A bound belongs to the bucket below it, as Prometheus wants it; what is later than all is not lost."""
    meter = LatenessMeter()
    assert meter.lateness == Lateness()
    late = [0, MILLISECOND // 10, MILLISECOND // 10 + 1, SECOND, SECOND + 1, 3600 * SECOND]
    for ns in late:
        meter.add(ns)
    assert meter.lateness.counts == (2, 1, *(0,) * (len(BOUNDS_NS) - 3), 1, 2)
    assert meter.lateness.sum_ns == sum(late)
    assert list(BOUNDS_NS) == sorted(set(BOUNDS_NS))
