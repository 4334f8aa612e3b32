"""The actions of a version: their numbers, and how the batches behind them lie on the wire."""

from __future__ import annotations

from typing import Any, NamedTuple

from carpd.wire.pfsync.batches import AnyBatch, Skipped, StateBatch
from carpd.wire.pfsync.layout import Layout
from carpd.wire.pfsync.numbers import Dialect


class Kind(NamedTuple):
    """One action; those that carry whole states say in which dialect."""

    number: int
    batch: type[Any]
    layout: Layout[Any]
    dialect: Dialect | None = None

    def read(self, data: bytes) -> AnyBatch:
        """The batch of messages that lie in data without gaps."""
        found = self.layout.decode(data)
        batch: AnyBatch = self.batch(found) if self.dialect is None else self.batch(found, self.dialect)
        return batch


class Kinds:
    """The actions that one version knows."""

    def __init__(self, version: int, *kinds: Kind) -> None:
        self._version = version
        self._by_number = {kind.number: kind for kind in kinds}
        self._by_batch = {(kind.batch, kind.dialect): kind for kind in kinds}

    def numbered(self, number: int) -> Kind | None:
        """The action with this number, if it is known."""
        return self._by_number.get(number)

    def encode(self, batch: AnyBatch) -> tuple[int, bytes]:
        """The number of the action that carries a batch, and its messages. Raise ValueError if there is none."""
        dialect = batch.dialect if isinstance(batch, StateBatch) else None
        kind = self._by_batch.get((type(batch), dialect))
        if kind is None or isinstance(batch, Skipped):
            raise ValueError(f"pfsync: version {self._version} has no way to say {batch.action} {dialect or ''}")
        return kind.number, kind.layout.encode(batch.messages)

    def layout(self, batch: type[Any], dialect: Dialect | None = None) -> Layout[Any]:
        """How the messages of such batches lie on the wire; of whole states it depends on the dialect."""
        return self._by_batch[batch, dialect].layout

    def message_size(self, batch: type[Any], dialect: Dialect | None = None) -> int:
        """Bytes of one message of such batches."""
        return self.layout(batch, dialect).size
