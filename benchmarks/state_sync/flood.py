"""New flows at a steady rate: the process behind `Flood`.

    python -m benchmarks.state_sync.flood RATE COUNT FIRST MEMORY

COUNT UDP packets, each the first of a flow of its own, beginning with flow number FIRST: 60 000 source ports to each of
the destinations. They are written into a ring of ready packets and sent by sendmmsg through a raw socket, since a UDP
socket has one port. What falls behind the rate is made up for in bursts of _BURST at most. In MEMORY, three 64-bit
words: packets sent, when the first was, and when the last was.
"""

from __future__ import annotations

import array
import ctypes
import ipaddress
import mmap
import os
import socket
import struct
import sys
import time

from benchmarks.state_sync.network import CLIENT, DESTINATIONS, FLOOD_PORT
from carpd.lab.nodes import Node
from carpd.lab.waiting import LabError
from carpd.linux import libc
from carpd.units import SECOND

PORTS = 60_000
_FIRST_PORT = 1024
_BURST = 256
_PAYLOAD = bytes(4)
_HEADERS = struct.Struct("!BBHHHBBH4s4sHHHH")
_WORDS = (_HEADERS.size + len(_PAYLOAD)) // 2
_DESTINATION_LOW_WORD, _SOURCE_PORT_WORD = 9, 10
_SEND_BUFFER = 16 << 20
_SO_SNDBUFFORCE = 32
_sendmmsg = libc.function("sendmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Flood:
    """A flood that runs in a node."""

    def __init__(self, node: Node, rate: int, count: int, first: int = 0) -> None:
        memory = os.memfd_create("flood")
        try:
            os.ftruncate(memory, 24)
            argv = [sys.executable, "-m", __name__, *map(str, (rate, count, first, memory))]
            self._words = memoryview(mmap.mmap(memory, 24)).cast("q")
            self._process = node.start(argv, log="flood.log", pass_fds=(memory,))
        finally:
            os.close(memory)

    def wait(self, timeout_ns: int = 120 * SECOND) -> None:
        """Until everything was sent. Raise LabError if it could not be."""
        if self._process.wait(timeout_ns) != 0:
            raise LabError(f"the flood failed: {self._process.output()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def sent(self) -> int:
        return self._words[0]

    @property
    def rate(self) -> float:
        """Flows a second that were really begun."""
        return self._words[0] * SECOND / max(self._words[2] - self._words[1], 1)


class Ring:
    """Packets that lie ready but for what names their flow."""

    def __init__(self) -> None:
        base = ipaddress.ip_network(DESTINATIONS).network_address.packed
        size = 2 * _WORDS
        fields = (0x45, 0, size, 0, 0x4000, 64, socket.IPPROTO_UDP, 0, socket.inet_aton(CLIENT), base)
        packet = _HEADERS.pack(*fields, 0, FLOOD_PORT, size - 20, 0) + _PAYLOAD
        self._block = (ctypes.c_char * (size * _BURST)).from_buffer_copy(packet * _BURST)
        words = memoryview(self._block).cast("B").cast("H")
        self._ports, self._destinations = words[_SOURCE_PORT_WORD::_WORDS], words[_DESTINATION_LOW_WORD::_WORDS]
        # struct iovec of each, and struct mmsghdr: seven words of struct msghdr, and one of which half is the result.
        start = ctypes.addressof(self._block)
        self._buffers = array.array("Q", [n for i in range(_BURST) for n in (start + i * size, size)])
        buffers, _ = self._buffers.buffer_info()
        self._messages = array.array("Q", [n for i in range(_BURST) for n in (0, 0, buffers + 16 * i, 1, 0, 0, 0, 0)])
        self._address, _ = self._messages.buffer_info()

    def send(self, fd: int, first: int, count: int) -> int:
        """Send flows from this number on, and return how many."""
        numbers = range(first, first + count)
        self._ports[:count] = memoryview(array.array("H", [_swapped(_FIRST_PORT + n % PORTS) for n in numbers]))
        self._destinations[:count] = memoryview(array.array("H", [_swapped(n // PORTS) for n in numbers]))
        return _sendmmsg(fd, self._address, count, 0)


def _swapped(number: int) -> int:
    """In the network's byte order, for a little-endian machine; a big-endian one has nothing to swap."""
    return socket.htons(number)


def main() -> None:
    rate, count, flow, descriptor = map(int, sys.argv[1:])
    words = memoryview(mmap.mmap(descriptor, 24)).cast("q")
    ring = Ring()
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        raw.connect((str(ipaddress.ip_network(DESTINATIONS).network_address), 0))
        begin = words[1] = time.monotonic_ns()
        while sent < count:
            due = min((time.monotonic_ns() - begin) * rate // SECOND + 1, count)
            if due <= sent:
                time.sleep(max((begin + sent * SECOND // rate - time.monotonic_ns()) / SECOND, 0))
                continue
            sent += ring.send(raw.fileno(), flow + sent, min(due - sent, _BURST))
            words[0] = sent
    words[2] = time.monotonic_ns()


if __name__ == "__main__":
    main()
