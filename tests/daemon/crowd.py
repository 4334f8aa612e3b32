"""Thousands of TCP connections at a time from a client to a server, which says back whatever it hears.

    python -m tests.daemon.crowd ADDRESS PORT

is the server, as a process of its own: no process may hold all the ends.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import sys
import time
from types import TracebackType
from typing import Self

from carpd.lab.nodes import Node
from carpd.lab.waiting import wait_until
from carpd.units import SECOND

_LINE = b"hello\n"


def raise_limit() -> None:
    """As many file descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Crowd:
    """The client's ends, held by this process. Use as a context manager."""

    def __init__(self, client: Node, server: Node, address: tuple[str, int], count: int) -> None:
        """Open them all. Raise OSError or LabError."""
        raise_limit()
        argv = [sys.executable, "-m", "tests.daemon.crowd", address[0], str(address[1])]
        self._server = server.start(argv, log="crowd.log")
        wait_until(lambda: bool(self._server.output()) or not self._server.running, 10 * SECOND, "a server")
        self._poll = select.epoll()
        self._ends: dict[int, socket.socket] = {}
        with client.inside():
            for _ in range(count):
                end = socket.create_connection(address, timeout=10)
                end.setblocking(False)
                self._ends[end.fileno()] = end
                self._poll.register(end, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        self._poll.close()
        for end in self._ends.values():
            end.close()

    def broken(self, limit_ns: int) -> int:
        """On how many connections there is no answer to what is said there."""
        waiting = dict(self._ends)
        for end in waiting.values():
            end.send(_LINE)
        deadline = time.monotonic_ns() + limit_ns
        while waiting and time.monotonic_ns() < deadline:
            for fd, _ in self._poll.poll((deadline - time.monotonic_ns()) / SECOND):
                with contextlib.suppress(OSError):  # a reset: no answer
                    if self._ends[fd].recv(1000) == _LINE:
                        waiting.pop(fd, None)
        return len(waiting)


def serve(address: str, port: int) -> None:
    """Answer until killed."""
    raise_limit()
    poll = select.epoll()
    ends: dict[int, socket.socket] = {}
    with socket.create_server((address, port)) as listener:
        poll.register(listener, select.EPOLLIN)
        print("ready", flush=True)
        while True:
            for fd, _ in poll.poll():
                if fd == listener.fileno():
                    end, _ = listener.accept()
                    ends[end.fileno()] = end
                    poll.register(end, select.EPOLLIN)
                elif heard := ends[fd].recv(1000):
                    ends[fd].send(heard)
                else:
                    ends.pop(fd).close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
