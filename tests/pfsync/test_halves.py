"""BSD peers: flows and their halves, both ways. Ref: spec pfsync §12.2."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.config.model import Version
from carpd.pfsync import mapping
from carpd.pfsync.events import RoleChanged
from carpd.pfsync.halves import Halves, dialect_of
from carpd.pfsync.levels import levels
from carpd.pfsync.table import StateTable, pack_record
from carpd.units import SECOND
from carpd.wire.conntrack import (
    ASSURED,
    CONFIRMED,
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    SEEN_REPLY,
    TCP,
    UDP,
    ConntrackEntry,
    TcpState,
    flow_key,
)
from carpd.wire.pfsync.batches import (
    AnyBatch,
    Attributes,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    Digests,
    InsertAcknowledgements,
    Inserts,
    Reports,
    Sequences,
    StateBatch,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.linux_messages import Digest, PacketNumber, Report
from carpd.wire.pfsync.messages import BULK_REQUEST, BULK_START, BulkStatus, Clear, CompressedUpdate
from carpd.wire.pfsync.numbers import ACK, IN, OUT, SLOPPY, Dialect
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Key, Peer, PfFields, StateRecord
from tests.pfsync.node import HOST, OURS, SERVER, SHARED, Node, flow
from tests.pfsync.strategies import entries

THEIRS = b"\x0a" * 4
INSIDE = bytes([10, 0, 1, 80])
BSDS = list(Dialect)

TRANSLATIONS = {
    "none": flow(),
    "snat": flow(snat=(SHARED, 61000)),
    "dnat": flow(dnat=(INSIDE, 8080)),
    "both": flow(snat=(SHARED, 61000), dnat=(INSIDE, 8080)),
}


def ours(number: int) -> bytes:
    return number.to_bytes(8, "big") + OURS


def theirs(number: int) -> bytes:
    return number.to_bytes(8, "big") + THEIRS


class Peers(NamedTuple):
    """Two ends of an adapter, with nothing between them but the dialect."""

    linux: Halves
    table: StateTable
    withdrawn: list[bytes]


def adapter(dialect: Dialect = Dialect.OPENBSD, creator: bytes = OURS) -> Peers:
    table, withdrawn = StateTable(), list[bytes]()

    def withdraw(identity: bytes) -> None:
        withdrawn.append(identity)
        if key := table.key_of(identity):
            table.remove(key)

    return Peers(Halves(dialect, creator, table, withdraw), table, withdrawn)


def halves_of(
    entry: ConntrackEntry, dialect: Dialect = Dialect.OPENBSD, own: frozenset[bytes] = frozenset(), number: int = 0x1000
) -> list[StateRecord]:
    """What a BSD is told of an entry of ours."""
    state = mapping.to_state(ours(number), entry)
    assert state is not None
    (batch,) = adapter(dialect).linux.outgoing([Inserts([state])], own)
    assert isinstance(batch, Inserts)
    assert batch.dialect is dialect
    return list(batch.messages)


def pf_halves(entry: ConntrackEntry, inward: int, outward: int) -> list[StateRecord]:
    """What a BSD would tell of it."""
    one, other = halves_of(entry)
    return [one._replace(identity=theirs(inward)), other._replace(identity=theirs(outward))]


# What is told


@pytest.mark.parametrize(
    ("name", "keys"),
    {
        "none": (
            (HOST, SERVER, 40000, 80), (HOST, SERVER, 40000, 80),
            (SERVER, HOST, 80, 40000), (SERVER, HOST, 80, 40000),
        ),
        "snat": (
            (HOST, SERVER, 40000, 80), (HOST, SERVER, 40000, 80),
            (SERVER, SHARED, 80, 61000), (SERVER, HOST, 80, 40000),
        ),
        "dnat": (
            (HOST, SERVER, 40000, 80), (HOST, INSIDE, 40000, 8080),
            (INSIDE, HOST, 8080, 40000), (INSIDE, HOST, 8080, 40000),
        ),
        "both": (
            (HOST, SERVER, 40000, 80), (HOST, INSIDE, 40000, 8080),
            (INSIDE, SHARED, 8080, 61000), (INSIDE, HOST, 8080, 40000),
        ),
    }.items(),
)  # fmt: skip
def test_a_flow_is_told_as_two_halves(name: str, keys: tuple[tuple[bytes, bytes, int, int], ...]) -> None:
    inward, outward = halves_of(TRANSLATIONS[name])
    assert (inward.identity, inward.direction) == (ours(0x1000), IN)
    assert (outward.identity, outward.direction) == (ours(0x1001), OUT)
    assert (inward.wire[:4], inward.stack[:4], outward.wire[:4], outward.stack[:4]) == keys
    assert inward.flags == outward.flags == SLOPPY
    assert inward[4:12] == outward[4:12], "all else is the same"


@pytest.mark.parametrize(
    ("own", "directions"),
    [((), [IN, OUT]), ((HOST,), [OUT]), ((SERVER,), [IN]), ((SHARED,), [IN, OUT])],
    ids=["forwarded", "begins here", "ends here", "only translated here"],
)
def test_what_ends_on_this_host_has_one_half(own: tuple[bytes, ...], directions: list[int]) -> None:
    peers = adapter()
    state = mapping.to_state(ours(2), flow())
    assert state is not None
    told = list(
        peers.linux.outgoing(
            [
                Inserts([state]),
                CompressedUpdates([CompressedUpdate(ours(2), Peer(), Peer(), 7)]),
                CompressedDeletes([ours(2)]),
            ],
            frozenset(own),
        )
    )
    identities = [{IN: ours(2), OUT: ours(3)}[direction] for direction in directions]
    assert [state.direction for state in told[0].messages] == directions  # type: ignore[union-attr]
    assert [message.identity for message in told[0].messages] == identities  # type: ignore[union-attr]
    assert [message.identity for message in told[1].messages] == identities  # type: ignore[union-attr]
    assert told[2].messages == identities


PING = ConntrackEntry(HOST, SERVER, ICMP, 77, 8 << 8, SERVER, SHARED, 8 << 8, 99, status=CONFIRMED, timeout=30)
TUNNEL = ConntrackEntry(HOST, SERVER, GRE, 5, 6, SERVER, HOST, 6, 5, status=CONFIRMED, timeout=30)
ASSOCIATION = ConntrackEntry(HOST, SERVER, SCTP, 5, 6, SERVER, HOST, 6, 5, status=CONFIRMED, timeout=30, state=4)


@pytest.mark.parametrize(
    ("entry", "dialect", "ports"),
    [
        (PING, Dialect.OPENBSD, [(77, 8), (77, 8), (8, 99), (8, 77)]),
        (PING, Dialect.FREEBSD_1301, [(77, 77), (77, 77), (99, 99), (77, 77)]),
        (PING, Dialect.FREEBSD_1500, [(77, 8), (77, 8), (8, 99), (8, 77)]),
        (TUNNEL, Dialect.OPENBSD, [(0, 0)] * 4),
        (TUNNEL, Dialect.FREEBSD_1301, [(0, 0)] * 4),
        (ASSOCIATION, Dialect.OPENBSD, [(0, 0)] * 4),
        *((ASSOCIATION, dialect, []) for dialect in BSDS if dialect is not Dialect.OPENBSD),
        *((flow(), dialect, [(40000, 80), (40000, 80), (80, 40000), (80, 40000)]) for dialect in BSDS),
    ],
)
def test_ports(entry: ConntrackEntry, dialect: Dialect, ports: list[tuple[int, int]]) -> None:
    told = halves_of(entry, dialect)
    assert [(key.port0, key.port1) for half in told for key in (half.wire, half.stack)] == ports


def test_freebsd_hears_nothing_of_sctp() -> None:
    peers = adapter(Dialect.FREEBSD_1500)
    state = mapping.to_state(ours(2), ASSOCIATION)
    assert state is not None
    batches: list[AnyBatch] = [Inserts([state]), CompressedDeletes([ours(2)])]
    assert [batch.messages for batch in peers.linux.outgoing(batches, frozenset())] == [[], []]
    assert peers.linux.packets(batches, frozenset(), 1480) == []


def test_what_only_linux_understands_is_left_out() -> None:
    batches: list[AnyBatch] = [
        Sequences([PacketNumber(OURS, 1)]),
        Attributes([]),
        Reports([Report(OURS, THEIRS, 1, 1, 1, 0, 0)]),
        Digests([Digest(OURS, 0, (0,) * 64)]),
        Clears([Clear("", OURS)]),
        BulkStatuses([BulkStatus(OURS, 0, BULK_START)]),
        UpdateRequests([BULK_REQUEST]),
    ]
    peers = adapter()
    assert list(peers.linux.outgoing(batches, frozenset())) == batches[4:]
    assert list(peers.linux.incoming(batches)) == batches[4:], "and not obeyed either"


@pytest.mark.parametrize("dialect", BSDS)
@pytest.mark.parametrize("max_packet", [600, 1480])
def test_packets_are_full_and_never_longer(dialect: Dialect, max_packet: int) -> None:
    states = [mapping.to_state(ours(2 * number), flow(source_port=number + 1)) for number in range(50)]
    batches: list[AnyBatch] = [
        Inserts([state for state in states if state is not None]),
        CompressedDeletes([ours(1000 + 2 * number) for number in range(300)]),
    ]
    packets = adapter(dialect).linux.packets(batches, frozenset(), max_packet)
    assert all(len(packet) <= max_packet for packet in packets)
    assert all(len(packet) > max_packet - 364 for packet in packets[:-1])
    read = [batch for packet in packets for batch in Packet.from_bytes(packet).batches]
    told = [state.identity for batch in read if isinstance(batch, Inserts) for state in batch.messages]
    assert told == [ours(number) for number in range(100)]
    assert {batch.dialect for batch in read if isinstance(batch, StateBatch)} == {dialect}
    ended = [identity for batch in read if isinstance(batch, CompressedDeletes) for identity in batch.messages]
    assert ended == [ours(1000 + number) for number in range(600)]


def test_every_version_has_its_dialect() -> None:
    assert [dialect_of(version) for version in Version] == [None, *BSDS]


# What is heard


def know(peers: Peers, identity: bytes, entry: ConntrackEntry) -> None:
    """The engine has a flow."""
    peers.table.add(flow_key(entry), identity, pack_record(identity, levels(entry), 0, 0, 0))


def hear(peers: Peers, *batches: AnyBatch) -> list[AnyBatch]:
    """What the engine hears of it; it takes every state for good."""
    heard = []
    for batch in peers.linux.incoming(batches):
        heard.append(batch)
        if isinstance(batch, StateBatch):
            for state in batch.messages:
                entry = mapping.from_state(state)
                if peers.table.key_of(state.identity) is None:
                    know(peers, state.identity, entry)
        elif isinstance(batch, CompressedDeletes):
            for identity in batch.messages:
                if key := peers.table.key_of(identity):
                    peers.table.remove(key)
    return heard


def flows(batches: list[AnyBatch]) -> list[tuple[bytes, ConntrackEntry]]:
    states = [state for batch in batches if isinstance(batch, StateBatch) for state in batch.messages]
    return [(state.identity, mapping.from_state(state)) for state in states]


@pytest.mark.parametrize("entry", TRANSLATIONS.values(), ids=TRANSLATIONS)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["in first", "out first"])
@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
def test_halves_are_one_flow(entry: ConntrackEntry, order: list[int], together: bool) -> None:
    peers = adapter()
    halves = pf_halves(entry, 7, 9)
    first, second = (halves[number] for number in order)
    if together:
        heard = hear(peers, Inserts([first, second]))
        assert len(flows(heard)) == 1
        assert not peers.withdrawn
    else:
        (alone,) = flows(hear(peers, Inserts([first])))
        assert alone[0] == first.identity
        heard = hear(peers, Inserts([second]))
        assert peers.withdrawn == ([] if alone[1][:9] == entry[:9] else [first.identity])
    ((identity, joined),) = flows(heard)
    assert identity == first.identity, "the flow has the name of the half that came first"
    assert joined[:9] == entry[:9]


def test_one_half_alone_is_a_flow() -> None:
    for entry in TRANSLATIONS.values():
        for half in pf_halves(entry, 7, 9):
            ((identity, alone),) = flows(hear(adapter(), Inserts([half])))
            assert identity == half.identity
            assert alone == mapping.from_state(half)


def test_both_names_mean_the_flow() -> None:
    peers = adapter()
    hear(peers, Inserts(pf_halves(flow(), 7, 9)))
    update = CompressedUpdate(theirs(9), Peer(state=2), Peer(state=1), 7)
    assert hear(peers, CompressedUpdates([update])) == [CompressedUpdates([update._replace(identity=theirs(7))])]
    assert hear(peers, UpdateRequests([theirs(9), theirs(7)])) == [UpdateRequests([theirs(7)])]
    again = pf_halves(flow(status=CONFIRMED | SEEN_REPLY), 7, 9)[1]
    ((identity, entry),) = flows(hear(peers, Updates([again])))
    assert (identity, entry[:9]) == (theirs(7), flow()[:9])
    assert peers.withdrawn == []


@pytest.mark.parametrize("ended", [[7, 9], [9, 7], [9], [7]])
def test_the_flow_ends_with_either_half_and_once(ended: list[int]) -> None:
    peers = adapter()
    hear(peers, Inserts(pf_halves(flow(), 7, 9)))
    said = [hear(peers, CompressedDeletes([theirs(number)])) for number in ended]
    assert said == [[CompressedDeletes([theirs(7)])], [CompressedDeletes([])]][: len(ended)]
    assert hear(peers, CompressedDeletes([theirs(1)])) == [CompressedDeletes([theirs(1)])], "the engine counts it"


def test_ports_that_are_used_again_are_another_flow() -> None:
    peers = adapter()
    hear(peers, Inserts(pf_halves(flow(snat=(SHARED, 1)), 7, 9)))
    hear(peers, CompressedDeletes([theirs(7), theirs(9)]))
    inward, outward = pf_halves(flow(snat=(SHARED, 2)), 11, 13)
    assert flows(hear(peers, Inserts([inward]))) == [(theirs(11), mapping.from_state(inward))], "alone"
    ((identity, entry),) = flows(hear(peers, Inserts([outward])))
    assert (identity, entry[:9]) == (theirs(11), flow(snat=(SHARED, 2))[:9])


def test_a_new_half_joins_what_is_left_of_a_flow() -> None:
    """Its route changes: pf makes another half for the new interface."""
    peers = adapter()
    entry = flow(snat=(SHARED, 61000), dnat=(INSIDE, 80))
    inward, outward = pf_halves(entry, 7, 9)
    hear(peers, Inserts([inward, outward]))
    hear(peers, CompressedDeletes([theirs(9)]))
    assert len(flows(hear(peers, Inserts([outward._replace(identity=theirs(15))])))) == 1
    ((_, joined),) = flows(hear(peers, Updates([inward])))
    assert joined[:9] == entry[:9]


def test_a_half_that_is_left_alone_has_its_own_name() -> None:
    peers = adapter()
    inward, outward = pf_halves(flow(), 7, 9)
    hear(peers, Inserts([inward, outward]))
    hear(peers, CompressedDeletes([theirs(7)]))
    assert [identity for identity, _ in flows(hear(peers, Inserts([outward])))] == [theirs(9)]
    update = CompressedUpdates([CompressedUpdate(theirs(9), Peer(state=2), Peer(state=1), 7)])
    assert hear(peers, update) == [update]


def test_an_id_that_is_used_again_is_another_half() -> None:
    """It is where it is now, not where it was."""
    peers = adapter()
    hear(peers, Inserts([pf_halves(flow(snat=(SHARED, 1)), 7, 9)[0]]))
    hear(peers, Inserts([pf_halves(flow(source_port=5), 7, 9)[0]]))
    ((identity, _),) = flows(hear(peers, Inserts([pf_halves(flow(snat=(SHARED, 1)), 7, 9)[1]])))
    assert identity == theirs(9)
    assert peers.withdrawn == []


@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
def test_what_we_have_lost_comes_back_with_its_translation(together: bool) -> None:
    peers = adapter()
    entry = flow(snat=(SHARED, 61000))
    halves = halves_of(entry, number=4)
    batches = [Updates(halves)] if together else [Updates([half]) for half in halves]
    heard = [hear(peers, batch) for batch in batches][-1]
    ((identity, joined),) = flows(heard)
    assert (identity, joined[:9]) == (ours(4), entry[:9])


def test_a_flow_of_ours_that_a_peer_carries() -> None:
    peers = adapter()
    know(peers, ours(4), flow())
    for half in halves_of(flow(), number=4):
        expected = CompressedUpdate(ours(4), half.src, half.dst, half.timeout)
        assert hear(peers, Updates([half])) == [CompressedUpdates([expected])]
        short = expected._replace(identity=half.identity)
        assert hear(peers, CompressedUpdates([short])) == [CompressedUpdates([expected])]
    assert hear(peers, UpdateRequests([ours(5)])) == [UpdateRequests([ours(4)])]
    assert hear(peers, CompressedDeletes([ours(5)])) == [CompressedDeletes([ours(4)])]


def test_what_we_have_lost_is_asked_for_as_both_halves() -> None:
    peers = adapter()
    update = CompressedUpdate(ours(5), Peer(), Peer(), 7)
    assert hear(peers, CompressedUpdates([update])) == [CompressedUpdates([update])]
    assert list(peers.linux.outgoing([UpdateRequests([ours(5)])], frozenset())) == [UpdateRequests([ours(4), ours(5)])]


@pytest.mark.parametrize("deferred", [0, 1])
@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
def test_a_deferred_packet_is_released(deferred: int, together: bool) -> None:
    peers = adapter()
    halves = pf_halves(flow(), 7, 9)
    halves[deferred] = halves[deferred]._replace(flags=SLOPPY | ACK)
    batches = [Inserts(halves)] if together else [Inserts([half]) for half in halves]
    flags = [
        state.flags
        for batch in batches
        for heard in hear(peers, batch)
        if isinstance(heard, StateBatch)
        for state in heard.messages
    ]
    assert sum(bool(each & ACK) for each in flags) == 1
    (said,) = peers.linux.outgoing([InsertAcknowledgements([theirs(7)])], frozenset())
    assert halves[deferred].identity in said.messages


def test_what_only_pf_knows_comes_back_as_it_was() -> None:
    """A strict state: its window, its rule, its flags; but our levels."""
    peers = adapter()
    established = mapping.to_state(
        theirs(7), flow(TCP, state=TcpState.ESTABLISHED, status=CONFIRMED | SEEN_REPLY | ASSURED)
    )
    assert established is not None
    src = Peer(seqlo=1000, seqhi=2000, max_win=100, mss=1460, state=4, wscale=0x87)
    dst = Peer(seqlo=3000, seqhi=4000, max_win=200, mss=1460, state=4, wscale=0x86)
    half = established._replace(interface="em0", src=src, dst=dst, flags=0, pf=PfFields(rule=5))
    hear(peers, Inserts([half]))
    newer = src._replace(seqlo=1500)
    hear(peers, CompressedUpdates([CompressedUpdate(half.identity, newer, dst, 2)]))

    ((said,),) = (batch.messages for batch in peers.linux.outgoing([Updates([established])], frozenset()))
    assert said == half._replace(src=newer)
    closing = CompressedUpdate(theirs(7), Peer(state=7), Peer(state=4), 3)
    ((short,),) = (batch.messages for batch in peers.linux.outgoing([CompressedUpdates([closing])], frozenset()))
    assert short == closing._replace(src=newer._replace(state=7), dst=dst)


def test_what_is_no_half_is_left_to_the_engine() -> None:
    (half, _) = pf_halves(flow(), 7, 9)
    wrong = [
        half._replace(direction=3),
        half._replace(direction=0),
        half._replace(family=24),
        half._replace(stack=Key(bytes(16), bytes(16), 1, 1, 0, 10)),
        half._replace(identity=bytes(12)),
    ]
    peers = adapter()
    hear(peers, Inserts(pf_halves(flow(snat=(SHARED, 61000)), 7, 9)[1:]))
    assert list(peers.linux.incoming([Inserts(wrong)])) == [Inserts(wrong)]
    assert peers.withdrawn == []


def test_halves_of_flows_that_ended_are_forgotten() -> None:
    """A flood of states that the engine does not take, and of flows that come and go."""
    peers = adapter()
    for number in range(10_000):
        halves = pf_halves(flow(source_port=number), 2 * number, 2 * number + 1)
        list(peers.linux.incoming([Inserts(halves)]))  # the engine refuses it
    held = [len(held) for name, held in vars(peers.linux).items() if isinstance(held, dict)]
    assert all(count <= 4096 + 1 for count in held)


# Both ways: what one node says in halves, another understands


def _can_be_told(entry: ConntrackEntry, dialect: Dialect) -> bool:
    """Whether pf has ports for it; of FreeBSD 13's, it tells only echoes with a number."""
    if entry.protocol in (ICMP, ICMPV6) and dialect is Dialect.FREEBSD_1301:
        return entry.destination_port in (8 << 8, 128 << 8) and 0 not in (
            entry.source_port,
            entry.reply_destination_port,
        )
    return entry.protocol in (TCP, UDP, ICMP, ICMPV6)


