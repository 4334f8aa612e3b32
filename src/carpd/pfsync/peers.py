"""What is known of the peers: what has come of theirs, and what they say has come of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from carpd.pfsync.stream import Received, Sent
from carpd.units import MILLISECOND, SECOND
from carpd.wire.pfsync.linux_messages import CARRYING, COMPLETE, EQUAL, Report

LIMIT = 32
"""Peers at a time. Each start of a peer is another one until the old is forgotten."""
SILENT_NS = 2500 * MILLISECOND
"""A peer that says nothing for so long has missed two reports, or can't be heard."""
LOST_NS = 10 * SECOND
"""A peer that says nothing for so long is lost: it reports every second."""
REPORT_NS = SECOND
GREET_NS = SECOND // 5
"""Between two reports, and until our bulk update is done: whoever is there shall know of us."""
ACKNOWLEDGE_NS = 50 * MILLISECOND
"""How long after something has come it is acknowledged."""
ACKNOWLEDGE_PACKETS = 128
"""So many packets are acknowledged at once: a bulk update waits for it."""


@dataclass(slots=True)
class Peer:
    """Another node, since it was started: a creator id is drawn at each start."""

    creator_id: bytes
    source: str
    heard: int
    """When, in nanoseconds."""
    received: Received | None = None
    """None until the first numbered packet."""
    silent: bool = False
    """Whether it has missed reports."""
    unacknowledged: int = 0
    """Numbered packets since our last report."""
    states: int = 0
    """How many it has, and what else it reports of itself."""
    flags: int = 0
    takeovers: int | None = None
    """How often it began to carry traffic; None before its first report."""
    hears_us: bool = False
    acknowledged: int | None = None
    """Up to which number it has all of our packets; None if it has heard none."""
    compared: int = 0
    """The number of the last packet of ours at which it compared digests, and whether it found them equal."""
    equal: bool = False
    compared_theirs: int = 0
    """The number of its last packet at which we compared digests, and whether we found them equal."""
    equal_theirs: bool = False
    passed_over: int = 0
    """Its digests since then that we could not compare."""
    bulk_asked: int = -LOST_NS
    """When we last asked for all, because too much was different."""

    @property
    def carrying(self) -> bool:
        return bool(self.flags & CARRYING)

    @property
    def is_complete(self) -> bool:
        """Whether its bulk update is done: before that its table differs of course."""
        return bool(self.flags & COMPLETE)

    def complete(self) -> bool:
        """Whether nothing of what it has sent is missing."""
        return self.received is None or self.received.complete


class Peers:
    """All that were heard lately."""

    def __init__(self, creator_id: bytes) -> None:
        self._ours = creator_id
        self.by_id: dict[bytes, Peer] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(self.by_id.values())

    def hear(self, now: int, creator_id: bytes, source: str) -> tuple[Peer | None, bool]:
        """The peer that says something, and whether it is a new one; None if there are too many."""
        peer = self.by_id.get(creator_id)
        if peer is not None:
            peer.heard, peer.silent = now, False
            return peer, False
        if len(self.by_id) >= LIMIT:
            return None, False
        peer = self.by_id[creator_id] = Peer(creator_id, source, now)
        return peer, True

    def at(self, source: str) -> bytes:
        """The creator id of the peer at an address; empty if none is known there."""
        return next((peer.creator_id for peer in self if peer.source == source), b"")

    def replaced_by(self, creator_id: bytes, source: str) -> list[Peer]:
        """Forget the earlier starts of a node that was started again."""
        old = [peer for peer in self if peer.source == source and peer.creator_id != creator_id]
        for peer in old:
            del self.by_id[peer.creator_id]
        return old

    def fall_silent(self, now: int) -> bool:
        """Whether a peer has just fallen silent."""
        silent = [peer for peer in self if not peer.silent and now - peer.heard >= SILENT_NS]
        for peer in silent:
            peer.silent = True
        return bool(silent)

    @property
    def all_heard(self) -> bool:
        """Whether there is a peer, and none is silent."""
        return bool(self.by_id) and not any(peer.silent for peer in self)

    def lose_silent(self, now: int) -> list[Peer]:
        """Forget those that were not heard for too long."""
        silent = [peer for peer in self if now - peer.heard >= LOST_NS]
        for peer in silent:
            del self.by_id[peer.creator_id]
        return silent

    def note(self, peer: Peer, report: Report) -> bool:
        """What it says of itself, and of us if it is about us; whether it tells for the first time that it hears us."""
        peer.states, peer.flags, peer.takeovers = report.states, report.flags & ~EQUAL, report.takeovers
        if report.peer != self._ours:
            return False
        first, peer.hears_us = not peer.hears_us, True
        if report.received and report.received >= (peer.acknowledged or 0):
            peer.acknowledged = report.received
            peer.compared, peer.equal = report.compared, bool(report.flags & EQUAL)
        return first

    def acknowledged(self) -> int | None:
        """Up to which of our packets all peers have all; None if no peer acknowledges."""
        return min((p.acknowledged for p in self if p.acknowledged is not None), default=None)

    def acknowledged_by_all_heard(self) -> int | None:
        """Likewise, of those that are not silent."""
        return min((p.acknowledged for p in self if p.acknowledged is not None and not p.silent), default=None)

    def oldest_unconfirmed(self, sent: Sent) -> int | None:
        """When the oldest packet was sent that a peer has not confirmed; None if there is none."""
        number = self.acknowledged()
        return None if number is None or number >= sent.last else sent.sent_at(number + 1)
