"""A node's connection tracking, as much of it as synchronisation meets.

Packets create entries and take them further, timeouts end them, and whoever listens is told of both; what the listener
changes itself it is not told of. Changes are refused as Linux refuses them. Ref: `carpd.wire.ctnetlink`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from carpd.pfsync.levels import levels, merge
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.simulation.world import World
from carpd.units import SECOND
from carpd.wire.conntrack import ASSURED, CONFIRMED, SEEN_REPLY, TCP, ConntrackEntry, TcpState, flow_key
from carpd.wire.ctnetlink import Change, Event

COLLECT_NS = SECOND
"""How often entries whose time is over are looked for; whoever meets one earlier finds nothing."""
PIECE = 8
"""Entries of a dump at a time."""
OVER = (TcpState.TIME_WAIT, TcpState.CLOSE)
"""A SYN makes a new connection of these."""


@dataclass(slots=True)
class Slot:
    """An entry of the table. Its own timeout means nothing."""

    entry: ConntrackEntry
    expires_ns: int
    seen: bool
    """Whether a packet of it came through here."""


def reply_key(entry: ConntrackEntry) -> tuple[bytes, bytes, int, int, int, int]:
    """What names an entry by its replies."""
    return (*entry[5:7], entry.protocol, *entry[7:9], entry.zone or entry.reply_zone)


class Conntrack:
    """The table. It outlives the process that listens to it."""

    def __init__(self, world: World, timeouts: LinuxTimeouts, limit: int) -> None:
        self.slots: dict[bytes, Slot] = {}
        self.listener: Callable[[Event], None] | None = None
        self._world = world
        self._timeouts = timeouts
        self.limit = limit
        self._by_reply: dict[tuple[bytes, bytes, int, int, int, int], bytes] = {}
        self._ids = count(1)
        self._collect()

    # Packets

    def packet(self, seen: ConntrackEntry, *, opens: bool) -> bool:
        """A packet that shows a connection as far as this; whether it is let through.

        One that `opens` a connection makes an entry, and a TCP connection that is over begins anew.
        """
        key = flow_key(seen)
        slot = self.slot(key)
        if slot is not None and opens and slot.entry.protocol == TCP and slot.entry.state in OVER:
            self.end(key)
            slot = None
        if slot is None:
            return opens and self._create(key, seen)
        old = slot.entry
        slot.seen = True
        if merge(levels(old), levels(seen)) != levels(old):
            slot.entry = old._replace(
                status=old.status | seen.status,
                state=seen.state,
                original_flags=old.original_flags | seen.original_flags,
                reply_flags=old.reply_flags | seen.reply_flags,
                original_scale=seen.original_scale,
                reply_scale=seen.reply_scale,
            )
            self._tell(Change.UPDATE, slot.entry._replace(timeout=self._timeouts.normal(slot.entry)))
        slot.expires_ns = self._world.now + self._timeouts.normal(slot.entry) * SECOND
        return True

    def mark(self, key: bytes, mark: int, labels: bytes | None) -> None:
        """A rule marks a connection. What the kernel tells then says nothing of its TCP state."""
        slot = self.slot(key)
        if slot is not None:
            slot.entry = slot.entry._replace(mark=mark, labels=labels or slot.entry.labels)
            self._tell(Change.UPDATE, slot.entry._replace(state=None, original_flags=0, reply_flags=0, labels=labels))

    def end(self, key: bytes) -> None:
        """An entry's time is over, or an operator deletes it."""
        slot = self._remove(key)
        if slot is not None:
            self._tell(Change.DESTROY, slot.entry._replace(timeout=None, labels=None))

    def clear(self) -> None:
        """The power is gone."""
        self.slots.clear()
        self._by_reply.clear()

    def _create(self, key: bytes, entry: ConntrackEntry) -> bool:
        if len(self.slots) >= self.limit or reply_key(entry) in self._by_reply:
            return False
        self._put(key, entry, self._timeouts.normal(entry), seen=True)
        self._tell(Change.NEW, self.get(key) or entry)
        return True

    # What the listener does

    def get(self, key: bytes) -> ConntrackEntry | None:
        slot = self.slot(key)
        if slot is None:
            return None
        return slot.entry._replace(timeout=(slot.expires_ns - self._world.now) // SECOND)

    def insert(self, entry: ConntrackEntry) -> int:
        """What the kernel answers, as all that follow: 0 or an errno."""
        key = flow_key(entry)
        if entry.timeout is None:
            return errno.EINVAL
        if self.slot(key) is not None or self._met(reply_key(entry)):
            return errno.EEXIST
        if len(self.slots) >= self.limit:
            return errno.ENOMEM
        self._put(key, entry._replace(status=entry.status | CONFIRMED), entry.timeout, seen=False)
        return 0

    def update(self, entry: ConntrackEntry) -> int:
        slot = self.slot(flow_key(entry))
        if slot is None:
            return errno.ENOENT
        old = slot.entry
        if old.status & ~entry.status & (SEEN_REPLY | ASSURED):
            return errno.EBUSY
        slot.entry = old._replace(
            status=old.status | entry.status,
            mark=old.mark if entry.mark is None else entry.mark,
            labels=entry.labels or old.labels,
        )
        if entry.state is not None:
            slot.entry = slot.entry._replace(
                state=entry.state,
                original_scale=entry.original_scale,
                reply_scale=entry.reply_scale,
                original_flags=entry.original_flags,
                reply_flags=entry.reply_flags,
            )
        if entry.timeout is not None:
            slot.expires_ns = self._world.now + entry.timeout * SECOND
        return 0

    def delete(self, key: bytes) -> int:
        return 0 if self._remove(key) is not None else errno.ENOENT

    def set_timeout(self, key: bytes, seconds: int) -> None:
        slot = self.slot(key)
        if slot is not None:
            slot.expires_ns = self._world.now + seconds * SECOND

    def dump(self) -> Iterator[list[ConntrackEntry]]:
        """Piece by piece; entries that come meanwhile are missed."""
        keys = list(self.slots)
        for start in range(0, len(keys), PIECE):
            entries = map(self.get, keys[start : start + PIECE])
            yield [entry for entry in entries if entry is not None]

    def slot(self, key: bytes) -> Slot | None:
        """The entry, if its time is not over."""
        slot = self.slots.get(key)
        if slot is not None and slot.expires_ns <= self._world.now:
            self.end(key)
            return None
        return slot

    def _met(self, reply: tuple[bytes, bytes, int, int, int, int]) -> bool:
        key = self._by_reply.get(reply)
        return key is not None and self.slot(key) is not None

    def _put(self, key: bytes, entry: ConntrackEntry, seconds: int, *, seen: bool) -> None:
        entry = entry._replace(id=next(self._ids), timeout=None)
        self.slots[key] = Slot(entry, self._world.now + seconds * SECOND, seen)
        self._by_reply[reply_key(entry)] = key

    def _remove(self, key: bytes) -> Slot | None:
        slot = self.slots.pop(key, None)
        if slot is not None:
            del self._by_reply[reply_key(slot.entry)]
        return slot

    def _tell(self, change: Change, entry: ConntrackEntry) -> None:
        if self.listener is not None:
            self.listener((change, entry))

    def _collect(self) -> None:
        for key in list(self.slots):
            self.slot(key)
        self._world.after(COLLECT_NS, self._collect)
