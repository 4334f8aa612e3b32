"""The connection tracking table of an empty network namespace: what is put into it, and what is heard of it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator

import pytest

from carpd.errors import SystemCallError
from carpd.linux import sysctls
from carpd.linux.conntrack import (
    ConntrackEvents,
    ConntrackTable,
    ExpectationEvents,
    events_enabled,
)
from carpd.linux.netlink import REQUESTS_AT_ONCE
from carpd.wire import conntrack
from carpd.wire.conntrack import (
    ConntrackEntry,
    Expectation,
    FlowTuple,
    SctpState,
    SequenceAdjustment,
    TcpState,
    flow_key,
)
from carpd.wire.ctnetlink import Change, Event
from tests.conftest import leave_out
from tests.linux.firewall_pair import comparable

CLIENT, SERVER, OUTSIDE = bytes([192, 0, 2, 10]), bytes([198, 51, 100, 10]), bytes([198, 51, 100, 1])
CLIENT6, SERVER6 = bytes.fromhex("20010db8000100000000000000000010"), bytes.fromhex("20010db8000200000000000000000010")
OUTSIDE6 = bytes.fromhex("20010db8000200000000000000000001")
SEEN = conntrack.SEEN_REPLY | conntrack.CONFIRMED
ASSURED = SEEN | conntrack.ASSURED

TCP = ConntrackEntry(
    CLIENT, SERVER, conntrack.TCP, 40000, 80, SERVER, CLIENT, 80, 40000,
    status=ASSURED, timeout=600, state=TcpState.ESTABLISHED,
    original_scale=7, reply_scale=9, original_flags=0x03, reply_flags=0x07,
)  # fmt: skip
UDP6 = ConntrackEntry(CLIENT6, SERVER6, conntrack.UDP, 40000, 53, SERVER6, CLIENT6, 53, 40000, status=SEEN, timeout=120)
PING = ConntrackEntry(CLIENT, SERVER, conntrack.ICMP, 77, 8 << 8, SERVER, CLIENT, 8 << 8, 77, status=SEEN, timeout=30)
SNAT, DNAT = conntrack.SOURCE_NAT, conntrack.DESTINATION_NAT
MASTER = FlowTuple(CLIENT, SERVER, conntrack.TCP, 40000, 80)

ENTRIES = {
    "tcp": TCP,
    "tcp reset": TCP._replace(state=TcpState.CLOSE, timeout=10),
    "udp": UDP6._replace(status=conntrack.CONFIRMED),
    "ping": PING,
    "timestamp query": PING._replace(destination_port=13 << 8, reply_source_port=13 << 8),
    "ping6": PING._replace(
        source=CLIENT6, destination=SERVER6, protocol=conntrack.ICMPV6, destination_port=128 << 8,
        reply_source=SERVER6, reply_destination=CLIENT6, reply_source_port=128 << 8,
    ),
    "ping source nat": PING._replace(
        reply_destination=OUTSIDE, reply_destination_port=78, status=SEEN | SNAT
    ),
    "sctp": TCP._replace(
        protocol=conntrack.SCTP, state=SctpState.ESTABLISHED, original_scale=0, reply_scale=0, original_flags=0,
        reply_flags=0, original_tag=0xC11E4717, reply_tag=0x5E2FE2AA,
    ),
    "gre": UDP6._replace(protocol=conntrack.GRE, source_port=0, destination_port=0, reply_source_port=0,
                         reply_destination_port=0),
    "unknown protocol": PING._replace(protocol=253, source_port=0, destination_port=0, reply_source_port=0,
                                      reply_destination_port=0),
    "source nat": TCP._replace(reply_destination=OUTSIDE, status=ASSURED | SNAT),
    "source port": TCP._replace(reply_destination=OUTSIDE, reply_destination_port=61000, status=ASSURED | SNAT),
    "destination nat": UDP6._replace(reply_source=OUTSIDE6, status=SEEN | DNAT),
    "destination port": TCP._replace(reply_source_port=8080, status=ASSURED | DNAT),
    "both": UDP6._replace(
        reply_source=OUTSIDE6, reply_source_port=54, reply_destination=SERVER6, reply_destination_port=1,
        status=SEEN | SNAT | DNAT,
    ),
    "mark": TCP._replace(mark=0xDEADBEEF),
    "zone": TCP._replace(zone=7),
    "original zone": TCP._replace(original_zone=7),
    "reply zone": TCP._replace(reply_zone=7),
    "adjusted": TCP._replace(
        status=ASSURED | conntrack.SEQUENCE_ADJUST,
        original_adjustment=SequenceAdjustment(123456789, 0, 2), reply_adjustment=SequenceAdjustment(0, 0, 0),
    ),
}  # fmt: skip


@pytest.fixture
def table(namespace: None) -> Iterator[ConntrackTable]:
    sysctls.write("1", "netfilter", "nf_conntrack_events")
    with ConntrackTable() as opened:
        yield opened


@pytest.fixture
def other(table: ConntrackTable) -> Iterator[ConntrackTable]:
    """Somebody else who changes the same table."""
    with ConntrackTable() as opened:
        yield opened


def everything(table: ConntrackTable) -> list[ConntrackEntry]:
    return [entry for piece in table.dump() for entry in piece]


def many(count: int) -> list[ConntrackEntry]:
    return [TCP._replace(source_port=1 + i, reply_destination_port=1 + i) for i in range(count)]


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_is_inserted_is_there(table: ConntrackTable, entry: ConntrackEntry) -> None:
    assert table.insert([entry]) == []
    (found,) = everything(table)
    assert comparable(found) == comparable(entry)
    assert entry.timeout is not None
    assert found.timeout is not None
    assert entry.timeout - 2 <= found.timeout <= entry.timeout
    got = table.get(flow_key(entry))
    assert got
    assert comparable(got) == comparable(found)
    assert table.delete([flow_key(entry)]) == []
    assert everything(table) == []
    assert table.get(flow_key(entry)) is None


def test_all_at_once(table: ConntrackTable) -> None:
    """Entries of all layouts in one send."""
    apart = [entry._replace(zone=i + 1, original_zone=0, reply_zone=0) for i, entry in enumerate(ENTRIES.values())]
    assert table.insert(apart) == []
    found = {entry.zone: comparable(entry) for entry in everything(table)}
    assert found == {entry.zone: comparable(entry) for entry in apart}


def test_refusals_are_told_by_position(table: ConntrackTable) -> None:
    """Each with its reason, and the others go in."""
    count = 2 * REQUESTS_AT_ONCE + 9
    batch = many(count)
    batch[3] = batch[2]
    batch[REQUESTS_AT_ONCE + 5] = batch[REQUESTS_AT_ONCE + 5]._replace(timeout=None)
    batch[REQUESTS_AT_ONCE + 6] = batch[REQUESTS_AT_ONCE + 6]._replace(helper="none")
    batch[count - 1] = batch[count - 1]._replace(master=MASTER._replace(source_port=60001))
    refused = {3: errno.EEXIST, REQUESTS_AT_ONCE + 5: errno.EINVAL, REQUESTS_AT_ONCE + 6: errno.EOPNOTSUPP}
    refused[count - 1] = errno.ENOENT
    assert {r.position: r.errno for r in table.insert(batch)} == refused
    assert len(everything(table)) == count - len(refused)
    keys = [flow_key(entry) for entry in many(count)]
    gone = {3, *refused}
    assert {r.position: r.errno for r in table.delete(keys)} == dict.fromkeys(gone, errno.ENOENT)
    assert everything(table) == []


def test_the_reply_tuple_of_another(table: ConntrackTable) -> None:
    """Two flows that would look the same from outside."""
    first, second = (
        TCP._replace(source_port=port, reply_destination=OUTSIDE, reply_destination_port=61000) for port in (1, 2)
    )
    assert [r.errno for r in table.insert([first, second])] == [errno.EEXIST]


UPDATES = {
    "state": ({"state": TcpState.FIN_WAIT, "original_flags": 0x07, "timeout": 120}, 0),
    "mark": ({"mark": 5}, 0),
    "not told": ({"state": None, "timeout": None, "mark": 6}, 0),
    "only the state": ({"state": TcpState.CLOSE_WAIT, "timeout": None, "mark": None}, 0),
    "only the status": ({"status": ASSURED | conntrack.CONFIRMED, "state": None, "timeout": None, "mark": None}, 0),
    "fewer promises": ({"status": conntrack.CONFIRMED | conntrack.SEEN_REPLY}, errno.EBUSY),
    "no reply seen": ({"status": conntrack.CONFIRMED}, errno.EBUSY),
    "expected": ({"status": ASSURED | conntrack.EXPECTED}, errno.EBUSY),
    "another flow": ({"source_port": 2, "timeout": 7}, errno.ENOENT),
    "labels without a rule": ({"labels": bytes(15) + b"\x01", "mark": 7}, errno.ENOSPC),
}


@pytest.mark.parametrize(("changes", "refused"), UPDATES.values(), ids=UPDATES)
def test_updates(table: ConntrackTable, changes: dict[str, object], refused: int) -> None:
    tcp = TCP._replace(mark=3)
    assert table.insert([tcp]) == []
    update = tcp._replace(**changes)  # type: ignore[arg-type]
    assert [r.errno for r in table.update([update])] == ([refused] if refused else [])
    (found,) = everything(table)
    applied = {} if refused and "labels" not in changes else changes
    kept = {field: value for field, value in applied.items() if value is not None and field != "labels"}
    assert comparable(found) == comparable(tcp._replace(**kept))  # type: ignore[arg-type]


def test_gre_keeps_its_timeout(table: ConntrackTable) -> None:
    gre = ENTRIES["gre"]._replace(timeout=3600)
    assert table.insert([gre]) == table.update([gre._replace(timeout=5, mark=9)]) == []
    (found,) = everything(table)
    assert found.mark == 9
    assert found.timeout
    assert found.timeout > 3000


def test_many_are_looked_up_at_once(table: ConntrackTable) -> None:
    """In any order, some twice, and some that are not there."""
    entries = many(2 * REQUESTS_AT_ONCE + 9)
    assert table.insert(entries[::2]) == []
    keys = [flow_key(entry) for entry in reversed(entries)] * 2
    present = {flow_key(entry): comparable(entry) for entry in entries[::2]}
    found = table.get_many(keys)
    assert [entry and comparable(entry) for entry in found] == [present.get(key) for key in keys]
    assert table.get_many([]) == []


def test_the_longest_entries_are_looked_up_at_once(table: ConntrackTable) -> None:
    """What waits for us while the kernel answers has to fit into the receive buffer."""
    adjustment = SequenceAdjustment(1, 2, 3)
    entries = [
        TCP._replace(
            source=CLIENT6, destination=SERVER6, reply_source=OUTSIDE6, reply_destination=OUTSIDE6, source_port=1 + i,
            reply_destination_port=1 + i, zone=7, mark=1, status=ASSURED | SNAT | DNAT | conntrack.SEQUENCE_ADJUST,
            original_adjustment=adjustment, reply_adjustment=adjustment,
        )
        for i in range(REQUESTS_AT_ONCE)
    ]  # fmt: skip
    sysctls.write("1", "netfilter", "nf_conntrack_acct")
    sysctls.write("1", "netfilter", "nf_conntrack_timestamp")
    assert table.insert(entries) == []
    assert None not in table.get_many([flow_key(entry) for entry in entries])


def test_there_is_no_entry_of_what_is_not_tracked(table: ConntrackTable) -> None:
    unanswerable = PING._replace(destination_port=3 << 8)
    assert table.insert([PING]) == []
    assert [entry is None for entry in table.get_many([flow_key(unanswerable), flow_key(PING)])] == [True, False]


def test_loosening(table: ConntrackTable) -> None:
    """What is inserted is liberal from the beginning; loosening it changes nothing else."""
    liberal = conntrack.LIBERAL
    assert table.insert([TCP]) == []
    found = table.get(flow_key(TCP))
    assert found
    assert found.original_flags & found.reply_flags & liberal
    assert table.loosen([flow_key(TCP)]) == []
    assert table.get(flow_key(TCP)) == found._replace(timeout=table.get(flow_key(TCP)).timeout)  # type: ignore[union-attr]
    assert [refusal.errno for refusal in table.loosen([flow_key(PING)])] == [errno.ENOENT]


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_setting_timeouts(table: ConntrackTable, entry: ConntrackEntry) -> None:
    """Of every kind, to a longer and a shorter one; nothing else changes."""
    key = flow_key(entry)
    assert table.insert([entry]) == []
    before = table.get(key)
    assert before
    for seconds in (2_000_000, 20):
        assert table.set_timeouts([(key, seconds)]) == []
        found = table.get(key)
        assert found
        assert found.timeout
        assert seconds - 2 <= found.timeout <= seconds
        assert comparable(found) == comparable(before)
    assert len(everything(table)) == 1


def test_setting_timeouts_of_many(table: ConntrackTable) -> None:
    """Those that are gone are told by position."""
    entries = many(REQUESTS_AT_ONCE + 9)
    entries[5] = ENTRIES["gre"]
    gone = (3, REQUESTS_AT_ONCE + 1)
    keys = [flow_key(entry) for entry in entries]
    assert table.insert(entries) == []
    assert table.delete([keys[position] for position in gone]) == []
    refused = table.set_timeouts([(key, 10_000 + i) for i, key in enumerate(keys)])
    assert [(r.position, r.errno) for r in refused] == [(position, errno.ENOENT) for position in gone]
    for i, entry in enumerate(table.get_many(keys)):
        if i in gone:
            assert entry is None
        else:
            assert entry
            assert entry.timeout
            assert 0 <= 10_000 + i - entry.timeout <= 2


def test_gre_made_anew_keeps_its_master(table: ConntrackTable) -> None:
    """As PPTP's tunnel has its control connection."""
    gre = ENTRIES["gre"]._replace(
        source=CLIENT, destination=SERVER, reply_source=SERVER, reply_destination=CLIENT, master=MASTER, mark=7
    )
    assert table.insert([TCP, gre]) == []
    assert table.set_timeouts([(flow_key(gre), 2_000_000)]) == []
    found = table.get(flow_key(gre))
    assert found
    assert (found.master, found.mark) == (MASTER, 7)


