"""What bad packets get: counted by name, and never a state made of them."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync import exchange
from carpd.pfsync.peers import LIMIT as PEERS_LIMIT
from carpd.units import MILLISECOND, SECOND
from carpd.wire.conntrack import ICMP, SCTP, TCP, UDP, flow_key
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import (
    AnyBatch,
    Attributes,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    DigestRequests,
    Digests,
    Inserts,
    Lists,
    Reports,
    Resends,
    Sequences,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.header import HEADER, NO_CHECKSUM, SUBHEADER
from carpd.wire.pfsync.linux_messages import (
    BUCKET_LEVEL,
    GROUP_LEVEL,
    Digest,
    DigestRequest,
    Listed,
    PacketNumber,
    Report,
    Resend,
)
from carpd.wire.pfsync.messages import BULK_REQUEST, BULK_START, BulkStatus, Clear, CompressedUpdate
from carpd.wire.pfsync.numbers import IN, INET6, NOSYNC, Dialect, Timeout
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Peer, PfFields, StateRecord
from tests.pfsync.node import OURS, SERVER, Node, flow
from tests.wire.pfsync.examples import DST, FIRST, KEY, SRC, STATE

PEER = b"\x0a" * 4
UDP_STATE = STATE._replace(
    protocol=UDP, src=Peer(state=2), dst=Peer(state=2), timeout=int(Timeout.UDP_MULTIPLE), wire=KEY, stack=KEY
)
SPEAKERS: list[Dialect | None] = [None, *Dialect]
COUNTERS = ("hdrops", "badver", "badlen", "badact", "badval", "badstate", "unsupported", "limit", "loops")


def counted(node: Node) -> dict[str, int]:
    return {name: count for name in COUNTERS if (count := getattr(node.engine.counters, name))}


def untouched(node: Node) -> bool:
    return not node.table and not len(node.engine.sync.table)


# Packets


def whole(dialect: Dialect | None) -> bytes:
    """A good packet with one state."""
    said = dialect or Dialect.OPENBSD
    return Packet(said.version, [Inserts([STATE], said)]).to_bytes()


def patched(packet: bytes, offset: int, value: bytes) -> bytes:
    return packet[:offset] + value + packet[offset + len(value) :]


_LENGTH, _COUNT = 2, HEADER.size + 2


def _wrong_packets(dialect: Dialect | None) -> dict[str, tuple[bytes, str]]:
    good = whole(dialect)
    other = 5 if good[0] == 6 else 6
    return {
        "empty": (b"", "hdrops"),
        "short header": (good[: HEADER.size - 1], "hdrops"),
        "cut": (good[:-1], "badlen"),
        "longer than it is": (patched(good, _LENGTH, struct.pack("!H", len(good) + 1)), "badlen"),
        "length inside the header": (patched(good, _LENGTH, struct.pack("!H", HEADER.size - 1)), "badlen"),
        "length inside the state": (patched(good, _LENGTH, struct.pack("!H", len(good) - 10)), "badlen"),
        "more messages than there are": (patched(good, _COUNT, struct.pack("!H", 2)), "badlen"),
        "as many messages as can be said": (patched(good, _COUNT, b"\xff\xff"), "badlen"),
        "version 0": (patched(good, 0, b"\x00"), "badver"),
        "version 4": (patched(good, 0, b"\x04"), "badver"),
        "version 7": (patched(good, 0, b"\x07"), "badver"),
        "the other family's version": (patched(good, 0, bytes((other,))), "badver"),
    }


@pytest.mark.parametrize("dialect", SPEAKERS)
@pytest.mark.parametrize("name", _wrong_packets(None))
def test_wrong_packets(dialect: Dialect | None, name: str) -> None:
    node = Node(dialect)
    payload, counter = _wrong_packets(dialect)[name]
    node.hear_bytes(payload)
    assert untouched(node)
    assert counted(node) == {counter: 1}
    node.hear_bytes(whole(dialect))
    assert len(node.table) == 1, "what comes behind it is heard"


def raw(action: int, words: int, count: int, body: bytes = b"") -> bytes:
    length = HEADER.size + SUBHEADER.size + len(body)
    return HEADER.pack(6, length, NO_CHECKSUM) + SUBHEADER.pack(action, words, count) + body


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (raw(200, 0, 1), {"badact": 1}),
        (raw(200, 2, 0), {"badact": 1}),
        (raw(200, 2, 1, bytes(8)), {}),
        (raw(13, 1, 1, bytes(4)), {}),
        (raw(13, 0, 9), {"badact": 1}),
        (raw(129, 1, 1, bytes(4)), {}),
        (raw(128, 4, 1, FIRST + struct.pack("!HH", 2, 400)), {"badlen": 1}),
    ],
    ids=[
        "unknown, without a size",
        "unknown, of no messages",
        "unknown",
        "too short a state",
        "states without a size",
        "too short a packet number",
        "an attribute longer than its message",
    ],
)
def test_wrong_actions(payload: bytes, expected: dict[str, int]) -> None:
    node = Node()
    node.hear_bytes(payload)
    assert untouched(node)
    assert counted(node) == expected


# States

WRONG_STATES: dict[str, tuple[StateRecord, str]] = {
    "timeout index that nobody has": (STATE._replace(timeout=25), "badval"),
    "timeout index 255": (STATE._replace(timeout=255), "badval"),
    "timeout index of SCTP": (STATE._replace(timeout=int(Timeout.SCTP_FIRST)), "unsupported"),
    "timeout index of fragments": (STATE._replace(timeout=14), "unsupported"),
    "src beyond the last state": (STATE._replace(src=SRC._replace(state=13)), "badval"),
    "dst beyond the last state": (STATE._replace(dst=DST._replace(state=255)), "badval"),
    "no direction": (STATE._replace(direction=0), "badval"),
    "direction 3": (STATE._replace(direction=3), "badval"),
    "no creator": (STATE._replace(identity=FIRST[:8] + bytes(4)), "badstate"),
    "not to be told": (STATE._replace(flags=NOSYNC), "unsupported"),
    "a gateway": (STATE._replace(pf=PfFields(rt=1)), "unsupported"),
    "modulated sequence numbers": (STATE._replace(src=SRC._replace(seqdiff=1)), "unsupported"),
    "syn-proxy": (STATE._replace(src=SRC._replace(state=11), dst=DST._replace(state=0)), "unsupported"),
    "nothing has been seen": (STATE._replace(src=SRC._replace(state=0), dst=DST._replace(state=0)), "unsupported"),
    "ICMP of the other family": (
        UDP_STATE._replace(
            protocol=ICMP, family=INET6, wire=KEY._replace(address0=bytes(16), address1=bytes(16), family=INET6)
        )._replace(stack=KEY._replace(address0=bytes(16), address1=bytes(16), family=INET6)),
        "unsupported",
    ),
    "ICMP that is no query": (UDP_STATE._replace(protocol=ICMP), "unsupported"),
    "SCTP without its state": (UDP_STATE._replace(protocol=SCTP), "unsupported"),
}
WRONG_FAMILIES: dict[str, tuple[StateRecord, str]] = {
    "unknown family": (
        STATE._replace(
            family=99,
            wire=KEY._replace(address0=bytes(16), address1=bytes(16), family=99),
            stack=KEY._replace(address0=bytes(16), address1=bytes(16), family=99),
        ),
        "badval",
    ),
    "stack of another family": (
        STATE._replace(stack=KEY._replace(address0=bytes(16), address1=bytes(16), family=INET6)),
        "unsupported",
    ),
    "a key without a family": (
        STATE._replace(stack=KEY._replace(address0=bytes(16), address1=bytes(16), family=0)),
        "badval",
    ),
}


@pytest.mark.parametrize("dialect", SPEAKERS)
@pytest.mark.parametrize("name", WRONG_STATES)
@pytest.mark.parametrize("batch", [Inserts, Updates])
def test_wrong_states(dialect: Dialect | None, name: str, batch: type[Inserts | Updates]) -> None:
    """The others of the batch go in."""
    node = Node(dialect)
    state, counter = WRONG_STATES[name]
    said = dialect or Dialect.OPENBSD
    if said is Dialect.FREEBSD_1301 and state.pf.rt:
        return  # it has no such field
    node.hear(batch([state], said))
    assert untouched(node)
    assert counted(node) == {counter: 1}
    elsewhere = KEY._replace(port0=1)
    good = STATE._replace(identity=bytes(7) + b"\x02" + PEER, wire=elsewhere, stack=elsewhere)
    node.hear(batch([state, good], said))
    assert counted(node) == {counter: 2}
    assert len(node.table) == 1


@pytest.mark.parametrize("dialect", [None, Dialect.OPENBSD, Dialect.FREEBSD_1500])
@pytest.mark.parametrize("name", WRONG_FAMILIES)
def test_families_that_do_not_match(dialect: Dialect | None, name: str) -> None:
    node = Node(dialect)
    state, counter = WRONG_FAMILIES[name]
    node.hear(Inserts([state], dialect or Dialect.OPENBSD))
    assert untouched(node)
    assert counted(node) == {counter: 1}


@pytest.mark.parametrize("dialect", SPEAKERS)
@pytest.mark.parametrize(
    ("src", "dst", "timeout"), [(13, 4, 2), (4, 255, 2), (4, 4, 25), (4, 4, 255)], ids=["src", "dst", "index", "255"]
)
def test_wrong_updates_of_known_states(dialect: Dialect | None, src: int, dst: int, timeout: int) -> None:
    node = Node(dialect)
    node.hear(Inserts([STATE], dialect or Dialect.OPENBSD))
    before = dict(node.table)
    node.hear(CompressedUpdates([CompressedUpdate(FIRST, Peer(state=src), Peer(state=dst), timeout)]))
    assert counted(node) == {"badval": 1}
    assert node.table == before


def test_attributes_without_a_state_do_nothing() -> None:
    node = Node()
    node.hear(Attributes([LinuxAttributes(FIRST, ((2, bytes(4)),))]))
    assert untouched(node)


@pytest.mark.parametrize("dialect", SPEAKERS)
def test_no_more_states_than_there_may_be(dialect: Dialect | None) -> None:
    node = Node(dialect, max_states=3)
    states = [
        UDP_STATE._replace(identity=(2 * number).to_bytes(8, "big") + PEER, wire=key, stack=key)
        for number in range(1, 11)
        for key in (KEY._replace(port0=number),)
    ]
    node.hear(*(Inserts([state], dialect or Dialect.OPENBSD) for state in states))
    assert len(node.table) == len(node.engine.sync.table) == 3
    assert counted(node) == {"limit": 7}
    node.hear(CompressedDeletes([states[0].identity]))
    node.hear(Inserts([states[9]], dialect or Dialect.OPENBSD))
    assert len(node.table) == 3


# Floods


@pytest.mark.parametrize("dialect", SPEAKERS)
def test_a_flood_of_update_requests(dialect: Dialect | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are answered in a second; each with two halves to a BSD."""
    limit, requests = 450, 1000
    monkeypatch.setattr(exchange, "ANSWERS_A_SECOND", limit)
    node = Node(dialect, carrying=True)
    asked = [node.identity(node.opens(flow(source_port=number + 1))) for number in range(100)]
    node.sleep(SECOND)
    node.said()
    for _ in range(requests // len(asked)):
        node.hear(UpdateRequests(asked))
    assert node.engine.counters.throttled == requests - limit
    told = sum(batch.count for batch in node.said() if isinstance(batch, Updates))
    assert told == limit * (1 if dialect is None else 2)
    node.sleep(SECOND)
    node.said()
    node.hear(UpdateRequests(asked[:1]))
    assert [batch for batch in node.said() if isinstance(batch, Updates)], "the next second is another one"


@pytest.mark.parametrize("dialect", SPEAKERS)
def test_a_flood_of_bulk_requests(dialect: Dialect | None) -> None:
    node = Node(dialect)
    node.sleep(10 * SECOND)
    node.said()
    seconds = 10
    for _ in range(seconds * 50):
        node.hear(UpdateRequests([BULK_REQUEST] * 20))
        node.sleep(20 * MILLISECOND)
    statuses = [status for batch in node.said() if isinstance(batch, BulkStatuses) for status in batch.messages]
    begun = [status for status in statuses if status.status == BULK_START]
    assert 1 <= len(begun) <= seconds // 2 + 1


def test_a_flood_of_peers() -> None:
    node = Node()
    for number in range(1, 200):
        creator = number.to_bytes(4, "big")
        node.hear(Sequences([PacketNumber(creator, number)]), source=f"peer {number}")
        node.hear(Reports([Report(creator, OURS, 0, 0, 0, 0, 0)]), source=f"peer {number}")
    assert len(node.engine.peers.by_id) == PEERS_LIMIT


@pytest.mark.parametrize(
    "batch",
    [
        DigestRequests([DigestRequest(OURS, GROUP_LEVEL, number) for number in range(100)]),
        DigestRequests([DigestRequest(OURS, BUCKET_LEVEL, number) for number in range(100)]),
        Resends([Resend(OURS, 0, 0xFFFFFFFF)] * 50),
        Resends([Resend(OURS, 2**64 - 1, 0xFFFFFFFF)] * 50),
    ],
    ids=["digests", "lists", "packets", "packets that never were"],
)
def test_floods_of_what_only_linux_nodes_ask(batch: AnyBatch) -> None:
    """What follows is bounded for each that comes."""
    node = Node(carrying=True)
    for number in range(100):
        node.opens(flow(source_port=number + 1))
    node.sleep(SECOND)
    node.said()
    for _ in range(50):
        node.hear(batch)
    assert sum(said.count for said in node.said()) <= 50 * (2 * batch.count + 100)


def test_numbers_of_packets_that_jump() -> None:
    node = Node()
    for number in (1, 2**64 - 1, 2**63, 0, 2**64 - 1):
        node.hear(Sequences([PacketNumber(PEER, number)]))
    (peer,) = node.engine.peers
    assert peer.received is not None
    assert peer.received.highest == 2**64 - 1


def test_our_own_packets_come_back() -> None:
    node = Node(carrying=True)
    node.opens(flow())
    for packet in list(node.sent):
        node.hear_bytes(packet.to_bytes())
    assert node.engine.counters.loops >= 1
    assert len(node.table) == 1


# Anything

_NUMBERS = st.integers(0, 2**32 - 1)
_CREATORS = st.sampled_from([OURS, PEER, bytes(4)])
_IDS = st.builds(lambda number, creator: number.to_bytes(8, "big") + creator, st.integers(0x0FFE, 0x1003), _CREATORS)
_PEERS = st.builds(lambda state, wscale: Peer(state=state, wscale=wscale), st.integers(0, 14), st.integers(0, 255))
_KEYS = st.builds(
    lambda port0, port1, turned: KEY._replace(
        address0=SERVER if turned else KEY.address0,
        address1=KEY.address0 if turned else SERVER,
        port0=port0,
        port1=port1,
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
)
_STATES = st.builds(
    lambda identity, wire, stack, src, dst, protocol, direction, timeout, flags: STATE._replace(
        identity=identity, wire=wire, stack=stack, src=src, dst=dst, protocol=protocol, direction=direction,
        timeout=timeout, flags=flags,
    ),
    _IDS, _KEYS, _KEYS, _PEERS, _PEERS, st.sampled_from([TCP, UDP, ICMP, 50]), st.integers(0, 3), st.integers(0, 26),
    st.integers(0, 31),
)  # fmt: skip


class Said(NamedTuple):
    """Messages of one kind, of any content."""

    kind: type
    messages: st.SearchStrategy[object]


_SAID = (
    Said(Inserts, _STATES),
    Said(Updates, _STATES),
    Said(CompressedUpdates, st.builds(CompressedUpdate, _IDS, _PEERS, _PEERS, st.integers(0, 26))),
    Said(CompressedDeletes, _IDS),
    Said(UpdateRequests, _IDS | st.just(BULK_REQUEST)),
    Said(Clears, st.builds(Clear, st.sampled_from(["", "all", "em0"]), _CREATORS)),
    Said(BulkStatuses, st.builds(BulkStatus, _CREATORS, _NUMBERS, st.integers(0, 3))),
)
_SAID_BY_LINUX = (
    Said(Sequences, st.builds(PacketNumber, _CREATORS, st.integers(0, 20), st.integers(0, 3))),
    Said(
        Reports,
        st.builds(
            Report,
            reporter=_CREATORS,
            peer=_CREATORS,
            received=_NUMBERS,
            compared=_NUMBERS,
            states=_NUMBERS,
            flags=st.integers(0, 255),
            takeovers=st.integers(0, 255),
        ),
    ),
    Said(Resends, st.builds(Resend, _CREATORS, st.integers(0, 20), _NUMBERS)),
    Said(Digests, st.builds(Digest, _CREATORS, st.integers(0, 70), st.just((7,) * 64))),
    Said(DigestRequests, st.builds(DigestRequest, _CREATORS, st.integers(0, 2), st.integers(0, 5000))),
    Said(Lists, st.builds(Listed, _CREATORS, st.integers(0, 5000), st.integers(0, 3), _IDS, _NUMBERS)),
)


@st.composite
def _packets(draw: st.DrawFn, dialect: Dialect | None) -> bytes:
    said = _SAID if dialect else _SAID + _SAID_BY_LINUX
    batches = []
    for kind, messages in draw(st.lists(st.sampled_from(said), min_size=1, max_size=3)):
        content = draw(st.lists(messages, min_size=1, max_size=3))
        whole_states = kind in (Inserts, Updates)
        batches.append(kind(content, dialect or Dialect.OPENBSD) if whole_states else kind(content))
    payload = Packet((dialect or Dialect.OPENBSD).version, batches).to_bytes()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(payload) - 1))
        payload = patched(payload, at, draw(st.binary(min_size=1, max_size=1)))
    return payload


