"""The processes behind `traffic.Download`, with one TCP connection between them.

python -m carpd.lab.traffic_download serve ADDRESS PORT RATE
python -m carpd.lab.traffic_download fetch ADDRESS PORT LIMIT MEMORY

In 64-bit words of the memory: when the first interval began, the number of intervals until now, the bytes of each.
"""

from __future__ import annotations

import mmap
import socket
import sys
import time

from carpd.units import MILLISECOND

WIDTH_NS = 10 * MILLISECOND
"""The length of the intervals in which bytes are counted."""

_SO_MAX_PACING_RATE = 47
_CHUNK = 1 << 16
_RETRY_S = 0.05


def _serve(address: str, port: int, rate: int) -> None:
    """Send to whoever connects, paced by the kernel."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
        chunk = bytes(_CHUNK)
        while True:
            connection.sendall(chunk)


def _fetch(address: str, port: int, limit: int, memory: memoryview[int]) -> None:
    connection = _connect(address, port)
    buffer = bytearray(_CHUNK)
    first = time.monotonic_ns()
    memory[0] = first
    while received := connection.recv_into(buffer):
        index = (time.monotonic_ns() - first) // WIDTH_NS
        if index >= limit:
            return
        memory[2 + index] += received
        memory[1] = index + 1


def _connect(address: str, port: int) -> socket.socket:
    """Until the path and the server are there: both may still be starting."""
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=1)
        except OSError:
            time.sleep(_RETRY_S)
        else:
            connection.settimeout(None)
            return connection


def main() -> None:
    role, address, port, number, *memory = sys.argv[1:]
    if role == "serve":
        _serve(address, int(port), int(number))
    else:
        _fetch(address, int(port), int(number), memoryview(mmap.mmap(int(memory[0]), 0)).cast("q"))


if __name__ == "__main__":
    main()
