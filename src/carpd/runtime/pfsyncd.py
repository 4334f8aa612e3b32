"""pfsyncd: the kernel's connection tracking and the peers' packets in, the synchronisation engine, and out again.

A process of its own, as it is busy when many connections come and go. The supervisor starts it and speaks to it over a
socket pair; when the supervisor goes, it ends, and the kernel's table stays as it is. Ref: design §2, §5.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from carpd.config.model import PfsyncConfig
from carpd.errors import CarpdError, SystemCallError
from carpd.linux import conntrack_settings
from carpd.linux.addresses import local_addresses
from carpd.linux.conntrack import EVENTS_AT_ONCE, ConntrackEvents, ConntrackTable, ExpectationEvents
from carpd.linux.links import LinkMonitor
from carpd.linux.netlink import Refusal
from carpd.linux.sync_sockets import DATAGRAMS_AT_ONCE
from carpd.pfsync.effects import (
    BulkUpdateChanged,
    DeleteEntries,
    Effect,
    FetchEntries,
    HearChanges,
    InsertEntries,
    InsertExpectations,
    LoosenEntries,
    PeerAppeared,
    PeerLost,
    ReadExpectations,
    ReadTable,
    ReleasePackets,
    Resynchronising,
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
    RoleChanged,
    TableChanged,
    TableRead,
    TimersDue,
)
from carpd.pfsync.halves import dialect_of
from carpd.pfsync.selection import Selection
from carpd.pfsync.state_sync import Settings
from carpd.pfsync.timeouts import HOLD_THRESHOLD, LinuxTimeouts
from carpd.runtime import pfsync_status
from carpd.runtime.channel import Channel, ChannelClosedError
from carpd.runtime.held_packets import HeldPackets
from carpd.runtime.messages import LogLine, PfsyncStatus, PfsyncStatusWanted, StartPfsync, SyncLinkChanged
from carpd.runtime.sync_link import SyncLink
from carpd.units import MILLISECOND, SECOND
from carpd.wire.conntrack import ConntrackEntry, flow_key

MAX_PACKET = 1400
"""Bytes of the longest packet, before the link has told its MTU."""
READS_AT_ONCE = 8
"""Batches of events or packets that are read before anything else is looked at."""
BUSY_EVENTS, BUSY_NS = 75, 50 * MILLISECOND
"""More changes in that time, 1500 a second, are much: from then on they are let come together."""
REST_S = 0.002
"""The pause between two looks at what has happened, while there is much: see `Pfsyncd._wait`."""
TABLE_FULL = "the connection tracking table is full"
"""What the kernel means by saying that it has no memory for an entry. Ref: Linux, __nf_conntrack_alloc()."""
FULL_AGAIN_NS = 60 * SECOND
"""How long after it was said, the log says again that the table is full."""
_COLLECT_AFTER = 100_000
"""Objects made until the collector looks: nearly all that is made here are tuples that are never part of a cycle."""


class Pfsyncd:
    """The loop that feeds events to the engine and performs its effects."""

    def __init__(self, channel: Channel, start: StartPfsync) -> None:
        """Raise CarpdError if it can't work here."""
        config = start.config
        self._channel = channel
        self._orphaned = False
        self._table = ConntrackTable()
        self._events = ConntrackEvents(ignored_port=self._table.port)
        self._expectations = ExpectationEvents(ignored_port=self._table.port)
        self._links = LinkMonitor()
        self._link = SyncLink(config, self._log)
        self._held = HeldPackets(config.defer, self._log)
        now = time.monotonic_ns()
        timeouts = conntrack_settings.read_timeouts()
        for name in sorted(name for name, seconds in timeouts.items() if seconds >= HOLD_THRESHOLD):
            text = f"net.netfilter.{name} is {timeouts[name]} s: such connections seem to be held for a peer"
            self._log(logging.ERROR, f"pfsync: {text}: set it below {HOLD_THRESHOLD}")
        self._engine = SyncEngine(now, _settings(config), LinuxTimeouts(timeouts), carrying=start.carrying)
        self._own_addresses = frozenset[bytes]()
        self._walk: Iterator[list[ConntrackEntry]] | None = None
        self._piece_wanted = False
        self._full_again = 0
        self._more_events = False
        """Whether the kernel may have more to tell: the engine was told so, and must be told when that is over."""
        self._heard, self._counted_from = 0, now
        """Changes of the table since then, and whether they were many before."""
        self._busy = False
        self._poll = select.epoll()
        self._link_fd: int | None = None
        self._channel_events = select.EPOLLIN
        self._hear: dict[int, Callable[[], None]] = {
            self._channel.fileno(): self._hear_supervisor,
            self._links.fileno(): self._hear_links,
            self._events.fileno(): self._hear_table,
            self._expectations.fileno(): self._hear_expectations,
            **{fd: partial(self._hear_held, receive) for fd, receive in self._held.hears().items()},
        }
        """What to do when a file descriptor is readable."""
        for fd in self._hear:
            self._poll.register(fd, select.EPOLLIN)

    def run(self, messages: Sequence[object]) -> None:
        """Until the supervisor has gone. It has said these already."""
        self._events.hear_changes(False)  # until the engine wants to
        for message in messages:
            self._obey(message)
        self._look_at_addresses()
        self._look_at_link(first=True)
        while not self._orphaned:
            for fd in self._wait():
                if hear := self._hear.get(fd):
                    hear()
            if self._piece_wanted:
                self._read_piece()
            now = time.monotonic_ns()
            deadline = self._engine.deadline
            if deadline is not None and deadline <= now:
                self._feed(now, TimersDue())
            self._held.hold(now, self._engine.may_defer(now))
        self._feed(time.monotonic_ns(), LinkChanged(False))  # what is held goes
        self._held.close()

    def _wait(self) -> list[int]:
        """Wait for something to do: the file descriptors that can be read.

        Under load a pause lets it come together: twenty changes at once cost a third of what they cost one by one, for
        us, for the kernel that tells of them, and for the peers.
        """
        now = time.monotonic_ns()
        if now - self._counted_from >= BUSY_NS:
            self._busy = self._heard * BUSY_NS > BUSY_EVENTS * (now - self._counted_from)
            self._heard, self._counted_from = 0, now
        if self._busy and not self._piece_wanted:
            time.sleep(REST_S)
        deadline = self._engine.deadline
        timeout = -1.0 if deadline is None else max(0, deadline - now) / SECOND
        fds = [fd for fd, _ in self._poll.poll(0 if self._piece_wanted or self._more_events else timeout)]
        if self._more_events and self._events.fileno() not in fds:  # the engine waits to be told that there is no more
            fds.append(self._events.fileno())
        return fds

    # What happens

    def _hear_table(self) -> None:
        for _ in range(READS_AT_ONCE):
            events, lost = self._events.receive()
            self._heard += len(events)
            more = lost or len(events) == EVENTS_AT_ONCE  # what was lost is told of before what still had room
            if events or lost or self._more_events:
                self._more_events = more
                self._feed(time.monotonic_ns(), TableChanged(events, lost, more))
            if not more:
                return

    def _hear_held(self, receive: Callable[[], Sequence[Frame]]) -> None:
        frames = receive()
        if frames:
            self._hear_table()  # the kernel has told of their connections before
            self._feed(time.monotonic_ns(), PacketsDeferred(frames))

    def _hear_expectations(self) -> None:
        expectations, lost = self._expectations.receive()
        if lost:
            expectations = self._table.expectations()
        if expectations:
            self._feed(time.monotonic_ns(), ExpectationsFound(expectations))

    def _hear_peers(self) -> None:
        for _ in range(READS_AT_ONCE):
            packets = self._link.receive()
            if packets:
                self._feed(time.monotonic_ns(), PacketsReceived(packets))
            if len(packets) < DATAGRAMS_AT_ONCE:
                return

    def _hear_links(self) -> None:
        if self._links.changes():
            self._look_at_addresses()
            self._look_at_link()
            self._held.refresh()

    def _look_at_addresses(self) -> None:
        addresses = local_addresses()
        if addresses != self._own_addresses:
            self._own_addresses = addresses
            self._feed(time.monotonic_ns(), AddressesChanged(addresses))

    def _look_at_link(self, *, first: bool = False) -> None:
        if not self._link.refresh() and not first:
            return
        if self._link_fd is not None:
            with suppress(OSError):  # a closed one has left by itself
                self._poll.unregister(self._link_fd)
            del self._hear[self._link_fd]
            self._link_fd = None
        if self._link.is_open:
            self._link_fd = self._link.fileno()
            self._poll.register(self._link_fd, select.EPOLLIN)
            self._hear[self._link_fd] = self._hear_peers
        self._tell(SyncLinkChanged(self._link.is_open, self._link.reason))
        self._feed(time.monotonic_ns(), LinkChanged(self._link.is_open, self._link.max_packet))

    def _read_piece(self) -> None:
        """The next entries of the walk through the table."""
        self._piece_wanted = False
        assert self._walk is not None
        try:
            entries = next(self._walk, None)
        except SystemCallError as error:  # what was not read is found missing, and looked up
            self._log(logging.ERROR, str(error))
            entries = None
        self._feed(time.monotonic_ns(), TableRead(entries or [], last=entries is None))

    def _hear_supervisor(self) -> None:
        try:
            self._channel.flush()
            messages = self._channel.receive()
        except ChannelClosedError:
            self._orphaned = True
            return
        for message in messages:
            self._obey(message)
        events = select.EPOLLIN | (select.EPOLLOUT if self._channel.wants_to_write else 0)
        if events != self._channel_events:
            self._channel_events = events
            self._poll.modify(self._channel.fileno(), events)

    def _obey(self, message: object) -> None:
        now = time.monotonic_ns()
        if isinstance(message, PfsyncStatusWanted):
            document = pfsync_status.document(now, self._engine, self._link, self._held)
            self._tell(PfsyncStatus(message.token, json.dumps(document)))
        elif isinstance(message, RoleChanged):
            self._feed(now, message)

    # The engine and its effects

    def _feed(self, now: int, event: Event) -> None:
        """Hand one event to the engine, perform what follows, and hand in what comes of that."""
        events = deque([event])
        while events:
            for effect in self._engine.handle(now, events.popleft()):
                outcome = self._perform(now, effect)
                if outcome is not None:
                    events.append(outcome)

    def _perform(self, now: int, effect: Effect) -> Event | None:
        try:
            return _PERFORMERS[type(effect)](self, now, effect)
        except SystemCallError as error:
            self._log(logging.ERROR, f"pfsync: {error}")
            # What can't be looked up is left as it is: nobody is told that it ended.
            return EntriesFetched(effect.purpose, (), ()) if isinstance(effect, FetchEntries) else None

    def _send(self, _now: int, effect: SendPackets) -> None:
        self._link.send(effect.packets)

    def _release(self, _now: int, effect: ReleasePackets) -> None:
        self._held.send(effect.frames)

    def _insert(self, now: int, effect: InsertEntries) -> Event | None:
        refusals = self._table.insert(effect.entries)
        if now >= self._full_again and any(refusal.errno == errno.ENOMEM for refusal in refusals):
            self._full_again = now + FULL_AGAIN_NS
            limit = conntrack_settings.table_limit()
            self._log(logging.ERROR, f"pfsync: {TABLE_FULL}: nf_conntrack_max is {limit}, the peers have more states")
        return _refused(Change.INSERT, effect.entries, refusals)

    def _update(self, _now: int, effect: UpdateEntries) -> Event | None:
        return _refused(Change.UPDATE, effect.entries, self._table.update(effect.entries))

    def _delete(self, _now: int, effect: DeleteEntries) -> Event | None:
        refused = self._table.delete(effect.keys)
        if not refused:
            return None
        return EntriesRefused(
            Change.DELETE, [Refused(effect.keys[r.position], None, r.errno, r.reason) for r in refused]
        )

    def _set_timeouts(self, _now: int, effect: SetTimeouts) -> None:
        self._table.set_timeouts(effect.timeouts)

    def _loosen(self, _now: int, effect: LoosenEntries) -> None:
        self._table.loosen(effect.keys)

    def _insert_expectations(self, _now: int, effect: InsertExpectations) -> None:
        for refusal in self._table.insert_expectations(effect.expectations):
            if refusal.errno != errno.EEXIST:
                self._engine.counters.refused[f"expectation: {_reason(refusal)}"] += 1

    def _fetch(self, _now: int, effect: FetchEntries) -> Event:
        return EntriesFetched(effect.purpose, effect.keys, self._table.get_many(effect.keys))

    def _hear_changes(self, _now: int, effect: HearChanges) -> None:
        self._events.hear_changes(effect.wanted)

    def _begin_piece(self, _now: int, effect: ReadTable) -> None:
        if effect.begin:
            self._walk = self._table.dump()
        self._piece_wanted = True

    def _read_expectations(self, _now: int, _effect: ReadExpectations) -> Event:
        return ExpectationsFound(self._table.expectations())

    def _bulk_update_changed(self, _now: int, effect: BulkUpdateChanged) -> None:
        self._tell(effect)

    def _peer_appeared(self, _now: int, effect: PeerAppeared) -> None:
        self._log(logging.INFO, f"pfsync: {effect.source} is there (creator id {effect.creator_id.hex()})")

    def _peer_lost(self, _now: int, effect: PeerLost) -> None:
        self._log(logging.WARNING, f"pfsync: {effect.source} is gone (creator id {effect.creator_id.hex()})")

    def _resynchronising(self, _now: int, effect: Resynchronising) -> None:
        self._log(logging.WARNING, f"pfsync: resynchronising: {effect.reason}")

    # The supervisor

    def _tell(self, message: object) -> None:
        with suppress(ChannelClosedError):
            self._channel.send(message)

    def _log(self, level: int, text: str) -> None:
        self._tell(LogLine(level, text))


