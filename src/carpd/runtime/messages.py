"""What the supervisor and the processes that it starts say to each other: events and facts, and a little more."""

from __future__ import annotations

from dataclasses import dataclass

from carpd.carp.status import HostStatus, InterfaceStatus
from carpd.config.model import PfsyncConfig
from carpd.effects import DemotionChanged, PeerLeftBehind, SharingChanged, StateChanged
from carpd.events import Configure, ForceState, HostPrepared, SetDemotion, Shutdown
from carpd.linux.balance import GatePrograms
from carpd.pfsync.effects import BulkUpdateChanged
from carpd.pfsync.events import RoleChanged
from carpd.runtime.lateness import NONE_YET, Lateness
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
    lateness: Lateness = NONE_YET
    """Of all timers since the process was started."""
    gates: tuple[GatePrograms, ...] = ()
    """The share gates, which may have been undone."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something for the log, with the level of Python's logging."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that the engine was given, as a line of a recording: the supervisor writes it down."""

    line: str


@dataclass(frozen=True, slots=True)
class StartPfsync:
    """The first message to pfsyncd: what to do, and whether this host carries traffic now."""

    config: PfsyncConfig
    carrying: bool


@dataclass(frozen=True, slots=True)
class SyncLinkChanged:
    """pfsyncd can speak to its peers, or for this reason can't."""

    up: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PfsyncStatusWanted:
    """Report on the synchronisation."""

    token: int


@dataclass(frozen=True, slots=True)
class PfsyncStatus:
    """The answer to a `PfsyncStatusWanted`: a JSON document."""

    token: int
    document: str


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
        SharingChanged,
        PeerLeftBehind,
        StatusReport,
        LogLine,
        Recorded,
        StartPfsync,
        RoleChanged,
        SyncLinkChanged,
        BulkUpdateChanged,
        PfsyncStatusWanted,
        PfsyncStatus,
    ]
)
