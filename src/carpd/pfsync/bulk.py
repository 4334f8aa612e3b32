"""The bulk update: a node that starts asks for all states, and is demoted until it has them.

Ref: spec pfsync §7.9; OpenBSD sys/net/if_pfsync.c, pfsync_bulk_start() and pfsync_bulk_fail(). Differently from it, an
end counts only behind a beginning, several peers may answer, and what was lost on the way must be made good first.
"""

from __future__ import annotations

import enum

from carpd.units import SECOND

REQUEST_NS = 2 * SECOND
"""How long an answer is waited for before the request is sent again."""
TRIES = 12
LINK_NS = 30 * SECOND
"""How long the link is waited for."""
PROGRESS_NS = 10 * SECOND
"""How long a bulk update that has begun may stand still before it is asked for again."""
SENDERS = 32
"""Peers that send at a time: who makes up others does not keep us waiting for ever."""
LIMIT_NS = 300 * SECOND
"""After this a node takes part with what it has: it may be the only one left."""


class BulkPhase(enum.Enum):
    """How far we are."""

    START = "waiting for the synchronisation link"
    SENT = "requested, no peer has answered yet"
    BULK = "receiving"
    DONE = "done"


class BulkUpdate:
    """The requester's side. It begins in START; every method that returns a reason has gone to DONE for it."""

    def __init__(self, now: int) -> None:
        self.phase = BulkPhase.START
        self.deadline: int | None = now + LINK_NS
        self._limit = now + LIMIT_NS
        self._tries = 0
        self._ended_for = ""
        self._sending: set[bytes] = set()
        """Peers that have begun and not ended."""
        self._ended: dict[bytes, int] = {}
        """The number of the packet in which a peer said so: it may overtake the one with the beginning."""

    @property
    def done(self) -> bool:
        return self.phase is BulkPhase.DONE

    @property
    def reason(self) -> str:
        """How far we are, in words; in the end why we are done."""
        return self._ended_for or self.phase.value

    def link_is_up(self, now: int) -> bool:
        """The link works; whether to send the request now."""
        if self.phase is not BulkPhase.START:
            return False
        self.phase, self.deadline, self._tries = BulkPhase.SENT, now + REQUEST_NS, 1
        return True

    def has_begun(self, peer: bytes) -> bool:
        """Whether a peer need not be asked: it has begun or even ended, or we don't want it any more."""
        return self.done or peer in self._sending or peer in self._ended

    def begins(self, now: int, peer: bytes, number: int) -> None:
        """A peer begins to send all states, in its packet of this number."""
        if self.phase is not BulkPhase.DONE:
            self.phase, self.deadline = BulkPhase.BULK, min(now + PROGRESS_NS, self._limit)
            if self._ended.get(peer, number) <= number and len(self._sending) < SENDERS:
                self._sending.add(peer)

    def progresses(self, now: int) -> None:
        """States have come."""
        if self.phase is BulkPhase.BULK:
            self.deadline = min(now + PROGRESS_NS, self._limit)

    def ends(self, peer: bytes, number: int) -> None:
        """A peer has sent all its states; `finish` may follow."""
        if self.phase is not BulkPhase.DONE:
            self._sending.discard(peer)
            self._ended[peer] = number

    def loses(self, peer: bytes) -> None:
        """A peer is not heard any more."""
        self._sending.discard(peer)
        self._ended.pop(peer, None)

    def finish(self, *, complete: bool) -> str | None:
        """Whether it is done, now that all packets have come or not: the reason, or None."""
        if self.phase is BulkPhase.BULK and not self._sending and complete:
            return self._finish("bulk done")
        return None

    def timer(self, now: int) -> tuple[bool, str | None]:
        """The deadline has come: whether to send the request (again), or for which reason to give up."""
        if self.deadline is None or now < self.deadline:
            return False, None
        if self.phase is BulkPhase.START:
            return False, self._finish("bulk fail: no synchronisation link")
        if now >= self._limit:
            return False, self._finish("bulk fail: it took too long")
        if self._tries >= TRIES:
            heard = "the peers do not finish" if self.phase is BulkPhase.BULK else "no peer answers"
            return False, self._finish(f"bulk fail: {heard}")
        self._tries += 1
        self._sending.clear()
        self.phase, self.deadline = BulkPhase.SENT, now + REQUEST_NS
        return True, None

    def _finish(self, reason: str) -> str:
        self.phase, self.deadline, self._ended_for = BulkPhase.DONE, None, reason
        return reason
