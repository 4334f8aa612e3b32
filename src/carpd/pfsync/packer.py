"""Fills packets with batches: as few packets as possible, none longer than the link takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from carpd.wire.pfsync import attributes, v6
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import AnyBatch, Attributes, Inserts, Updates
from carpd.wire.pfsync.header import SUBHEADER
from carpd.wire.pfsync.numbers import Dialect
from carpd.wire.pfsync.state import StateRecord

STATE_SIZE = v6.KINDS.message_size(Inserts, Dialect.OPENBSD)


class Parcel(NamedTuple):
    """The batches of one packet, and the states that they are about, their identities one behind the other."""

    batches: list[AnyBatch]
    identities: bytes


class Packer:
    """Hands out each packet when it is full, and the last one when it is asked for the rest."""

    def __init__(self, space: int) -> None:
        self._space = self._room = space
        self._batches: list[AnyBatch] = []
        self._identities: list[bytes] = []

    def add(
        self,
        batch: Callable[[Sequence[Any]], AnyBatch],
        messages: Sequence[Any],
        size: int,
        about: Sequence[bytes] = (),
    ) -> Iterator[Parcel]:
        """Messages of one size, and the states that they are about."""
        done = 0
        while done < len(messages):
            count = min(len(messages) - done, (self._room - SUBHEADER.size) // size)
            if count <= 0:
                yield from self.rest()
                continue
            self._batches.append(batch(messages[done : done + count]))
            self._identities += about[done : done + count]
            self._room -= SUBHEADER.size + count * size
            done += count

    def add_extended(
        self, batch: type[Inserts | Updates], state: StateRecord, more: LinuxAttributes
    ) -> Iterator[Parcel]:
        """A state, and behind it in the same packet what Linux adds."""
        size = 2 * SUBHEADER.size + STATE_SIZE + attributes.encoded_size(more)
        if size > self._room:
            yield from self.rest()
        self._batches += (batch([state]), Attributes([more]))
        self._identities.append(state.identity)
        self._room -= size

    def rest(self) -> Iterator[Parcel]:
        """The packet that is being filled."""
        if self._batches:
            yield Parcel(self._batches, b"".join(self._identities))
        self._batches, self._identities, self._room = [], [], self._space
