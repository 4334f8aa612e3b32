"""The synchronisation engine: keeps a node's states the same as its peers', driven by events, with time as an argument.

    effects = engine.handle(now, event)      # perform them in order; answer those that ask or can fail with events
    timer.arm(engine.deadline)               # then hand in TimersDue; early is harmless

The daemon, the simulator and captures drive this same class. Its parts: `state_sync` decides on states, `exchange`
speaks with the peers, `walk` goes through the kernel's table, `deferral` holds packets back. Ref: design §4, spec
pfsync §7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from carpd.pfsync.bulk import BulkUpdate
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.deferral import Deferral
from carpd.pfsync.effects import (
    Effect,
    FetchEntries,
    HearChanges,
    ReadExpectations,
    ReadTable,
    ReleasePackets,
    Resynchronising,
    SendPackets,
)
from carpd.pfsync.events import (
    AddressesChanged,
    EntriesFetched,
    EntriesRefused,
    Event,
    ExpectationsFound,
    Frame,
    LinkChanged,
    PacketsDeferred,
    PacketsReceived,
    Purpose,
    RoleChanged,
    TableChanged,
    TableRead,
    TimersDue,
)
from carpd.pfsync.exchange import Exchange
from carpd.pfsync.peers import Peers
from carpd.pfsync.state_sync import Settings, StateSync
from carpd.pfsync.stream import Sent
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.pfsync.walk import Errand, Walk
from carpd.units import MILLISECOND, SECOND
from carpd.wire.conntrack import flow_key
from carpd.wire.pfsync.messages import IDENTITY_SIZE

PACE_NS = 2 * MILLISECOND
"""Between two pieces of the table, to peers that don't acknowledge: 50 000 states a second."""
BULK_AGAIN_NS = 2 * SECOND
"""The least time between the beginnings of two bulk updates that we send."""
HAND_OVER_NS = 5 * SECOND
"""How long after it gave up the traffic a node may still see packets of it, which begin connections, and give entries a
normal timeout."""


