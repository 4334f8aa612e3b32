"""The timer, on the real clock: nothing here depends on how late it is."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from carpd.linux.timer import Timer
from carpd.units import MILLISECOND, SECOND


@pytest.fixture
def timer() -> Iterator[Timer]:
    opened = Timer()
    yield opened
    opened.close()


def is_due(timer: Timer, limit_s: float = 0) -> bool:
    return bool(select.select([timer], [], [], limit_s)[0])


def test_never_before_its_deadline(timer: Timer) -> None:
    for after_ns in (1, 3_906_250, 20 * MILLISECOND):
        deadline = time.monotonic_ns() + after_ns
        timer.arm(deadline)
        assert is_due(timer, 5)
        assert time.monotonic_ns() >= deadline


@pytest.mark.parametrize("deadline", [0, -1, 1])
def test_the_past_is_due_at_once(timer: Timer, deadline: int) -> None:
    timer.arm(deadline)
    assert is_due(timer)


def test_acknowledged(timer: Timer) -> None:
    timer.arm(1)
    assert is_due(timer)
    timer.acknowledge()
    assert not is_due(timer)
    timer.acknowledge()


def test_disarmed(timer: Timer) -> None:
    timer.arm(1)
    timer.arm(None)
    assert not is_due(timer)
    timer.arm(time.monotonic_ns() + 3600 * SECOND)
    assert not is_due(timer)
