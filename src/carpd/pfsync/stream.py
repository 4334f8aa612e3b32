"""Numbered packets: pfsync has none, and can't know what it has lost. Between Linux nodes each packet with changes has
a number of its sender's, so that a receiver finds a gap at once, asks, and is told anew what the lost ones were about.

Nothing is repeated as it was: it would bring back what has ended since. The sender remembers only which states were in
a packet, and tells of them as they are now.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from carpd.units import MILLISECOND
from carpd.wire.pfsync.messages import IDENTITY_SIZE

REMEMBERED = 8192
"""Packets whose states are remembered: some 40 000 states, a second of the heaviest load."""

REORDER_NS = 2 * MILLISECOND
"""How long a missing packet may only be late."""
ASK_AGAIN_NS = 100 * MILLISECOND
TOLD_AGAIN_NS = ASK_AGAIN_NS // 2
"""For so long after packets were told anew nobody else who misses them is answered: all have heard it, or ask again.
Without this a lost packet would bring an answer for each peer, each of which can be lost, and so on for ever."""
ASKS_AT_ONCE = 64
"""Ranges of missing packets that are asked for at a time."""


class Sent:
    """What we have sent: for each of the last packets, when, and the states that were in it."""

    def __init__(self) -> None:
        self.last = 0
        """The number of the last packet."""
        self.last_state = 0
        """The number of the last one that was about a state."""
        self._identities: deque[bytes] = deque(maxlen=REMEMBERED)
        self._times: deque[int] = deque(maxlen=REMEMBERED)
        self._told_again: dict[int, int] = {}
        """When the contents of a packet were told anew, of those of the last moments."""

    def next(self, now: int, identities: bytes) -> int:
        """The number for a packet about these states, their identities one behind the other."""
        self._identities.append(identities)
        self._times.append(now)
        self.last += 1
        if identities:
            self.last_state = self.last
        return self.last

    def tell_again(self, now: int, first: int, count: int) -> Sequence[int]:
        """Those of these packets, never more than are remembered, that were not told anew a moment ago, but are now."""
        for number, when in list(self._told_again.items()):
            if now - when < TOLD_AGAIN_NS:
                break
            del self._told_again[number]
        oldest = self.last - len(self._identities) + 1
        wanted = range(max(first, oldest), min(first + count, self.last + 1))
        numbers = [number for number in wanted if number not in self._told_again]
        self._told_again.update(dict.fromkeys(numbers, now))
        return numbers

    def states(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The identities in these packets, which are remembered."""
        oldest = self.last - len(self._identities) + 1
        for number in numbers:
            identities = self._identities[number - oldest]
            for start in range(0, len(identities), IDENTITY_SIZE):
                yield identities[start : start + IDENTITY_SIZE]

    def remembers(self, first: int) -> bool:
        """Whether this packet, and with it all later ones, is remembered."""
        return first > self.last - len(self._identities)

    def sent_at(self, number: int) -> int | None:
        """When a packet was sent, or the oldest that is remembered if it is older; None if it was not yet sent."""
        if number > self.last:
            return None
        return self._times[max(0, number - (self.last - len(self._times) + 1))]


class Arrival(enum.Enum):
    """How a packet came."""

    IN_ORDER = "in order"
    """Or behind a gap."""
    LATE = "late"
    """Later ones were obeyed before it."""
    DUPLICATE = "duplicate"


class Received:
    """What has come of a peer's packets, from the first that was heard."""

    def __init__(self, number: int) -> None:
        self.highest = number
        self._missing: dict[int, int] = {}
        """Numbers that did not come, in order, and when to ask (again) for each."""
        self.lost = 0
        """Packets that never came themselves."""
        self.forgotten = 0
        """Packets that are missing and that the peer does not remember: only digests can heal that."""

    def note(self, now: int, number: int) -> Arrival:
        """A packet with this number has come."""
        if number > self.highest:
            first = max(self.highest + 1, number - REMEMBERED)
            self.forgotten += first - self.highest - 1
            for missing in range(first, number):
                self._missing[missing] = now + REORDER_NS
            self.highest = number
            while len(self._missing) > REMEMBERED:
                del self._missing[next(iter(self._missing))]
                self.forgotten += 1
            return Arrival.IN_ORDER
        return Arrival.LATE if self._missing.pop(number, None) is not None else Arrival.DUPLICATE

    @property
    def contiguous(self) -> int:
        """Everything up to this number has come, or was made good."""
        return next(iter(self._missing)) - 1 if self._missing else self.highest

    @property
    def complete(self) -> bool:
        return not self._missing

    def made_good(self, first: int, count: int) -> None:
        """The peer has told anew what was in these packets."""
        numbers = (
            range(first, first + count)
            if count <= len(self._missing)
            else [number for number in self._missing if first <= number < first + count]
        )
        for number in numbers:
            if self._missing.pop(number, None) is not None:
                self.lost += 1

    def to_ask(self, now: int) -> list[tuple[int, int]]:
        """The ranges (first, count) to be asked for now; their time is moved on."""
        ranges: list[tuple[int, int]] = []
        for number, when in self._missing.items():
            if when > now:
                continue
            if ranges and sum(ranges[-1]) == number:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1)
            elif len(ranges) == ASKS_AT_ONCE:
                break
            else:
                ranges.append((number, 1))
            self._missing[number] = now + ASK_AGAIN_NS
        return ranges

    @property
    def deadline(self) -> int | None:
        """When to ask next. The first missing one stands for all: the others follow at most one interval later."""
        return next(iter(self._missing.values())) if self._missing else None
