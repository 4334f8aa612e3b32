"""The counter that every advertisement carries, as FreeBSD and NetBSD choose it. Ref: spec carp §5."""

from __future__ import annotations

from collections import deque

_MASK = (1 << 64) - 1
_REMEMBERED = 64
"""A loop is a matter of milliseconds; at the fastest interval 64 advertisements are 250 ms of one family."""


def _splitmix64(state: int) -> tuple[int, int]:
    """The next state and value of Steele, Lea and Flood's SplitMix64 (OOPSLA 2014)."""
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    value = state
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return state, value ^ (value >> 31)


class CounterSequence:
    """Random values until a peer is heard; from then on the peer's value, plus one for every advertisement."""

    def __init__(self, seed: int) -> None:
        self._random_state = seed & _MASK
        self._last: int | None = None
        self._sent: deque[int] = deque(maxlen=_REMEMBERED)

    def next(self) -> int:
        if self._last is None:
            self._random_state, value = _splitmix64(self._random_state)
        else:
            self._last = value = (self._last + 1) & _MASK
        self._sent.append(value)
        return value

    def below(self, limit: int) -> int:
        """A random number from 0 to below the limit, drawn like first counters."""
        self._random_state, value = _splitmix64(self._random_state)
        return value % limit

    def heard(self, counter: int) -> None:
        """Take over the counter of a peer's valid advertisement."""
        self._last = counter

    def is_ours(self, counter: int) -> bool:
        """Whether we sent this value lately."""
        return counter in self._sent
