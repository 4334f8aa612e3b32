"""How late advertisements are, from when they were seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.control import lateness
from carpd.units import MILLISECOND, SECOND

BEATS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "on the beat": ((0, 1, 2), (0, 0, 0)),
    "one late": ((0, 1.005, 2), (0, 5, 0)),
    "the first one late": ((0.005, 1, 2), (5, 0, 0)),
    "one lost": ((0, 2.003, 3), (0, 3, 0)),
    "two and three late": ((0.002, 1.003, 2, 3.001), (2, 3, 0, 1)),
}


@pytest.mark.parametrize(("seen_s", "late_ms"), BEATS.values(), ids=BEATS.keys())
def test_lateness(seen_s: Sequence[float], late_ms: Sequence[float]) -> None:
    times = [round(time * SECOND) for time in seen_s]
    assert lateness([times, times]) == [late * MILLISECOND for late in (*late_ms, *late_ms)]
