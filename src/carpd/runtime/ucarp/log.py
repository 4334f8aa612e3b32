"""ucarp's log, on the terminal and to syslog. It never waits: what nobody takes is lost, and that is said later."""

from __future__ import annotations

import enum
import os
import select
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from carpd.units import SECOND

SYSLOG = Path("/dev/log")

_STDOUT, _STDERR = 1, 2


class Level(enum.IntEnum):
    """The priorities of syslog.h, with the words of ucarp."""

    ERROR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7


@dataclass(slots=True)
class Log:
    """Lines for the operator. Without `facility` syslog has none of them."""

    debugging: bool = False
    facility: int | None = None
    syslog: Path = SYSLOG
    terminal: bool = True
    """Also on standard output, and from WARNING on on standard error."""
    _socket: socket.socket | None = field(default=None, init=False)
    _lost: dict[int, int] = field(default_factory=dict, init=False)
    """Lines that could not be written, by file descriptor."""

    def error(self, text: str) -> None:
        self._log(Level.ERROR, text)

    def warning(self, text: str) -> None:
        self._log(Level.WARNING, text)

    def info(self, text: str) -> None:
        self._log(Level.INFO, text)

    def debug(self, text: str) -> None:
        if self.debugging:
            self._log(Level.DEBUG, text)

    def _log(self, level: Level, text: str) -> None:
        if self.terminal:
            self._print(_STDERR if level <= Level.WARNING else _STDOUT, level, text)
        if self.facility is not None:
            self._send(level, text)

    def _print(self, fd: int, level: Level, text: str) -> None:
        lost = self._lost.get(fd, 0)
        if lost and _write(fd, Level.WARNING, f"{lost} lines of the log were lost: nobody read them"):
            lost = 0
        if lost or not _write(fd, level, text):
            lost += 1
        self._lost[fd] = lost

    def _send(self, level: Level, text: str) -> None:
        """Ref: RFC 3164 §4.1, as the C library writes it to the local daemon."""
        assert self.facility is not None, "whoever has no facility is not sent"
        stamp = time.strftime("%b %e %H:%M:%S")
        line = f"<{self.facility | level}>{stamp} ucarp[{os.getpid()}]: [{level.name}] {text}".encode(errors="replace")
        for _ in range(2):  # the daemon may have been started again, and listens on another socket
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                    self._socket.connect(str(self.syslog))
                self._socket.send(line)
                return
            except BlockingIOError:  # it does not read
                return
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None


def _write(fd: int, level: Level, text: str) -> bool:
    """Write a line with the time in front, if that does not have to wait; whether it was written."""
    seconds, nanoseconds = divmod(time.time_ns(), SECOND)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    line = f"{stamp}.{nanoseconds // 1000:06d}: [{level.name}] {text}\n".encode(errors="replace")
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    try:
        # A pipe that is ready takes PIPE_BUF bytes without waiting, terminals and files what they are given.
        ready = any(events & select.POLLOUT for _, events in poll.poll(0)) and len(line) <= select.PIPE_BUF
        return ready and os.write(fd, line) > 0
    except OSError:
        return False
