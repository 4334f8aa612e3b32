"""Defer: how long a connection takes to open whose answers come by another firewall, and what holding a packet costs.

    python -m benchmarks.defer                       a minute
    python -m benchmarks.defer --connections 100

Two firewalls, both of which carry traffic: the client's packets go through the first, the server's by the second. The
rules are as strict as Linux can be, and IPv4 is translated to a shared address. Without defer an answer comes before
the second firewall knows its connection, and is dropped: the client asks again a second later. What a held packet costs
is measured with both directions through the first firewall, where nothing is lost without defer either: the difference
of the CPU time that both firewalls' programs use, for each packet held. In a laboratory whoever sends a frame does all
that its receivers' kernels do with it: that is in it, too. At last datagrams come that each begin a connection, more
and more of them: how many are held until the peer has acknowledged them, and whether all arrive. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report, usage
from carpd.control import client
from carpd.control.protocol import ControlError
from carpd.errors import CarpdError
from carpd.lab.firewalls import SERVER, SYNC_PEERS, WAN_GATEWAYS, Firewall, FirewallNetwork
from carpd.lab.measure import percentile
from carpd.lab.rules import be_stateful
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from carpd.units import MICROSECOND, MILLISECOND, SECOND

CONNECTIONS = 500
WITHOUT = 10
"""Connections without defer: each takes a second or more."""
CPU_ROUNDS = 3
TOGETHER = (1, 50)
"""Connections that are opened at the same time, when costs are measured: alone, a packet costs more."""
RATES = (500, 1000, 2000, 4000, 8000, 16000)
"""New connections a second; the last ones are as many as this program can send."""
RATE_S = 3.0
"""How long there are so many."""
PACE_S = 0.005
"""A connection begins so often, or many as much more seldom."""

_CONFIGURATION = f"""\
[pfsync]
syncdev = "eth3"
syncpeer = ["{SYNC_PEERS[0]}", "{SYNC_PEERS[1]}"]
secret_file = "pfsync.key"
"""
_DEFER = 'defer = ["eth1", "eth2"]\n'
_START_NS = 30 * SECOND
_CONNECT_MS = 60_000
_PORT = 80
_UDP, _UDP_CHECKSUM, _FIRST_PORT = struct.Struct("!HHHH"), 6, 10_000
_IPV6_CHECKSUM, _SO_RCVBUFFORCE, _RECEIVE_BUFFER = 7, 33, 64 << 20
_WENT = ("undeferred", "defer_overflows", "defer_timeouts", "defer_passed")


@dataclass(frozen=True, slots=True)
class Opening:
    """Times from connect(2) to its success, in milliseconds."""

    family: int
    defer: bool
    connections: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Holding:
    """What it costs while both directions go through one firewall."""

    together: int
    """Connections that are opened at the same time."""
    connections: int
    held: int
    """Packets, of all these."""
    cpu_us_without: float
    cpu_us_with: float
    """CPU time a connection, of both firewalls' programs."""
    cpu_us_held: float
    """CPU time a held packet: the difference."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What becomes of so many datagrams, each of which begins a connection."""

    rate: int
    """In a second, as it was reached."""
    sent: int
    arrived: int
    acknowledged: int
    """Held until the peer had their connection."""
    let_go: int
    """Held, and let go since they were too many, or waited for too long."""
    passed: int
    """Not held, since too many waited."""


