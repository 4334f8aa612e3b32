"""Packets that are held until the peers know their connections: the machine, who holds, and who answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync import mapping
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.deferral import HELD_MAX, LIMIT_NS, Deferral, Insertions
from carpd.pfsync.effects import (
    Effect,
    FetchEntries,
    InsertEntries,
    LoosenEntries,
    ReleasePackets,
    SendPackets,
    SetTimeouts,
    UpdateEntries,
)
from carpd.pfsync.events import (
    EntriesFetched,
    Frame,
    LinkChanged,
    PacketsDeferred,
    PacketsReceived,
    RoleChanged,
    TableChanged,
)
from carpd.pfsync.peers import LOST_NS, SILENT_NS
from carpd.pfsync.timeouts import HOLD
from carpd.units import MILLISECOND, SECOND
from carpd.wire import ctnetlink
from carpd.wire.conntrack import (
    ASSURED,
    CONFIRMED,
    LIBERAL,
    SEEN_REPLY,
    TCP,
    UDP,
    ConntrackEntry,
    TcpState,
    flow_key,
)
from carpd.wire.pfsync.batches import (
    AnyBatch,
    CompressedDeletes,
    CompressedUpdates,
    Digests,
    InsertAcknowledgements,
    Inserts,
    PackedStates,
    Reports,
    Sequences,
    Updates,
)
from carpd.wire.pfsync.linux_messages import ACKNOWLEDGE, CARRYING, COMPLETE, PacketNumber, Report
from carpd.wire.pfsync.numbers import ACK, Dialect
from carpd.wire.pfsync.packet import Packet
from tests.pfsync.node import OURS, Node, flow

THEIRS, OTHERS = b"\x0a" * 4, b"\x0b" * 4
ONE: Frame = (1, 0, b"one")
OTHER: Frame = (2, 5, b"other")
BSDS = list(Dialect)
SYN_RECV = CONFIRMED | SEEN_REPLY
ESTABLISHED = SYN_RECV | ASSURED


def frames(count: int, first: int = 0) -> list[Frame]:
    return [(7, 0, b"%d" % number) for number in range(first, first + count)]


# The machine


class Counted(NamedTuple):
    """What has become of the frames: released in the order of these."""

    acknowledged: int = 0
    too_many: int = 0
    too_long: int = 0


class Case(NamedTuple):
    """So many frames wait for number 5; what is released at a time, with this number acknowledged."""

    held: int
    after_ns: int
    acknowledged: int | None
    counted: Counted


NOTHING = Counted()
CASES = {
    "nothing held": Case(0, LIMIT_NS, 9, NOTHING),
    "not yet": Case(3, LIMIT_NS - 1, 4, NOTHING),
    "acknowledged": Case(3, 1, 5, Counted(acknowledged=3)),
    "acknowledged before": Case(3, 0, 9, Counted(acknowledged=3)),
    "nobody to wait for": Case(3, 0, None, Counted(acknowledged=3)),
    "too long": Case(3, LIMIT_NS, 4, Counted(too_long=3)),
    "too long, and acknowledged": Case(3, LIMIT_NS, 5, Counted(acknowledged=3)),
    "as many as there may be": Case(HELD_MAX, 0, 4, NOTHING),
    "too many": Case(HELD_MAX + 2, 0, 4, Counted(too_many=2)),
    "too many, and too long": Case(HELD_MAX + 2, LIMIT_NS, 4, Counted(too_many=2, too_long=HELD_MAX)),
    "too many, but acknowledged": Case(HELD_MAX + 2, 0, 5, Counted(acknowledged=HELD_MAX + 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_released(case: Case) -> None:
    counters = PfsyncCounters()
    deferral = Deferral(counters)
    deferral.hold(0, frames(case.held), 5)
    assert deferral.deadline == (LIMIT_NS if case.held else None)
    assert deferral.release(case.after_ns, case.acknowledged) == frames(sum(case.counted))
    assert len(deferral) == case.held - sum(case.counted)
    assert counters.deferred == case.held
    assert (counters.undeferred, counters.defer_overflows, counters.defer_timeouts) == case.counted


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 3) | st.integers(0, 2 * HELD_MAX),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 2 * LIMIT_NS),
    )
)
"""Frames that come, what is told before them, what is acknowledged of that, time that passes."""


@given(_STEPS)
def test_nothing_is_held_too_long_or_overtakes(steps: list[tuple[int, int, int, int]]) -> None:
    counters = PfsyncCounters()
    deferral = Deferral(counters)
    now = told = acknowledged = come = 0
    waiting: list[tuple[Frame, int, int]] = []
    for count, more, confirmed, passed in steps:
        told += more
        arrived = frames(count, come)
        come += count
        waiting += [(frame, told, now) for frame in arrived]
        deferral.hold(now, arrived, told)
        released = deferral.release(now, acknowledged)
        now += passed
        acknowledged = min(told, acknowledged + confirmed)
        released += deferral.release(now, acknowledged)
        assert released == [frame for frame, _, _ in waiting[: len(released)]]
        del waiting[: len(released)]
        assert len(deferral) == len(waiting) <= HELD_MAX
        assert all(number > acknowledged and now < since + LIMIT_NS for _, number, since in waiting)
        assert deferral.deadline == (waiting[0][2] + LIMIT_NS if waiting else None)
    left = counters.undeferred + counters.defer_overflows + counters.defer_timeouts
    assert counters.deferred == come == left + len(waiting)


def test_inserts_are_numbered_until_nobody_would_wait_for_them() -> None:
    insertions = Insertions()
    assert insertions.acknowledged(0) == insertions.last == 0
    insertions.told(0, [b"a", b"b"])
    insertions.told(1, [b"c"])
    assert (insertions.last, insertions.acknowledged(1)) == (3, 0)
    insertions.acknowledge([b"b", b"unknown"])
    assert insertions.acknowledged(1) == 0, "the first is missing"
    insertions.acknowledge([b"a"])
    assert insertions.acknowledged(1) == 2
    insertions.told(2, [b"c"])
    assert (insertions.last, insertions.acknowledged(2)) == (4, 3), "it was told again"
    assert insertions.acknowledged(LIMIT_NS + 1) == 3
    assert insertions.acknowledged(LIMIT_NS + 2) == 4


# Between Linux nodes: who holds


def report(received: int, *, reporter: bytes = THEIRS) -> Reports:
    """A peer has so many of our packets."""
    return Reports([Report(reporter, OURS, received, 0, 0, CARRYING | COMPLETE)])


def numbers(batches: Iterable[AnyBatch]) -> list[PacketNumber]:
    return [number for batch in batches if isinstance(batch, Sequences) for number in batch.messages]


@pytest.fixture
def node() -> Node:
    """It carries traffic, defers, and has a peer that has all so far."""
    node = Node(carrying=True, defer=True)
    node.hear(report(max(1, node.engine.sent.last)))
    node.said()
    return node


def test_a_packet_waits_for_its_state(node: Node) -> None:
    """In its own time, and not in that of digests, which say nothing of it."""
    node.opens(flow())
    (number,) = numbers(node.said())
    assert number.flags == ACKNOWLEDGE
    assert node.holds(ONE) == []
    node.hear(report(number.number - 1))
    assert node.released == []
    node.hear(report(number.number))
    assert node.released == [ONE]
    assert (node.engine.counters.deferred, node.engine.counters.undeferred) == (1, 1)
    assert node.holds(OTHER) == [OTHER], "its state was told and acknowledged before"


def test_it_waits_for_nothing_that_is_told_later(node: Node) -> None:
    node.opens(flow())
    node.holds(ONE)
    first = node.engine.sent.last_state
    node.opens(flow(source_port=40001))
    node.holds(OTHER)
    node.released.clear()
    node.hear(report(first))
    assert node.released == [ONE]
    node.hear(report(node.engine.sent.last_state))
    assert node.released == [ONE, OTHER]


def test_what_waits_to_be_told_is_told_at_once(node: Node) -> None:
    """It would wait for more that is about to be heard."""
    node.handle(TableChanged([(ctnetlink.Change.NEW, flow()._replace(id=1))], more=True))
    assert node.said() == []
    assert node.holds(ONE) == []
    (number,) = numbers(node.said())
    node.hear(report(number.number))
    assert node.released == [ONE]


def test_all_peers_must_have_it(node: Node) -> None:
    node.hear(report(1, reporter=OTHERS), source="other")
    node.opens(flow())
    node.holds(ONE)
    node.hear(report(node.engine.sent.last))
    assert node.released == []
    node.hear(report(node.engine.sent.last, reporter=OTHERS), source="other")
    assert node.released == [ONE]


def test_a_peer_that_has_never_heard_us_is_not_waited_for() -> None:
    node = Node(carrying=True, defer=True)
    assert not node.engine.may_defer(node.now)
    node.opens(flow())
    assert node.holds(ONE) == [ONE], "there is no peer"
    node.hear(report(0))
    assert not node.engine.may_defer(node.now)
    assert node.holds(OTHER) == [OTHER]
    node.hear(report(node.engine.sent.last))
    assert node.engine.may_defer(node.now)


def test_a_peer_that_falls_silent_is_waited_for_no_longer(node: Node) -> None:
    node.sleep(SILENT_NS - 1)
    node.opens(flow())
    node.holds(ONE)
    assert node.engine.may_defer(node.now)
    node.sleep(2)
    node.sleep(SECOND)  # nobody looks more often
    assert node.released == [ONE]
    assert not node.engine.may_defer(node.now)
    node.sleep(LOST_NS)
    assert node.holds(OTHER) == [OTHER]


def test_a_packet_waits_no_longer_than_20_ms(node: Node) -> None:
    node.opens(flow())
    node.holds(ONE)
    assert node.engine.deadline is not None
    assert node.engine.deadline <= node.now + LIMIT_NS
    node.sleep(LIMIT_NS - 1)
    assert node.released == []
    node.sleep(1)
    assert node.released == [ONE]
    assert node.engine.counters.defer_timeouts == 1


def test_the_oldest_of_too_many_go(node: Node) -> None:
    node.opens(flow())
    assert node.holds(*frames(HELD_MAX)) == []
    assert node.holds(ONE, OTHER) == frames(2)
    assert node.engine.counters.defer_overflows == 2


def test_all_go_when_the_link_goes_down(node: Node) -> None:
    node.opens(flow())
    node.holds(ONE, OTHER)
    node.handle(LinkChanged(False))
    assert node.released == [ONE, OTHER]
    assert not node.engine.may_defer(node.now)
    assert node.holds(ONE) == [ONE]
    node.handle(LinkChanged(True))
    assert node.engine.may_defer(node.now)


def test_only_who_defers_asks_for_answers() -> None:
    for defer, flags in ((False, 0), (True, ACKNOWLEDGE)):
        node = Node(carrying=True, defer=defer)
        node.said()
        node.handle(
            TableChanged([(ctnetlink.Change.NEW, flow(source_port=port)._replace(id=port)) for port in range(1, 21)])
        )
        found = [number.flags for number in numbers(node.said())]
        assert len(found) > 1
        assert found == [0] * (len(found) - 1) + [flags], "the last one of those that leave together"
        node.sleep(SECOND)
        said = node.said()
        assert any(isinstance(batch, Digests) for batch in said)
        assert {number.flags for number in numbers(said)} == {0}


# Between Linux nodes: who answers


def whole(entry: ConntrackEntry, number: int = 2) -> Inserts:
    state = mapping.to_state(number.to_bytes(8, "big") + THEIRS, entry)
    assert state is not None
    return Inserts([state])


def kinds(effects: Iterable[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def test_an_answer_is_given_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new state is in the kernel before the report leaves, and nothing but the flag makes it leave now."""
    node = Node(carrying=True)
    node.hear(Sequences([PacketNumber(THEIRS, 1)]))
    node.sleep(100 * MILLISECOND)
    node.said()
    node.hear(Sequences([PacketNumber(THEIRS, 2)]), whole(flow()))
    assert not any(isinstance(batch, Reports) for batch in node.said())
    packet = Packet(6, [Sequences([PacketNumber(THEIRS, 3, ACKNOWLEDGE)]), whole(flow(source_port=40001), 4)])
    effects = node.engine.handle(node.now, PacketsReceived([("peer", packet.to_bytes())]))
    assert kinds(effects) == [InsertEntries, SendPackets]
    assert isinstance(effects[1], SendPackets)
    (reports,) = Packet.from_bytes(effects[1].packets[0]).batches
    assert isinstance(reports, Reports)
    assert [(told.peer, told.received) for told in reports.messages] == [(THEIRS, 3)]


