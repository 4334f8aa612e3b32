"""Virtual time: what is to happen, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class World:
    """A clock in nanoseconds, and an agenda ordered by time; what was asked for first comes first at equal times."""

    def __init__(self) -> None:
        self.now = 0
        self._agenda: list[tuple[int, int, Action]] = []
        self._asked = count()

    def at(self, time_ns: int, action: Action) -> None:
        assert time_ns >= self.now, "the past cannot be changed"
        heapq.heappush(self._agenda, (time_ns, next(self._asked), action))

    def after(self, delay_ns: int, action: Action) -> None:
        self.at(self.now + delay_ns, action)

    def run(self, duration_ns: int, after_each: Action) -> None:
        """Let time pass; `after_each` is called after every action."""
        assert duration_ns >= 0, "nor does time go back"
        end = self.now + duration_ns
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
            after_each()
        self.now = end