@given(entries(), st.sampled_from(BSDS), st.booleans())
def test_what_is_told_in_halves_is_the_same_flow(entry: ConntrackEntry, dialect: Dialect, out_first: bool) -> None:
    state = mapping.to_state(ours(2), entry)
    if state is None or not _can_be_told(entry, dialect):
        return
    halves = halves_of(entry, dialect, number=2)
    peers = adapter(dialect, creator=THEIRS)
    told = [
        Packet.from_bytes(Packet(dialect.version, [Inserts([half], dialect)]).to_bytes())
        for half in (halves[::-1] if out_first else halves)
    ]
    heard = [hear(peers, *packet.batches) for packet in told][-1]
    ((identity, understood),) = flows(heard)
    assert identity == ours(3 if out_first else 2)
    assert understood == mapping.from_state(state)


def _numbered(name: str, number: int) -> list[StateRecord]:
    """The halves of one of several flows; those with one number have the same ends."""
    model = TRANSLATIONS[name]
    translated = model.reply_destination != HOST
    entry = flow(
        source_port=1000 + number,
        snat=(SHARED, 61000 + number) if translated else None,
        dnat=(model.reply_source, model.reply_source_port),
    )
    first = 100 * sorted(TRANSLATIONS).index(name) + 2 * number + 1
    return pf_halves(entry, first, first + 1)


