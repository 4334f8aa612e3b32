"""The process behind `traffic.Probe`: python -m carpd.lab.traffic_probe INTERVAL_NS LIMIT ADDRESS... MEMORY

It sends one echo request to each address every interval and sleeps in between; the kernel stamps the answers, so that
they need not be read in time. Intervals in which it could not run are left out, never made up for in a burst.

For each address there are, in 64-bit words: how many probes were sent, LIMIT sending times, LIMIT times of answers.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Callable

from carpd.wire.checksum import internet_checksum

_ECHO = struct.Struct("!BBHHHQ")  # type, code, checksum, identifier, sequence number, our own index
_TIMESPEC = struct.Struct("@qq")
_SO_TIMESTAMPNS = 35
_ICMP_FILTER = 1  # of level SOL_RAW: a bit set drops that type
_ICMPV6_FILTER = 1  # of level IPPROTO_ICMPV6: likewise, 256 bits
_SOL_RAW = 255
_RECEIVE_BUFFER = 1 << 20
_IPV4_HEADER = 20
_PRIORITY = 1  # the lowest that preempts ordinary programs: an election process is above


class _Target:
    """One address: its socket and its part of the memory."""

    def __init__(self, address: str, memory: memoryview[int], limit: int) -> None:
        self._limit = limit
        self._count = memory[0:1]
        self._sent = memory[1 : 1 + limit]
        self._received = memory[1 + limit : 1 + 2 * limit]
        self._identifier = os.getpid() & 0xFFFF
        if ":" in address:
            self._request, reply, self._header = 128, 129, 0
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            drop = [0xFFFFFFFF] * 8
            drop[reply // 32] ^= 1 << reply % 32
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *drop))
        else:
            self._request, reply, self._header = 8, 0, _IPV4_HEADER
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << reply) & 0xFFFFFFFF))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.connect((address, 0))  # answers from elsewhere are not ours

    def send(self) -> bool:
        """Send the next probe; False if the limit is reached. What the kernel refuses to send is lost."""
        index = self._count[0]
        if index == self._limit:
            return False
        fields = (self._identifier, index & 0xFFFF, index)
        packet = _ECHO.pack(self._request, 0, 0, *fields)
        if self._header:  # for ICMPv6 the kernel does it
            packet = _ECHO.pack(self._request, 0, internet_checksum(packet), *fields)
        self._sent[index] = time.monotonic_ns()
        with contextlib.suppress(OSError):
            self._socket.send(packet)
        self._count[0] = index + 1
        return True

    def receive(self) -> None:
        """Note the answers that have come."""
        to_monotonic = time.monotonic_ns() - time.time_ns()
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                return
            except OSError:  # "host unreachable" and the like about an earlier probe
                continue
            if len(data) < self._header + _ECHO.size:
                continue
            _, _, _, identifier, _, index = _ECHO.unpack_from(data, self._header)
            if identifier == self._identifier and index < self._count[0] and self._received[index] == 0:
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                self._received[index] = seconds * 1_000_000_000 + nanoseconds + to_monotonic


def _every(interval_ns: int, work: Callable[[], bool]) -> None:
    """Call work at each interval until it returns False."""
    due = time.monotonic_ns()
    while work():
        now = time.monotonic_ns()
        due = max(due + interval_ns, now - interval_ns)
        if due > now:
            time.sleep((due - now) / 1_000_000_000)


def main() -> None:
    interval_ns, limit = int(sys.argv[1]), int(sys.argv[2])
    addresses = sys.argv[3:-1]
    memory = memoryview(mmap.mmap(int(sys.argv[-1]), 0)).cast("q")
    words = 1 + 2 * limit
    targets = [_Target(address, memory[i * words : (i + 1) * words], limit) for i, address in enumerate(addresses)]
    with contextlib.suppress(PermissionError):  # in a user namespace
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    gc.disable()

    def probe() -> bool:
        for target in targets:
            target.receive()
        return all(target.send() for target in targets)

    _every(interval_ns, probe)
    time.sleep(1)
    for target in targets:
        target.receive()


if __name__ == "__main__":
    main()