class Pair:
    """The two firewalls with pfsyncd."""

    def __init__(self, lab: Lab, *, defer: bool) -> None:
        """Raise LabError."""
        self.network = FirewallNetwork(lab)
        for firewall in self.network.firewalls:
            be_stateful(firewall.node)
            _start(firewall, _CONFIGURATION + (_DEFER if defer else ""))
        gateways = (f"route replace default via {gateway}" for gateway in ("192.0.2.2", "2001:db8:1::2"))
        self.network.client.ip(*gateways)
        for firewall in self.network.firewalls:
            wait_until(lambda firewall=firewall: _is_ready(firewall), _START_NS, f"pfsyncd of {firewall.node.name}")  # type: ignore[misc]

    def answers_by(self, firewall: Firewall, number: int) -> None:
        """Answers come by this firewall, the first or the second one."""
        for other in self.network.firewalls:
            if other is not firewall:
                with contextlib.suppress(CarpdError):  # it may not have it
                    other.node.ip(f"address del {WAN_GATEWAYS[0]}/32 dev eth2")
        firewall.node.ip(f"address replace {WAN_GATEWAYS[0]}/32 dev eth2")
        self.network.server.ip(f"route replace default via 2001:db8:2::{1 + number}", "neigh flush dev eth0")

    def counters(self) -> dict[str, int]:
        """Of both, summed. Raise ControlError."""
        found = [_status(firewall)["counters"] for firewall in self.network.firewalls]
        return {name: sum(counters[name] for counters in found) for name in found[0]}

    def connect(self, address: str, count: int, together: int = 1) -> list[int]:
        """Open and close so many connections, 200 a second, so many at the same time: how many ns each took to open."""
        times: list[int] = []
        with self.network.server.inside():
            listener = socket.create_server((address, _PORT), family=_family(address), backlog=together)
        with listener:
            next_at = time.monotonic()
            for _ in range(0, count, together):
                next_at = max(next_at + together * PACE_S, time.monotonic())
                time.sleep(max(0, next_at - time.monotonic()))
                with contextlib.ExitStack() as ends:
                    times += self._connect(address, together, ends)
                    for _ in range(together):
                        listener.accept()[0].close()
        return times

    def _connect(self, address: str, count: int, ends: contextlib.ExitStack) -> list[int]:
        """Open connections at the same time. Raise TimeoutError."""
        times, poll, began = [], select.poll(), {}
        for _ in range(count):
            with self.network.client.inside():
                end = ends.enter_context(socket.socket(_family(address), socket.SOCK_STREAM))
            end.setblocking(False)
            began[end.fileno()] = time.perf_counter_ns()
            end.connect_ex((address, _PORT))
            poll.register(end, select.POLLOUT)
        while began:
            opened = poll.poll(_CONNECT_MS)
            if not opened:
                raise TimeoutError("a connection is not opened")
            for fd, _ in opened:
                poll.unregister(fd)
                times.append(time.perf_counter_ns() - began.pop(fd))
        return times

    def begin(self, rate: int, number: int) -> Rate:
        """Begin so many connections a second, over IPv6, the `number`th of these. Raise LabError if they don't end."""
        sent = int(rate * RATE_S)
        with self.network.client.inside():
            sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
        with self.network.server.inside():
            receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with sender, receiver:
            sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, _UDP_CHECKSUM)
            receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            receiver.setblocking(False)
            receiver.bind((SERVER[1], _PORT + number))
            before = self.counters()
            began = time.monotonic()
            for connection in range(sent):
                while time.monotonic() < began + connection / rate:
                    pass
                header = _UDP.pack(_FIRST_PORT + connection, _PORT + number, _UDP.size, 0)
                sender.sendto(header, (SERVER[1], 0))
            took_s = time.monotonic() - began
            wait_until(lambda: self._all_went(before, sent), _START_NS, "the last packet that is held")
            arrived = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    receiver.recv(1)
                    arrived += 1
            after = self.counters()
        found = {name: after[name] - before[name] for name in after}
        let_go = found["defer_overflows"] + found["defer_timeouts"]
        return Rate(round(sent / took_s), sent, arrived, found["undeferred"], let_go, found["defer_passed"])

    def _all_went(self, before: dict[str, int], sent: int) -> bool:
        """Whether nothing is held any more of what was sent."""
        after = self.counters()
        went = sum(after[name] - before[name] for name in _WENT)
        return went >= sent

    def cpu_s(self) -> float:
        return sum(usage.cpu_s(firewall.node) for firewall in self.network.firewalls)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _start(firewall: Firewall, configuration: str) -> None:
    directory = firewall.node.directory
    secret = directory / "pfsync.key"
    secret.touch(mode=0o600)
    secret.write_text("a secret of the laboratory's firewalls\n")
    (directory / "carpd.toml").write_text(configuration)
    options = {
        "--config": directory / "carpd.toml",
        "--node": firewall.node.name,
        "--socket": _socket(firewall),
        "--state-dir": directory,
    }
    argv = [sys.executable, "-m", "carpd.cli.pfsyncd", *(str(word) for option in options.items() for word in option)]
    firewall.node.start(argv, log="pfsyncd.log")


def _socket(firewall: Firewall) -> Path:
    return firewall.node.directory / "pfsyncd.sock"


def _status(firewall: Firewall) -> dict[str, Any]:
    found: dict[str, Any] = client.request(_socket(firewall), "status")["pfsync"]
    return found


