"""What a client sees: probes every millisecond, and connections that are made once, with a process at each end.

The processes (`traffic_probe`, `traffic_flow`) write their records into shared memory, which can be read at any
time. They end with their node, or with `stop`.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from carpd.lab import measure, traffic_flow, traffic_probe
from carpd.lab.nodes import Node, Process
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND, SECOND

_START_NS = 10 * SECOND

Kind = Literal["download", "upload", "udp"]
"""Of a `Flow`."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """Live: both views grow while the probe runs. Times are monotonic nanoseconds, 0 is "no answer yet"."""

    _memory: memoryview
    _limit: int

    def __len__(self) -> int:
        return int(self._memory[0])

    @property
    def sent(self) -> memoryview[int]:
        return self._memory[1 : 1 + len(self)]

    @property
    def received(self) -> memoryview[int]:
        return self._memory[1 + self._limit :][: len(self)]

    def loss(self, start_ns: int, end_ns: int) -> measure.Loss:
        """What was missed of the probes sent in a window that ended at least measure.ANSWER_NS ago."""
        return measure.Loss.of(self.sent, self.received, start_ns, end_ns)

    def answered_since(self, since_ns: int) -> bool:
        """Whether any probe sent at since_ns or later has its answer."""
        return measure.answered_since(self.sent, self.received, since_ns)


class Probe:
    """Echo requests (ICMP or ICMPv6) from a node to each of some named addresses, one each interval.

    probe["server4"] is the record of the target of that name. After `limit_ns` no more probes are sent.
    """

    def __init__(
        self,
        node: Node,
        targets: Mapping[str, str],
        *,
        interval_ns: int = MILLISECOND,
        limit_ns: int = 600 * SECOND,
    ) -> None:
        self.interval_ns = interval_ns
        limit = limit_ns // interval_ns
        words = 1 + 2 * limit
        self._process, memory = _start(
            node, traffic_probe.__name__, interval_ns, limit, *targets.values(), words=words * len(targets)
        )
        self._records = {
            name: ProbeRecord(memory[i * words : (i + 1) * words], limit) for i, name in enumerate(targets)
        }
        wait_until(lambda: all(self._records.values()), _START_NS, "the first probe")

    def __getitem__(self, name: str) -> ProbeRecord:
        return self._records[name]

    @property
    def records(self) -> Mapping[str, ProbeRecord]:
        return self._records

    def stop(self) -> None:
        self._process.stop()


class Flow:
    """A connection over which something arrives all the time, from `opener` to `address` and `port` of `listener`.

    * download: the listener sends without end over TCP, at most `rate` bytes a second;
    * upload: the opener does;
    * udp: the opener asks, the listener answers, some hundred times a second.

    It is made once, as soon as it can be, and never again. The bytes that arrive (for udp: those of the answers) are
    counted in intervals of `width_ns`; `limit_ns` ends the counting. Where a firewall translates, `asked` is where the
    opener believes the listener to be.
    """

    width_ns = traffic_flow.WIDTH_NS

    def __init__(
        self,
        kind: Kind,
        opener: Node,
        listener: Node,
        address: str,
        *,
        port: int = 5001,
        asked: tuple[str, int] | None = None,
        rate: int = 10_000_000,
        limit_ns: int = 600 * SECOND,
    ) -> None:
        limit = limit_ns // self.width_ns
        module, words = traffic_flow.__name__, 2 + limit
        listen: tuple[object, ...] = (kind, "listen", address, port)
        connect: tuple[object, ...] = (kind, "connect", *(asked or (address, port)))
        if kind == "upload":
            receiver, self._memory = _start(listener, module, *listen, limit, words=words)
            sender = opener.start(_argv(module, *connect, rate), log=f"{module}.log")
        else:
            sender = listener.start(_argv(module, *listen, rate), log=f"{module}.log")
            receiver, self._memory = _start(opener, module, *connect, limit, words=words)
        self._processes = (sender, receiver)

    @property
    def connected(self) -> bool:
        """Whether there is, or was, a connection."""
        return self.first_ns > 0

    @property
    def running(self) -> bool:
        """Whether neither end has given up: it waits for its connection, or has the same as ever."""
        return all(process.running for process in self._processes)

    @property
    def first_ns(self) -> int:
        """When the first interval began; 0 before."""
        return int(self._memory[0])

    @property
    def moved_ns(self) -> int:
        """When the last interval in which something arrived began; 0 before."""
        return self.first_ns and self.first_ns + (len(self.received) - 1) * self.width_ns

    @property
    def received(self) -> memoryview[int]:
        """Bytes received in each interval until the last one in which some were."""
        return self._memory[2 : 2 + int(self._memory[1])]

    def received_since(self, since_ns: int) -> bool:
        """Whether any byte came in an interval that began after since_ns."""
        return self.moved_ns > since_ns

    def stall_ns(self, start_ns: int, end_ns: int) -> int:
        """The longest time of a window in which nothing arrived, in whole intervals."""
        return measure.longest_stall(self.received, self.first_ns, self.width_ns, start_ns, end_ns)

    def throughput(self, start_ns: int, end_ns: int, bins: int) -> list[float]:
        """Bits per second in each of so many equal parts of a window."""
        return measure.throughput(self.received, self.first_ns, self.width_ns, start_ns, end_ns, bins)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()


class Download(Flow):
    """A download by `client` from `server`."""

    def __init__(
        self,
        client: Node,
        server: Node,
        address: str,
        *,
        port: int = 5001,
        rate: int = 10_000_000,
        limit_ns: int = 600 * SECOND,
    ) -> None:
        super().__init__("download", client, server, address, port=port, rate=rate, limit_ns=limit_ns)


def _start(node: Node, module: str, *arguments: object, words: int) -> tuple[Process, memoryview[int]]:
    """Run one of our modules in a node, with shared memory of so many 64-bit words as its last argument."""
    memory = os.memfd_create(module)
    try:
        os.ftruncate(memory, words * 8)
        argv = _argv(module, *arguments, memory)
        process = node.start(argv, log=f"{module}.log", pass_fds=(memory,))
        return process, memoryview(mmap.mmap(memory, words * 8)).cast("q")
    finally:
        os.close(memory)


def _argv(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]
