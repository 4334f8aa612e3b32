"""The processes behind `traffic.Flow`, one at each end of a connection that they make once and keep.

python -m carpd.lab.traffic_flow KIND END ADDRESS PORT NUMBER [MEMORY]

KIND (download, upload, udp) and END (connect, listen) say what a process does. NUMBER is, for who sends a stream, its
rate in bytes a second; for who counts, how many intervals at the most, and MEMORY is where. There are, in 64-bit words:
when the first interval began, the number of intervals until now, the bytes of each.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import sys
import time
from collections.abc import Callable

from carpd.units import MILLISECOND, SECOND

WIDTH_NS = 10 * MILLISECOND
"""The length of the intervals in which bytes are counted."""

_ASK_NS = WIDTH_NS // 2
"""From question to question, so that there is an answer in each interval."""

_SO_MAX_PACING_RATE = 47
_CHUNK = 1 << 16
_RETRY_S = 0.05


class _Count:
    """The bytes of a flow that begins now."""

    def __init__(self, memory: int, limit: int) -> None:
        self._words = memoryview(mmap.mmap(memory, 0)).cast("q")
        self._limit = limit
        self._first_ns = self._words[0] = time.monotonic_ns()

    def add(self, count: int) -> bool:
        """False if the limit is reached."""
        index = (time.monotonic_ns() - self._first_ns) // WIDTH_NS
        if index >= self._limit:
            return False
        self._words[2 + index] += count
        self._words[1] = index + 1
        return True


def _send(connection: socket.socket, rate: int) -> None:
    """A stream, paced by the kernel."""
    connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
    chunk = bytes(_CHUNK)
    while True:
        connection.sendall(chunk)


def _receive(connection: socket.socket, limit: int, memory: int) -> None:
    buffer = bytearray(_CHUNK)
    count = _Count(memory, limit)
    while (received := connection.recv_into(buffer)) and count.add(received):
        pass


def _ask(connection: socket.socket, limit: int, memory: int) -> None:
    """A datagram every _ASK_NS, answered or not. The flow begins with the first answer."""
    count: _Count | None = None
    due = time.monotonic_ns()
    while True:
        now = time.monotonic_ns()
        if now >= due:
            due = max(due + _ASK_NS, now)
            with contextlib.suppress(OSError):  # what the kernel refuses to send is lost
                connection.send(b"are you there?")
        connection.settimeout(max(due - now, MILLISECOND) / SECOND)
        with contextlib.suppress(OSError):  # no answer yet, or "host unreachable" about an earlier question
            answer = connection.recv(_CHUNK)
            count = count or _Count(memory, limit)
            if not count.add(len(answer)):
                return


def _answer(endpoint: socket.socket, _: int) -> None:
    while True:
        question, asker = endpoint.recvfrom(_CHUNK)
        endpoint.sendto(question, asker)


def _connect(address: str, port: int) -> socket.socket:
    """Until the path and the other end are there: both may still be starting."""
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=1)
        except OSError:
            time.sleep(_RETRY_S)
        else:
            connection.settimeout(None)
            return connection


def _accept(address: str, port: int) -> socket.socket:
    """The first that comes."""
    with socket.create_server((address, port), family=_family(address)) as listener:
        return listener.accept()[0]


def _connect_udp(address: str, port: int) -> socket.socket:
    endpoint = socket.socket(_family(address), socket.SOCK_DGRAM)
    endpoint.connect((address, port))
    return endpoint


def _bind_udp(address: str, port: int) -> socket.socket:
    endpoint = socket.socket(_family(address), socket.SOCK_DGRAM)
    endpoint.bind((address, port))
    return endpoint


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


_ENDS: dict[tuple[str, str], tuple[Callable[[str, int], socket.socket], Callable[..., None]]] = {
    ("download", "connect"): (_connect, _receive),
    ("download", "listen"): (_accept, _send),
    ("upload", "connect"): (_connect, _send),
    ("upload", "listen"): (_accept, _receive),
    ("udp", "connect"): (_connect_udp, _ask),
    ("udp", "listen"): (_bind_udp, _answer),
}


def main() -> None:
    kind, end, address, port, *numbers = sys.argv[1:]
    begin, go_on = _ENDS[kind, end]
    go_on(begin(address, int(port)), *map(int, numbers))


if __name__ == "__main__":
    main()