_STEPS = st.tuples(
    st.sampled_from(sorted(TRANSLATIONS)), st.integers(0, 3), st.sampled_from(("tell", "end", "end both"))
)


@given(st.lists(st.tuples(_STEPS, st.integers(0, 1)), max_size=40))
def test_one_entry_a_flow_whatever_is_told(steps: list[tuple[tuple[str, int, str], int]]) -> None:
    """Halves come, are told again, and end; so do flows with the same ends."""
    node = Node(Dialect.OPENBSD)
    told: dict[int, tuple[str, set[int]]] = {}
    for (name, number, action), which in steps:
        half, other = _numbered(name, number)[which], _numbered(name, number)[1 - which]
        known, halves = told.get(number, (name, set[int]()))
        if known != name:
            continue  # no firewall has two flows with the same ends
        if action == "tell":
            node.hear(Inserts([half]))
            told[number] = name, halves | {which}
        elif which in halves:
            ended = [half.identity] if action == "end" else [half.identity, other.identity]
            node.hear(CompressedDeletes(ended))
            del told[number]
        assert len(node.table) == len(node.engine.sync.table) == len(told)
        assert node.said() == []


# With an engine


@pytest.mark.parametrize("carrying", [False, True])
def test_the_other_half_brings_the_translation(carrying: bool) -> None:
    """Linux can't change it: the entry is made anew."""
    node = Node(Dialect.OPENBSD, carrying=carrying)
    entry = flow(snat=(SHARED, 61000))
    inward, outward = pf_halves(entry, 7, 9)
    node.hear(Inserts([inward]))
    assert [known[:9] for known in node.table.values()] == [flow()[:9]]
    node.hear(Inserts([outward]))
    assert [known[:9] for known in node.table.values()] == [entry[:9]]
    node.hear(CompressedDeletes([theirs(9)]))
    assert node.table == {}
    assert node.said() == []


