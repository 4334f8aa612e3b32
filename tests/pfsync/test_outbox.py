"""What waits to be told: the transitions between its queues, and what packets are made of it. Ref: spec pfsync §7.2."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.outbox import ENOUGH, MERGE_NS, Outbox
from carpd.pfsync.packer import Parcel
from carpd.wire.conntrack import ASSURED, CONFIRMED, SEEN_REPLY, TCP, TcpState
from carpd.wire.pfsync.batches import (
    CompressedDeletes,
    CompressedUpdates,
    InsertAcknowledgements,
    Inserts,
    Resends,
    Updates,
)
from carpd.wire.pfsync.linux_messages import Resend
from carpd.wire.pfsync.messages import IDENTITY_SIZE
from carpd.wire.pfsync.packet import Packet
from tests.pfsync.node import flow

SPACE = 1460
IDENTITY = bytes(7) + b"\x02" + b"\x55" * 4
NEW, ANSWERED = flow(), flow(status=CONFIRMED | SEEN_REPLY)
MARKED = ANSWERED._replace(mark=7)

EVENTS: dict[str, Callable[[Outbox], None]] = {
    "created": lambda outbox: outbox.insert(IDENTITY, NEW),
    "changed": lambda outbox: outbox.update(IDENTITY, ANSWERED),
    "changed beyond pf": lambda outbox: outbox.update(IDENTITY, MARKED),
    "asked for": lambda outbox: outbox.full(IDENTITY, ANSWERED),
    "deleted": lambda outbox: outbox.delete(IDENTITY),
    "deleted by a peer": lambda outbox: outbox.forget(IDENTITY),
    "inserted by a peer that waits": lambda outbox: outbox.acknowledge(IDENTITY),
}
QUEUES = {
    "none": (),
    "IACK": ("inserted by a peer that waits",),
    "UPD_C": ("changed",),
    "UPD": ("asked for",),
    "INS": ("created",),
    "DEL": ("deleted",),
}
"""How a state gets into each queue."""
COLUMNS = ("none", "IACK", "UPD_C", "UPD", "INS", "DEL")
TRANSITIONS = {
    "created": ("INS", None, None, None, None, None),
    "changed": ("UPD_C", "INS_ACK UPD_C", "UPD_C", "UPD", "INS", None),
    "changed beyond pf": ("UPD", "INS_ACK UPD", "UPD", "UPD", "INS", None),
    "asked for": ("UPD", "INS_ACK UPD", "UPD", "UPD", "INS", None),
    "deleted": ("DEL_C", "INS_ACK DEL_C", "DEL_C", "DEL_C", "", "DEL_C"),
    "deleted by a peer": ("", "INS_ACK", "", "", "", "DEL_C"),
    "inserted by a peer that waits": ("INS_ACK", None, "INS_ACK UPD_C", "INS_ACK UPD", None, None),
}
"""What is told in the end. None: a state that is in this queue does not meet with this."""
CASES = [
    pytest.param(event, queue, told, id=f"{event}, in {queue}")
    for event, row in TRANSITIONS.items()
    for queue, told in zip(COLUMNS, row, strict=True)
    if told is not None
]


def filled(queue: str) -> Outbox:
    outbox = Outbox(128)
    for event in QUEUES[queue]:
        EVENTS[event](outbox)
    return outbox


def packed(outbox: Outbox, space: int = SPACE) -> list[Parcel]:
    return list(outbox.pack(space))


def told(outbox: Outbox) -> str:
    return " ".join(batch.action for parcel in packed(outbox) for batch in parcel.batches if batch.action != "LINUX")


def test_every_event_is_in_the_table() -> None:
    assert TRANSITIONS.keys() == EVENTS.keys()
    assert tuple(QUEUES) == COLUMNS


@pytest.mark.parametrize(("event", "queue", "expected"), CASES)
def test_transitions(event: str, queue: str, expected: str) -> None:
    outbox = filled(queue)
    EVENTS[event](outbox)
    assert told(outbox) == expected


@pytest.mark.parametrize("queue", ["none", "UPD_C", "UPD", "INS"])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_newest_is_told(queue: str, labelled: bool) -> None:
    """Many changes cost one message, and what only an earlier one told is not lost."""
    outbox = filled(queue)
    if labelled:
        outbox.full(IDENTITY, ANSWERED._replace(labels=b"\x01" * 16))
    outbox.update(IDENTITY, flow(status=CONFIRMED | SEEN_REPLY | ASSURED))
    (parcel,) = packed(outbox)
    messages = [batch.messages for batch in parcel.batches if isinstance(batch, Inserts | Updates | CompressedUpdates)]
    ((message,),) = messages
    assert (message.src.state, message.dst.state) == (2, 2)
    assert any(batch.action == "LINUX" for batch in parcel.batches) == labelled


def test_an_event_that_tells_no_state_takes_none_away() -> None:
    """As the kernel's of a new mark."""
    outbox = Outbox(128)
    established = flow(TCP, state=TcpState.ESTABLISHED, status=CONFIRMED | SEEN_REPLY | ASSURED)
    outbox.full(IDENTITY, established)
    outbox.full(IDENTITY, established._replace(state=None, mark=5))
    assert told(outbox) == "UPD"


