"""What other systems' packets do to the engine: FreeBSD 13's, of the captures, and the examples of the specification.

What happens in the captures: tests/captures/README.md. Ref: spec pfsync §7, §13 to §15.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from carpd.pfsync.effects import BulkUpdateChanged
from carpd.trace.pcap import read_capture
from carpd.units import SECOND
from carpd.wire.conntrack import ASSURED, CONFIRMED, ICMP, ICMPV6, SEEN_REPLY, TCP, UDP, ConntrackEntry, TcpState
from carpd.wire.frames import decode_ip_frame
from carpd.wire.pfsync import header
from carpd.wire.pfsync.batches import (
    AnyBatch,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    InsertAcknowledgements,
    Inserts,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, BulkStatus, Clear, CompressedUpdate
from carpd.wire.pfsync.numbers import ACK, IN, OUT, Dialect
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Peer
from tests.pfsync.node import OURS, Node, flow
from tests.wire.pfsync.examples import FIRST, STATE
from tests.wire.pfsync.examples import SECOND as OTHER

CAPTURES = Path(__file__).parent.parent / "captures"
A, B = bytes([10, 98, 0, 1]), bytes([10, 98, 0, 2])
CREATOR_A, CREATOR_B = b"\x0a" * 4, b"\x0b" * 4
MULTICAST, DEFER_OUT = "pfsync-freebsd-freebsd-multicast", "pfsync-freebsd-freebsd-defer-out"
_PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "ping", ICMPV6: "ping"}


def packets(name: str, sender: bytes) -> Iterator[tuple[int, bytes]]:
    """What one of the two sent, with the time since the capture's first pfsync packet."""
    beginning = None
    with (CAPTURES / f"{name}.pcap").open("rb") as file:
        for frame in read_capture(file):
            received = decode_ip_frame(frame.data)
            if received is not None and received.protocol == header.PROTOCOL:
                beginning = frame.time_ns if beginning is None else beginning
                if received.source == sender:
                    yield frame.time_ns - beginning, received.payload


def show(entry: ConntrackEntry) -> str:
    """`udp 10.0.0.5:40000 > 192.0.2.80:80`, or `ping 10.0.0.5 > 192.0.2.80 number 5`."""
    source, destination = ip_address(entry.source), ip_address(entry.destination)
    name = _PROTOCOLS[entry.protocol]
    if name == "ping":
        return f"ping {source} > {destination} number {entry.source_port}"
    return f"{name} {source}:{entry.source_port} > {destination}:{entry.destination_port}"


def shown(node: Node) -> set[str]:
    return {show(entry) for entry in node.table.values()}


PING, PING6 = "ping 10.99.0.50 > 10.99.0.2 number 6767", "ping 2001:db8:99::50 > 2001:db8:99::2 number 6770"
ADVERTISEMENT = "ping 2001:db8:99::2 > 2001:db8:99::50 number 24576"
"""FreeBSD 13 takes the flags of a neighbour advertisement for the number of an echo."""
DATAGRAM, LATER_PING = "udp 10.99.0.50:40430 > 10.99.0.2:9", "ping 10.99.0.50 > 10.99.0.2 number 6884"
MULTICAST_OF_A = [
    (3.0, set()),
    (3.65, {PING, ADVERTISEMENT}),
    (4.0, {PING, ADVERTISEMENT, PING6}),
    (13.0, {PING, ADVERTISEMENT, PING6, DATAGRAM}),
    (14.0, {ADVERTISEMENT, PING6, DATAGRAM}),
    (19.65, set()),  # CLR: A starts
    (24.5, {LATER_PING}),
    (28.0, set()),
]
MULTICAST_OF_B = [(9.0, set()), (10.0, {"ping 10.99.0.50 > 10.99.0.3 number 6800"}), (20.0, set())]


@pytest.mark.parametrize("name", [MULTICAST, f"{MULTICAST}-all"])
@pytest.mark.parametrize(("sender", "expected"), [(A, MULTICAST_OF_A), (B, MULTICAST_OF_B)], ids=["A", "B"])
def test_the_host_s_connections(name: str, sender: bytes, expected: list[tuple[float, set[str]]]) -> None:
    node = Node(Dialect.FREEBSD_1301, fresh=True)
    captured = list(packets(name, sender))
    for seconds, flows in expected:
        while captured and captured[0][0] < seconds * SECOND:
            hear_at(node, 0, *captured.pop(0))
        assert shown(node) == flows, f"after {seconds} s"
    assert not captured
    counters = node.engine.counters
    assert (counters.badlen, counters.badact, counters.badver, counters.badval) == (0, 0, 0, 0)


def hear_at(node: Node, start: int, when: int, payload: bytes) -> list[AnyBatch]:
    """What it says to that."""
    node.sleep(start + when - node.now)
    node.said()
    node.hear_bytes(payload)
    return node.said()