@pytest.mark.parametrize("before", [True, False])
def test_gre_that_ends_while_it_is_made_anew(
    table: ConntrackTable, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Before or after we read it: it does not come back."""
    gre = ENTRIES["gre"]
    get = table.get

    def end_and_get(key: bytes) -> ConntrackEntry | None:
        found = None if before else get(key)
        table.delete([key])
        return found

    assert table.insert([gre]) == []
    monkeypatch.setattr(table, "get", end_and_get)
    assert [r.errno for r in table.set_timeouts([(flow_key(gre), 100)])] == [errno.ENOENT]
    assert everything(table) == []


def test_expected_connections(table: ConntrackTable) -> None:
    """They need their master when they are made, and say so ever after."""
    child = UDP6._replace(
        source=CLIENT, destination=SERVER, reply_source=SERVER, reply_destination=CLIENT, master=MASTER
    )
    assert table.insert([TCP, child]) == []
    (found,) = (entry for entry in everything(table) if entry.protocol == conntrack.UDP)
    assert found.master == MASTER
    assert found.status & conntrack.EXPECTED
    assert table.update([found]) == []
    assert [r.errno for r in table.update([child])] == [errno.EBUSY]


DUMPS: dict[str, tuple[dict[str, int], set[int]]] = {
    "all": ({}, {1, 2, 3}),
    "zone": ({"zone": 7}, {2, 3}),
    "no zone": ({"zone": 0}, {1}),
    "mark": ({"mark": 0x11}, {1, 2}),
    "mark bits": ({"mark": 0x01, "mark_mask": 0x0F}, {1, 2, 3}),
    "both": ({"zone": 7, "mark": 0x11}, {2}),
}


@pytest.mark.parametrize(("wanted", "found"), DUMPS.values(), ids=DUMPS)
def test_dumps(table: ConntrackTable, wanted: dict[str, int], found: set[int]) -> None:
    entries = [
        TCP._replace(source_port=port, reply_destination_port=port, zone=zone, mark=mark)
        for port, zone, mark in ((1, 0, 0x11), (2, 7, 0x11), (3, 7, 0x21))
    ]
    assert table.insert(entries) == []
    assert {entry.source_port for piece in table.dump(**wanted) for entry in piece} == found


def test_a_dump_in_pieces(table: ConntrackTable) -> None:
    """The table can be changed while it is read, and reading can be given up."""
    entries = many(3000)
    assert table.insert(entries) == []
    seen: list[ConntrackEntry] = []
    sizes = []
    for piece in table.dump():
        sizes.append(len(piece))
        seen += piece
        assert table.update([entries[0]._replace(mark=len(sizes))]) == []
    assert len(sizes) > 10
    assert max(sizes) < 300
    assert sorted(map(flow_key, seen)) == sorted(map(flow_key, entries))
    given_up = table.dump()
    next(given_up)
    given_up.close()  # type: ignore[attr-defined]
    assert len(everything(table)) == 3000


def hear(listener: ConntrackEvents, enough: Callable[[list[Event]], bool]) -> tuple[list[Event], bool]:
    """The events until there are enough, and whether some were lost."""
    events: list[Event] = []
    lost = False
    deadline = time.monotonic() + 10
    while not enough(events) and time.monotonic() < deadline:
        heard = listener.receive()
        events += heard.events
        lost |= heard.lost
    return events, lost


def test_events(table: ConntrackTable) -> None:
    entry = ENTRIES["source port"]
    listener = ConntrackEvents()
    assert listener.receive() == ([], False)
    table.insert([entry])
    table.update([entry._replace(mark=5, state=TcpState.FIN_WAIT)])
    table.delete([flow_key(entry)])
    events, lost = hear(listener, lambda events: len(events) == 3)
    assert not lost
    assert [change for change, _ in events] == [Change.NEW, Change.UPDATE, Change.DESTROY]
    told = [comparable(heard) for _, heard in events]
    assert told[0] == comparable(entry)
    assert told[1] == comparable(entry._replace(mark=5, state=TcpState.FIN_WAIT))
    assert told[2][:9] == entry[:9]
    assert told[2].state == TcpState.FIN_WAIT
    assert [heard.id for _, heard in events] == 3 * [events[0][1].id]
    listener.close()


def test_own_changes_are_not_heard(table: ConntrackTable, other: ConntrackTable) -> None:
    listener = ConntrackEvents(ignored_port=table.port)
    mine, theirs = many(2)
    table.insert([mine])
    other.insert([theirs])
    table.update([theirs._replace(mark=1)])
    other.update([mine._replace(mark=2)])
    table.delete([flow_key(mine)])
    other.delete([flow_key(theirs)])
    events, _ = hear(listener, lambda events: len(events) == 3)
    assert [(change, heard.source_port) for change, heard in events] == [
        (Change.NEW, theirs.source_port),
        (Change.UPDATE, mine.source_port),
        (Change.DESTROY, theirs.source_port),
    ]
    listener.close()


def test_reading_is_bounded(table: ConntrackTable) -> None:
    listener = ConntrackEvents()
    table.insert(many(600))
    assert [len(listener.receive().events) for _ in range(4)] == [256, 256, 88, 0]
    listener.close()


def test_overflow(table: ConntrackTable) -> None:
    """It is told once, what waits is not lost, and what happens later is heard again."""
    listener = ConntrackEvents(buffer_size=64 * 1024)
    entries = many(2000)
    table.insert(entries)
    first = listener.receive()
    assert first == ([], True)
    waited = 0
    while heard := listener.receive().events:
        waited += len(heard)
    assert 20 < waited < 2000
    more = TCP._replace(source_port=5000, reply_destination_port=5000)
    table.insert([more])
    events, lost = hear(listener, bool)
    assert not lost
    assert [comparable(heard) for _, heard in events] == [comparable(more)]
    listener.close()


def test_ends_that_overflowed_are_told_again(table: ConntrackTable) -> None:
    entries = many(500)
    table.insert(entries)
    listener = ConntrackEvents(buffer_size=64 * 1024)
    table.delete([flow_key(entry) for entry in entries])
    assert everything(table) == []
    ended: set[int] = set()
    deadline = time.monotonic() + 20
    lost = False
    while len(ended) < 500 and time.monotonic() < deadline:
        heard = listener.receive()
        lost |= heard.lost
        ended |= {entry.source_port for change, entry in heard.events if change is Change.DESTROY}
    assert lost
    assert len(ended) == 500
    listener.close()


CONTROL = TCP._replace(destination_port=21, reply_source_port=21, helper="ftp")


def expected(port: int) -> Expectation:
    """A data connection of FTP."""
    return Expectation(
        tuple=FlowTuple(SERVER, CLIENT, conntrack.TCP, 0, port),
        mask=FlowTuple(b"\xff" * 4, b"\xff" * 4, conntrack.TCP, 0, 0xFFFF),
        master=FlowTuple(*CONTROL[:5]),
        timeout=300,
        helper="ftp",
    )


def control_connection(table: ConntrackTable) -> None:
    if table.insert([CONTROL]):
        leave_out("needs the kernel's helper for FTP")


def test_expectations(table: ConntrackTable, other: ConntrackTable) -> None:
    """What others expect is heard, what we do ourselves is not."""
    listener = ExpectationEvents(ignored_port=table.port)
    assert listener.receive() == ([], False)
    control_connection(table)
    assert table.insert_expectations([expected(1)]) == other.insert_expectations([expected(2)]) == []
    (heard,), lost = listener.receive()
    assert not lost
    assert heard._replace(timeout=0) in [found._replace(timeout=0) for found in table.expectations()]
    assert heard._replace(id=0, timeout=300) == expected(2)
    assert listener.receive() == ([], False)
    listener.close()


def test_more_expectations_than_wait_for_us(table: ConntrackTable) -> None:
    """That some are not heard is told once, and what comes later is heard again."""
    listener = ExpectationEvents()
    control_connection(table)
    assert table.insert_expectations([expected(port) for port in range(1, 2001)]) == []
    assert listener.receive() == ([], True)
    while heard := listener.receive().expectations:
        assert len(heard) <= 64
    assert table.insert_expectations([expected(2001)]) == []
    (later,), lost = listener.receive()
    assert not lost
    assert later.tuple.destination_port == 2001
    listener.close()


@pytest.mark.parametrize(("setting", "enabled"), [("0", False), ("1", True), ("2", False)])
def test_events_enabled(namespace: None, setting: str, enabled: bool) -> None:
    sysctls.write(setting, "netfilter", "nf_conntrack_events")
    assert events_enabled() is enabled


def test_failures(table: ConntrackTable) -> None:
    listener = ConntrackEvents()
    listener.close()
    with pytest.raises(SystemCallError, match="hear of connections: "):
        listener.receive()
    table.close()
    with pytest.raises(SystemCallError, match="speak to the kernel by netlink: "):
        table.insert([TCP])
