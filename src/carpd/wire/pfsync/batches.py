"""What a packet consists of: batches, each several messages of one kind. Ref: spec pfsync §3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.linux_messages import Digest, DigestRequest, Listed, PacketNumber, Report, Resend
from carpd.wire.pfsync.messages import BulkStatus, Clear, CompressedUpdate
from carpd.wire.pfsync.numbers import Dialect
from carpd.wire.pfsync.state import StateRecord
from carpd.wire.pfsync.tdb import Tdb

M = TypeVar("M")


@dataclass(slots=True)
class Batch(Generic[M]):
    """One subheader's messages. Nobody changes it; a frozen one would take three times as long to make."""

    action: ClassVar[str]
    """Its name in the sources of the BSDs."""

    messages: Sequence[M]

    @property
    def count(self) -> int:
        """How many messages."""
        return len(self.messages)


@dataclass(slots=True)
class StateBatch(Batch[StateRecord]):
    """Whole states, and in whose layout they are."""

    dialect: Dialect = Dialect.OPENBSD


class Inserts(StateBatch):
    """New states."""

    __slots__ = ()
    action = "INS"


class Updates(StateBatch):
    """States as they are now: those that were asked for, and a bulk update's."""

    __slots__ = ()
    action = "UPD"


class Deletes(StateBatch):
    """States that ended. OpenBSD understands it, nobody sends it."""

    __slots__ = ()
    action = "DEL"


@dataclass(slots=True)
class PackedStates(Batch[bytes]):
    """Whole states of version 6, each as its 264 bytes: others read them, or have written them."""

    of: type[Inserts | Updates]
    """What they are."""

    @property
    def action(self) -> str:  # type: ignore[override]  # of the others it is known beforehand
        return self.of.action


class CompressedUpdates(Batch[CompressedUpdate]):
    """What changed in states that the receiver should know."""

    __slots__ = ()
    action = "UPD_C"


class CompressedDeletes(Batch[bytes]):
    """Identities of states that ended."""

    __slots__ = ()
    action = "DEL_C"


class UpdateRequests(Batch[bytes]):
    """Identities of states that the sender wants to be told, or BULK_REQUEST for all of them."""

    __slots__ = ()
    action = "UPD_REQ"


class InsertAcknowledgements(Batch[bytes]):
    """Identities of states that are in the sender's table now."""

    __slots__ = ()
    action = "INS_ACK"


class Clears(Batch[Clear]):
    """Creators that end all their states."""

    __slots__ = ()
    action = "CLR"


class BulkStatuses(Batch[BulkStatus]):
    """Beginnings and ends of bulk updates."""

    __slots__ = ()
    action = "BUS"


class Tdbs(Batch[Tdb]):
    """Counters of IPsec associations."""

    __slots__ = ()
    action = "TDB"


class Attributes(Batch[LinuxAttributes]):
    """What Linux adds to states that stand in the same packet."""

    __slots__ = ()
    action = "LINUX"


class Sequences(Batch[PacketNumber]):
    """The number of the packet, in one that carries changes between Linux nodes."""

    __slots__ = ()
    action = "SEQ"


class Reports(Batch[Report]):
    """What a Linux node has heard of its peers."""

    __slots__ = ()
    action = "REPORT"


class Resends(Batch[Resend]):
    """Numbers of packets that a Linux node misses."""

    __slots__ = ()
    action = "RESEND"


class Digests(Batch[Digest]):
    """Sums over a Linux node's own states."""

    __slots__ = ()
    action = "DIGEST"


class DigestRequests(Batch[DigestRequest]):
    """Of what Linux nodes are asked for sums or lists, because sums differ."""

    __slots__ = ()
    action = "DIGEST_REQ"


class Lists(Batch[Listed]):
    """Which states are in the buckets of a Linux node."""

    __slots__ = ()
    action = "LIST"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Messages of version 6 that were not read: of an unknown action, or smaller than those that we know."""

    number: int
    size: int
    count: int

    @property
    def action(self) -> str:
        """Its name, if it ever had one."""
        return _SKIPPED.get(self.number) or f"action {self.number}"


_SKIPPED = {1: "OINS", 3: "OUPD", 8: "INS_F", 9: "DEL_F", 11: "OTDB"}
"""Actions that version 6 has retired. Ref: spec pfsync §3."""

AnyBatch = (
    Inserts
    | Updates
    | Deletes
    | PackedStates
    | CompressedUpdates
    | CompressedDeletes
    | UpdateRequests
    | InsertAcknowledgements
    | Clears
    | BulkStatuses
    | Tdbs
    | Attributes
    | Sequences
    | Reports
    | Resends
    | Digests
    | DigestRequests
    | Lists
    | Skipped
)
