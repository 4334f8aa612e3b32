"""A node's clock: when its alarm rings, by the world's time."""

from __future__ import annotations

import pytest

from carpd.simulation.clock import Clock
from carpd.simulation.world import World
from carpd.units import SECOND

BEGAN_NS = 1_000 * SECOND

ALARMS: dict[str, tuple[int, int, list[int], list[int]]] = {
    # drift in ppm, lateness in ns, alarms that are set one after the other (by the clock's seconds), when one rings
    "on time": (0, 0, [1005], [5 * SECOND]),
    "late": (0, 7, [1005], [5 * SECOND + 7]),
    "of a fast clock": (250_000, 0, [1005], [4 * SECOND]),
    "of a slow clock": (-200_000, 0, [1004], [5 * SECOND]),
    "set anew": (0, 0, [1005, 1003], [3 * SECOND]),
    "set again to the same": (0, 0, [1005, 1005], [5 * SECOND]),
    "taken back": (0, 0, [1005, 0], []),
    "in the past": (0, 0, [999], [0]),
}


@pytest.mark.parametrize(("drift_ppm", "late_ns", "alarms", "rung"), ALARMS.values(), ids=ALARMS.keys())
def test_alarm(drift_ppm: int, late_ns: int, alarms: list[int], rung: list[int]) -> None:
    world = World()
    heard: list[int] = []
    clock = Clock(world, BEGAN_NS, lambda: heard.append(world.now), drift_ppm=drift_ppm, lateness_ns=lambda: late_ns)
    for seconds in alarms:
        clock.set_alarm(seconds * SECOND or None)
    world.run(10 * SECOND, lambda: None)
    assert heard == rung
    assert clock.now == BEGAN_NS + 10 * SECOND + 10 * drift_ppm * 1_000


def test_an_alarm_rings_once_and_can_be_set_when_it_rings() -> None:
    world = World()
    heard: list[int] = []

    def ring() -> None:
        heard.append(clock.now)
        clock.set_alarm(clock.now + SECOND if len(heard) < 3 else None)

    clock = Clock(world, BEGAN_NS, ring)
    clock.set_alarm(BEGAN_NS + SECOND)
    world.run(10 * SECOND, lambda: None)
    assert heard == [BEGAN_NS + n * SECOND for n in (1, 2, 3)]