def update(identity: bytes, status: int, state: TcpState) -> CompressedUpdates:
    told = mapping.to_update(identity, flow(TCP, status=status, state=state))
    assert told is not None
    return CompressedUpdates([told])


def test_an_answer_waits_for_what_has_to_be_looked_up() -> None:
    """The peer has seen the answer to a connection of ours: our kernel must know before the answer to that comes."""
    node = Node(carrying=True)
    key = node.opens(flow(TCP, status=CONFIRMED, state=TcpState.SYN_SENT))
    packet = Packet(
        6, [Sequences([PacketNumber(THEIRS, 1, ACKNOWLEDGE)]), update(node.identity(key), SYN_RECV, TcpState.SYN_RECV)]
    )
    node.said()
    first = node.engine.handle(node.now, PacketsReceived([("peer", packet.to_bytes())]))
    (fetch,) = (effect for effect in first if isinstance(effect, FetchEntries))
    assert SendPackets not in kinds(first)
    # Whatever happens meanwhile, it is not done yet.
    assert SendPackets not in kinds(node.engine.handle(node.now, PacketsDeferred([ONE])))
    assert SendPackets not in kinds(node.engine.handle(node.now, LinkChanged(True)))
    second = node.engine.handle(node.now, EntriesFetched(fetch.purpose, fetch.keys, [node.table[key]]))
    assert kinds(second) == [UpdateEntries, SendPackets, ReleasePackets]


