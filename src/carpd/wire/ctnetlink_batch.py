"""Conntrack messages by the hundred: read and written by templates, one for each layout of a message.

`ctnetlink` walks a message attribute by attribute, 10 µs each. Messages of one layout differ only in the values that
their attributes hold, in fixed places. So the walk is done once for each layout; it leaves a template that knows which
bytes are values and which must be as they were, and takes a fraction of a microsecond. A message that no template fits
goes the long way, and leaves a template for the next one.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple, Self

from carpd.wire import conntrack, ctnetlink
from carpd.wire.conntrack import ConntrackEntry, Flow, unpack_flow_key
from carpd.wire.ctnetlink import Change, Event
from carpd.wire.ctnetlink_attributes import HEADERS_SIZE, LEAVES, WRITTEN, leaves
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
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    """From the values and the constants behind them to the order of an entry's fields; None if it is that already."""

    @classmethod
    def learn(cls, message: bytes, event: Event) -> Self | None:
        """A template for messages like this one; None for those with composite attributes, which are rare."""
        change, entry = event
        if entry.master or entry.original_adjustment or entry.reply_adjustment:
            return None
        compared = bytearray(len(message) * b"\xff")
        compared[slice(*_VOLATILE)] = bytes(8)
        layout, end, fields = "=", 0, []
        for path, first, last in leaves(message, HEADERS_SIZE, len(message)):
            leaf = LEAVES.get(path)
            if leaf and (leaf.field not in ConntrackEntry._fields or not leaf.layout):
                continue
            compared[first : aligned(last)] = bytes(len(compared[first : aligned(last)]))
            if leaf:
                layout += f"{first - end}x{leaf.layout}"
                end = first + struct.calcsize(f"={leaf.layout}")
                fields.append(leaf.field)
        if len(set(fields)) < len(fields):  # said twice: the kernel does not do that
            return None
        constants = [field for field in ConntrackEntry._fields if field not in fields]
        row = (*fields, *constants)
        mask = int.from_bytes(compared, "little")
        return cls(
            mask,
            int.from_bytes(message, "little") & mask,
            change,
            struct.Struct(layout.replace("=", "!")).unpack_from,
            tuple(getattr(entry, field) for field in constants),
            None if row == ConntrackEntry._fields else itemgetter(*map(row.index, ConntrackEntry._fields)),
        )


class Reader:
    """Reads events and entries of dumps. It keeps the templates that it has learned."""

    def __init__(self) -> None:
        self._templates: dict[int, list[_ReadTemplate]] = {}
        self._learned = 0

    def read(self, data: bytes, spans: Iterable[tuple[int, int]]) -> list[Event]:
        """The messages at these (offset, length) in data. Raise DecodeError if one is none, or no conntrack message."""
        events: list[Event] = []
        append, number, templates = events.append, int.from_bytes, self._templates
        for offset, length in spans:
            message = number(data[offset : offset + length], "little")
            for compared, expected, change, unpack, constants, pick in templates.get(length, ()):
                if message & compared == expected:
                    row = unpack(data, offset) + constants
                    append((change, _entry(pick(row) if pick else row)))
                    break
            else:
                append(self._read(data[offset : offset + length]))
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


