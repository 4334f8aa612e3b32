"""A node of the tests: the engine, and a connection tracking table that does what it is told at once."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from carpd.pfsync.effects import (
    DeleteEntries,
    Effect,
    Fact,
    FetchEntries,
    HearChanges,
    InsertEntries,
    InsertExpectations,
    LoosenEntries,
    ReadExpectations,
    ReadTable,
    ReleasePackets,
    SendPackets,
    SetTimeouts,
    UpdateEntries,
)
from carpd.pfsync.engine import SyncEngine
from carpd.pfsync.events import (
    AddressesChanged,
    Change,
    EntriesFetched,
    EntriesRefused,
    Event,
    ExpectationsFound,
    Frame,
    LinkChanged,
    PacketsDeferred,
    PacketsReceived,
    Refused,
    TableChanged,
    TableRead,
    TimersDue,
)
from carpd.pfsync.selection import Selection
from carpd.pfsync.state_sync import Settings
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.units import SECOND
from carpd.wire import ctnetlink
from carpd.wire.conntrack import ASSURED, CONFIRMED, SEEN_REPLY, TCP, UDP, ConntrackEntry, flow_key
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.batches import AnyBatch
from carpd.wire.pfsync.numbers import Dialect
from carpd.wire.pfsync.packet import Packet

OURS = b"\x55" * 4
MAX_PACKET = 1480


class Node:
    """It has everything that peers know, unless it is `fresh`: then it has just been started."""

    def __init__(
        self,
        dialect: Dialect | None = None,
        *,
        carrying: bool = False,
        fresh: bool = False,
        max_states: int = 1000,
        own: Iterable[bytes] = (),
        creator_id: bytes = OURS,
        defer: bool = False,
    ) -> None:
        self.now = 0
        self.table: dict[bytes, ConntrackEntry] = {}
        self.sent: list[Packet] = []
        self.facts: list[Fact] = []
        self.fetched: list[FetchEntries] = []
        self.released: list[Frame] = []
        self.loosened: list[bytes] = []
        """Flow keys of what the kernel is to be liberal about, beside what was inserted or updated."""
        self._numbers = 0
        self._version = v6.VERSION if dialect is None else dialect.version
        settings = Settings(
            creator_id=creator_id,
            first_id=0x1000,
            selection=Selection(local=True),
            max_states=max_states,
            max_packet=MAX_PACKET,
            dialect=dialect,
            defer=defer,
        )
        self.engine = SyncEngine(0, settings, LinuxTimeouts({}), carrying=carrying)
        self.handle(AddressesChanged(frozenset(own)))
        self.handle(LinkChanged(True))
        if not fresh:
            while not self.engine.bulk.done:
                self.sleep(SECOND)
            self.facts.clear()
            self.sent.clear()

    # Time and packets

    def sleep(self, nanoseconds: int) -> None:
        """Let time pass, and every timer run out at its time."""
        end = self.now + nanoseconds
        while (deadline := self.engine.deadline) is not None and deadline <= end:
            self.now = max(deadline, self.now + 1)
            self.handle(TimersDue())
        self.now = max(end, self.now)

    def hear(self, *batches: AnyBatch, source: str = "peer") -> None:
        """A packet comes from a peer."""
        self.hear_bytes(Packet(self._version, batches).to_bytes(), source=source)

    def hear_bytes(self, payload: bytes, *, source: str = "peer") -> None:
        self.handle(PacketsReceived([(source, payload)]))

    def said(self) -> list[AnyBatch]:
        """What was sent since the last time."""
        batches = [batch for packet in self.sent for batch in packet.batches]
        self.sent.clear()
        return batches

    # The kernel

    def holds(self, *frames: Frame) -> list[Frame]:
        """These are to leave; what leaves now, of all that are held."""
        self.released.clear()
        self.handle(PacketsDeferred(frames))
        return self.released

    def opens(self, entry: ConntrackEntry) -> bytes:
        """A connection begins here; its flow key."""
        self._numbers += 1
        entry = entry._replace(id=self._numbers)
        self.table[flow_key(entry)] = entry
        self.handle(TableChanged([(ctnetlink.Change.NEW, entry)]))
        return flow_key(entry)

    def changes(self, entry: ConntrackEntry) -> None:
        entry = entry._replace(id=self.table[flow_key(entry)].id)
        self.table[flow_key(entry)] = entry
        self.handle(TableChanged([(ctnetlink.Change.UPDATE, entry)]))

    def ends(self, key: bytes) -> None:
        self.handle(TableChanged([(ctnetlink.Change.DESTROY, self.table.pop(key))]))

    def identity(self, key: bytes) -> bytes:
        """Under which a flow is known."""
        return self.engine.sync.table.records[key][:12]

    # The driver

    def handle(self, event: Event) -> None:
        events = [event]
        while events:
            for effect in self.engine.handle(self.now, events.pop(0)):
                events += self._perform(effect)

    def _perform(self, effect: Effect) -> list[Event]:
        match effect:
            case SendPackets(packets):
                assert all(len(packet) <= MAX_PACKET for packet in packets)
                self.sent += map(Packet.from_bytes, packets)
            case InsertEntries(entries):
                return self._do(Change.INSERT, [(flow_key(entry), entry) for entry in entries])
            case UpdateEntries(entries):
                return self._do(Change.UPDATE, [(flow_key(entry), entry) for entry in entries])
            case DeleteEntries(keys):
                return self._do(Change.DELETE, [(key, None) for key in keys])
            case SetTimeouts(timeouts):
                present = [(key, seconds) for key, seconds in timeouts if key in self.table]
                self.table.update({key: self.table[key]._replace(timeout=seconds) for key, seconds in present})
            case FetchEntries(keys, purpose):
                self.fetched.append(effect)
                return [EntriesFetched(purpose, keys, [self.table.get(key) for key in keys])]
            case ReadTable():
                return [TableRead(list(self.table.values()), last=True)]
            case ReadExpectations():
                return [ExpectationsFound(())]
            case ReleasePackets(frames):
                self.released += frames
            case LoosenEntries(keys):
                self.loosened += keys
            case InsertExpectations() | HearChanges():
                pass
            case _:
                self.facts.append(effect)
        return []

    def _do(self, change: Change, wanted: Sequence[tuple[bytes, ConntrackEntry | None]]) -> list[Event]:
        refused = []
        for key, entry in wanted:
            known = self.table.get(key)
            if entry is None:
                self.table.pop(key, None)
            elif change is Change.INSERT:
                if known is not None:
                    refused.append(Refused(key, entry, errno.EEXIST, "it exists"))
                else:
                    self._numbers += 1
                    self.table[key] = entry._replace(id=self._numbers)
            elif known is None:
                refused.append(Refused(key, entry, errno.ENOENT, "there is none"))
            elif known.status & ~entry.status & (SEEN_REPLY | ASSURED):
                refused.append(Refused(key, entry, errno.EBUSY, "it has seen more"))
            else:
                if entry.state is not None:
                    known = known._replace(
                        state=entry.state,
                        original_scale=entry.original_scale,
                        reply_scale=entry.reply_scale,
                        original_flags=entry.original_flags,
                        reply_flags=entry.reply_flags,
                    )
                self.table[key] = known._replace(
                    status=known.status | entry.status,
                    mark=known.mark if entry.mark is None else entry.mark,
                    timeout=known.timeout if entry.timeout is None else entry.timeout,
                )
        return [EntriesRefused(change, refused)] if refused else []


HOST, SERVER, SHARED = bytes([10, 0, 0, 5]), bytes([192, 0, 2, 80]), bytes([203, 0, 113, 1])


def flow(
    protocol: int = UDP,
    source_port: int = 40000,
    *,
    status: int = CONFIRMED,
    timeout: int | None = 30,
    state: int | None = None,
    snat: tuple[bytes, int] | None = None,
    dnat: tuple[bytes, int] | None = None,
    source: bytes = HOST,
) -> ConntrackEntry:
    """A connection from HOST to port 80 of SERVER, translated or not."""
    answerer, answering_port = dnat or (SERVER, 80)
    seen_as, seen_port = snat or (source, source_port)
    return ConntrackEntry(
        source, SERVER, protocol, source_port, 80, answerer, seen_as, answering_port, seen_port,
        status=status, timeout=timeout, state=1 if protocol == TCP and state is None else state,
    )  # fmt: skip