@pytest.mark.parametrize("sender", [A, B], ids=["A", "B"])
def test_the_captured_bulk_update_ends_ours(sender: bytes) -> None:
    node = Node(Dialect.FREEBSD_1301, fresh=True)
    for when, payload in packets(MULTICAST, sender):
        before = node.engine.bulk.done
        hear_at(node, 0, when, payload)
        ended = any(status.status == BULK_END for status in bulk_statuses(Packet.from_bytes(payload).batches))
        assert node.engine.bulk.done == (before or ended)
    assert node.facts == [BulkUpdateChanged(True, "bulk done")]


def bulk_statuses(batches: Iterable[AnyBatch]) -> list[BulkStatus]:
    return [status for batch in batches if isinstance(batch, BulkStatuses) for status in batch.messages]


def test_bulk_requests_are_answered() -> None:
    node = Node(Dialect.FREEBSD_1301)
    start = node.now
    for when, payload in packets(MULTICAST, A):
        asks = UpdateRequests([BULK_REQUEST]) in Packet.from_bytes(payload).batches
        said = bulk_statuses(hear_at(node, start, when, payload))
        assert said == [BulkStatus(OURS, 0, which) for which in (BULK_START, BULK_END) if asks]


def test_a_deferred_connection() -> None:
    """A opens it itself, waits for the INS_ACK, and the other end closes first."""
    node = Node(Dialect.FREEBSD_1301)
    start, said, states = node.now, list[AnyBatch](), []
    for when, payload in packets(DEFER_OUT, A):
        said += hear_at(node, start, when, payload)
        states.append({show(entry): entry.state for entry in node.table.values()})
    opened, closed = "tcp 10.99.0.1:11654 > 10.99.0.50:2222", "tcp 10.99.0.2:50100 > 10.99.0.50:9"
    assert states[0] == {opened: TcpState.SYN_SENT}
    assert states[-2] == {opened: TcpState.ESTABLISHED, closed: TcpState.CLOSE}
    assert states[-1] == {opened: TcpState.CLOSE_WAIT, closed: TcpState.CLOSE}
    assert said[0] == InsertAcknowledgements([bytes(7) + b"\x01" + CREATOR_A])
    echoed = [batch for batch in said if isinstance(batch, Inserts | CompressedUpdates)]
    assert not echoed, "nothing but the bulk update, which A asked for"


# The examples of the specification

_ZEROS = "00" * 16
_INSERT = """
    06000120000000000000000000000000000000000d4200015f00000000000001
    616c6c000000000000000000000000000a000005000000000000000000000000
    c00002500000000000000000000000009c400050000002000a00000500000000
    0000000000000000c00002500000000000000000000000009c40005000000200
    0000000000000000000003e9000101d100000000ffff05b40487000000000000
    0000000000000000000013890001ffb900000000fe8805b40486000000000000
    00000000000000000000000000000000ffffffffffffffffffffffff0000005a
    00015176000000000000000c000000000000000a0000000000000d8000000000
    000134351a2b3c4d00000000ffffffff00000206010000020000000000020000
"""
_UPDATE = """
    0600006c00000000000000000000000000000000041500015f00000000000001
    0000000000000000000003e9000101d100000000ffff05b40487000000000000
    0000000000000000000013890001ffb900000000fe8805b40486000000000000
    1a2b3c4d0000000002000000
"""
_END = f"06000034{_ZEROS} 02030001 5f00000000000002 1a2b3c4d 07030001 5f00000000000001 1a2b3c4d"
_CLEAR = f"0600002c{_ZEROS} 00050001 656d3000 {'00' * 12} 1a2b3c4d"
_BULK_REQUEST = f"06000024{_ZEROS} 05030001 0000000000000000 00000000"
_BULK_REQUEST_FREEBSD = f"05000028{_ZEROS} 05000001 0000000000000000 00000000 0c000001"