# When it must leave


def test_nothing_is_never_due() -> None:
    assert not Outbox(1).is_due(0)


def test_a_change_waits_for_others_a_second_at_the_most() -> None:
    outbox = filled("UPD_C")
    assert [outbox.is_due(now) for now in (5, 5 + MERGE_NS - 1, 5 + MERGE_NS)] == [False, False, True]


@pytest.mark.parametrize("maxupd", [2, 3, 128])
def test_so_many_changes_of_a_state_are_merged(maxupd: int) -> None:
    outbox, due = Outbox(maxupd), []
    for _ in range(maxupd):
        outbox.update(IDENTITY, ANSWERED)
        due.append(outbox.is_due(0))
    assert due == [False] * (maxupd - 1) + [True]


def test_whoever_waits_is_answered_now() -> None:
    assert filled("IACK").is_due(0)


def test_packets_that_are_full_need_not_wait() -> None:
    outbox = Outbox(128)
    for number in range(ENOUGH):
        assert not outbox.is_due(0)
        outbox.insert(number.to_bytes(8, "big") + b"\x55" * 4, NEW)
    assert outbox.is_due(0)


# Packets

_IDENTITIES = st.integers(0, 40).map(lambda number: (2 * number).to_bytes(8, "big") + b"\x55" * 4)
_STEPS = st.lists(st.tuples(st.sampled_from(("insert", "update", "full", "delete", "mark")), _IDENTITIES), max_size=120)


@given(_STEPS, st.sampled_from((400, 548, SPACE)))
def test_packets_are_never_too_long_and_tell_each_state_once(steps: list[tuple[str, bytes]], space: int) -> None:
    outbox = Outbox(128)
    ended, begun = set[bytes](), set[bytes]()
    for action, identity in steps:
        if identity in ended or (action == "insert" and identity in begun):
            continue
        begun.add(identity)
        entry = flow(source_port=identity[7])._replace(mark=9 if action == "mark" else 0)
        match action:
            case "insert":
                outbox.insert(identity, entry)
            case "update" | "mark":
                outbox.update(identity, entry)
            case "full":
                outbox.full(identity, entry)
            case "delete":
                outbox.delete(identity)
                ended.add(identity)
    waiting = len(outbox)
    parcels = packed(outbox, space)
    about = b"".join(parcel.identities for parcel in parcels)
    identities = [about[start : start + IDENTITY_SIZE] for start in range(0, len(about), IDENTITY_SIZE)]
    assert len(identities) == len(set(identities)) == waiting
    for parcel in parcels:
        encoded = Packet(6, parcel.batches).to_bytes()
        assert len(encoded) <= 20 + space
        assert Packet.from_bytes(encoded).batches, "no packet is empty"


def test_the_order_in_a_packet() -> None:
    """What ends comes before what begins: it may be the same flow."""
    outbox = Outbox(128)
    numbered = [number.to_bytes(8, "big") + b"\x55" * 4 for number in range(1, 6)]
    outbox.told_again(Resend(b"\x55" * 4, 1, 1))
    outbox.full(numbered[0], NEW)
    outbox.insert(numbered[1], NEW)
    outbox.delete(numbered[2])
    outbox.update(numbered[3], NEW)
    outbox.acknowledge(numbered[4])
    (parcel,) = packed(outbox)
    kinds = [InsertAcknowledgements, CompressedUpdates, CompressedDeletes, Inserts, Updates, Resends]
    assert [type(batch) for batch in parcel.batches] == kinds
    assert parcel.identities == b"".join(numbered[number] for number in (3, 2, 1, 0))
