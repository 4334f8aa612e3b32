"""The walk through the kernel's table, piece by piece: everything that concerns all states is done on it.

One walk serves all that was wanted when it began; what is wanted meanwhile is for the next.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from carpd.pfsync.effects import Effect, LoosenEntries, SetTimeouts
from carpd.pfsync.timeouts import HOLD, LinuxTimeouts, is_carried
from carpd.wire.conntrack import GRE, LIBERAL, TCP, ConntrackEntry


class Errand(enum.Enum):
    """What a walk is for."""

    COMPARE = "compare"
    """Find what was missed: at the start, and when the kernel told of changes faster than we read them."""
    BULK = "bulk"
    """Tell all states to the peers."""
    TRIM = "trim"
    """We carry the traffic now: what is held shall end as the kernel would end it."""
    HOLD = "hold"
    """A peer carries the traffic now: what we have shall not end by itself."""
    LOOSEN = "loosen"
    """A peer carries connections, or did for a while: what our kernel knows of their windows is old."""


class Walk:
    """One walk at a time."""

    def __init__(self) -> None:
        self._wanted: set[Errand] = set()
        self.errands: frozenset[Errand] = frozenset()
        """What the present one is for; empty while there is none."""
        self._unseen: dict[bytes, None] = {}
        """In the order of the table, not of a set: every run of a recording asks for them in the same order."""

    @property
    def due(self) -> bool:
        """Whether a walk should begin."""
        return bool(self._wanted) and not self.errands

    def want(self, errand: Errand) -> None:
        self._wanted.add(errand)

    def wants(self, errand: Errand) -> bool:
        """Whether the next walk is for this."""
        return errand in self._wanted

    def drop(self, errand: Errand) -> None:
        """It is not wanted any more, nor is the rest of it."""
        self._wanted.discard(errand)
        self.errands -= {errand}

    def begin(self, keys: Iterable[bytes]) -> None:
        """Begin with all that is wanted; the table knows the flows of these keys."""
        self.errands, self._wanted = frozenset(self._wanted), set()
        self._unseen = dict.fromkeys(keys) if Errand.COMPARE in self.errands else {}

    def pass_by(self, known: Sequence[tuple[bytes, ConntrackEntry]], timeouts: LinuxTimeouts) -> list[Effect]:
        """These are there, by their flow keys: what is to be done to them."""
        if self._unseen:
            for key, _ in known:
                self._unseen.pop(key, None)
        new_timeouts = [(key, t) for key, entry in known if (t := self._timeout(entry, timeouts)) is not None]
        loosened = [key for key, entry in known if self._loosens(entry)]
        effects: list[Effect] = []
        if new_timeouts:
            effects.append(SetTimeouts(new_timeouts))
        if loosened:
            effects.append(LoosenEntries(loosened))
        return effects

    def end(self) -> Sequence[bytes]:
        """The walk is over; the keys that it did not come by, if it was to compare."""
        unseen, self._unseen, self.errands = self._unseen, {}, frozenset()
        return list(unseen)

    def _loosens(self, entry: ConntrackEntry) -> bool:
        """Whether the kernel must be made liberal about the windows of an entry on this walk."""
        return (
            Errand.LOOSEN in self.errands
            and entry.protocol == TCP
            and not entry.original_flags & entry.reply_flags & LIBERAL
        )

    def _timeout(self, entry: ConntrackEntry, timeouts: LinuxTimeouts) -> int | None:
        """The timeout that an entry must get on this walk; None if it may keep what it has."""
        if Errand.HOLD in self.errands and is_carried(entry) and entry.timeout is not None:
            return HOLD
        if (
            Errand.TRIM in self.errands and not is_carried(entry) and entry.protocol != GRE
        ):  # its packets would not renew it
            return timeouts.normal(entry)
        return None