def example(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_examples_in_a_row() -> None:
    node = Node(Dialect.OPENBSD)
    node.hear_bytes(example(_INSERT))
    (entry,) = node.table.values()
    assert show(entry) == "tcp 10.0.0.5:40000 > 192.0.2.80:80"
    assert (entry.state, entry.original_scale, entry.reply_scale) == (TcpState.ESTABLISHED, 7, 6)
    assert entry.status == CONFIRMED | SEEN_REPLY | ASSURED
    node.hear_bytes(example(_UPDATE))
    assert list(node.table.values()) == [entry]
    node.hear_bytes(example(_CLEAR))
    assert list(node.table.values()) == [entry], "it clears the states of an interface; this one has none"
    node.hear_bytes(example(_END))
    assert node.table == {}
    assert node.said() == []


@pytest.mark.parametrize(
    ("dialect", "request_", "start"),
    [
        (Dialect.OPENBSD, _BULK_REQUEST, f"06000024{_ZEROS} 0a030001 55555555 00000000 01 000000"),
        (
            Dialect.FREEBSD_1301,
            _BULK_REQUEST_FREEBSD,
            f"05000028{_ZEROS} 0a000001 55555555 00000000 01 000000 0c000001",
        ),
    ],
    ids=["OpenBSD", "FreeBSD"],
)
def test_a_bulk_request_is_answered_with_start_and_end(dialect: Dialect, request_: str, start: str) -> None:
    """Also when there is nothing to tell: OpenBSD ignores a lone end, and stays demoted for 24 seconds."""
    node = Node(dialect)
    node.hear_bytes(example(request_))
    assert node.sent[0].to_bytes() == example(start)
    assert [status.status for batch in node.said() if isinstance(batch, BulkStatuses) for status in batch.messages] == [
        BULK_START,
        BULK_END,
    ]


@pytest.mark.parametrize("dialect", Dialect)
def test_a_node_that_starts_asks_for_all(dialect: Dialect) -> None:
    node = Node(dialect, fresh=True)
    assert node.said() == [UpdateRequests([BULK_REQUEST])]


_START, _BULK_END = (BulkStatuses([BulkStatus(CREATOR_A, 0, status)]) for status in (BULK_START, BULK_END))


@pytest.mark.parametrize(
    ("dialect", "heard", "done"),
    [
        (Dialect.OPENBSD, [_START, _BULK_END], True),
        (Dialect.OPENBSD, [_BULK_END], True),
        (Dialect.OPENBSD, [Inserts([STATE]), _BULK_END], True),
        (Dialect.OPENBSD, [Updates([STATE]), _BULK_END], False),
        (Dialect.OPENBSD, [_START], False),
        (Dialect.FREEBSD_1301, [_BULK_END], False),
        (Dialect.FREEBSD_1301, [_START, _BULK_END], True),
    ],
    ids=["both", "OpenBSD has no states", "but a new one", "its start was lost", "no end", "FreeBSD's start", "both"],
)
def test_the_end_of_a_bulk_update(dialect: Dialect, heard: list[AnyBatch], done: bool) -> None:
    """OpenBSD tells nothing but the end if it has no states."""
    node = Node(dialect, fresh=True)
    for batch in heard:
        node.hear(batch)
    assert node.engine.bulk.done == done


# Behaviours that FreeBSD's tests ask for, and others that are known to matter

CREATOR = FIRST[8:]
ENDED = CompressedDeletes([FIRST])


def told(src: int, dst: int, timeout: int = 2, identity: bytes = FIRST) -> CompressedUpdates:
    return CompressedUpdates([CompressedUpdate(identity, Peer(state=src), Peer(state=dst), timeout)])


@pytest.mark.parametrize(
    ("known", "update", "levels", "stale"),
    [
        ((4, 4), told(4, 4), (4, 4), 0),
        ((4, 4), told(7, 4, 3), (7, 4), 0),
        ((4, 4), told(2, 0, 0), (4, 4), 1),
        ((4, 4), told(2, 4, 1), (4, 4), 1),
        ((4, 4), told(7, 2, 3), (7, 4), 1),
        ((4, 4), told(2, 7, 3), (4, 7), 1),
        ((2, 0), told(10, 10, 5), (10, 10), 0),
        ((9, 9), told(4, 4), (9, 9), 1),
    ],
    ids=["the same", "ahead", "stale", "src stale", "half-stale", "half-stale the other way", "reset", "over"],
)
def test_a_state_never_goes_back(
    known: tuple[int, int], update: CompressedUpdates, levels: tuple[int, int], stale: int
) -> None:
    """Each side is judged by itself; whoever is behind is told."""
    node = Node(Dialect.OPENBSD)
    src, dst = known
    node.hear(Inserts([STATE._replace(src=STATE.src._replace(state=src), dst=STATE.dst._replace(state=dst))]))
    node.hear(update)
    assert node.engine.counters.stale == stale
    said = node.said()
    assert [type(batch) for batch in said] == [Updates] * stale
    (key,) = node.table
    node.hear(UpdateRequests([FIRST]))
    ((view,),) = [batch.messages for batch in node.said() if isinstance(batch, Updates)]
    assert (view.src.state, view.dst.state) == levels
    assert said in ([], [Updates([view])])
    assert node.identity(key) == FIRST


def test_an_update_of_an_unknown_state_is_asked_for() -> None:
    node = Node(Dialect.OPENBSD)
    node.hear(told(4, 4))
    assert node.said() == [UpdateRequests([FIRST])]
    assert node.table == {}
    node.hear(Updates([STATE]))
    assert len(node.table) == 1
    node.hear(told(4, 4))
    assert node.said() == []


def test_what_we_are_asked_for_and_do_not_have() -> None:
    node = Node(Dialect.OPENBSD)
    node.hear(UpdateRequests([FIRST]))
    assert node.said() == []
    assert node.engine.counters.badstate == 1


@pytest.mark.parametrize(
    ("interface", "creator", "left"),
    [("", CREATOR, 0), ("all", CREATOR, 0), ("em0", CREATOR, 2), ("", CREATOR_A, 2)],
    ids=["all of it", "floating states", "one interface", "another creator"],
)
def test_clear(interface: str, creator: bytes, left: int) -> None:
    node = Node(Dialect.OPENBSD)
    node.hear(Inserts([STATE, STATE._replace(identity=OTHER, wire=_OTHER_KEY, stack=_OTHER_KEY)]))
    assert len(node.table) == 2
    node.hear(Clears([Clear(interface, creator)]))
    assert len(node.table) == left
    assert node.said() == [], "nothing is announced"


_OTHER_KEY = STATE.wire._replace(port0=40001)


def test_who_carries_a_flow_keeps_it() -> None:
    """Its standby forgets it for want of packets, and hears of it again."""
    node = Node(Dialect.OPENBSD, carrying=True)
    key = node.opens(flow())
    node.said()
    node.hear(CompressedDeletes([node.identity(key)]))
    assert key in node.table
    ((one, other),) = [batch.messages for batch in node.said() if isinstance(batch, Updates)]
    assert (one.identity, one.direction, other.direction) == (node.identity(key), IN, OUT)


@pytest.mark.parametrize("dialect", Dialect)
def test_deferred_inserts_are_acknowledged(dialect: Dialect) -> None:
    node = Node(dialect)
    node.hear(Inserts([STATE._replace(flags=ACK)], dialect))
    assert node.said() == [InsertAcknowledgements([FIRST])]


def frame(version: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return header.HEADER.pack(version, header.HEADER.size + len(body), bytes(16)) + body


def subheader(action: int, size: int, count: int) -> bytes:
    return header.SUBHEADER.pack(action, size, count)


_EOF = subheader(12, 0, 1)
_DELETE6, _DELETE5 = subheader(7, 3, 1) + FIRST, subheader(7, 0, 1) + FIRST


_FRAMES = {
    "6: longer messages": (frame(6, subheader(7, 5, 1), FIRST, bytes(8)), True, {}),
    "6: shorter messages": (frame(6, subheader(7, 2, 1), FIRST[:8]), False, {}),
    "6: unknown action": (frame(6, subheader(99, 1, 2), bytes(8), _DELETE6), True, {}),
    "6: retired action": (frame(6, subheader(1, 1, 1), bytes(4), _DELETE6), True, {}),
    "6: unknown action without a size": (frame(6, subheader(99, 0, 1), _DELETE6), False, {"badact": 1}),
    "6: unknown action of no messages": (frame(6, subheader(99, 3, 0), _DELETE6), False, {"badact": 1}),
    "6: wrong behind something right": (frame(6, _DELETE6, subheader(99, 0, 1)), True, {"badact": 1}),
    "6: EOF in the middle": (frame(6, _EOF, _DELETE6), True, {}),
    "6: batch longer than the packet": (frame(6, subheader(7, 3, 2), FIRST), False, {"badlen": 1}),
    "5: EOF": (frame(5, _DELETE5, _EOF), True, {}),
    "5: no EOF": (frame(5, _DELETE5), True, {"badlen": 1}),
    "5: bytes behind the EOF": (frame(5, _DELETE5, _EOF, bytes(4)), True, {"badlen": 1}),
    "5: EOF in the middle": (frame(5, _EOF, _DELETE5), False, {"badlen": 1}),
    "5: unknown action": (frame(5, subheader(99, 1, 1), bytes(4), _DELETE5, _EOF), False, {"badact": 1}),
    "5: OpenBSD's DEL": (frame(5, subheader(6, 66, 0), _DELETE5, _EOF), False, {"badact": 1}),
    "5: batch longer than the packet": (frame(5, subheader(7, 0, 2), FIRST, _EOF), False, {"badlen": 1}),
}


@pytest.mark.parametrize(("payload", "obeyed", "counted"), _FRAMES.values(), ids=_FRAMES)
def test_frames(payload: bytes, obeyed: bool, counted: dict[str, int]) -> None:
    """What comes before the fault is obeyed."""
    dialect = Dialect.OPENBSD if payload[0] == 6 else Dialect.FREEBSD_1301
    node = Node(dialect)
    node.hear(Inserts([STATE], dialect))
    node.hear_bytes(payload)
    assert (node.table == {}) == obeyed
    counters = node.engine.counters
    found = {name: getattr(counters, name) for name in ("hdrops", "badver", "badlen", "badact", "badval", "badstate")}
    assert {name: count for name, count in found.items() if count} == counted