_PERFORMERS: dict[type, Callable[[Pfsyncd, int, Any], Event | None]] = {
    SendPackets: Pfsyncd._send,
    ReleasePackets: Pfsyncd._release,
    InsertEntries: Pfsyncd._insert,
    UpdateEntries: Pfsyncd._update,
    DeleteEntries: Pfsyncd._delete,
    SetTimeouts: Pfsyncd._set_timeouts,
    LoosenEntries: Pfsyncd._loosen,
    InsertExpectations: Pfsyncd._insert_expectations,
    FetchEntries: Pfsyncd._fetch,
    HearChanges: Pfsyncd._hear_changes,
    ReadTable: Pfsyncd._begin_piece,
    ReadExpectations: Pfsyncd._read_expectations,
    BulkUpdateChanged: Pfsyncd._bulk_update_changed,
    PeerAppeared: Pfsyncd._peer_appeared,
    PeerLost: Pfsyncd._peer_lost,
    Resynchronising: Pfsyncd._resynchronising,
}


def _refused(change: Change, entries: Sequence[ConntrackEntry], refusals: Sequence[Refusal]) -> Event | None:
    if not refusals:
        return None
    found = [(entries[refusal.position], refusal) for refusal in refusals]
    return EntriesRefused(change, [Refused(flow_key(entry), entry, r.errno, _reason(r)) for entry, r in found])


