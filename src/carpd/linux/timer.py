"""A timer of the kernel, exact to microseconds: epoll's own timeout counts whole milliseconds.

Ref: timerfd_create(2). Python's `os` has it from 3.13 on.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from contextlib import suppress

from carpd.linux import libc
from carpd.units import SECOND

_TFD_TIMER_ABSTIME = 1
_ITIMERSPEC = struct.Struct("@llll")  # interval and first expiry, each in seconds and nanoseconds

_create = libc.function("timerfd_create", ctypes.c_int, ctypes.c_int)
_settime = libc.function("timerfd_settime", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Timer:
    """Becomes readable at a deadline on the monotonic clock, and stays so until it is armed again or acknowledged."""

    def __init__(self) -> None:
        """Raise OSError."""
        self._fd = _create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def arm(self, deadline_ns: int | None) -> None:
        """Set the deadline, in nanoseconds of CLOCK_MONOTONIC; one in the past is due at once, None is never due."""
        # To the kernel 0 means never.
        seconds, nanoseconds = divmod(0 if deadline_ns is None else max(deadline_ns, 1), SECOND)
        _settime(self._fd, _TFD_TIMER_ABSTIME, _ITIMERSPEC.pack(0, 0, seconds, nanoseconds), None)

    def acknowledge(self) -> None:
        """Make it unreadable again."""
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