def test_an_entry_that_our_kernel_has_seen_stays_as_it_is() -> None:
    """It knows the translation of a flow whose packets it translates."""
    node = Node(Dialect.OPENBSD, carrying=True)
    inward, outward = pf_halves(flow(snat=(SHARED, 61000)), 7, 9)
    node.hear(Inserts([inward]))
    seen = flow(snat=(SHARED, 50000), status=CONFIRMED | SEEN_REPLY)
    node.changes(seen)
    node.hear(Inserts([outward]))
    assert [known[:9] for known in node.table.values()] == [seen[:9]]


def test_a_flow_that_ends_here_ends_both_halves_there() -> None:
    node = Node(Dialect.OPENBSD, carrying=True)
    node.hear(Inserts(pf_halves(flow(), 7, 9)))
    (key,) = node.table
    node.ends(key)
    assert node.said() == [CompressedDeletes([theirs(7), theirs(9)])]


@pytest.mark.parametrize("dialect", BSDS)
def test_a_flow_of_ours_lives_there_as_two(dialect: Dialect) -> None:
    node = Node(dialect, carrying=True)
    key = node.opens(flow())
    (told,) = node.said()
    both = [ours(0x1000), ours(0x1001)]
    assert isinstance(told, Inserts)
    assert [half.identity for half in told.messages] == both
    node.changes(flow(status=CONFIRMED | SEEN_REPLY))
    (told,) = node.said()
    assert isinstance(told, CompressedUpdates)
    assert [update.identity for update in told.messages] == both
    node.hear(UpdateRequests([ours(0x1001)]))
    (told,) = node.said()
    assert isinstance(told, Updates)
    assert [half.direction for half in told.messages] == [IN, OUT]
    node.hear(CompressedDeletes([ours(0x1001)]))
    (told,) = node.said()
    assert isinstance(told, Updates), "we carry it, and say so"
    node.ends(key)
    assert node.said() == [CompressedDeletes(both)]