# Windows: each of two hosts sees one direction


@pytest.mark.parametrize("flags", [0, LIBERAL])
def test_the_kernel_is_liberal_about_what_a_peer_sees_too(flags: int) -> None:
    """What is updated is made liberal by that; what needs no update as well."""
    node = Node(carrying=True)
    key = node.opens(flow(TCP, status=CONFIRMED, state=TcpState.SYN_SENT)._replace(original_flags=flags))
    # Our kernel has seen it itself, and we have not heard of that yet.
    node.table[key] = node.table[key]._replace(
        state=TcpState.SYN_RECV, status=SYN_RECV, original_flags=flags, reply_flags=flags
    )
    node.hear(update(node.identity(key), SYN_RECV, TcpState.SYN_RECV))
    assert node.loosened == ([] if flags else [key])


def test_loosening_comes_behind_what_is_inserted_and_updated() -> None:
    node = Node(carrying=True)
    changes = node.engine.sync.changes
    key = flow_key(flow(TCP))
    changes.loosen(key)
    changes.insert(key, flow(TCP))
    assert kinds(changes.take()) == [InsertEntries, LoosenEntries]
    assert changes.take() == []


# What a host carries changes


def errands(effects: Iterable[Effect]) -> tuple[bool, bool]:
    """Whether timeouts are set, and windows forgotten."""
    done = kinds(effects)
    return SetTimeouts in done, LoosenEntries in done


