"""What supervisor and election process say to each other: the engine's events and facts, and a little more."""

from __future__ import annotations

from dataclasses import dataclass

from carpd.carp.status import HostStatus, InterfaceStatus
from carpd.effects import DemotionChanged, StateChanged
from carpd.events import Configure, ForceState, HostPrepared, SetDemotion, Shutdown
from carpd.trace.codec import Codec


@dataclass(frozen=True, slots=True)
class StatusWanted:
    """Report on these virtual hosts and interfaces. The supervisor asks for a few at a time: elections go first."""

    token: int
    hosts: tuple[str, ...]
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The answer to a `StatusWanted`; what is not configured any more is left out."""

    token: int
    hosts: tuple[HostStatus, ...]
    interfaces: tuple[InterfaceStatus, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something for the log, with the level of Python's logging."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that the engine was given, as a line of a recording: the supervisor writes it down."""

    line: str


RECORD = "--record"
"""The argument that makes the election process tell of every event."""

CODEC = Codec(
    [
        Configure,
        HostPrepared,
        ForceState,
        SetDemotion,
        Shutdown,
        StatusWanted,
        StateChanged,
        DemotionChanged,
        StatusReport,
        LogLine,
        Recorded,
    ]
)
