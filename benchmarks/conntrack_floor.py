"""What an entry of the connection tracking table costs us, beside the plainest loops that do the same system calls.

    python -m benchmarks.conntrack_floor [--entries 50000] [--rounds 5]

The floor of reading is recvmmsg that looks at nothing, of writing a send of bytes that lay ready. Both are what the
kernel takes; the rest is ours. CPU time, the best round. Needs root; works in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from carpd.linux import namespaces, sysctls
from carpd.linux.conntrack import ConntrackEvents, ConntrackTable
from carpd.linux.datagrams import Slots
from carpd.linux.netlink import REQUESTS_AT_ONCE, open_socket
from carpd.wire import conntrack, ctnetlink, netlink
from carpd.wire.conntrack import ConntrackEntry, TcpState, flow_key
from carpd.wire.ctnetlink_batch import Writer

_STATUS = conntrack.SEEN_REPLY | conntrack.ASSURED | conntrack.CONFIRMED
_FLAGS = conntrack.WINDOW_SCALE | conntrack.SACK_PERMITTED
_DONE = struct.pack("=H", netlink.DONE)
_SERVER, _NAT = bytes([198, 51, 100, 10]), bytes([198, 51, 100, 1])


class Cost(NamedTuple):
    """Microseconds of CPU an entry: the floor, and ours with the floor in it."""

    floor: float
    ours: float


def tcp_entry(number: int, *, translated: bool = False) -> ConntrackEntry:
    """An established connection; translated ones differ in address or port as seen from outside."""
    source, port = bytes([10]) + number.to_bytes(3, "big"), 1024 + number % 60000
    outside, outside_port = (_NAT[:3] + bytes([number // 60000]), port) if translated else (source, port)
    return ConntrackEntry(
        source,
        _SERVER,
        conntrack.TCP,
        port,
        80,
        _SERVER,
        outside,
        80,
        outside_port,
        status=_STATUS,
        timeout=600,
        state=TcpState.ESTABLISHED,
        original_scale=7,
        reply_scale=7,
        original_flags=_FLAGS,
        reply_flags=_FLAGS,
    )


def best_cpu_us(rounds: int, count: int, prepare: Callable[[], object], measured: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(rounds):
        prepare()
        begin = time.process_time_ns()
        measured()
        best = min(best, (time.process_time_ns() - begin) / count / 1000)
    return best


class Bench:
    """One table and these entries; it is empty between two measurements."""

    def __init__(self, entries: Sequence[ConntrackEntry], rounds: int) -> None:
        self._entries, self._rounds = entries, rounds
        self._keys = [flow_key(entry) for entry in entries]
        self._table = ConntrackTable()

    def close(self) -> None:
        self._table.close()

    def _cpu_us(self, prepare: Callable[[], object], measured: Callable[[], object]) -> float:
        return best_cpu_us(self._rounds, len(self._entries), prepare, measured)

    def _ready(self, write: Callable[[Sequence[ConntrackEntry], int], bytes]) -> list[bytes]:
        """The same requests as bytes."""
        sends = range(0, len(self._entries), REQUESTS_AT_ONCE)
        return [write(self._entries[i : i + REQUESTS_AT_ONCE], 1) for i in sends]

    def _fill(self) -> None:
        self._table.delete(self._keys)
        assert not self._table.insert(self._entries)

    def _clear(self) -> None:
        self._table.delete(self._keys)

    def _written(
        self,
        prepare: Callable[[], object],
        write: Callable[[Sequence[ConntrackEntry], int], bytes],
        ours: Callable[[], object],
    ) -> Cost:
        ready = self._ready(write)
        with open_socket(netlink.NETFILTER) as plain:

            def floor() -> None:
                for data in ready:
                    plain.send(data)

            return Cost(self._cpu_us(prepare, floor), self._cpu_us(prepare, ours))

    def inserts(self) -> Cost:
        return self._written(self._clear, Writer().insert, lambda: self._table.insert(self._entries))

    def updates(self) -> Cost:
        return self._written(self._fill, Writer().update, lambda: self._table.update(self._entries))

    def deletes(self) -> Cost:
        writer = Writer()

        def write(entries: Sequence[ConntrackEntry], first: int) -> bytes:
            return writer.delete([flow_key(entry) for entry in entries], first)

        return self._written(self._fill, write, lambda: self._table.delete(self._keys))

    def timeouts(self) -> Cost:
        writer = Writer()

        def write(entries: Sequence[ConntrackEntry], first: int) -> bytes:
            return writer.set_timeouts([(flow_key(entry), 900) for entry in entries], first)

        changes = [(key, 900) for key in self._keys]
        return self._written(self._fill, write, lambda: self._table.set_timeouts(changes))

    def got(self) -> Cost:
        self._fill()
        writer, sends = Writer(), range(0, len(self._keys), REQUESTS_AT_ONCE)
        ready = [writer.get(self._keys[i : i + REQUESTS_AT_ONCE], 1) for i in sends]
        slots = Slots(REQUESTS_AT_ONCE, 1024)
        with open_socket(netlink.NETFILTER) as plain:

            def floor() -> None:
                for data in ready:
                    plain.send(data)
                    slots.receive(plain.fileno())

            def ours() -> None:
                assert None not in self._table.get_many(self._keys)

            return Cost(self._cpu_us(lambda: None, floor), self._cpu_us(lambda: None, ours))

    def dumped(self) -> Cost:
        self._fill()

        def floor() -> None:
            with open_socket(netlink.NETFILTER) as plain:
                plain.send(ctnetlink.dump().to_bytes())
                # The end is a message of its own kind and 20 bytes, alone or behind the last entries.
                while plain.recv(65536)[-16:-14] != _DONE:
                    pass

        def ours() -> None:
            assert sum(map(len, self._table.dump())) == len(self._entries)

        return Cost(self._cpu_us(lambda: None, floor), self._cpu_us(lambda: None, ours))

    def new_events(self) -> Cost:
        return self._events(self._clear, lambda: self._table.insert(self._entries))

    def destroy_events(self) -> Cost:
        return self._events(self._fill, lambda: self._table.delete(self._keys))

    def _events(self, prepare: Callable[[], object], happen: Callable[[], object]) -> Cost:
        """`happen` makes an event an entry."""
        listener = ConntrackEvents()

        slots = Slots(256, 1024)

        def silent() -> None:
            while slots.receive(listener.fileno()).lengths:
                pass

        def ours() -> None:
            count = 0
            while heard := listener.receive().events:
                count += len(heard)
            assert count == len(self._entries)

        def before() -> None:
            prepare()
            silent()
            happen()

        try:
            return Cost(self._cpu_us(before, silent), self._cpu_us(before, ours))
        finally:
            listener.close()


@contextmanager
def own_network() -> Iterator[None]:
    namespace = namespaces.new_network_namespace()
    try:
        with namespaces.inside(namespace):
            sysctls.write("1", "netfilter", "nf_conntrack_events")
            yield
    finally:
        os.close(namespace)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="the cost of a conntrack entry, beside that of the system calls alone")
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    print(f"CPU an entry in µs, {options.entries} TCP entries, the best of {options.rounds}: floor, ours")
    for name, translated in (("plain", False), ("SNAT", True)):
        with own_network():
            bench = Bench([tcp_entry(i, translated=translated) for i in range(1, options.entries + 1)], options.rounds)
            for what, measure in (
                ("insert", bench.inserts),
                ("update", bench.updates),
                ("set timeout", bench.timeouts),
                ("delete", bench.deletes),
                ("get", bench.got),
                ("dump", bench.dumped),
                ("event NEW", bench.new_events),
                ("event DESTROY", bench.destroy_events),
            ):
                cost = measure()
                print(f"{name:6} {what:14} {cost.floor:5.2f} {cost.ours:5.2f}", flush=True)
            bench.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
