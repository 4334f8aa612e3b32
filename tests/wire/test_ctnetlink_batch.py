"""The fast way and the long way are one: same entries, same requests, same errors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import ctnetlink, ctnetlink_batch
from carpd.wire.conntrack import ConntrackEntry, Flow, flow_key, unpack_flow_key
from carpd.wire.ctnetlink import Change, Event
from carpd.wire.ctnetlink_batch import Reader, Writer
from carpd.wire.netlink import Message
from tests.wire.conntrack_kernel import entries, kernel_message
from tests.wire.test_ctnetlink import PING, TCP

SLOT = 1024

changes = st.sampled_from(Change)
messages = st.builds(kernel_message, changes, entries(), dump=st.booleans(), extras=st.booleans())


def unmarked(entry: ConntrackEntry) -> ConntrackEntry:
    """As it is told to the kernel to leave the mark alone."""
    return entry._replace(mark=None)


def read(reader: Reader, batch: Sequence[bytes]) -> list[Event]:
    """Messages in slots, and junk between them."""
    data = b"".join(message.ljust(SLOT, b"\xa5") for message in batch)
    return reader.read(data, [(i * SLOT, len(message)) for i, message in enumerate(batch)])


@given(st.lists(messages, max_size=8))
def test_reading(batch: list[bytes]) -> None:
    reader = Reader()
    expected = [ctnetlink.read(message) for message in batch]
    for _ in range(2):  # the second time with all templates learned
        assert read(reader, batch) == expected


@given(messages, st.data())
def test_reading_what_is_almost_known(message: bytes, data: st.DataObject) -> None:
    """A template reads nothing in another way than the attributes say, whichever bytes differ."""
    reader = Reader()
    read(reader, [message])
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(16, len(message) - 1))] = data.draw(st.integers(0, 255))
    for other in (bytes(changed), message):
        try:
            expected = ctnetlink.read(other)
        except DecodeError:
            with pytest.raises(DecodeError):
                read(reader, [other])
        else:
            assert read(reader, [other]) == [expected]


@given(entries(rare=False), entries(rare=False), st.booleans())
def test_one_message_is_enough_to_learn(entry: ConntrackEntry, other: ConntrackEntry, dump: bool) -> None:
    """A message of the same layout with quite other values is not walked through."""
    same_layout = entry._replace(
        source_port=entry.source_port ^ 1,
        reply_destination=bytes(len(entry.source)),
        id=other.id,
        status=other.status,
        timeout=other.timeout if entry.timeout is not None and other.timeout is not None else entry.timeout,
        mark=other.mark or 1 if entry.mark else 0,
    )
    if entry.protocol == 50:
        same_layout = same_layout._replace(source_port=0)
    change = Change.UPDATE
    reader = Reader()
    read(reader, [kernel_message(change, entry, dump=dump)])
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(ctnetlink, "read")
        assert read(reader, [kernel_message(change, same_layout, dump=dump)]) == [(change, same_layout)]


@given(st.lists(entries() | entries().map(unmarked), max_size=8), st.integers(1, 0xFFFFFF00))
def test_writing(batch: list[ConntrackEntry], first: int) -> None:
    writer = Writer()
    keys = [flow_key(entry) for entry in batch]
    flows = [Flow(*unpack_flow_key(key)) for key in keys]
    seconds = [entry.id for entry in batch]

    def joined(requests: Sequence[Message]) -> bytes:
        return b"".join(request._replace(sequence=first + i).to_bytes() for i, request in enumerate(requests))

    for _ in range(2):
        for fast, slow in ((writer.insert, ctnetlink.insert), (writer.update, ctnetlink.update)):
            assert fast(batch, first) == joined([*map(slow, batch)])
        assert writer.delete(keys, first) == joined([*map(ctnetlink.delete, flows)])
        assert writer.loosen(keys, first) == joined([*map(ctnetlink.loosen, flows)])
        assert writer.get(keys, first) == joined([*map(ctnetlink.get, flows)])
        told = [*map(ctnetlink.set_timeout, flows, seconds)]
        assert writer.set_timeouts([*zip(keys, seconds, strict=True)], first) == joined(told)


def test_templates_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends odd packets can't fill our memory: the rest goes the long way."""
    monkeypatch.setattr(ctnetlink_batch, "_TEMPLATES_MAX", 3)
    reader, writer = Reader(), Writer()
    pings = [PING._replace(destination_port=p, reply_source_port=p, zone=p) for p in range(128 << 8, (128 << 8) + 9)]
    for ping in pings:
        assert read(reader, [kernel_message(Change.NEW, ping)]) == [(Change.NEW, ping)]
        assert writer.insert([ping], 0) == ctnetlink.insert(ping).to_bytes()
    assert sum(map(len, reader._templates.values())) == 3
    assert len(writer._inserts) == 3
    assert read(reader, [kernel_message(Change.NEW, TCP)]) == [(Change.NEW, TCP)]


def test_nothing() -> None:
    assert Reader().read(b"", []) == []
    writer = Writer()
    assert writer.insert([], 1) == writer.set_timeouts([], 1) == writer.delete([], 1) == b""
