"""What can happen to the synchronisation engine: every input is one of these values, and time comes beside it.

`engine.handle(now, event)`, with `now` in nanoseconds on a monotonic clock. They carry batches, because hundreds of
thousands of states a second go through them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from carpd.wire.conntrack import ConntrackEntry, Expectation
from carpd.wire.ctnetlink import Event as ConntrackEvent


class Purpose(enum.Enum):
    """Why an entry is looked up in the kernel's table."""

    TELL = "tell"
    """To tell the peers all about it."""
    ANSWER = "answer"
    """A peer asks for it, and another one that carries traffic hears that, too: to tell all about it if we carry it."""
    ANNOUNCE = "announce"
    """It changed, and we did not know it: it is to be announced as new."""
    VERIFY = "verify"
    """A peer says that it ended, and we may be carrying it."""
    COMPARE = "compare"
    """The kernel has an entry of its own where we wanted to insert one."""
    CORRECT = "correct"
    """A peer says how far it is, and our own kernel, which sees its packets, too, may know better by now."""
    MISSED = "missed"
    """It was not in the table when that was read: did it end?"""


class Change(enum.Enum):
    """What was to be done to an entry."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


class Refused(NamedTuple):
    """An entry that the kernel would not change: its flow key, the entry unless it was to be deleted, and why."""

    key: bytes
    entry: ConntrackEntry | None
    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class TableChanged:
    """What the kernel tells of its table, in order, without what we have done ourselves."""

    events: Sequence[ConntrackEvent]
    lost: bool = False
    """Something else happened that we will never hear of."""
    more: bool = False
    """There may be more to be heard at once: what is not urgent waits for it. Another of these follows in any case."""


@dataclass(frozen=True, slots=True)
class ExpectationsFound:
    """Connections that helpers expect, because the payload of others announced them."""

    expectations: Sequence[Expectation]


@dataclass(frozen=True, slots=True)
class TableRead:
    """The next entries of the walk through the table; `ReadTable` asks for each piece."""

    entries: Sequence[ConntrackEntry]
    last: bool


@dataclass(frozen=True, slots=True)
class EntriesFetched:
    """The answer to `FetchEntries`: what the kernel has at these keys."""

    purpose: Purpose
    keys: Sequence[bytes]
    entries: Sequence[ConntrackEntry | None]


@dataclass(frozen=True, slots=True)
class EntriesRefused:
    """What the kernel would not do of an `InsertEntries`, `UpdateEntries` or `DeleteEntries`; the rest is done."""

    change: Change
    refusals: Sequence[Refused]


Frame = tuple[int, int, bytes]
"""A frame that is to leave: the index of the interface by which, its packet mark, and its bytes."""


@dataclass(frozen=True, slots=True)
class PacketsDeferred:
    """Frames that begin or answer connections, and are held. What the kernel told of these connections was said before.

    They come back in `ReleasePackets`.
    """

    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class PacketsReceived:
    """pfsync packets behind their IP or seal header, and who sent them, in the order in which they came."""

    packets: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """Whether the synchronisation link works: until the first time it is down."""

    up: bool
    max_packet: int | None = None
    """Bytes of the longest packet that it takes; None if that is as before."""


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """Whether this host carries traffic: it is master of something, or runs without CARP.

    If it is said again that it does, what it carries is not the same any more: a share of the load came or went.
    """

    carrying: bool


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """The host's own addresses, packed, the shared ones among them."""

    addresses: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class TimersDue:
    """Time has passed."""


Event = (
    TableChanged
    | ExpectationsFound
    | TableRead
    | EntriesFetched
    | EntriesRefused
    | PacketsDeferred
    | PacketsReceived
    | LinkChanged
    | RoleChanged
    | AddressesChanged
    | TimersDue
)