# Two nodes that speak like BSDs


def deliver(one: Node, other: Node, lost: int = 0) -> None:
    """All packets of both, but for so many of the first; what they say to each other must come to an end."""
    del one.sent[:lost]
    for _ in range(10):
        if not one.sent and not other.sent:
            return
        for sender, receiver in ((one, other), (other, one)):
            packets, sender.sent = sender.sent, []
            for packet in packets:
                receiver.hear_bytes(packet.to_bytes())
    pytest.fail("they go on and on")


def flows_of(node: Node) -> dict[bytes, tuple[bytes, int, tuple[object, ...]]]:
    return {
        key: (node.identity(key), levels(entry), entry[:9])
        for key, entry in node.table.items()
        if key in node.engine.sync.table.records
    }


_PROGRESS: dict[int, list[tuple[int, int | None]]] = {
    TCP: [
        (CONFIRMED, TcpState.SYN_SENT),
        (CONFIRMED | SEEN_REPLY, TcpState.SYN_RECV),
        (CONFIRMED | SEEN_REPLY | ASSURED, TcpState.ESTABLISHED),
        (CONFIRMED | SEEN_REPLY | ASSURED, TcpState.FIN_WAIT),
        (CONFIRMED | SEEN_REPLY | ASSURED, TcpState.TIME_WAIT),
    ],
    UDP: [(CONFIRMED, None), (CONFIRMED | SEEN_REPLY, None), (CONFIRMED | SEEN_REPLY | ASSURED, None)],
}
_ACTIONS = st.tuples(
    st.sampled_from(["go on", "go on", "end", "bulk"]),
    st.sampled_from([TCP, UDP]),
    st.sampled_from(sorted(TRANSLATIONS)),
)


