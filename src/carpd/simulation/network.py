"""The network between the nodes: one segment an interface name, with everything that networks do to frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from carpd.events import Family
from carpd.simulation.world import World
from carpd.wire.carp import Advertisement


class Path(NamedTuple):
    """One direction between two nodes."""

    interface: str
    sender: int
    receiver: int


class Sent(Protocol):
    """Whatever is on its way."""

    @property
    def sender(self) -> int: ...


T = TypeVar("T", bound=Sent)


class Transmission(NamedTuple):
    """A frame on its way. The receiving engine is given the frame alone, the rest is for the invariants."""

    sender: int
    host: str
    family: Family
    message: Advertisement
    sent_ns: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Quality:
    """What the network is like while nothing is wrong with it."""

    delay_ns: int
    jitter_ns: int
    """A frame takes up to this much longer."""
    duplication: float
    """The probability that a frame arrives twice."""
    reordering: bool
    """Whether a frame may overtake an earlier one of the same sender."""

    @property
    def delay_limit_ns(self) -> int:
        """No frame takes longer."""
        return self.delay_ns + self.jitter_ns


class Network(Generic[T]):
    """Every station on a segment hears every other one, but for what is cut or lost."""

    def __init__(self, world: World, rng: random.Random, quality: Quality) -> None:
        self.quality = quality
        self.losses: list[float] = []
        """The probabilities of what loses frames at the moment."""
        self.cuts: list[frozenset[Path]] = []
        """What is cut at the moment; a path may be in several."""
        self._world = world
        self._rng = rng
        self._stations: dict[str, dict[int, Callable[[T], None]]] = {}
        self._last_arrival: dict[Path, int] = {}

    def plug(self, node: int, interface: str, receive: Callable[[T], None]) -> None:
        self._stations.setdefault(interface, {})[node] = receive

    def hears(self, path: Path) -> bool:
        """Whether every frame that is sent now on this path arrives."""
        return not self.losses and not self.is_cut(path)

    def is_cut(self, path: Path) -> bool:
        return any(path in cut for cut in self.cuts)

    def paths(self, interfaces: Iterable[str], senders: Iterable[int], receivers: Iterable[int]) -> frozenset[Path]:
        """All paths from the ones to the others."""
        receivers = tuple(receivers)
        return frozenset(Path(i, s, r) for i in interfaces for s in senders for r in receivers if s != r)

    def send(self, interface: str, transmission: T) -> None:
        for node, receive in self._stations[interface].items():
            path = Path(interface, transmission.sender, node)
            if node == transmission.sender or self.is_cut(path):
                continue
            copies = 2 if self._rng.random() < self.quality.duplication else 1
            for _ in range(copies):
                if not any(self._rng.random() < loss for loss in self.losses):
                    self._deliver(path, transmission, receive)

    def _deliver(self, path: Path, transmission: T, receive: Callable[[T], None]) -> None:
        arrival = self._world.now + self.quality.delay_ns + self._rng.randint(0, self.quality.jitter_ns)
        if not self.quality.reordering:
            arrival = self._last_arrival[path] = max(arrival, self._last_arrival.get(path, 0))
        self._world.at(arrival, lambda: receive(transmission))
