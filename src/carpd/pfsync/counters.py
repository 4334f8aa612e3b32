"""What was received, sent and refused, with the names of BSD's `netstat -s -p pfsync`. Ref: spec pfsync §8.1."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class PfsyncCounters:
    """Packets up to `badact`, states after it. What is below `onomem` is ours: BSD does not notice, or does not say.

    Packets that a transport refuses are counted there.
    """

    hdrops: int = 0
    badver: int = 0
    badlen: int = 0
    badact: int = 0
    badval: int = 0
    stale: int = 0
    badstate: int = 0
    loops: int = 0
    """Our own packets that came back."""
    duplicates: int = 0
    late: int = 0
    lost: int = 0
    """Packets that never came and were told anew."""
    forgotten: int = 0
    """Packets that were missed and that the sender did not remember: digests have healed that."""
    unsupported: int = 0
    """States that Linux can't have."""
    limit: int = 0
    """States beyond max_states."""
    conflicts: int = 0
    """States that clash with another connection in the kernel's table."""
    kept: int = 0
    """States that a peer wanted deleted while we carry them."""
    throttled: int = 0
    """Requests beyond what is answered in a second."""
    overflows: int = 0
    """Times that the kernel told of changes faster than we read them."""
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    """States changed as peers told, and below: told to them."""
    told: int = 0
    deferred: int = 0
    """Packets that were held for a connection's sake, and of these:"""
    undeferred: int = 0
    """left when the peers had its state, or none was heard;"""
    defer_timeouts: int = 0
    """left because they had been held too long;"""
    defer_overflows: int = 0
    """left because there were too many."""
    refused: Counter[str] = field(default_factory=Counter)
    """By reason, what the kernel would not do."""
    resyncs: Counter[str] = field(default_factory=Counter)
    """By reason, how often tables had to be compared."""
