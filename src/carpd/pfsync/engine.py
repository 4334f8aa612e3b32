"""The synchronisation engine: keeps a node's states the same as its peers', driven by events, with time as an argument.

    effects = engine.handle(now, event)      # perform them in order; answer those that ask or can fail with events
    timer.arm(engine.deadline)               # then hand in TimersDue; early is harmless

The daemon, the simulator and captures drive this same class. Bytes from the network are counted and dropped, or
obeyed; they never raise out of it. Ref: design §4, spec pfsync §7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from carpd.pfsync.anti_entropy import AntiEntropy
from carpd.pfsync.bulk import BulkUpdate
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.effects import (
    BulkUpdateChanged,
    Effect,
    FetchEntries,
    HearChanges,
    PeerAppeared,
    PeerLost,
    ReadExpectations,
    ReadTable,
    Resynchronising,
    SendPackets,
)
from carpd.pfsync.events import (
    AddressesChanged,
    EntriesFetched,
    EntriesRefused,
    Event,
    ExpectationsFound,
    LinkChanged,
    PacketsReceived,
    Purpose,
    RoleChanged,
    TableChanged,
    TableRead,
    TimersDue,
)
from carpd.pfsync.halves import Halves
from carpd.pfsync.ordinary import OrdinaryWriter
from carpd.pfsync.outbox import Outbox
from carpd.pfsync.packer import Packer, Parcel
from carpd.pfsync.peers import ACKNOWLEDGE_NS, ACKNOWLEDGE_PACKETS, GREET_NS, REPORT_NS, Peer, Peers
from carpd.pfsync.state_sync import Settings, StateSync
from carpd.pfsync.stream import ASK_AGAIN_NS, Arrival, Received, Sent
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.pfsync.walk import Errand, Walk
from carpd.units import MILLISECOND, SECOND
from carpd.wire.conntrack import flow_key
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.batches import (
    AnyBatch,
    Attributes,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    Deletes,
    DigestRequests,
    Digests,
    Inserts,
    Lists,
    PackedStates,
    Reports,
    Resends,
    Sequences,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.header import HEADER, SUBHEADER, PacketError
from carpd.wire.pfsync.linux_messages import ALL_GROUPS, CARRYING, COMPLETE, EQUAL, PacketNumber, Report, Resend
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, IDENTITY_SIZE, BulkStatus
from carpd.wire.pfsync.packet import Packet

WINDOW = 1024
"""Packets of a bulk update that may be on their way, 1.4 MB: far less than a receiver's socket takes."""
PACE_NS = 2 * MILLISECOND
"""Between two pieces of the table, to peers that don't acknowledge: 50 000 states a second."""
BULK_AGAIN_NS = 2 * SECOND
"""The least time between the beginnings of two bulk updates that we send."""
ANSWERS_A_SECOND = 50_000
"""States that the peers are told in a second because they ask."""
DIGEST_NS = SECOND
DIGEST_AT_REST_NS = 10 * SECOND
"""Between two digests of a table that changes, and of one that does not."""
ASKED_A_ROUND = 20_000
"""States that we ask for at once: a table full of differences is better asked for as a whole."""
TOO_DIFFERENT = 32
"""Groups of 64 that differ in tables of this many states a group or more: ask for a bulk update."""
PASSED_OVER_LIMIT = 10
"""Digests of a peer that are not compared because of changes that it can't have heard of."""
BULK_ASK_NS = 10 * SECOND
HOLD_AGAIN_NS = 5 * SECOND
"""How long after it gave up the traffic a node may still see packets of it, which give entries a normal timeout."""

_OVERHEAD = HEADER.size + SUBHEADER.size + v6.KINDS.message_size(Sequences)


