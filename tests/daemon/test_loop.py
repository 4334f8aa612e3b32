"""A network that sends back what it gets, and a neighbour that floods: elections go on as if nothing were."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from carpd.wire import carp
from carpd.wire.frames import decode_ip_frame
from carpd.wire.ipv4 import IPv4Packet
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Host, Segment
from tests.linux.segment import Neighbor


class Scene:
    """a is master and b its backup; a third host does the harm."""

    def __init__(self, lab: Lab) -> None:
        self.segment = Segment(lab, "a", "b", "villain")
        self.a = Carpd(self.segment["a"].node, virtual_host(addresses=ADDRESSES, preempt=True, **FAST))
        self.a.becomes("MASTER")
        self.b = Carpd(self.segment["b"].node, virtual_host(addresses=ADDRESSES, preempt=True, **SLOWER))
        self.b.becomes("BACKUP")
        self.b.hears_a_master()
        self._before = self._changes()

    def check_that_nothing_changed(self) -> None:
        assert self.a.states() == {"lan": "MASTER"}
        assert self.b.states() == {"lan": "BACKUP"}
        assert self._changes() == self._before

    def _changes(self) -> int:
        return sum(daemon.log().count(" -> ") for daemon in (self.a, self.b))


@pytest.fixture
def scene(lab: Lab) -> Scene:
    return Scene(lab)


@contextmanager
def repeating(work: Callable[[], None]) -> Iterator[None]:
    """Do something again and again, in a thread, while the block runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def neighbor(host: Host) -> Iterator[Neighbor]:
    """A packet socket of a host."""
    neighbor = Neighbor(os.dup(host.node.network))
    try:
        yield neighbor
    finally:
        neighbor.close()


def is_carp(frame: bytes) -> bool:
    packet = decode_ip_frame(frame)
    return packet is not None and packet.protocol == carp.PROTOCOL


def test_own_advertisements_come_back(scene: Scene) -> None:
    """They are counted as loops, which a tie with itself would not be: that makes a master step down."""
    with neighbor(scene.segment["villain"]) as villain:

        def reflect() -> None:
            frame = villain.hear(is_carp, 0.1)
            if frame:
                for _ in range(3):
                    villain.send(frame)

        with repeating(reflect):
            wait_until(lambda: scene.a.host()["counters"]["loops"] >= 60, LIMIT_NS, "60 loops")
    scene.check_that_nothing_changed()


def test_an_old_advertisement_comes_back(scene: Scene) -> None:
    """Somebody keeps one for a while and replays it: it is the master's own still."""
    with neighbor(scene.segment["villain"]) as villain:
        old = villain.hear(is_carp)
        assert old
        for _ in range(140):
            assert villain.hear(is_carp)
        villain.send(old)
        wait_until(lambda: scene.a.host()["counters"]["loops"] == 1, LIMIT_NS // 10, "a loop is counted")
    scene.check_that_nothing_changed()


def garbage(good: bytes, chance: random.Random) -> bytes:
    """Something of protocol 112 that nobody may obey, made of a good advertisement over IPv4."""
    start = 14 + 20
    message = carp.Advertisement.from_bytes(good[start:])
    payload, ttl = chance.choice(
        [
            (chance.randbytes(carp.SIZE), carp.TTL),
            (replace(message, advskew=0, digest=chance.randbytes(20)).to_bytes(), carp.TTL),
            (replace(message, vhid=8).to_bytes(), carp.TTL),
            (message.to_bytes(), carp.TTL - 1),
        ]
    )
    source, destination = good[26:30], good[30:34]
    packet = IPv4Packet(source=source, destination=destination, ttl=ttl, protocol=carp.PROTOCOL, payload=payload)
    return good[:14] + packet.to_bytes()


def test_flood(scene: Scene) -> None:
    """Thousands of packets a second: the master goes on, the backup stays, and takes over when the master has gone."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with neighbor(scene.segment["villain"]) as villain:
        good = villain.hear(lambda frame: is_carp(frame) and frame[12:14] == b"\x08\x00")
        assert good
        frames = [garbage(good, chance) for _ in range(1000)]

        def flood() -> None:
            for frame in chance.sample(frames, 50):
                villain.send(frame)
            time.sleep(0.005)  # about 10 000 a second, if there is a processor for it

        with repeating(flood):
            wait_until(lambda: refused(scene.a) >= 10_000 <= refused(scene.b), LIMIT_NS, "10 000 refused packets")
            scene.check_that_nothing_changed()
            scene.segment["a"].port.drop_everything()
            scene.b.becomes("MASTER")
            scene.segment["a"].port.restore()
            scene.b.becomes("BACKUP")


def refused(daemon: Carpd) -> int:
    """How many packets it has counted as bad, of every kind that is sent here."""
    counters = daemon.counters()
    kinds = [counters[name] for name in ("badsum", "badauth", "badvhid", "badttl")]
    return sum(kinds) if all(kinds) else 0