@given(st.sampled_from(BSDS), st.lists(_ACTIONS, max_size=30))
def test_the_standby_has_what_the_other_one_has(dialect: Dialect, actions: list[tuple[str, int, str]]) -> None:
    active, standby = Node(dialect, carrying=True), Node(dialect, creator_id=THEIRS)
    reached: dict[bytes, int] = {}
    for action, protocol, name in actions:
        model = TRANSLATIONS[name]
        port = 100 + sorted(TRANSLATIONS).index(name)
        seen_port = port if model.reply_destination == HOST else model.reply_destination_port
        entry = model._replace(protocol=protocol, source_port=port, reply_destination_port=seen_port)
        key = flow_key(entry)
        if action == "bulk":
            active.hear(UpdateRequests([BULK_REQUEST]))
            active.sleep(2 * SECOND)
        elif action == "end":
            if key in reached:
                active.ends(key)
                del reached[key]
        else:
            stage = reached[key] = min(reached.get(key, -1) + 1, len(_PROGRESS[protocol]) - 1)
            status, state = _PROGRESS[protocol][stage]
            (active.changes if key in active.table else active.opens)(entry._replace(status=status, state=state))
        deliver(active, standby)
        assert flows_of(standby) == flows_of(active)
        assert len(standby.table) == len(reached)


