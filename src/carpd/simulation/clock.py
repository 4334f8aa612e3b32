"""A node's own clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from carpd.simulation.world import World

_MILLION = 1_000_000


class Clock:
    """It began at another time than the world, may be fast or slow, and has one alarm, which may ring late."""

    def __init__(
        self,
        world: World,
        began_ns: int,
        ring: Callable[[], None],
        *,
        drift_ppm: int = 0,
        lateness_ns: Callable[[], int] = lambda: 0,
    ) -> None:
        self._world = world
        self._began_ns = began_ns
        self._ring = ring
        self._drift_ppm = drift_ppm
        self._lateness_ns = lateness_ns
        """Asked each time that the alarm is set."""
        self._alarm_ns: int | None = None
        self._alarms = 0

    @property
    def now(self) -> int:
        return self._at(self._world.now)

    def set_alarm(self, time_ns: int | None) -> None:
        """Ring once at that time, and not when it was to before; None: not at all. What is past rings at once."""
        if time_ns == self._alarm_ns:
            return
        self._alarms += 1
        self._alarm_ns = time_ns
        if time_ns is not None:
            self._world.at(self._moment(time_ns) + self._lateness_ns(), partial(self._due, self._alarms))

    def _due(self, alarm: int) -> None:
        if alarm == self._alarms:
            self._alarm_ns = None
            self._ring()

    def _at(self, world_ns: int) -> int:
        return self._began_ns + world_ns + world_ns * self._drift_ppm // _MILLION

    def _moment(self, time_ns: int) -> int:
        """The world's first, from now on, at which it is that late here."""
        world_ns = max(self._world.now, (time_ns - self._began_ns) * _MILLION // (_MILLION + self._drift_ppm))
        while self._at(world_ns) < time_ns:
            world_ns += 1
        return world_ns
