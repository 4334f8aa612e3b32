"""`carpctl replay`: walk through a recording of `carpd --record`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from carpd.effects import (
    Announce,
    Answer,
    Effect,
    OpenShare,
    PeerLeftBehind,
    ReleaseAddresses,
    SendAdvertisement,
    SendProbe,
    SendWithOwnMac,
    SharingChanged,
    StateChanged,
    SurrenderLease,
    TakeAddresses,
)
from carpd.errors import DecodeError
from carpd.events import Configure, Event, FrameReceived, InterfaceChanged, TimersDue
from carpd.trace.recording import Step, replay
from carpd.units import SECOND
from carpd.wire.ethernet import format_mac


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a recording; it contains the passwords")
    parser.add_argument("--all", action="store_true", help="every event, not only those that something follows from")


def run(args: argparse.Namespace) -> int:
    """0, or 1 if the file could not be read to its end."""
    try:
        for line in _lines(replay(_read(args.file)), everything=args.all):
            print(line)
    except DecodeError as error:
        sys.stdout.flush()
        print(f"carpctl replay: {args.file}: {error}", file=sys.stderr)
        return 1
    return 0


def _read(path: Path) -> Iterator[str]:
    """Its lines. Raise DecodeError if it can't be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from lines
    except OSError as error:
        raise DecodeError(error.strerror) from error


def _lines(steps: Iterator[Step], *, everything: bool) -> Iterator[str]:
    """Each event with the seconds since the first one, and below it what followed."""
    start = None
    for now, event, effects in steps:
        start = now if start is None else start
        if effects or everything:
            yield f"{(now - start) / SECOND:12.6f} {_event(event)}"
        for effect in effects:
            yield f"{'':12} -> {_effect(effect)}"


def _event(event: Event) -> str:
    if isinstance(event, FrameReceived):
        return f"frame of {len(event.frame)} bytes on {event.interface}"
    if isinstance(event, Configure):
        return f"configured: {', '.join(host.name for host in event.virtual_hosts)}"
    if isinstance(event, InterfaceChanged):
        return f"link of {event.interface} is {'up' if event.up else 'down'}"
    if isinstance(event, TimersDue):
        return "timers"
    return str(event)


def _effect(effect: Effect) -> str:
    if isinstance(effect, (SendAdvertisement, SendWithOwnMac)):
        m = effect.message
        how = f" on {effect.interface} with its own MAC" if isinstance(effect, SendWithOwnMac) else ""
        return (
            f"{effect.host}: send an IPv{effect.family} advertisement{how}: "
            f"advbase {m.advbase} advskew {m.advskew} demotion {m.demotion}"
        )
    if isinstance(effect, (TakeAddresses, ReleaseAddresses)):
        what = "take" if isinstance(effect, TakeAddresses) else "release"
        return f"{effect.host}: {what} {' '.join(str(address) for address in effect.addresses)}"
    if isinstance(effect, OpenShare):
        return f"{effect.host}: take its share"
    if isinstance(effect, Answer):
        return f"{effect.host}: answer {format_mac(effect.mac)}"
    if isinstance(effect, SendProbe):
        return f"{effect.host}: send a sharing probe"
    if isinstance(effect, SharingChanged):
        return f"{effect.virtual_host}: {'' if effect.present else 'no longer: '}{effect.finding}"
    if isinstance(effect, PeerLeftBehind):
        return f"{effect.host}: {ip_address(effect.source)} has its former vhid, password or addresses"
    if isinstance(effect, SurrenderLease):
        return f"{effect.host}: close the gate"
    if isinstance(effect, Announce):
        return f"{effect.host}: announce {len(effect.arps)} IPv4 and {len(effect.neighbors)} IPv6 addresses"
    if isinstance(effect, StateChanged):
        return f"{effect.host}: {effect.old.name} -> {effect.new.name} ({effect.reason.value})"
    return f"group {effect.group}: demotion {effect.old} -> {effect.new} ({effect.reason})"