def _reason(refusal: Refusal) -> str:
    if refusal.errno == errno.ENOMEM:
        return TABLE_FULL
    return refusal.reason or os.strerror(refusal.errno)


def _settings(config: PfsyncConfig) -> Settings:
    """What the engine needs to know. Raise SystemCallError."""
    ignore = config.ignore
    creator_id = os.urandom(4)
    while creator_id == bytes(4):
        creator_id = os.urandom(4)
    return Settings(
        creator_id=creator_id,
        first_id=int(time.time()) << 32,
        selection=Selection(
            local=config.local,
            port=config.port if config.secrets else None,
            networks=ignore.addresses,
            protocols=frozenset(ignore.protocols),
            marks=tuple((mark.value, mark.mask) for mark in ignore.marks),
            zones=frozenset(ignore.zones),
        ),
        max_states=config.max_states or conntrack_settings.table_limit(),
        max_packet=MAX_PACKET,
        maxupd=config.maxupd,
        dialect=dialect_of(config.version),
        defer=bool(config.defer),
    )


def _first_messages(channel: Channel) -> list[object]:
    """What we are to do, and what was said since; none if the supervisor has gone."""
    messages: list[object] = []
    while not messages:
        select.select([channel], [], [])
        try:
            messages = channel.receive()
        except ChannelClosedError:
            break
    return messages


def main() -> int:
    """Run on the socket that is file descriptor argv[1]. The supervisor starts this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the supervisor decides
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    messages = _first_messages(channel)
    if not messages:
        return 0
    start, *later = messages
    assert isinstance(start, StartPfsync)
    try:
        pfsyncd = Pfsyncd(channel, start)
    except (CarpdError, OSError) as error:
        channel.send(LogLine(logging.ERROR, f"pfsyncd: {error}"))
        return 1
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    pfsyncd.run(later)
    return 0


if __name__ == "__main__":
    sys.exit(main())
