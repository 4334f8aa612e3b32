"""Conntrack messages by the hundred: read and written by templates, one for each layout of a message.

`ctnetlink` walks a message attribute by attribute, 10 µs each. Messages of one layout differ only in the values that
their attributes hold, in fixed places. So the walk is done once for each layout; it leaves a template that knows which
bytes are values and which must be as they were, and takes a fraction of a microsecond. A message that no template fits
goes the long way, and leaves a template for the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Self

from carpd.wire import conntrack, ctnetlink, netlink
from carpd.wire.conntrack import ConntrackEntry, Flow
from carpd.wire.ctnetlink import HALF_OPEN, LEAVES, Change, Event, Path
from carpd.wire.netlink import Message, aligned

_TEMPLATES_MAX = 512
"""Some 60 are in use where everything occurs. Who makes more of them, by odd packets, makes us go the long way."""
_SAME_LENGTH_MAX = 8

_VOLATILE = (8, 16)
"""Where a netlink header has the sequence number and the port, which tell nothing of the entry."""

_entry: Callable[[tuple[Any, ...]], ConntrackEntry] = partial(tuple.__new__, ConntrackEntry)
"""ConntrackEntry._make without its checks: 0.1 instead of 0.3 µs."""


class _ReadTemplate(NamedTuple):
    """How to read messages of one layout.

    Everything but the values is compared at once, as one number. What is compared is the same in all messages of the
    layout; so is what it means, and those fields of the entry are constants.
    """

    compared: int
    expected: int
    change: Change
    unpack: Callable[[Any, int], tuple[Any, ...]]
    constants: tuple[Any, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    """From the values and the constants behind them to the order of an entry's fields."""

    @classmethod
    def learn(cls, message: bytes, event: Event) -> Self | None:
        """A template for messages like this one; None for those with rare, composite attributes."""
        change, entry = event
        if entry.master or entry.original_adjustment or entry.reply_adjustment:
            return None
        compared = bytearray(len(message) * b"\xff")
        compared[slice(*_VOLATILE)] = bytes(8)
        layout, end, fields = "=", 0, []
        for path, first, last in ctnetlink.leaves(message, ctnetlink.HEADERS_SIZE, len(message)):
            leaf = LEAVES.get(path)
            if leaf and (leaf.field not in ConntrackEntry._fields or not leaf.layout):
                continue
            compared[first : aligned(last)] = bytes(len(compared[first : aligned(last)]))
            if leaf:
                layout += f"{first - end}x{leaf.layout}"
                end = first + struct.calcsize(f"={leaf.layout}")
                fields.append(leaf.field)
        constants = [field for field in ConntrackEntry._fields if field not in fields]
        order = [*fields, *constants].index
        mask = int.from_bytes(compared, "little")
        return cls(
            mask,
            int.from_bytes(message, "little") & mask,
            change,
            struct.Struct(layout.replace("=", "!")).unpack_from,
            tuple(getattr(entry, field) for field in constants),
            itemgetter(*map(order, ConntrackEntry._fields)),
        )


class Reader:
    """Reads events and entries of dumps. It keeps the templates that it has learned."""

    def __init__(self) -> None:
        self._templates: dict[int, list[_ReadTemplate]] = {}
        self._learned = 0

    def read(self, data: bytes | memoryview, spans: Iterable[tuple[int, int]]) -> list[Event]:
        """The messages at these (offset, length) in data. Raise DecodeError if one is none, or no conntrack message."""
        events: list[Event] = []
        append, number, templates = events.append, int.from_bytes, self._templates
        for offset, length in spans:
            message = number(data[offset : offset + length], "little")
            for compared, expected, change, unpack, constants, pick in templates.get(length, ()):
                if message & compared == expected:
                    append((change, _entry(pick(unpack(data, offset) + constants))))
                    break
            else:
                append(self._read(bytes(data[offset : offset + length])))
        return events

    def _read(self, message: bytes) -> Event:
        event = ctnetlink.read(message)
        same_length = self._templates.setdefault(len(message), [])
        if self._learned < _TEMPLATES_MAX and len(same_length) < _SAME_LENGTH_MAX:
            template = _ReadTemplate.learn(message, event)
            if template:
                same_length.append(template)
                self._learned += 1
        return event
