"""What is to be done to the kernel's table: changes of one flow are joined, so that they can be made in batches.

The kernel is told in an order that keeps the meaning: first deletes, then inserts, then updates.
"""

from __future__ import annotations

from collections.abc import Iterable

from carpd.pfsync.effects import DeleteEntries, Effect, InsertEntries, InsertExpectations, LoosenEntries, UpdateEntries
from carpd.wire.conntrack import ConntrackEntry, Expectation


class KernelChanges:
    """At most one delete, and behind it one insert or update, of each flow."""

    def __init__(self) -> None:
        self._deletes: dict[bytes, None] = {}
        self._inserts: dict[bytes, ConntrackEntry] = {}
        self._updates: dict[bytes, ConntrackEntry] = {}
        self._loosened: dict[bytes, None] = {}
        self._expectations: list[Expectation] = []

    def insert(self, key: bytes, entry: ConntrackEntry) -> None:
        """The kernel does not have the flow, or it is to be deleted first."""
        self._inserts[key] = entry

    def update(self, key: bytes, entry: ConntrackEntry) -> None:
        """The kernel has the flow, or will. What is None in the entry stays as it is."""
        queue = self._inserts if key in self._inserts else self._updates
        queue[key] = joined(queue[key], entry) if key in queue else entry

    def loosen(self, key: bytes) -> None:
        """A peer sees packets of a TCP connection that the kernel does not see: it must not judge by their windows."""
        self._loosened[key] = None

    def delete(self, key: bytes) -> None:
        if self._inserts.pop(key, None) is None:
            self._updates.pop(key, None)
            self._deletes[key] = None

    def concern(self, key: bytes) -> bool:
        """Whether something is still to be done about a flow."""
        return key in self._updates or key in self._inserts or key in self._deletes

    def expect(self, expectations: Iterable[Expectation]) -> None:
        """Their masters are there, or are about to be inserted."""
        self._expectations += expectations

    def take(self) -> list[Effect]:
        """What is to be done, in order; nothing is left."""
        effects: list[Effect] = []
        if self._deletes:
            effects.append(DeleteEntries(tuple(self._deletes)))
        if self._inserts:
            effects.append(InsertEntries(tuple(self._inserts.values())))
        if self._updates:
            effects.append(UpdateEntries(tuple(self._updates.values())))
        if self._loosened:
            effects.append(LoosenEntries(tuple(self._loosened)))
        if self._expectations:
            effects.append(InsertExpectations(tuple(self._expectations)))
        self._deletes, self._inserts, self._updates, self._loosened, self._expectations = {}, {}, {}, {}, []
        return effects


def joined(old: ConntrackEntry, new: ConntrackEntry) -> ConntrackEntry:
    """An entry after a change of all that changes in a connection while it lives."""
    return old._replace(
        status=old.status | new.status,
        state=old.state if new.state is None else new.state,
        original_scale=new.original_scale,
        reply_scale=new.reply_scale,
        original_flags=new.original_flags,
        reply_flags=new.reply_flags,
        mark=old.mark if new.mark is None else new.mark,
        original_tag=new.original_tag or old.original_tag,
        reply_tag=new.reply_tag or old.reply_tag,
        labels=new.labels or old.labels,
        original_adjustment=new.original_adjustment or old.original_adjustment,
        reply_adjustment=new.reply_adjustment or old.reply_adjustment,
    )