class _WriteTemplate(NamedTuple):
    """How to write requests of one layout: its fixed bytes, and how the values are sorted in between."""

    fixed: tuple[bytes, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    pack: Callable[..., bytes]

    @classmethod
    def learn(cls, message: bytes, fields: Sequence[str]) -> Self:
        """A template for requests like this one, from rows of these fields and the fixed bytes behind them."""
        layout, end = "!", 0
        fixed: list[bytes] = []
        order: list[int] = []

        def put(field: str, start: int, code: str) -> None:
            nonlocal layout, end
            layout += f"{start - end}s{code}"
            order.extend((len(fields) + len(fixed), fields.index(field)))
            fixed.append(message[end:start])
            end = start + struct.calcsize(f"!{code}")

        put(_SEQUENCE, _VOLATILE[0], "4s")
        for path, first, _ in leaves(message, HEADERS_SIZE, len(message)):
            leaf = WRITTEN.get(path)
            # The protocol decides on the layout, as do type and code of an ICMP query.
            if leaf and leaf.field in fields and leaf.field != "protocol":
                put(leaf.field, first, leaf.layout)
        order.append(len(fields) + len(fixed))
        fixed.append(message[end:])
        return cls(tuple(fixed), itemgetter(*order), struct.Struct(f"{layout}{len(message) - end}s").pack)


_SEQUENCE = "sequence"
_ENTRY_ROW = (_SEQUENCE, "status", "original_flags", "reply_flags", *ConntrackEntry._fields)
"""What a request is written from: the first four are told in another way than the entry says."""
_FLOW_ROW = (_SEQUENCE, *Flow._fields)
_TIMEOUT_ROW = (*_FLOW_ROW, "timeout")
_QUERIES = frozenset((conntrack.ICMP, conntrack.ICMPV6))


class Writer:
    """Writes requests, as `ctnetlink` does, numbered one by one. It keeps the templates that it has learned."""

    def __init__(self) -> None:
        self._inserts: dict[object, _WriteTemplate] = {}
        self._updates: dict[object, _WriteTemplate] = {}
        self._timeouts: dict[object, _WriteTemplate] = {}
        self._loosens: dict[object, _WriteTemplate] = {}
        self._deletes: dict[object, _WriteTemplate] = {}
        self._gets: dict[object, _WriteTemplate] = {}

    def insert(self, entries: Sequence[ConntrackEntry], first: int) -> bytes:
        """`ctnetlink.insert` for each entry; the sequence numbers begin with `first`."""
        mask, gre_status = ~ctnetlink.UNTOLD, conntrack.FIXED_TIMEOUT
        return self._entries(entries, first, self._inserts, ctnetlink.insert, mask, gre_status)

    def update(self, entries: Sequence[ConntrackEntry], first: int) -> bytes:
        """`ctnetlink.update` for each entry; the sequence numbers begin with `first`."""
        return self._entries(entries, first, self._updates, ctnetlink.update, ~conntrack.DYING, 0)

    def set_timeouts(self, timeouts: Sequence[tuple[bytes, int]], first: int) -> bytes:
        """`ctnetlink.set_timeout` for each (`flow_key`, seconds); the sequence numbers begin with `first`."""
        keys = [key for key, _ in timeouts]
        told = [(seconds,) for _, seconds in timeouts]
        return self._named(keys, told, first, self._timeouts, ctnetlink.set_timeout, _TIMEOUT_ROW)

    def loosen(self, keys: Sequence[bytes], first: int) -> bytes:
        """`ctnetlink.loosen` for each `flow_key`; the sequence numbers begin with `first`."""
        return self._named(keys, repeat((), len(keys)), first, self._loosens, ctnetlink.loosen, _FLOW_ROW)

    def delete(self, keys: Sequence[bytes], first: int) -> bytes:
        """`ctnetlink.delete` for each `flow_key`; the sequence numbers begin with `first`."""
        return self._named(keys, repeat((), len(keys)), first, self._deletes, ctnetlink.delete, _FLOW_ROW)

    def get(self, keys: Sequence[bytes], first: int) -> bytes:
        """`ctnetlink.get` for each `flow_key`; the sequence numbers begin with `first`."""
        return self._named(keys, repeat((), len(keys)), first, self._gets, ctnetlink.get, _FLOW_ROW)

    def _named(
        self,
        keys: Sequence[bytes],
        values: Iterable[tuple[int, ...]],
        first: int,
        templates: dict[object, _WriteTemplate],
        write: Callable[..., Message],
        row: Sequence[str],
    ) -> bytes:
        """A request for each flow key, with what else `write` is told of it."""
        requests = []
        for key, told, (sequence,) in zip(keys, values, _sequences(first, len(keys)), strict=True):
            flow = unpack_flow_key(key)
            _, _, protocol, _, destination_port, zone = flow
            layout = (len(key), protocol, destination_port if protocol in _QUERIES else 0, zone != 0)
            template = templates.get(layout)
            if template is None:
                template = _WriteTemplate.learn(write(Flow(*flow), *told).to_bytes(), row)
                _keep(templates, layout, template)
            requests.append(template.pack(*template.pick((sequence, *flow, *told, *template.fixed))))
        return b"".join(requests)

    def _entries(
        self,
        entries: Sequence[ConntrackEntry],
        first: int,
        templates: dict[object, _WriteTemplate],
        write: Callable[[ConntrackEntry], Message],
        status_mask: int,
        gre_status: int,
    ) -> bytes:
        requests = []
        for entry, (sequence,) in zip(entries, _sequences(first, len(entries)), strict=True):
            # All of it at once, because attributes one by one take longer.
            (
                source, destination, protocol, source_port, destination_port,
                reply_source, reply_destination, reply_source_port, reply_destination_port,
                _, status, timeout, state, _, _, original_flags, reply_flags, mark, _, _,
                zone, original_zone, reply_zone, labels, helper, master, original_adjustment, reply_adjustment,
            ) = entry  # fmt: skip
            if master or original_adjustment or reply_adjustment:
                requests.append(write(entry)._replace(sequence=_number(sequence)).to_bytes())
                continue
            layout = (
                len(source),
                protocol,
                destination_port if protocol in _QUERIES else 0,
                reply_destination == source and reply_destination_port == source_port,
                reply_source == destination and reply_source_port == destination_port,
                timeout is None,
                state is None,
                mark is None,
                (zone != 0, original_zone != 0, reply_zone != 0, labels is None, helper)
                if zone or original_zone or reply_zone or labels or helper
                else None,
            )
            template = templates.get(layout)
            if template is None:
                template = _WriteTemplate.learn(write(entry).to_bytes(), _ENTRY_ROW)
                _keep(templates, layout, template)
            status = status & status_mask | conntrack.CONFIRMED
            if protocol == conntrack.TCP:
                original_flags |= conntrack.LIBERAL
                reply_flags |= conntrack.LIBERAL
            elif protocol == conntrack.GRE:
                status |= gre_status
            told = (sequence, status, original_flags, reply_flags)
            requests.append(template.pack(*template.pick(told + entry + template.fixed)))
        return b"".join(requests)


def _keep(templates: dict[object, _WriteTemplate], layout: object, template: _WriteTemplate) -> None:
    if len(templates) < _TEMPLATES_MAX:
        templates[layout] = template


def _sequences(first: int, count: int) -> Iterator[tuple[bytes]]:
    """Consecutive sequence numbers in the machine's byte order; the rest of a request is in the network's."""
    return struct.iter_unpack("4s", struct.pack(f"={count}I", *range(first, first + count)))


def _number(sequence: bytes) -> int:
    return int.from_bytes(sequence, sys.byteorder)
