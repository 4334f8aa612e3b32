"""What the simulated network and its clock do to frames."""

from __future__ import annotations

import random

import pytest

from carpd.events import Family
from carpd.simulation.network import Network, Path, Quality, Transmission
from carpd.simulation.world import World
from carpd.wire.carp import Advertisement

SENT = 400
QUIET = Quality(delay_ns=1_000, jitter_ns=0, duplication=0.0, reordering=False)


class Bench:
    """Three nodes on eth0; node 0 sends numbered frames, 100 ns apart."""

    def __init__(self, quality: Quality) -> None:
        self.world = World()
        self.network: Network[Transmission] = Network(self.world, random.Random(1), quality)
        self.arrived: dict[int, list[tuple[int, int]]] = {number: [] for number in range(3)}
        for number, log in self.arrived.items():
            self.network.plug(number, "eth0", lambda sent, log=log: log.append((sent.sent_ns, self.world.now)))  # type: ignore[misc]

    def send(self) -> None:
        for number in range(SENT):
            self.world.after(100 * number, self._send_one)
        self.world.run(10_000_000, lambda: None)

    def _send_one(self) -> None:
        message = Advertisement(vhid=1)
        self.network.send("eth0", Transmission(0, "lan", Family.IPV4, message, self.world.now, b""))


def test_everybody_else_hears_it_after_the_delay() -> None:
    bench = Bench(QUIET)
    bench.send()
    assert bench.arrived[0] == []
    assert bench.arrived[1] == bench.arrived[2] == [(100 * n, 100 * n + 1_000) for n in range(SENT)]


@pytest.mark.parametrize("reordering", [False, True])
def test_jitter(reordering: bool) -> None:
    quality = Quality(delay_ns=1_000, jitter_ns=5_000, duplication=0.0, reordering=reordering)
    bench = Bench(quality)
    bench.send()
    sent = [s for s, _ in bench.arrived[1]]
    assert len(sent) == SENT
    assert (sent != sorted(sent)) is reordering
    assert all(1_000 <= arrived - s <= quality.delay_limit_ns for s, arrived in bench.arrived[1])


def test_duplication() -> None:
    bench = Bench(Quality(delay_ns=1_000, jitter_ns=0, duplication=0.5, reordering=False))
    bench.send()
    assert SENT * 1.3 < len(bench.arrived[1]) < SENT * 1.7
    assert {s for s, _ in bench.arrived[1]} == {100 * n for n in range(SENT)}


def test_loss() -> None:
    bench = Bench(QUIET)
    bench.network.losses.append(0.3)
    bench.send()
    assert SENT * 0.6 < len(bench.arrived[1]) < SENT * 0.8
    assert not bench.network.hears(Path("eth0", 0, 1))


def test_a_cut_has_a_direction_and_an_interface() -> None:
    bench = Bench(QUIET)
    for interface in ("eth0", "eth1"):
        bench.network.cuts.append(bench.network.paths([interface], [0], [1] if interface == "eth0" else [2]))
    bench.send()
    assert (len(bench.arrived[1]), len(bench.arrived[2])) == (0, SENT)
    assert not bench.network.hears(Path("eth0", 0, 1))
    assert bench.network.hears(Path("eth0", 1, 0))


def test_time_and_order() -> None:
    world = World()
    happened: list[tuple[int, str]] = []
    for time, name in ((20, "b"), (10, "a"), (20, "c"), (31, "never")):
        world.at(time, lambda name=name: happened.append((world.now, name)))  # type: ignore[misc]
    world.run(30, lambda: None)
    assert happened == [(10, "a"), (20, "b"), (20, "c")]
    assert world.now == 30
    with pytest.raises(AssertionError):
        world.at(29, lambda: None)
