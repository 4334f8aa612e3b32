"""What the synchronisation engine wants done or known. The order of effects in a list is part of the contract.

*Actions* must be performed; the driver answers those that can fail, and those that ask, with an event. *Facts* are for
logs, the status and tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carpd.pfsync.events import Frame, Purpose
from carpd.wire.conntrack import ConntrackEntry, Expectation


@dataclass(frozen=True, slots=True)
class SendPackets:
    """Action: send these to all peers. What is lost is found out and told again."""

    packets: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ReleasePackets:
    """Action: let these frames of `PacketsDeferred` go on their way, in this order."""

    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class InsertEntries:
    """Action: put these into the kernel's table; refusals come back as `EntriesRefused`."""

    entries: Sequence[ConntrackEntry]


@dataclass(frozen=True, slots=True)
class UpdateEntries:
    """Action: change these; a timeout, mark or labels of None stay as they are. Likewise."""

    entries: Sequence[ConntrackEntry]


@dataclass(frozen=True, slots=True)
class DeleteEntries:
    """Action: delete the entries with these flow keys. Likewise."""

    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class SetTimeouts:
    """Action: give entries, by their flow keys, these seconds to live. Those that are gone by then don't matter."""

    timeouts: Sequence[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class LoosenEntries:
    """Action: be liberal about the windows of the TCP connections with these flow keys: they may have moved elsewhere.

    Those that are gone by then don't matter.
    """

    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class InsertExpectations:
    """Action: expect these connections."""

    expectations: Sequence[Expectation]


@dataclass(frozen=True, slots=True)
class FetchEntries:
    """Action: look these flow keys up in the kernel's table; answered with `EntriesFetched`, at once."""

    keys: Sequence[bytes]
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class HearChanges:
    """Action: hear of new and changed entries, or only of those that ended. At the beginning it is the latter.

    Who carries no traffic has nothing to tell, and is spared of the kernel's telling it what it has inserted itself.
    """

    wanted: bool


@dataclass(frozen=True, slots=True)
class ReadTable:
    """Action: read the next piece of the kernel's table, from its beginning if `begin`; answered with `TableRead`."""

    begin: bool


@dataclass(frozen=True, slots=True)
class ReadExpectations:
    """Action: read all expectations; answered with `ExpectationsFound`."""


@dataclass(frozen=True, slots=True)
class BulkUpdateChanged:
    """Fact: whether all that the peers know is here, and why it is thought so. Until then the host is demoted."""

    done: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PeerAppeared:
    """Fact: a peer was heard for the first time since it was started or had been lost."""

    creator_id: bytes
    source: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    """Fact: nothing was heard of a peer for some time."""

    creator_id: bytes
    source: str


@dataclass(frozen=True, slots=True)
class Resynchronising:
    """Fact: something was missed, for this reason, and is made good again."""

    reason: str


Action = (
    SendPackets
    | ReleasePackets
    | InsertEntries
    | UpdateEntries
    | DeleteEntries
    | SetTimeouts
    | LoosenEntries
    | InsertExpectations
    | FetchEntries
    | HearChanges
    | ReadTable
    | ReadExpectations
)
Fact = BulkUpdateChanged | PeerAppeared | PeerLost | Resynchronising
Effect = Action | Fact
