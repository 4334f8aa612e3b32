"""What waits to be told to the peers: each state once, in the shortest form that says all, and packets made of it.

Ref: spec pfsync §7.2; OpenBSD sys/net/if_pfsync.c, pfsync_q_ins().
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from carpd.pfsync import mapping
from carpd.pfsync.ordinary import OrdinaryWriter
from carpd.pfsync.packer import STATE_SIZE, Packer, Parcel
from carpd.units import SECOND
from carpd.wire.conntrack import ConntrackEntry
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import (
    CompressedDeletes,
    CompressedUpdates,
    InsertAcknowledgements,
    Inserts,
    PackedStates,
    Resends,
    Updates,
)
from carpd.wire.pfsync.linux_messages import Resend
from carpd.wire.pfsync.messages import IDENTITY_SIZE, CompressedUpdate
from carpd.wire.pfsync.state import StateRecord

ENOUGH = 64
"""States for a dozen packets: more need not be collected before they are sent."""
MERGE_NS = SECOND
"""The longest that a change waits for others of its state. Ref: spec pfsync §7.2."""

_UPDATE_SIZE = v6.KINDS.message_size(CompressedUpdates)
_RESEND_SIZE = v6.KINDS.message_size(Resends)


class Outbox:
    """The queues. A state is in one of them at most, except that its insert may be acknowledged beside it."""

    def __init__(self, maxupd: int) -> None:
        self._maxupd = maxupd
        self._acknowledgements: list[bytes] = []
        self._updates: dict[bytes, ConntrackEntry] = {}
        self._merged: dict[bytes, int] = {}
        """How many updates of a state wait in one, where it is more than one."""
        self._deletes: dict[bytes, None] = {}
        self._inserts: dict[bytes, ConntrackEntry] = {}
        self._fulls: dict[bytes, ConntrackEntry] = {}
        self._extras: dict[bytes, tuple[tuple[int, bytes], ...]] = {}
        """Attributes that are not the entry's: what a helper expects of it."""
        self._told_again: list[Resend] = []
        self._since: int | None = None
        self._urgent = False

    def __len__(self) -> int:
        return (
            len(self._acknowledgements)
            + len(self._updates)
            + len(self._deletes)
            + len(self._inserts)
            + len(self._fulls)
            + len(self._told_again)
        )

    def insert(self, identity: bytes, entry: ConntrackEntry) -> None:
        """A state is new."""
        self._inserts[identity] = entry

    def update(self, identity: bytes, entry: ConntrackEntry) -> None:
        """A state changed in what every pfsync can tell."""
        if identity in self._inserts:
            self._inserts[identity] = _newer(self._inserts[identity], entry)
        elif identity in self._fulls:
            self._fulls[identity] = _newer(self._fulls[identity], entry)
        else:
            if identity in self._updates:
                merged = self._merged[identity] = self._merged.get(identity, 1) + 1
                self._urgent |= merged >= self._maxupd
            self._updates[identity] = entry

    def full(self, identity: bytes, entry: ConntrackEntry, extra: tuple[tuple[int, bytes], ...] = ()) -> None:
        """All of a state is to be told: it was asked for, or changed in what a short update can't tell."""
        if identity in self._inserts:
            self._inserts[identity] = _newer(self._inserts[identity], entry)
        else:
            self._updates.pop(identity, None)
            self._fulls[identity] = _newer(self._fulls.get(identity), entry)
        if extra:
            self._extras[identity] = self._extras.get(identity, ()) + extra

    def delete(self, identity: bytes) -> None:
        """A state ended. One that nobody was told of is forgotten."""
        self._extras.pop(identity, None)
        if self._inserts.pop(identity, None) is None:
            self._updates.pop(identity, None)
            self._fulls.pop(identity, None)
            self._deletes[identity] = None

    def forget(self, identity: bytes) -> None:
        """A state ended as a peer said: it knows."""
        self._extras.pop(identity, None)
        for queue in (self._updates, self._inserts, self._fulls):
            queue.pop(identity, None)

    def acknowledge(self, identity: bytes) -> None:
        """A peer waits until it knows that this state is here."""
        self._acknowledgements.append(identity)
        self._urgent = True

    def told_again(self, packets: Resend) -> None:
        """All that was in these packets and that peers missed is told with what waits now."""
        self._told_again.append(packets)

    def is_due(self, now: int) -> bool:
        """Whether what waits must not wait any longer, though more is coming."""
        if not len(self):
            return False
        if self._since is None:
            self._since = now
        return self._urgent or len(self) >= ENOUGH or now - self._since >= MERGE_NS

    def pack(self, space: int, writer: OrdinaryWriter | None = None) -> Iterator[Parcel]:
        """All that waits, in packets of at most `space` bytes behind the header. The outbox is done with then.

        With a writer ordinary states are PackedStates.
        """
        packer = Packer(space)
        if self._acknowledgements:
            yield from packer.add(InsertAcknowledgements, self._acknowledgements, IDENTITY_SIZE)
        if self._updates:
            yield from self._pack_updates(packer)
        if self._deletes:
            deletes = list(self._deletes)
            yield from packer.add(CompressedDeletes, deletes, IDENTITY_SIZE, deletes)
        if self._inserts:
            yield from self._pack_states(packer, Inserts, self._inserts, writer)
        if self._fulls:
            yield from self._pack_states(packer, Updates, self._fulls, writer)
        if self._told_again:
            yield from packer.add(Resends, self._told_again, _RESEND_SIZE)
        yield from packer.rest()

    def _pack_updates(self, packer: Packer) -> Iterator[Parcel]:
        updates: list[CompressedUpdate] = []
        for identity, entry in self._updates.items():
            if mapping.to_attributes(identity, entry):
                self._fulls[identity] = entry  # it would lose what a short update can't tell
            elif update := mapping.to_update(identity, entry):
                updates.append(update)
        yield from packer.add(CompressedUpdates, updates, _UPDATE_SIZE, [update.identity for update in updates])

    def _pack_states(
        self,
        packer: Packer,
        batch: type[Inserts | Updates],
        queue: dict[bytes, ConntrackEntry],
        writer: OrdinaryWriter | None,
    ) -> Iterator[Parcel]:
        alone: list[StateRecord] = []
        packed: dict[bytes, bytes] = {}
        for identity, entry in queue.items():
            if writer and identity not in self._extras and (data := writer.write(identity, entry)):
                packed[identity] = data
                continue
            whole = mapping.to_whole(identity, entry)
            if whole is None:
                continue
            state, more = whole
            if identity in self._extras:
                more = LinuxAttributes(identity, (more.attributes if more else ()) + self._extras[identity])
            if more is None:
                alone.append(state)
            else:
                yield from packer.add_extended(batch, state, more)
        if alone:
            yield from packer.add(batch, alone, STATE_SIZE, [state.identity for state in alone])
        yield from packer.add(partial(PackedStates, of=batch), [*packed.values()], STATE_SIZE, [*packed])


def _newer(old: ConntrackEntry | None, new: ConntrackEntry) -> ConntrackEntry:
    """What is known of an entry: events tell what changed, and little of the rest."""
    if old is None:
        return new
    if new.state is None and old.state is not None:
        kept = ("state", "original_scale", "reply_scale", "original_flags", "reply_flags", "original_tag", "reply_tag")
        new = new._replace(**{field: getattr(old, field) for field in kept})
    if old.labels or old.helper or old.master:
        return new._replace(
            labels=new.labels or old.labels, helper=new.helper or old.helper, master=new.master or old.master
        )
    return new
