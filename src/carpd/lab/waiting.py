"""What can go wrong in the laboratory itself, and how it waits."""

from __future__ import annotations

import time
from collections.abc import Callable

from carpd.errors import CarpdError
from carpd.units import SECOND

_POLL_S = 0.005


class LabError(CarpdError):
    """The laboratory can't be built or used here: the message is one line that says what is missing."""


class LabTimeoutError(LabError):
    """Something that had to happen did not happen in time."""


def wait_until(condition: Callable[[], bool], timeout_ns: int, what: str, *, poll_s: float = _POLL_S) -> None:
    """Return as soon as the condition holds. Raise LabTimeoutError, which says `what` was waited for.

    `poll_s` is how long nobody looks, for conditions that cost much to look at.
    """
    deadline = time.monotonic_ns() + timeout_ns
    while not condition():
        if time.monotonic_ns() >= deadline:
            raise LabTimeoutError(f"waited {timeout_ns / SECOND:g} s in vain: {what}")
        time.sleep(poll_s)
