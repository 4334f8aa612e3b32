"""When a node that shares may take its part of the traffic.

Every packet reaches all hosts, and two must never take one. So a share is shut before its host says that it leaves or
yields. Who takes over from a master that lives opens its own when that was said, or after YIELD_LIMIT_NS. So does a
master whose lease has run out before it speaks again: it was late, or could not send, and somebody may have taken over.

Ref: spec carp §14 leaves open what happens between two masters; OpenBSD's both take their packets meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from carpd.events import Family
from carpd.units import MILLISECOND
from carpd.wire.carp import Advertisement

YIELD_LIMIT_NS = 10 * MILLISECOND
"""How long a node that took over from a living master waits to hear that this has shut its share. A BSD does not say
so, but has long done it: carpd's own process is late by 7 ms at the most. Ref: design §7, timers."""

OVERDUE_NS = 100 * MILLISECOND
"""A better master is overdue when its interval has passed, and this."""


class Heard(NamedTuple):
    """The last valid advertisement of a peer that was heard, and when."""

    source: bytes
    message: Advertisement
    time_ns: int


class Share:
    """Of one master: it waits for those before it, or nothing keeps it from being open but its lease."""

    def __init__(self) -> None:
        self.waits_until: int | None = None
        """At the latest; what it waits for may be said before."""
        self._predecessors: set[bytes] = set()
        """The addresses of those that were heard as masters and have not yielded yet."""
        self._clock_was_asked = False
        """Since it waits. A frame has its time from the kernel, and may have waited for us."""
        self._lease_until = 0
        """How long the last advertisement that left lets us take our share."""

    @property
    def waits(self) -> bool:
        return self.waits_until is not None

    def wait(self, now: int, last_heard: Heard | None) -> None:
        """For a master that lives, or may have begun to meanwhile. Who bows out has shut its share."""
        self.waits_until, self._clock_was_asked = now, False
        self._predecessors = {last_heard.source} if last_heard and not last_heard.message.is_bow_out else set()

    def wait_too(self, source: bytes) -> None:
        """For another master that was heard, if it waits at all."""
        if self.waits:
            self._predecessors.add(source)

    def yielded(self, source: bytes) -> bool:
        """Whether this was the last word that it waited for. Of three hosts two may take over at once: who has yielded
        to the one has not heard of the other.
        """
        if source not in self._predecessors:
            return False
        self._predecessors.remove(source)
        return not self._predecessors

    def has_waited(self, now: int, heard_until: int) -> bool:
        """Whether all have had the time to hear of us; a better one that waits in the socket comes first."""
        if self.waits_until is None or heard_until < self.waits_until:
            return False
        if self._clock_was_asked:
            return True
        self.waits_until, self._clock_was_asked = now + YIELD_LIMIT_NS, True
        return False

    def end_wait(self) -> None:
        """It is open, or another's."""
        self.waits_until = None
        self._predecessors = set()

    def begin_lease(self, now: int, lease_ns: int) -> None:
        """An advertisement has left, or the first one is about to."""
        self._lease_until = now + lease_ns

    def has_lapsed(self, now: int) -> bool:
        """Whether it fell shut with its lease."""
        return now >= self._lease_until


class BetterMasters:
    """The last advertisement of a better master than we are that has not said that it leaves, in each family.

    Of many hosts that share several take over at once, or one speaks that was late. As long as a better master than we
    are is not overdue a worse one is about to yield to that: its word must not open our share.
    """

    def __init__(self) -> None:
        self._last: dict[Family, Heard] = {}

    def note(self, family: Family, heard: Heard, is_better: bool) -> None:
        known = self._last.get(family)
        if is_better and not heard.message.is_bow_out:
            self._last[family] = heard
        elif known and (known.source == heard.source or heard.message.is_bow_out):
            del self._last[family]

    def outrank(self, now: int, family: Family, source: bytes) -> bool:
        """Whether one of them will depose the master at `source`, so that it need not be done by us."""
        better = self._last.get(family)
        if better is None or better.source == source:
            return False
        return now < better.time_ns + better.message.interval_ns + OVERDUE_NS
