"""What pfsyncd says of itself: the `pfsync` element of `carpctl status --json`."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from carpd.pfsync.engine import SyncEngine
from carpd.pfsync.peers import Peer
from carpd.runtime.held_packets import HeldPackets
from carpd.runtime.sync_link import SyncLink
from carpd.units import SECOND


def document(now: int, engine: SyncEngine, link: SyncLink, held: HeldPackets) -> dict[str, Any]:
    """As JSON's own types. Times are ages in seconds; coverage is in per cent of the states here."""
    counters = {f.name: getattr(engine.counters, f.name) for f in fields(engine.counters)}
    states = len(engine.sync.table)
    oldest = engine.peers.oldest_unconfirmed(engine.sent)
    return {
        "pid": os.getpid(),
        "creator_id": engine.settings.creator_id.hex(),
        "link": {"up": link.is_open, "reason": link.reason or None},
        "carrying": engine.sync.carrying,
        "bulk_update": {"done": engine.bulk.done, "reason": engine.bulk.reason},
        "states": states,
        "max_states": engine.settings.max_states,
        "unsent": len(engine.sync.outbox),
        "unconfirmed_age_s": None if oldest is None else round((now - oldest) / SECOND, 3),
        "defer": held.status(),
        "peers": [_peer(now, peer, states) for peer in engine.peers],
        "resyncs": counters.pop("resyncs"),
        "refused": counters.pop("refused"),
        "counters": link.counters() | counters | held.counters(),
    }


def _peer(now: int, peer: Peer, states: int) -> dict[str, Any]:
    return {
        "address": peer.source,
        "creator_id": peer.creator_id.hex(),
        "heard_age_s": round((now - peer.heard) / SECOND, 3),
        "carrying": peer.carrying,
        "states": peer.states,
        "coverage": coverage(peer, states),
    }


def coverage(peer: Peer, states: int) -> float | None:
    """How much of what is here the peer has, in per cent; None before it has compared anything.

    It is 100 only if a digest has said so; else it follows from the numbers of states, and is a little less.
    """
    if peer.acknowledged is None:
        return None
    if peer.equal:
        return 100.0
    return round(min(99.99, 100 * peer.states / states if states else 0.0), 2)