@pytest.mark.parametrize("dialect", BSDS)
@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_lost_insert_is_made_good_by_the_next_change(dialect: Dialect, name: str) -> None:
    active, standby = Node(dialect, carrying=True), Node(dialect, creator_id=THEIRS)
    active.opens(TRANSLATIONS[name])
    deliver(active, standby, lost=1)
    assert standby.table == {}
    active.changes(TRANSLATIONS[name]._replace(status=CONFIRMED | SEEN_REPLY))
    deliver(active, standby)
    assert flows_of(standby) == flows_of(active)


@pytest.mark.parametrize("dialect", BSDS)
@pytest.mark.parametrize("name", TRANSLATIONS)
def test_the_standby_takes_over(dialect: Dialect, name: str) -> None:
    """What it tells then of a flow is told of the other one's."""
    first, second = Node(dialect, carrying=True), Node(dialect, creator_id=THEIRS)
    key = first.opens(TRANSLATIONS[name])
    deliver(first, second)
    first.handle(RoleChanged(False))
    second.handle(RoleChanged(True))
    second.changes(TRANSLATIONS[name]._replace(status=CONFIRMED | SEEN_REPLY | ASSURED))
    deliver(second, first)
    assert flows_of(first) == flows_of(second)
    assert flows_of(first)[key][:2] == (ours(0x1000), 0x22)
    second.ends(key)
    deliver(second, first)
    assert first.table == {}