class SyncEngine:
    """The state synchronisation of one node. The kernel's table is its driver's; it begins with a walk through it."""

    def __init__(self, now: int, settings: Settings, timeouts: LinuxTimeouts, *, carrying: bool) -> None:
        self.settings = settings
        self.counters = PfsyncCounters()
        self.sync = StateSync(settings, self.counters)
        self.sync.carrying = carrying
        self._halves: Halves | None = None
        if settings.dialect is not None:
            self._halves = Halves(settings.dialect, settings.creator_id, self.sync.table, self.sync.withdraw)
        self._version = v6.VERSION if settings.dialect is None else settings.dialect.version
        self._writer = OrdinaryWriter()
        self.peers = Peers(settings.creator_id)
        self.sent = Sent()
        self.bulk = BulkUpdate(now)
        self.bulk_reason = self.bulk.phase.value
        self._timeouts = timeouts
        self._walk = Walk()
        self._reading = False
        """Whether a piece of the table is about to come."""
        self._hold_again_at: int | None = None
        self._paced_until = 0
        self._bulk_wanted = False
        self._bulk_begun = -BULK_AGAIN_NS
        self._bulk_numbers: dict[int, int] = {}
        """The numbers of the packets with the last beginning and the last end of a bulk update."""
        self._anti_entropy = AntiEntropy(settings.creator_id, self.sync.table)
        self._digest_at = now + DIGEST_NS
        self._digested = (-1, now)
        """The table's version in the last digest, and when that was sent."""
        self._report_at = now
        self._answers_left = ANSWERS_A_SECOND
        self._answers_from = now
        self._link_up = False
        self._takeovers = 0
        self._hears_changes = False
        self._asked: dict[bytes, int] = {}
        """When we asked for states, of those of the last moments."""
        self._more = False
        self._overflowed = False
        """Whether the kernel's events were not all read, and the table is not yet compared."""
        self._numbered: list[AnyBatch] = []
        self._unnumbered: list[AnyBatch] = []
        """What else is to be said, behind all changes of states. What is numbered is acknowledged, or sent again."""
        self._unread: deque[tuple[str, bytes]] = deque()
        """Packets that wait until all that came before them is done."""
        self._fetching = 0
        """`FetchEntries` that were not answered yet."""
        self._source = ""
        """Who sent the packet that is being read, and its number, 0 if it has none."""
        self._number = 0
        self._effects: list[Effect] = []
        self._handlers: dict[type, Callable[[int, Any], None]] = {
            TableChanged: self._table_changed,
            ExpectationsFound: self._expectations_found,
            TableRead: self._table_read,
            EntriesFetched: self._entries_fetched,
            EntriesRefused: self._entries_refused,
            PacketsReceived: self._packets_received,
            LinkChanged: self._link_changed,
            RoleChanged: self._role_changed,
            AddressesChanged: self._addresses_changed,
            TimersDue: self._timers_due,
        }
        self._readers: dict[type, Callable[[int, Peer | None, Any], None]] = {
            CompressedUpdates: lambda _now, _peer, messages: self.sync.update(messages),
            CompressedDeletes: lambda _now, _peer, messages: self.sync.end(messages),
            Deletes: lambda _now, _peer, messages: self.sync.end(state.identity for state in messages),
            Clears: self._cleared,
            UpdateRequests: self._requested,
            BulkStatuses: self._bulk_status,
            Reports: self._reported,
            Resends: self._resend,
            Digests: self._digest,
            DigestRequests: self._digest_requested,
            Lists: self._listed,
        }

    def handle(self, now: int, event: Event) -> list[Effect]:
        """What follows from the event."""
        self._handlers[type(event)](now, event)
        self._continue(now)
        effects, self._effects = self._effects, []
        return effects

    @property
    def deadline(self) -> int | None:
        """When `TimersDue` is wanted next."""
        times = [self._report_at, self._answers_from + SECOND]
        if self.settings.extensions:
            times.append(self._digest_at)
        if self.bulk.deadline is not None:
            times.append(self.bulk.deadline)
        if self._hold_again_at is not None:
            times.append(self._hold_again_at)
        if self._walk.errands and not self._reading:
            times.append(self._paced_until)
        times += [peer.received.deadline for peer in self.peers if peer.received and peer.received.deadline is not None]
        return min(times)

    # The kernel's side

    def _table_changed(self, now: int, event: TableChanged) -> None:
        self.sync.heard(event.events)
        self._more = event.more
        if event.lost:
            self.counters.overflows += 1
            self._overflowed = True
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
                self.sync.outbox.full(records[key][:IDENTITY_SIZE], entry)
        self._effects += self._walk.pass_by(known, self._timeouts)
        if event.last:
            for key in self._walk.end():
                self.sync.to_fetch[Purpose.MISSED][key] = None
            if Errand.BULK in errands:
                age = (now - self._bulk_begun) // SECOND
                self._numbered.append(BulkStatuses([BulkStatus(self.settings.creator_id, age, BULK_END)]))

    def _entries_fetched(self, now: int, event: EntriesFetched) -> None:
        self._fetching -= 1
        self.sync.fetched(event.purpose, event.keys, event.entries)
        self._read_packets(now)

    @property
    def _is_looking_up(self) -> bool:
        return self._fetching > 0 or any(self.sync.to_fetch.values())

    def _entries_refused(self, _now: int, event: EntriesRefused) -> None:
        self.sync.refused(event.change, event.refusals)

    def _addresses_changed(self, _now: int, event: AddressesChanged) -> None:
        self.sync.selection = replace(self.sync.selection, own=event.addresses)

    # What else happens to us

    def _link_changed(self, now: int, event: LinkChanged) -> None:
        self._link_up = event.up
        self.settings = replace(self.settings, max_packet=event.max_packet or self.settings.max_packet)
        if event.up and self.bulk.link_is_up(now):
            self._request_bulk()
            self.bulk_reason = self.bulk.phase.value

    def _role_changed(self, now: int, event: RoleChanged) -> None:
        if event.carrying == self.sync.carrying:
            return
        self.sync.carrying = event.carrying
        self._walk.drop(Errand.HOLD if event.carrying else Errand.TRIM)
        self._walk.want(Errand.TRIM if event.carrying else Errand.HOLD)
        self._hold_again_at = None if event.carrying else now + HOLD_AGAIN_NS
        self._walk.want(Errand.LOOSEN)
        self._takeovers += event.carrying
        self._choose_changes()
        self._report_at = 0

    def _timers_due(self, now: int, _event: TimersDue) -> None:
        request, given_up = self.bulk.timer(now)
        if request:
            self._request_bulk()
        self._finish_bulk(given_up)
        if self.peers.fall_silent(now) and self.sync.carrying:
            self._walk.want(Errand.LOOSEN)  # it may carry our connections by now
        for peer in self.peers.lose_silent(now):
            self._lose(peer)
        if self._hold_again_at is not None and now >= self._hold_again_at:
            self._hold_again_at = None
            self._walk.want(Errand.HOLD)
        if now >= self._answers_from + SECOND:
            self._answers_left, self._answers_from = ANSWERS_A_SECOND, now
        if self.settings.extensions and now >= self._digest_at:
            self._digest_at = now + DIGEST_NS
            version, when = self._digested
            differs = any(not peer.equal for peer in self.peers)  # a round repairs only so much
            if version != self.sync.table.version or differs or now - when >= DIGEST_AT_REST_NS:
                self._digested = self.sync.table.version, now
                # First what we have heard: whoever compares must know whether all of its own is in the digest.
                self._numbered += (self._reports(), self._anti_entropy.digest())
        for peer in self.peers:
            if peer.received is not None:
                ranges = peer.received.to_ask(now)
                if ranges:
                    self._unnumbered.append(Resends([Resend(peer.creator_id, *missing) for missing in ranges]))

    def _lose(self, peer: Peer) -> None:
        self._effects.append(PeerLost(peer.creator_id, peer.source))
        self._anti_entropy.forget(peer.creator_id)
        self.bulk.loses(peer.creator_id)
        if peer.carrying or not self.peers.by_id:
            self._inherit()

    def _inherit(self) -> None:
        """What a peer carried is ours to end now, or nobody would; if it does carry it still, it tells us again."""
        if self.sync.carrying:
            self._walk.want(Errand.TRIM)

    def _choose_changes(self) -> None:
        """A host tells of its connections while it carries them. What has begun before is found by reading the table."""
        wanted = self.sync.carrying and self.sync.settled
        if wanted != self._hears_changes:
            self._hears_changes = wanted
            self._effects.append(HearChanges(wanted))
            if wanted:
                self._walk.want(Errand.COMPARE)

    # The peers' side: checks in BSD's order, one counter each. Ref: spec pfsync §7.4

    def _packets_received(self, now: int, event: PacketsReceived) -> None:
        self._unread += event.packets
        self._read_packets(now)

    def _read_packets(self, now: int) -> None:
        """A digest is compared when all that came before it is done: what must be looked up first is waited for."""
        while self._unread:
            self._source, payload = self._unread[0]
            batches, wrong = self._decode(payload)
            if self._is_looking_up and any(isinstance(batch, Digests) for batch in batches):
                return
            self._unread.popleft()
            if wrong:
                setattr(self.counters, wrong, getattr(self.counters, wrong) + 1)
            if self._halves is not None:
                for batch in self._halves.incoming(batches):
                    self._packet_received(now, [batch])
            elif batches:
                self._packet_received(now, batches)
        if self.bulk.deadline is not None:
            self._finish_bulk(None)

    def _decode(self, payload: bytes) -> tuple[Sequence[AnyBatch], str]:
        """What is to be obeyed of a packet, and the counter for the rest of it, if something is wrong."""
        if len(payload) >= HEADER.size and payload[0] != self._version:
            return (), "badver"
        try:
            return Packet.from_bytes(payload, packed=self._halves is None).batches, ""
        except PacketError as error:
            return error.batches, error.counter

    def _packet_received(self, now: int, batches: Sequence[AnyBatch]) -> None:
        peer, late, first = None, False, batches[0]
        self._number = 0
        if isinstance(first, Sequences) and first.messages:
            creator_id, number = first.messages[0]
            self._number = number
            if creator_id == self.settings.creator_id:
                self.counters.loops += 1
                return
            peer = self._hear(now, creator_id)
            if peer is None:
                return
            if peer.received is None:
                peer.received = Received(number)
            else:
                arrival = peer.received.note(now, number)
                if arrival is Arrival.DUPLICATE:
                    self.counters.duplicates += 1
                    return
                late = arrival is Arrival.LATE
                self.counters.late += late
            peer.unacknowledged += 1
        attributes = {
            message.identity: message
            for batch in batches
            if isinstance(batch, Attributes)
            for message in batch.messages
        }
        hold = peer is None or peer.carrying or not self.sync.carrying
        for batch in batches:
            if isinstance(batch, PackedStates):
                self.bulk.progresses(now)
                self.sync.learn_packed(batch.messages, attributes, hold=hold, late=late)
            elif isinstance(batch, Inserts | Updates):
                self.bulk.progresses(now)
                self.sync.learn(batch.messages, attributes, hold=hold, late=late)
            elif reader := self._readers.get(type(batch)):
                reader(now, peer, batch.messages)  # type: ignore[union-attr]  # all that have a reader have messages

    def _hear(self, now: int, creator_id: bytes) -> Peer | None:
        peer, new = self.peers.hear(now, creator_id, self._source)
        if new:
            for old in self.peers.replaced_by(creator_id, self._source):
                self._lose(old)
            self._effects.append(PeerAppeared(creator_id, self._source))
            self._report_at = min(self._report_at, now + ACKNOWLEDGE_NS)
            self._digested = -1, now
        return peer

    def _cleared(self, _now: int, _peer: Peer | None, messages: Iterable[Any]) -> None:
        for clear in messages:
            if clear.interface in ("", "all"):  # we have no states of a single interface
                table = self.sync.table
                keys = table.created_by(clear.creator_id)
                self.sync.end([table.records[key][:IDENTITY_SIZE] for key in keys])

    def _requested(self, now: int, _peer: Peer | None, identities: Sequence[bytes]) -> None:
        wanted = [identity for identity in identities if identity != BULK_REQUEST]
        if len(wanted) < len(identities):
            self._bulk_wanted = True
        self._answer(wanted, ended=self.sync.carrying and self.settings.extensions)

    def _answer(self, identities: Sequence[bytes], *, ended: bool) -> None:
        """Tell of these states, as many as may be told in this second."""
        answered = identities[: self._answers_left]
        self.counters.throttled += len(identities) - len(answered)
        self._answers_left -= len(answered)
        self.sync.tell(answered, ended=ended)

    def _bulk_status(self, now: int, peer: Peer | None, messages: Sequence[BulkStatus]) -> None:
        for creator_id, _, status in messages[:1]:
            sender = peer.creator_id if peer else creator_id
            if status == BULK_START:
                self.bulk.begins(now, sender, self._number)
                if not self.bulk.done:
                    self.bulk_reason = self.bulk.phase.value
            elif status == BULK_END:
                self.bulk.ends(sender, self._number)

    def _reported(self, now: int, _peer: Peer | None, messages: Iterable[Report]) -> None:
        for report in messages:
            if report.reporter == self.settings.creator_id:
                self.counters.loops += 1
                continue
            peer = self._hear(now, report.reporter)
            if peer is None:
                continue
            if self.sync.carrying and peer.takeovers not in (None, report.takeovers):
                self._walk.want(Errand.LOOSEN)  # we did not hear each other: both carried the same connections
            carried = peer.carrying
            if self.peers.note(peer, report) and not self.bulk.done:
                self._request_bulk()  # what we asked before, it did not hear
            if carried and not peer.carrying:
                self._inherit()

    def _resend(self, now: int, _peer: Peer | None, messages: Iterable[Resend]) -> None:
        """A peer misses packets of ours; or, if the numbers are its own, it has told anew what was in them."""
        for creator_id, first, count in messages:
            if creator_id == self.settings.creator_id:
                self._tell_again(now, first, count)
            elif (peer := self.peers.by_id.get(creator_id)) and _peer is peer and peer.received:
                lost = peer.received.lost
                peer.received.made_good(first, count)
                self.counters.lost += peer.received.lost - lost

    def _tell_again(self, now: int, first: int, count: int) -> None:
        remembered = self.sent.remembers(first)
        numbers = self.sent.tell_again(now, first, count)
        if numbers or not remembered:
            self._answer(list(self.sent.states(numbers)), ended=True)
            self.sync.outbox.told_again(Resend(self.settings.creator_id, first, count))
        missed = [number for number in self._bulk_numbers.values() if number in numbers]
        for status, number in sorted(self._bulk_numbers.items(), key=lambda item: item[1]):
            if missed and number >= min(missed):  # an end, too, counts only behind its beginning
                self._numbered.append(BulkStatuses([BulkStatus(self.settings.creator_id, 0, status)]))

    def _digest(self, now: int, peer: Peer | None, messages: Iterable[Any]) -> None:
        for digest in messages:
            if peer is None or digest.creator_id != peer.creator_id or not peer.complete():
                continue
            if digest.group != ALL_GROUPS:
                self._unnumbered += self._anti_entropy.compare_group(digest)
                continue
            groups = self._anti_entropy.differing_groups(digest)
            if groups and (peer.acknowledged or 0) < self.sent.last_state and peer.passed_over < PASSED_OVER_LIMIT:
                peer.passed_over += 1  # it may differ in what we are telling just now
                continue
            peer.passed_over = 0
            peer.equal_theirs = not groups
            peer.compared_theirs = peer.received.highest if peer.received else 0
            peer.unacknowledged = max(peer.unacknowledged, 1)
            self._anti_entropy.begin_round(peer.creator_id)
            if not groups or not self.bulk.done or not peer.is_complete:
                continue
            many = max(peer.states, len(self.sync.table)) >= TOO_DIFFERENT * 64
            if many and len(groups) >= TOO_DIFFERENT and now - peer.bulk_asked >= BULK_ASK_NS:
                peer.bulk_asked = now
                self._compare_with_peer("the tables differed too much")
                self._request_bulk()
            else:
                self._compare_with_peer("digests differed")
                self._unnumbered.append(self._anti_entropy.ask_groups(peer.creator_id, groups))

    def _compare_with_peer(self, reason: str) -> None:
        self.counters.resyncs[reason] += 1

    def _digest_requested(self, _now: int, _peer: Peer | None, messages: Sequence[Any]) -> None:
        self._numbered += self._anti_entropy.answer(messages)

    def _listed(self, _now: int, peer: Peer | None, messages: Sequence[Any]) -> None:
        if messages:
            sender = self.peers.by_id.get(messages[0].creator_id)
            trusted = sender is not None and sender.carrying
            for identity in self._anti_entropy.listed(messages, trusted=trusted):
                self.sync.to_ask[identity] = None

    # The bulk update

    def _request_bulk(self) -> None:
        self._unnumbered.append(UpdateRequests([BULK_REQUEST]))

    def _finish_bulk(self, given_up: str | None) -> None:
        """We take part with all our states as soon as we know those of the peers."""
        if not self.bulk.done:
            self.bulk_reason = self.bulk.phase.value
        reason = given_up or self.bulk.finish(complete=all(peer.complete() for peer in self.peers))
        if reason:
            self.bulk_reason = reason
            self.sync.settled = True
            self._choose_changes()
            self._effects.append(BulkUpdateChanged(True, reason))
            self._walk.want(Errand.COMPARE)
            self._walk.want(Errand.TRIM if self.sync.carrying else Errand.HOLD)  # as it was when we ran last, or not
            self._report_at = 0

    # What follows

    def _continue(self, now: int) -> None:
        """Do, ask and say all that has come together; then go on with the walk.

        What is looked up is known at once, and said first: a digest and the end of a bulk update cover it.
        """
        self._effects += self.sync.changes.take()
        for purpose, keys in self.sync.to_fetch.items():
            if keys:
                self._effects.append(FetchEntries(tuple(keys), purpose))
                self._fetching += 1
                self.sync.to_fetch[purpose] = {}
        if self.sync.to_ask:
            self._ask(now)
        self._begin_walk(now)
        if not any(isinstance(effect, FetchEntries) for effect in self._effects):
            self._report(now)
            self._send(now)
        if self._walk.errands and not self._reading and now >= self._paced_until and self._window_is_open(now):
            self._reading = True
            self._effects.append(ReadTable(begin=False))

    def _ask(self, now: int) -> None:
        """Ask for states, but for those that we asked for a moment ago: we would be told again what we can't use."""
        for identity, asked in list(self._asked.items()):
            if now - asked < ASK_AGAIN_NS:
                break
            del self._asked[identity]
        wanted = [identity for identity in self.sync.to_ask if identity not in self._asked][:ASKED_A_ROUND]
        self.sync.to_ask.clear()
        self._asked.update(dict.fromkeys(wanted, now))
        if wanted:
            self._unnumbered.append(UpdateRequests(wanted))

    def _begin_walk(self, now: int) -> None:
        if self._bulk_wanted and now - self._bulk_begun >= BULK_AGAIN_NS and not self._walk.errands:
            self._bulk_wanted, self._bulk_begun = False, now
            self._walk.want(Errand.BULK)
            self._walk.want(Errand.COMPARE)  # it covers what we carry and have not told of yet, too
            self._numbered.append(BulkStatuses([BulkStatus(self.settings.creator_id, 0, BULK_START)]))
            self._effects.append(ReadExpectations())
        if self._walk.due:
            self._walk.begin(self.sync.table.records)
            self._reading = True
            self._effects.append(ReadTable(begin=True))

    def _window_is_open(self, now: int) -> bool:
        """Whether the peers can take more of what a walk has to tell."""
        acknowledged = self.peers.acknowledged()
        if acknowledged is None:
            if Errand.BULK in self._walk.errands:
                self._paced_until = now + PACE_NS
            return True
        if self.sent.last - acknowledged < WINDOW:
            return True
        self._paced_until = now + PACE_NS
        return False

    def _report(self, now: int) -> None:
        """Say what we have heard: now and then, soon after something came, at once after much."""
        if not self.settings.extensions:
            self._report_at = now + REPORT_NS
            return
        unacknowledged = max((peer.unacknowledged for peer in self.peers), default=0)
        if unacknowledged:
            self._report_at = min(self._report_at, now + ACKNOWLEDGE_NS)
        if now < self._report_at and unacknowledged < ACKNOWLEDGE_PACKETS:
            return
        self._report_at = now + (REPORT_NS if self.bulk.done and self.peers.all_heard else GREET_NS)
        self._unnumbered.append(self._reports())

    def _reports(self) -> Reports:
        """What we have heard of each peer."""
        flags = (CARRYING if self.sync.carrying else 0) | (COMPLETE if self.bulk.done else 0)
        ours, states = self.settings.creator_id, len(self.sync.table)
        reports = [
            Report(
                ours,
                peer.creator_id,
                peer.received.contiguous if peer.received else 0,
                peer.compared_theirs,
                states,
                flags | (EQUAL if peer.equal_theirs else 0),
                self._takeovers % 256,
            )
            for peer in self.peers
        ]
        for peer in self.peers:
            peer.unacknowledged = 0
        return Reports(reports or [Report(ours, bytes(4), 0, 0, states, flags, self._takeovers % 256)])

    def _send(self, now: int) -> None:
        """Changes leave at once; only while more of them are coming do they wait until packets are full."""
        space = self.settings.max_packet - _OVERHEAD
        numbered: list[Parcel] = []
        outbox = self.sync.outbox
        if len(outbox) and (self._numbered or not self._more or outbox.is_due(now)):
            self.sync.outbox = Outbox(self.settings.maxupd)
            numbered += outbox.pack(space, None if self._halves else self._writer)
            self.counters.told += sum(len(parcel.identities) for parcel in numbered) // IDENTITY_SIZE
        self._more = False
        numbered += _packed(self._numbered, space)
        unnumbered = list(_packed(self._unnumbered, space))
        self._numbered, self._unnumbered = [], []
        if self._halves is not None:
            batches = [batch for parcel in numbered + unnumbered for batch in parcel.batches]
            packets = self._halves.packets(batches, self.sync.selection.own, self.settings.max_packet)
        else:
            packets = [self._numbered_packet(now, parcel) for parcel in numbered]
            packets += [Packet(v6.VERSION, parcel.batches).to_bytes() for parcel in unnumbered]
        if packets and self._link_up:
            self._effects.append(SendPackets(packets))

    def _numbered_packet(self, now: int, parcel: Parcel) -> bytes:
        number = self.sent.next(now, parcel.identities)
        for batch in parcel.batches:
            if isinstance(batch, BulkStatuses):
                self._bulk_numbers.update({message.status: number for message in batch.messages})
        first = Sequences([PacketNumber(self.settings.creator_id, number)])
        return Packet(v6.VERSION, [first, *parcel.batches]).to_bytes()


def _packed(batches: Iterable[AnyBatch], space: int) -> Iterator[Parcel]:
    """These, in as few packets as possible."""
    packer = Packer(space)
    for batch in batches:
        kind = type(batch)
        yield from packer.add(kind, batch.messages, v6.KINDS.message_size(kind))  # type: ignore[union-attr]
    yield from packer.rest()
