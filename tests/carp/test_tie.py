"""Two masters with one preference: both may yield to the other at the same moment. Ref: spec carp §7.1."""

from __future__ import annotations

from carpd.events import CarpState
from carpd.units import SECOND, SKEW
from tests.carp.harness import Node, host_config


def test_who_yields_to_an_equal_waits_up_to_half_an_interval_longer() -> None:
    """Or both would take over together, and yield together again, for as long as their timers are exact."""
    master_down, interval = 3 * SECOND + 100 * SKEW, SECOND + 100 * SKEW
    node = Node.master()
    waits = set()
    for _ in range(20):
        node.hear(advskew=100)
        assert node.state is CarpState.BACKUP
        wait = node.wait
        assert wait is not None
        assert master_down <= wait < master_down + interval // 2
        waits.add(wait)
        node.expire()
    assert len(waits) == 20


def test_who_yields_to_a_better_one_waits_as_ever() -> None:
    node = Node.master()
    node.hear(advskew=99)
    assert node.wait == host_config().master_down_ns