@pytest.mark.parametrize(
    ("carried", "now_carried", "trimmed"),
    [(False, False, False), (False, True, True), (True, True, True)],
    ids=["still nothing", "takes over", "takes a share over"],
)
def test_whoever_takes_over_trims_and_loosens(carried: bool, now_carried: bool, trimmed: bool) -> None:
    """Of several shares one may be taken over from a host that died, while others were carried all the time."""
    node = Node(carrying=carried)
    held = flow(TCP, status=ESTABLISHED, state=TcpState.ESTABLISHED)
    node.hear(report(1))
    node.hear(Sequences([PacketNumber(THEIRS, 1)]), whole(held))
    key = flow_key(held)
    assert node.table[key].timeout == HOLD
    node.handle(RoleChanged(now_carried))
    assert (node.table[key].timeout != HOLD) == trimmed
    assert node.loosened == ([key] if trimmed else [])
    takeovers = [told.takeovers for batch in node.said() if isinstance(batch, Reports) for told in batch.messages]
    assert any(takeovers) == trimmed, "the others learn of it"


def pair() -> tuple[Node, Node]:
    """Two that carry traffic, and know that of each other."""
    one, other = Node(carrying=True), Node(carrying=True, creator_id=THEIRS)
    for node in (one, other):
        node.sleep(SECOND)
    deliver(one, other)
    return one, other


def test_a_copy_of_what_a_living_peer_carries_may_be_trimmed() -> None:
    """It ends here, and the peer, who is told so, tells of it again: it is held as before."""
    one, other = pair()
    key = one.opens(flow(UDP, status=ESTABLISHED))
    deliver(one, other)
    assert other.table[key].timeout == HOLD
    other.handle(RoleChanged(True))
    assert other.table[key].timeout == 120
    deliver(one, other)
    other.ends(key)
    assert any(isinstance(batch, CompressedDeletes) for packet in other.sent for batch in packet.batches)
    deliver(one, other)
    assert one.engine.counters.kept == 1
    assert key in one.table
    assert other.table[key].timeout == HOLD
    assert other.identity(key) == one.identity(key)


