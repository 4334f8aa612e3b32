"""Recordings of what the engine was given, and replays of recordings and captures: the engine's third driver.

A recording is a line an event, `NANOSECONDS JSON`, as the election process handed it in (`carpd --record`). The engine
knows no clock and no chance, so a replay gives the same effects: what happened in the night can be walked through in
the morning.

A recording contains the passwords.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, get_args

from carpd.carp.engine import CarpEngine
from carpd.effects import Effect
from carpd.errors import DecodeError
from carpd.events import Event, FrameReceived, TimersDue
from carpd.trace.codec import Codec
from carpd.trace.pcap import CapturedFrame

EVENTS = Codec(get_args(Event))


class Step(NamedTuple):
    """One event, when it happened (nanoseconds, monotonic), and what followed."""

    now: int
    event: Event
    effects: list[Effect]


START = "start"
"""The line with which each election process begins: its engine knows nothing of the one before."""


def recorded(now: int, event: Event) -> str:
    """One line of a recording, without its end."""
    return f"{now} {EVENTS.encode(event).decode().rstrip()}"


def replay(lines: Iterable[str]) -> Iterator[Step]:
    """What the engine does with a recording. Timers are in it, as they were handed in.

    Raise DecodeError at a line that does not belong into a recording, with its number.
    """
    engine = CarpEngine()
    for number, line in enumerate(lines, 1):
        if line.rstrip() == START:
            engine = CarpEngine()
            continue
        now, _, text = line.partition(" ")
        try:
            event: Event = EVENTS.decode(text.encode())
            yield Step(int(now), event, engine.handle(int(now), event))
        except (ValueError, DecodeError) as error:
            raise DecodeError(f"line {number}: {error}") from error


def drive(engine: CarpEngine, events: Iterable[tuple[int, Event]], until: int | None = None) -> Iterator[Step]:
    """Hand events to an engine, and `TimersDue` whenever one is, on time; after the last event go on until then."""
    for now, event in events:
        yield from _timers(engine, now)
        yield Step(now, event, engine.handle(now, event))
    if until is not None:
        yield from _timers(engine, until)


def _timers(engine: CarpEngine, until: int) -> Iterator[Step]:
    while (due := engine.deadline) is not None and due <= until:
        event = TimersDue(due)
        yield Step(due, event, engine.handle(due, event))


def captured(frames: Iterable[CapturedFrame], interface: str) -> Iterator[tuple[int, Event]]:
    """The frames of an Ethernet capture, as if an interface had received them."""
    for frame in frames:
        yield frame.time_ns, FrameReceived(interface, frame.data)