def _is_ready(firewall: Firewall) -> bool:
    """Whether it and its peer have all of each other's states."""
    try:
        status = _status(firewall)
    except ControlError:
        return False
    return bool(status.get("bulk_update", {}).get("done")) and any(peer["coverage"] for peer in status["peers"])


@contextlib.contextmanager
def pair(*, defer: bool) -> Iterator[Pair]:
    with Lab() as lab:
        yield Pair(lab, defer=defer)


def opening(pair: Pair, *, defer: bool, count: int) -> Iterator[Opening]:
    for address in SERVER:
        times = pair.connect(address, count)
        median, p90, p99, most = (percentile(times, percent) / MILLISECOND for percent in (50, 90, 99, 100))
        yield Opening(6 if ":" in address else 4, defer, count, median, p90, p99, most)


def cpu_us(pair: Pair, count: int, together: int) -> float:
    """CPU time a connection, the best of some rounds."""
    best = float("inf")
    for _ in range(CPU_ROUNDS):
        before = pair.cpu_s()
        pair.connect(SERVER[0], count, together)
        best = min(best, (pair.cpu_s() - before) * SECOND / MICROSECOND / count)
    return best


def measure(count: int) -> tuple[list[Opening], list[Holding], list[Rate], dict[str, int]]:
    """Raise CarpdError if the firewalls do not even begin well, TimeoutError if they don't do what they should."""
    openings: list[Opening] = []
    holdings: list[Holding] = []
    with pair(defer=False) as without:
        first, second = without.network.firewalls
        without.answers_by(second, 2)
        openings += opening(without, defer=False, count=min(count, WITHOUT))
        without.answers_by(first, 1)
        cpu_without = {together: cpu_us(without, count, together) for together in TOGETHER}
    with pair(defer=True) as deferring:
        first, second = deferring.network.firewalls
        deferring.answers_by(second, 2)
        openings += opening(deferring, defer=True, count=count)
        counters = {name: value for name, value in deferring.counters().items() if "defer" in name}
        deferring.answers_by(first, 1)
        for together in TOGETHER:
            before = deferring.counters()["deferred"]
            cpu = cpu_us(deferring, count, together)
            held = deferring.counters()["deferred"] - before
            cost = (cpu - cpu_without[together]) * CPU_ROUNDS * count / held
            holdings.append(Holding(together, CPU_ROUNDS * count, held, cpu_without[together], cpu, cost))
        rates = [deferring.begin(rate, number) for number, rate in enumerate(RATES)]
    return openings, holdings, rates, counters


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defer", description="Connections that are deferred.")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of each kind (%(default)s)")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="directory (%(default)s)")
    args = parser.parse_args()
    try:
        openings, holdings, rates, counters = measure(args.connections)
    except (CarpdError, TimeoutError) as error:
        print(f"defer: {error}", file=sys.stderr)
        return 1
    print("milliseconds to open a connection whose answers come by the other firewall")
    print("family defer count  median     p90     p99     max")
    for one in openings:
        times = " ".join(f"{ms:7.2f}" for ms in (one.median_ms, one.p90_ms, one.p99_ms, one.max_ms))
        print(f"{one.family:6} {'yes' if one.defer else 'no':5} {one.connections:5} {times}")
    print("CPU time in µs, of both firewalls: a connection without and with defer, a held packet")
    for holding in holdings:
        costs = " ".join(f"{us:6.0f}" for us in (holding.cpu_us_without, holding.cpu_us_with, holding.cpu_us_held))
        print(f"{holding.together:3} together {costs}")
    print("new connections a second, and of each 100: acknowledged, let go before, not held, lost")
    for one_rate in rates:
        parts = (one_rate.acknowledged, one_rate.let_go, one_rate.passed, one_rate.sent - one_rate.arrived)
        print(f"{one_rate.rate:6} " + " ".join(f"{100 * part / one_rate.sent:6.1f}" for part in parts))
    print("  ".join(f"{name} {value}" for name, value in counters.items()))
    document: dict[str, Any] = {"benchmark": "defer", "machine": report.machine()}
    results = {
        "openings": [asdict(one) for one in openings],
        "holding": [asdict(one) for one in holdings],
        "rates": [asdict(one) for one in rates],
        "counters": counters,
    }
    report.write(args.out / "defer.json", document | results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