def test_a_copy_of_what_nobody_carries_ends_everywhere_when_it_was_trimmed() -> None:
    one, other = pair()
    key = one.opens(flow(UDP, status=ESTABLISHED))
    deliver(one, other)
    one.table[key] = one.table[key]._replace(timeout=HOLD)  # as if a third one had carried it
    other.handle(RoleChanged(True))
    deliver(one, other)
    other.ends(key)
    deliver(one, other)
    assert one.table == other.table == {}


def deliver(one: Node, other: Node) -> None:
    """All that both have to say to each other now."""
    for _ in range(20):
        for sender, receiver in ((one, other), (other, one)):
            packets, sender.sent = sender.sent, []
            for packet in packets:
                receiver.hear_bytes(packet.to_bytes())
        if not one.sent and not other.sent:
            return
    pytest.fail("they go on and on")


# BSDs, who acknowledge inserts


@pytest.fixture(params=BSDS, ids=lambda dialect: dialect.name)
def bsd(request: pytest.FixtureRequest) -> Node:
    """A node that defers, with peers that are BSDs."""
    node = Node(request.param, carrying=True, defer=True)
    node.said()
    return node


def test_both_halves_are_to_be_acknowledged(bsd: Node) -> None:
    """And nothing else is, for no packet waits for it."""
    key = bsd.opens(flow())
    (inserts,) = bsd.said()
    assert isinstance(inserts, Inserts)
    assert [bool(half.flags & ACK) for half in inserts.messages] == [True, True]
    bsd.changes(flow()._replace(mark=1))
    bsd.hear(InsertAcknowledgements([bsd.identity(key)]))
    states = [half for batch in bsd.said() if isinstance(batch, Updates) for half in batch.messages]
    assert not any(half.flags & ACK for half in states)


def half_acknowledged(name: bytes, half: int) -> AnyBatch:
    return InsertAcknowledgements([name[:7] + bytes([name[7] | half]) + name[8:]])


def half_updated(name: bytes, half: int) -> AnyBatch:
    state = mapping.to_update(name[:7] + bytes([name[7] | half]) + name[8:], flow(status=ESTABLISHED))
    assert state is not None
    return CompressedUpdates([state])


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("said", [half_acknowledged, half_updated])
def test_what_a_bsd_says_of_a_half_releases(bsd: Node, said: Callable[[bytes, int], AnyBatch], half: int) -> None:
    name = bsd.identity(bsd.opens(flow()))
    assert bsd.holds(ONE) == []
    bsd.hear(said(name, half))
    assert bsd.released == [ONE]


def test_what_answers_waits_for_nothing(bsd: Node) -> None:
    """A BSD does not acknowledge updates."""
    entry = flow(TCP, status=CONFIRMED, state=TcpState.SYN_SENT)
    name = bsd.identity(bsd.opens(entry))
    bsd.hear(half_acknowledged(name, 0))
    bsd.changes(entry._replace(status=SYN_RECV, state=TcpState.SYN_RECV))
    assert bsd.holds(ONE) == [ONE]


def test_a_bsd_that_does_not_answer(bsd: Node) -> None:
    """It may not be there, or not want the state: that costs others of the same time nothing more."""
    assert bsd.engine.may_defer(bsd.now)
    bsd.opens(flow())
    assert bsd.holds(ONE) == []
    bsd.sleep(LIMIT_NS // 2)
    name = bsd.identity(bsd.opens(flow(source_port=40001)))
    assert bsd.holds(OTHER) == []
    bsd.hear(half_acknowledged(name, 0))
    assert bsd.released == []
    bsd.sleep(LIMIT_NS // 2)
    assert bsd.released == [ONE, OTHER]
    assert (bsd.engine.counters.defer_timeouts, bsd.engine.counters.undeferred) == (0, 2)


def test_without_a_link_no_bsd_is_waited_for(bsd: Node) -> None:
    bsd.opens(flow())
    bsd.holds(ONE)
    bsd.handle(LinkChanged(False))
    assert bsd.released == [ONE]


def test_who_does_not_defer_wants_no_acknowledgements() -> None:
    node = Node(Dialect.OPENBSD, carrying=True)
    node.opens(flow())
    states = [half for batch in node.said() if isinstance(batch, Inserts | PackedStates) for half in batch.messages]
    assert len(states) == 2
    assert not any(half.flags & ACK for half in states)  # type: ignore[union-attr]