@given(st.data(), st.sampled_from(SPEAKERS), st.booleans())
def test_nothing_that_comes_makes_it_fail(data: st.DataObject, dialect: Dialect | None, carrying: bool) -> None:
    node = Node(dialect, carrying=carrying, max_states=4)
    keys: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 12))):
        step = data.draw(st.sampled_from(("hear", "hear", "hear", "opens", "ends", "sleep", "noise")))
        if step == "hear":
            node.hear_bytes(data.draw(_packets(dialect)))
        elif step == "noise":
            node.hear_bytes(data.draw(st.binary(max_size=100)))
        elif step == "opens":
            entry = flow(source_port=data.draw(st.integers(0, 2)))
            if flow_key(entry) not in node.table:
                keys.append(node.opens(entry))
        elif step == "ends" and keys and keys[-1] in node.table:
            node.ends(keys.pop())
        elif step == "sleep":
            node.sleep(SECOND)
        assert len(node.engine.sync.table) <= 4


def test_the_good_state_is_good() -> None:
    """Or the tables above would say nothing."""
    for dialect in SPEAKERS:
        for state in (STATE, UDP_STATE):
            node = Node(dialect)
            node.hear(Inserts([state._replace(direction=IN)], dialect or Dialect.OPENBSD))
            assert len(node.table) == 1
            assert counted(node) == {}
