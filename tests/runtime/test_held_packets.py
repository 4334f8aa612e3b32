"""What pfsyncd's log says of the packets that it holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from carpd.errors import SystemCallError
from carpd.linux.defer import DeferCounters, Frame
from carpd.runtime import held_packets
from carpd.runtime.held_packets import CALM_NS, HANG_NS, HeldPackets


class Packets:
    """In place of DeferredPackets."""

    def __init__(self, names: Sequence[str]) -> None:
        self.passed = self.until_ns = 0
        self.damage = self.reason = ""
        self.problems = [f"there is no interface {name}" for name in names if name != "eth1"]

    def fileno(self) -> int:
        return 3

    def hold_until(self, time_ns: int) -> None:
        self.until_ns = time_ns

    def let_pass(self) -> None:
        self.until_ns = 0

    @property
    def counters(self) -> DeferCounters:
        return DeferCounters(self.passed, 2)

    def mend_device(self) -> str:
        if self.reason:
            raise SystemCallError("create it", 1, self.reason)
        damage, self.damage = self.damage, ""
        return damage

    def refresh(self) -> list[str]:
        return self.problems

    def receive(self) -> list[Frame]:
        raise SystemCallError("receive", 77, "it has gone")


class Monitor:
    """In place of GateMonitor."""

    def fileno(self) -> int:
        return 4


@pytest.fixture
def said() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def held(said: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> HeldPackets:
    monkeypatch.setattr(held_packets, "DeferredPackets", Packets)
    monkeypatch.setattr(held_packets, "GateMonitor", Monitor)
    return HeldPackets(["eth1"], lambda level, text: said.append((level, text.removeprefix("pfsync: defer"))))


def packets(held: HeldPackets) -> Packets:
    assert isinstance(held._packets, Packets)
    return held._packets


def test_an_overload_is_told_of_once(held: HeldPackets, said: list[tuple[int, str]]) -> None:
    """And its end when it has been calm for a while."""
    begins = (logging.WARNING, ": too many new connections to hold all: some pass at once")
    steps = [  # time, packets that have passed, and what is said
        (0, 0, []),
        (1, 5, [begins]),
        (2, 9, []),
        (2 + CALM_NS - 1, 9, []),
        (2 + CALM_NS, 9, [(logging.INFO, ": all are held again; 9 packets have passed so far")]),
        (3 + CALM_NS, 9, []),
        (3 * CALM_NS, 10, [begins]),
    ]
    for now, passed, lines in steps:
        packets(held).passed = passed
        held.hold(now, wanted=True)
        assert packets(held).until_ns == now + HANG_NS
        assert said == lines
        said.clear()
    assert held.counters() == {"defer_passed": 10, "defer_errors": 2}


def test_the_device_is_mended_or_reported(held: HeldPackets, said: list[tuple[int, str]]) -> None:
    receive = held.hears()[3]
    packets(held).damage = "somebody deleted it"
    held.refresh()
    assert said.pop() == (logging.WARNING, ": somebody deleted it")
    packets(held).reason = "no memory"
    for _ in range(2):
        assert receive() == ()
        held.refresh()
        assert held.status() == {"interfaces": ["eth1"], "working": False, "reason": "create it: no memory"}
    packets(held).reason = ""
    held.refresh()
    assert said[-1] == (logging.INFO, " works")
    assert (logging.ERROR, " does not work: receive: it has gone") in said
    assert (logging.ERROR, " does not work: create it: no memory") in said
