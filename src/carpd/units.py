"""Time is an int of nanoseconds on the monotonic clock; one 1/256 s of advskew is exact in it."""

from __future__ import annotations

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
SKEW = SECOND // 256
"""One unit of advskew, 1/256 s: exactly 3 906 250 ns."""


def interval_ns(advbase: int, advskew: int) -> int:
    """Nanoseconds between two advertisements: advbase seconds and advskew 256ths of one.

    Ref: spec carp §9. It does not apply the floor of 1/256 s for 0/0: a received 0/0 compares as 0.
    """
    return advbase * SECOND + advskew * SKEW
