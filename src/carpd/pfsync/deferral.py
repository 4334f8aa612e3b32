"""Packets that are held until the peers know the connections that they begin: the answer may come to a peer.

Whatever a packet waits for was told in the packets up to some number: it leaves when the peers have acknowledged that
number, or after 20 ms. So nobody looks into it. BSD peers know no numbers, but acknowledge inserts, which are numbered
here.

Ref: spec pfsync §7.8; OpenBSD sys/net/if_pfsync.c, pfsync_defer(), pfsync_undefer().
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.events import Frame
from carpd.units import MILLISECOND

LIMIT_NS = 20 * MILLISECOND
"""How long a packet is held at most. Ref: OpenBSD sys/net/if_pfsync.c, PFSYNC_DEFER_NSEC."""
HELD_MAX = 128
"""So many are held at most. Ref: spec pfsync §7.8."""


class _Held(NamedTuple):
    frame: Frame
    number: int
    deadline: int


class Deferral:
    """The packets that are held, in the order in which they came: neither numbers nor deadlines ever go back in it."""

    def __init__(self, counters: PfsyncCounters) -> None:
        self._counters = counters
        self._held: deque[_Held] = deque()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def deadline(self) -> int | None:
        """When `release` is wanted at the latest."""
        return self._held[0].deadline if self._held else None

    def hold(self, now: int, frames: Iterable[Frame], number: int) -> None:
        """These wait until everything up to this number is acknowledged; `release` must follow."""
        before = len(self._held)
        self._held += [_Held(frame, number, now + LIMIT_NS) for frame in frames]
        self._counters.deferred += len(self._held) - before

    def release(self, now: int, acknowledged: int | None) -> list[Frame]:
        """Those that need not, or must not, wait any longer. The number is None if nobody is there to be waited for."""
        held, counters, released = self._held, self._counters, []
        while held and (acknowledged is None or held[0].number <= acknowledged):
            released.append(held.popleft().frame)
            counters.undeferred += 1
        while len(held) > HELD_MAX:
            released.append(held.popleft().frame)
            counters.defer_overflows += 1
        while held and held[0].deadline <= now:
            released.append(held.popleft().frame)
            counters.defer_timeouts += 1
        return released


class Insertions:
    """Inserts that BSDs were told of and have not acknowledged: they are numbered in their order."""

    def __init__(self) -> None:
        self.last = 0
        """The number of the last one."""
        self._waiting: dict[bytes, tuple[int, int]] = {}
        """By identity, in their order: the number, and until when it is worth waiting for."""

    def told(self, now: int, identities: Iterable[bytes]) -> None:
        """These were inserted: whoever has them says so."""
        for identity in identities:
            self.last += 1
            self._waiting.pop(identity, None)
            self._waiting[identity] = (self.last, now + LIMIT_NS)

    def acknowledge(self, identities: Iterable[bytes]) -> None:
        """A peer has these, by what it says."""
        if self._waiting:
            for identity in identities:
                self._waiting.pop(identity, None)

    def acknowledged(self, now: int) -> int:
        """Up to which number no acknowledgement is missing. One that nobody would wait for any more is given up."""
        for identity, (number, deadline) in list(self._waiting.items()):
            if now < deadline:
                return number - 1
            del self._waiting[identity]
        return self.last