class SyncEngine:
    """The state synchronisation of one node. The kernel's table is its driver's; it begins with a walk through it."""

    def __init__(self, now: int, settings: Settings, timeouts: LinuxTimeouts, *, carrying: bool) -> None:
        self.counters = PfsyncCounters()
        self.sync = StateSync(settings, self.counters)
        self.sync.carrying = carrying
        self._effects: list[Effect] = []
        self._walk = Walk()
        self._exchange = Exchange(now, settings, self.sync, self._walk, self.counters, self._effects)
        self._deferral = Deferral(self.counters)
        self._deferred: list[Frame] = []
        """Frames that are to be held as soon as all is told that was heard before them."""
        self._timeouts = timeouts
        self._reading = False
        """Whether a piece of the table is about to come."""
        self._paced_until = 0
        self._bulk_begun = -BULK_AGAIN_NS
        self._not_told = b""
        """The creator id of states that are left out of the bulk update."""
        self._handed_over_at: int | None = None
        """When a hand-over is certainly through."""
        self._more = False
        self._overflowed = False
        """Whether the kernel's events were not all read, and the table is not yet compared."""
        self._fetching = 0
        """`FetchEntries` that were not answered yet."""
        self._handlers: dict[type, Callable[[int, Any], None]] = {
            TableChanged: self._table_changed,
            ExpectationsFound: self._expectations_found,
            TableRead: self._table_read,
            EntriesFetched: self._entries_fetched,
            EntriesRefused: self._entries_refused,
            PacketsDeferred: self._packets_deferred,
            PacketsReceived: self._packets_received,
            LinkChanged: self._link_changed,
            RoleChanged: self._role_changed,
            AddressesChanged: self._addresses_changed,
            TimersDue: self._timers_due,
        }

    def handle(self, now: int, event: Event) -> list[Effect]:
        """What follows from the event."""
        self._handlers[type(event)](now, event)
        self._continue(now)
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    @property
    def deadline(self) -> int | None:
        """When `TimersDue` is wanted next."""
        times = [self._exchange.deadline]
        if self._handed_over_at is not None:
            times.append(self._handed_over_at)
        if self._walk.errands and not self._reading:
            times.append(self._paced_until)
        if self._deferral.deadline is not None:
            times.append(self._deferral.deadline)
        return min(times)

    def may_defer(self, now: int) -> bool:
        """Whether there is a peer that packets could be held for."""
        return self.settings.defer and self._exchange.acknowledged(now) is not None

    # What the status tells

    @property
    def settings(self) -> Settings:
        return self._exchange.settings

    @property
    def peers(self) -> Peers:
        return self._exchange.peers

    @property
    def sent(self) -> Sent:
        return self._exchange.sent

    @property
    def bulk(self) -> BulkUpdate:
        """The bulk update that we want."""
        return self._exchange.bulk

    # The kernel's side

    def _table_changed(self, now: int, event: TableChanged) -> None:
        self.sync.heard(event.events)
        self._more = event.more
        if event.lost:
            self.counters.overflows += 1
            self._overflowed = self.sync.missed = True
        if self._overflowed and not event.more:
            # Behind all events that had still room: what they tell is older than what is read now.
            self._overflowed = False
            self._compare("the kernel told of changes faster than they were read")

    def _compare(self, reason: str) -> None:
        """Read the whole table: something was missed."""
        self.counters.resyncs[reason] += 1
        self._effects.append(Resynchronising(reason))
        self._walk.want(Errand.COMPARE)

    def _expectations_found(self, _now: int, event: ExpectationsFound) -> None:
        self.sync.expect(event.expectations)

    def _table_read(self, now: int, event: TableRead) -> None:
        self._reading = False
        errands, records = self._walk.errands, self.sync.table.records
        if not errands:
            return
        keys = [flow_key(entry) for entry in event.entries]
        if Errand.COMPARE in errands:
            for key, entry in zip(keys, event.entries, strict=True):
                self.sync.read(key, entry)
        known = [(key, entry) for key, entry in zip(keys, event.entries, strict=True) if key in records]
        if Errand.BULK in errands:
            for key, entry in known:
                identity = records[key][:IDENTITY_SIZE]
                if identity[8:] != self._not_told:
                    self.sync.outbox.full(identity, entry)
        self._effects += self._walk.pass_by(known, self._timeouts)
        if event.last:
            if Errand.COMPARE in errands and not self._walk.wants(Errand.COMPARE):
                self.sync.missed = self._overflowed
            for key in self._walk.end():
                self.sync.to_fetch[Purpose.MISSED][key] = None
            if Errand.BULK in errands:
                self._exchange.end_bulk((now - self._bulk_begun) // SECOND)

    def _entries_fetched(self, now: int, event: EntriesFetched) -> None:
        self._fetching -= 1
        self.sync.fetched(event.purpose, event.keys, event.entries)
        self._exchange.read(now, looking_up=self._fetching > 0)

    def _entries_refused(self, _now: int, event: EntriesRefused) -> None:
        self.sync.refused(event.change, event.refusals)

    def _packets_deferred(self, _now: int, event: PacketsDeferred) -> None:
        self._deferred += event.frames

    def _addresses_changed(self, _now: int, event: AddressesChanged) -> None:
        self.sync.selection = replace(self.sync.selection, own=event.addresses)

    # What else happens to us

    def _packets_received(self, now: int, event: PacketsReceived) -> None:
        self._exchange.receive(event.packets)
        self._exchange.read(now, looking_up=self._fetching > 0)

    def _link_changed(self, now: int, event: LinkChanged) -> None:
        self._exchange.link_changed(now, up=event.up, max_packet=event.max_packet)

    def _role_changed(self, now: int, event: RoleChanged) -> None:
        if not event.carrying and not self.sync.carrying:
            return
        self.sync.carrying = event.carrying
        self._walk.drop(Errand.HOLD if event.carrying else Errand.TRIM)
        self._walk.want(Errand.TRIM if event.carrying else Errand.HOLD)
        self._walk.want(Errand.LOOSEN)
        self._handed_over_at = None if event.carrying else now + HAND_OVER_NS
        self._exchange.role_changed()

    def _timers_due(self, now: int, _event: TimersDue) -> None:
        if self._handed_over_at is not None and now >= self._handed_over_at:
            self._handed_over_at = None
            self._walk.want(Errand.HOLD)
        self._exchange.timers_due(now)

    # What follows

    def _continue(self, now: int) -> None:
        """Do, ask and say all that has come together; then go on with the walk.

        What is looked up is known at once, and said first: a digest and the end of a bulk update cover it.
        """
        self._choose_changes()
        if not self._fetching:  # else what is being looked up would be older than a change
            self._effects += self.sync.changes.take()
            fetches = [FetchEntries(tuple(keys), purpose) for purpose, keys in self.sync.to_fetch.items() if keys]
            self._effects += fetches
            self._fetching = len(fetches)
            for fetch in fetches:
                self.sync.to_fetch[fetch.purpose] = {}
        self._begin_walk(now)
        if not self._fetching:  # what came is not done yet: it must not be acknowledged
            packets = self._exchange.packets(now, more=self._more)
            self._more = False
            if packets:
                self._effects.append(SendPackets(packets))
            self._defer(now)
        if self._walk.errands and not self._reading and now >= self._paced_until and self._may_tell_more(now):
            self._reading = True
            self._effects.append(ReadTable(begin=False))

    def _defer(self, now: int) -> None:
        """Hold what has come until what was told is acknowledged, and let go what has waited enough."""
        if self._deferred:
            self._deferral.hold(now, self._deferred, self._exchange.told)
            self._deferred = []
        if self._deferral:
            frames = self._deferral.release(now, self._exchange.acknowledged(now))
            if frames:
                self._effects.append(ReleasePackets(frames))

    def _choose_changes(self) -> None:
        """A host tells of its connections while it carries them. Those that began before are found in the table."""
        wanted = self.sync.carrying or self._handed_over_at is not None
        if wanted != self.sync.announcing:
            self.sync.announcing = wanted
            self._effects.append(HearChanges(wanted))
            if wanted and self.sync.settled:
                self._walk.want(Errand.COMPARE)

    def _begin_walk(self, now: int) -> None:
        wanted = bool(self._exchange.bulk_wanted) and now - self._bulk_begun >= BULK_AGAIN_NS
        if wanted and not self._walk.errands:
            self._bulk_begun = now
            self._walk.want(Errand.BULK)
            self._walk.want(Errand.COMPARE)  # it covers what we carry and have not told of yet, too
            self._not_told = self._exchange.begin_bulk()
            self._effects.append(ReadExpectations())
        if self._walk.due:
            self._walk.begin(self.sync.table.records)
            self._reading = True
            self._effects.append(ReadTable(begin=True))

    def _may_tell_more(self, now: int) -> bool:
        """Whether the peers can take more of what the walk has to tell; if not, or if they don't say, go on later."""
        window_is_open = self._exchange.window_is_open()
        if window_is_open is False or (window_is_open is None and Errand.BULK in self._walk.errands):
            self._paced_until = now + PACE_NS
        return window_is_open is not False
