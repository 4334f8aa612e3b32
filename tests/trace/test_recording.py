"""The engine's third driver: recordings give the effects again, and captures of real peers drive it like a network."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from carpd.carp.engine import CarpEngine
from carpd.config.model import VirtualHostConfig
from carpd.effects import Reason, StateChanged
from carpd.errors import DecodeError
from carpd.events import CarpState, Configure, Event, HostPrepared, InterfaceChanged, SetDemotion, Shutdown
from carpd.trace.pcap import read_capture
from carpd.trace.recording import START, Step, captured, drive, recorded, replay
from carpd.units import SECOND

CAPTURES = Path(__file__).parents[1] / "captures"
MAC = bytes.fromhex("020000000009")
OWN = bytes((10, 99, 0, 9))


def third_node(name: str, vhid: int, advskew: int, *, preempt: bool = False) -> list[Step]:
    """What a carpd host does that hears a capture: BACKUP from its first frame on, and 10 s longer than it lasts."""
    with (CAPTURES / f"{name}.pcap").open("rb") as file:
        frames = list(captured(read_capture(file), "eth0"))
    start, end = frames[0][0], frames[-1][0]
    config = VirtualHostConfig(
        name="lan",
        interface="eth0",
        vhid=vhid,
        addresses=(ip_interface("10.99.0.100/24"),),
        key=b"secret",
        advskew=advskew,
        preempt=preempt,
    )
    beginning: list[tuple[int, Event]] = [
        (start, InterfaceChanged("eth0", up=True, mac=MAC, addresses=(OWN,))),
        (start, Configure((config,), seed=7)),
        (start, HostPrepared("lan")),
    ]
    return list(drive(CarpEngine(), beginning + frames, end + 10 * SECOND))


def changes(steps: list[Step]) -> list[tuple[int, CarpState, Reason]]:
    """(whole seconds since the start, new state, why)"""
    start = steps[0].now
    return [
        ((step.now - start) // SECOND, effect.new, effect.reason)
        for step in steps
        for effect in step.effects
        if isinstance(effect, StateChanged)
    ]


def test_contest_heard_by_a_worse_third_node() -> None:
    """B bows out at 18 s, and the third takes over together with A, which is better placed. In the end all leave."""
    changed = changes(third_node("contest-freebsd-netbsd", vhid=5, advskew=200))
    assert changed[0] == (0, CarpState.BACKUP, Reason.READY)
    assert [(new, reason) for _, new, reason in changed[1:]] == [
        (CarpState.MASTER, Reason.MASTER_LEFT),
        (CarpState.BACKUP, Reason.BETTER_MASTER),
        (CarpState.MASTER, Reason.MASTER_DOWN),
    ]


def test_contest_heard_by_a_better_node_that_preempts() -> None:
    """It is quicker than A at the start, gives way to B, and takes over from A whenever B has gone."""
    changed = changes(third_node("contest-freebsd-netbsd", vhid=5, advskew=50, preempt=True))
    assert [reason for _, _, reason in changed] == [
        Reason.READY,
        Reason.MASTER_DOWN,
        Reason.BETTER_MASTER,
        Reason.MASTER_LEFT,
        Reason.BETTER_MASTER,
        Reason.MASTER_DOWN,
    ]


def test_bow_out_of_netbsd() -> None:
    """Set down, NetBSD bows out: the backup takes over at once, not after its 3.78 s."""
    steps = third_node("netbsd-shutdown", vhid=7, advskew=200)
    reasons = [reason for _, _, reason in changes(steps)]
    assert reasons[:2] == [Reason.READY, Reason.MASTER_LEFT]


def test_ucarp_goes_silent() -> None:
    changed = changes(third_node("ucarp-master", vhid=5, advskew=100))
    assert [reason for _, _, reason in changed] == [Reason.READY, Reason.MASTER_DOWN]


@pytest.mark.parametrize("name", ["contest-freebsd-netbsd", "netbsd-shutdown", "freebsd-demotion"])
def test_a_recording_gives_the_same_effects(name: str) -> None:
    steps = third_node(name, vhid=5, advskew=100, preempt=True)
    engine = CarpEngine()
    last = steps[-1].now
    for step in steps:
        engine.handle(step.now, step.event)
    for event in (SetDemotion("carp", "operator", 3), Shutdown()):
        steps.append(Step(last, event, engine.handle(last, event)))
    lines = [START, *(recorded(step.now, step.event) for step in steps)]
    assert list(replay(lines)) == steps
    assert list(replay(lines + lines)) == steps + steps, "each election process begins afresh"


@pytest.mark.parametrize("line", ["", "x", "1 {}", '1.5 {"type":"Shutdown"}', '1 {"type":"Shutdown","x":1}'])
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(DecodeError, match="line 2: "):
        list(replay([START, line]))
