"""What peers say to each other beside states: who is there, what has come, is missing, differs, and who needs all.

Everything that comes from the network goes through `receive`, everything that goes there through `packets`; nothing
that comes ever raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from carpd.pfsync.anti_entropy import AntiEntropy
from carpd.pfsync.bulk import BulkUpdate
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.deferral import Insertions
from carpd.pfsync.effects import BulkUpdateChanged, PeerAppeared, PeerLost
from carpd.pfsync.events import Purpose
from carpd.pfsync.halves import Halves
from carpd.pfsync.ordinary import OrdinaryWriter
from carpd.pfsync.outbox import Outbox
from carpd.pfsync.packer import Packer, Parcel
from carpd.pfsync.peers import ACKNOWLEDGE_NS, ACKNOWLEDGE_PACKETS, GREET_NS, REPORT_NS, Peer, Peers
from carpd.pfsync.state_sync import Settings, StateSync
from carpd.pfsync.stream import ASK_AGAIN_NS, Arrival, Received, Sent
from carpd.pfsync.walk import Errand, Walk
from carpd.units import SECOND
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
    InsertAcknowledgements,
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
from carpd.wire.pfsync.linux_messages import (
    ACKNOWLEDGE,
    ALL_GROUPS,
    CARRYING,
    COMPLETE,
    EQUAL,
    PacketNumber,
    Report,
    Resend,
)
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, IDENTITY_SIZE, BulkStatus, CompressedUpdate
from carpd.wire.pfsync.packet import Packet

WINDOW = 1024
"""Packets that may be on their way while a walk tells of the table, 1.4 MB: far less than a receiver's socket takes."""
ANSWERS_A_SECOND = 50_000
"""States that the peers are told in a second because they ask."""
DIGEST_NS = SECOND
DIGEST_AT_REST_NS = 10 * SECOND
"""Between two digests of a table that changes, or differs, and of one that does not."""
ASKED_A_ROUND = 20_000
"""States that we ask for at once: a table full of differences is better asked for as a whole."""
TOO_DIFFERENT = 32
"""Groups of 64 that differ in tables of this many states a group or more: ask for a bulk update."""
PASSED_OVER_LIMIT = 10
"""Digests of a peer that are not compared because of changes that it can't have heard of."""
BULK_ASK_NS = 10 * SECOND
"""Between two bulk updates that we ask a peer for because its table differs."""

_OVERHEAD = HEADER.size + SUBHEADER.size + v6.KINDS.message_size(Sequences)


class Exchange:
    """One node's side of it. What must be done to all states is noted in `walk`, facts are appended to `facts`."""

    def __init__(
        self, now: int, settings: Settings, sync: StateSync, walk: Walk, counters: PfsyncCounters, facts: list[Any]
    ) -> None:
        self.settings = settings
        self.peers = Peers(settings.creator_id)
        self.sent = Sent()
        self.bulk = BulkUpdate(now)
        self.bulk_wanted: set[bytes] = set()
        """Creator ids of the peers that have asked us for all states; empty of one that is not known."""
        self._sync, self._walk, self._counters, self._facts = sync, walk, counters, facts
        self._halves: Halves | None = None
        if settings.dialect is not None:
            self._halves = Halves(
                settings.dialect, settings.creator_id, sync.table, sync.withdraw, defer=settings.defer
            )
        self._insertions = Insertions()
        self._version = v6.VERSION if settings.dialect is None else settings.dialect.version
        self._writer = OrdinaryWriter()
        self._bulk_numbers: dict[int, int] = {}
        """The numbers of the packets with the last beginning and the last end of a bulk update."""
        self._anti_entropy = AntiEntropy(settings.creator_id, sync.table)
        self._digest_at = now + DIGEST_NS
        self._digested = (-1, now)
        """The table's version in the last digest, and when that was sent."""
        self._report_at = now
        self._answers_left = ANSWERS_A_SECOND
        self._answers_from = now
        self._link_up = False
        self._takeovers = 0
        self._asked: dict[bytes, int] = {}
        """When we asked for states, of those of the last moments."""
        self._numbered: list[AnyBatch] = []
        self._unnumbered: list[AnyBatch] = []
        """What else is to be said, behind all changes of states. What is numbered is acknowledged, or sent again."""
        self._unread: deque[tuple[str, bytes]] = deque()
        """Packets that wait until all that came before them is done."""
        self._source = ""
        """Who sent the packet that is being read, and its number, 0 if it has none."""
        self._number = 0
        self._readers: dict[type, Callable[[int, Peer | None, Any], None]] = {
            CompressedUpdates: self._updated,
            InsertAcknowledgements: lambda _now, _peer, messages: self._insertions.acknowledge(messages),
            CompressedDeletes: lambda _now, _peer, messages: sync.end(messages),
            Deletes: lambda _now, _peer, messages: sync.end(state.identity for state in messages),
            Clears: self._cleared,
            UpdateRequests: self._requested,
            BulkStatuses: self._bulk_status,
            Reports: self._reported,
            Resends: self._resend,
            Digests: self._digest,
            DigestRequests: self._digest_requested,
            Lists: self._listed,
        }

    @property
    def deadline(self) -> int:
        """When `timers_due` is wanted next."""
        times = [self._report_at, self._answers_from + SECOND]
        if self.settings.extensions:
            times.append(self._digest_at)
        if self.bulk.deadline is not None:
            times.append(self.bulk.deadline)
        times += [peer.received.deadline for peer in self.peers if peer.received and peer.received.deadline is not None]
        return min(times)

    # What happens to us

    def link_changed(self, now: int, *, up: bool, max_packet: int | None) -> None:
        """The link works, or does not; so long are its packets, if that is known."""
        self._link_up = up
        self.settings = replace(self.settings, max_packet=max_packet or self.settings.max_packet)
        if up and self.bulk.link_is_up(now):
            self._request_bulk()

    def role_changed(self) -> None:
        """We carry traffic now, or do no more: the peers are to know at once."""
        self._takeovers += self._sync.carrying
        self._report_at = 0

    def timers_due(self, now: int) -> None:
        """Do what is due."""
        request, given_up = self.bulk.timer(now)
        if request:
            self._request_bulk()
        self._finish_bulk(given_up)
        if self.peers.fall_silent(now) and self._sync.carrying:
            self._walk.want(Errand.LOOSEN)  # it may carry our connections by now
        for peer in self.peers.lose_silent(now):
            self._lose(peer)
        if now >= self._answers_from + SECOND:
            self._answers_left, self._answers_from = ANSWERS_A_SECOND, now
        if self.settings.extensions and now >= self._digest_at:
            self._send_digest(now)
        for peer in self.peers:
            if peer.received is not None:
                ranges = peer.received.to_ask(now)
                if ranges:
                    self._unnumbered.append(Resends([Resend(peer.creator_id, *missing) for missing in ranges]))

    def begin_bulk(self) -> bytes:
        """From now on we tell all states but those of the creator that is returned: it has asked, and knows them."""
        creator_id = self.bulk_wanted.pop() if len(self.bulk_wanted) == 1 else b""
        self.bulk_wanted.clear()
        self._numbered.append(BulkStatuses([BulkStatus(self.settings.creator_id, 0, BULK_START)]))
        return creator_id

    def end_bulk(self, age_s: int) -> None:
        """We have told all states; that began so many seconds ago."""
        self._numbered.append(BulkStatuses([BulkStatus(self.settings.creator_id, age_s, BULK_END)]))

    def window_is_open(self) -> bool | None:
        """Whether the peers can take more of what a walk has to tell; None if they don't say."""
        acknowledged = self.peers.acknowledged()
        return None if acknowledged is None else self.sent.last - acknowledged < WINDOW

    # What packets are held for

    @property
    def told(self) -> int:
        """The number of the last change that the peers were told."""
        return self._insertions.last if self._halves else self.sent.last_state

    def acknowledged(self, now: int) -> int | None:
        """Up to which of these all peers that are heard have them; None if there is nobody to be waited for.

        Whether a BSD is there can't be known before it acknowledges something.
        """
        if not self._link_up:
            return None
        return self._insertions.acknowledged(now) if self._halves else self.peers.acknowledged_by_all_heard()

    # What comes from the peers: checks in BSD's order, one counter each. Ref: spec pfsync §7.4

    def receive(self, packets: Iterable[tuple[str, bytes]]) -> None:
        """These have come; they are read by `read`."""
        self._unread += packets

    def read(self, now: int, *, looking_up: bool) -> None:
        """Obey what has come.

        A digest is compared when all that came before it is done: with `looking_up`, or if something has to be looked
        up, it waits until this is called again.
        """
        while self._unread:
            self._source, payload = self._unread[0]
            batches, wrong = self._decode(payload)
            waits = looking_up or any(self._sync.to_fetch.values())
            if waits and any(isinstance(batch, Digests) for batch in batches):
                return
            self._unread.popleft()
            if wrong:
                setattr(self._counters, wrong, getattr(self._counters, wrong) + 1)
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
            creator_id, number, flags = first.messages[0]
            self._number = number
            if creator_id == self.settings.creator_id:
                self._counters.loops += 1
                return
            peer = self._hear(now, creator_id)
            if peer is None:
                return
            if peer.received is None:
                peer.received = Received(number)
            else:
                forgotten = peer.received.forgotten
                arrival = peer.received.note(now, number)
                self._counters.forgotten += peer.received.forgotten - forgotten
                if arrival is Arrival.DUPLICATE:
                    self._counters.duplicates += 1
                    return
                late = arrival is Arrival.LATE
                self._counters.late += late
            peer.unacknowledged += 1
            if flags & ACKNOWLEDGE:
                self._report_at = now
        attributes = {
            message.identity: message
            for batch in batches
            if isinstance(batch, Attributes)
            for message in batch.messages
        }
        hold = peer is None or peer.carrying or not self._sync.carrying
        for batch in batches:
            if isinstance(batch, PackedStates):
                self.bulk.progresses(now)
                self._sync.learn_packed(batch.messages, attributes, hold=hold, late=late)
            elif isinstance(batch, Inserts | Updates):
                self.bulk.progresses(now)
                self._sync.learn(batch.messages, attributes, hold=hold, late=late)
            elif reader := self._readers.get(type(batch)):
                reader(now, peer, batch.messages)  # type: ignore[union-attr]  # all that have a reader have messages

    def _hear(self, now: int, creator_id: bytes) -> Peer | None:
        peer, new = self.peers.hear(now, creator_id, self._source)
        if new:
            for old in self.peers.replaced_by(creator_id, self._source):
                self._lose(old)
            self._facts.append(PeerAppeared(creator_id, self._source))
            self._report_at = min(self._report_at, now + ACKNOWLEDGE_NS)
            self._digested = -1, now
        return peer

    def _lose(self, peer: Peer) -> None:
        self._facts.append(PeerLost(peer.creator_id, peer.source))
        self._anti_entropy.forget(peer.creator_id)
        self.bulk.loses(peer.creator_id)
        if peer.carrying or not self.peers.by_id:
            self._inherit()

    def _inherit(self) -> None:
        """What a peer carried is ours to end now, or nobody would; if it does carry it still, it tells us again."""
        if self._sync.carrying:
            self._walk.want(Errand.TRIM)

    def _updated(self, _now: int, _peer: Peer | None, updates: Sequence[CompressedUpdate]) -> None:
        self._insertions.acknowledge(update.identity for update in updates)
        self._sync.update(updates)

    def _cleared(self, _now: int, _peer: Peer | None, messages: Iterable[Any]) -> None:
        for clear in messages:
            if clear.interface in ("", "all"):  # we have no states of a single interface
                table = self._sync.table
                keys = table.created_by(clear.creator_id)
                self._sync.end([table.records[key][:IDENTITY_SIZE] for key in keys])

    def _requested(self, now: int, _peer: Peer | None, identities: Sequence[bytes]) -> None:
        wanted = [identity for identity in identities if identity != BULK_REQUEST]
        if len(wanted) < len(identities):
            self.bulk_wanted.add(self.peers.at(self._source))
        purpose = Purpose.ANSWER if self._others_know_better() else Purpose.TELL
        self._answer(wanted, ended=self._sync.carrying and self.settings.extensions, purpose=purpose)

    def _others_know_better(self) -> bool:
        """Of what we only hold, when a peer asks: one that carries traffic hears that, too. Of several of these the one
        with the smallest creator id speaks for what none of them carries.
        """
        ours = self.settings.creator_id
        return any(
            peer.carrying
            and not peer.silent
            and peer.source != self._source
            and (not self._sync.carrying or peer.creator_id < ours)
            for peer in self.peers
        )

    def _answer(self, identities: Sequence[bytes], *, ended: bool, purpose: Purpose = Purpose.TELL) -> None:
        """Tell of these states, as many as may be told in this second."""
        answered = identities[: self._answers_left]
        self._counters.throttled += len(identities) - len(answered)
        self._answers_left -= len(answered)
        self._sync.tell(answered, ended=ended, purpose=purpose)

    def _bulk_status(self, now: int, peer: Peer | None, messages: Sequence[BulkStatus]) -> None:
        for creator_id, _, status in messages[:1]:
            sender = peer.creator_id if peer else creator_id
            if status == BULK_START:
                self.bulk.begins(now, sender, self._number)
            elif status == BULK_END:
                self.bulk.ends(sender, self._number)

    def _reported(self, now: int, _peer: Peer | None, messages: Iterable[Report]) -> None:
        for report in messages:
            if report.reporter == self.settings.creator_id:
                self._counters.loops += 1
                continue
            peer = self._hear(now, report.reporter)
            if peer is None:
                continue
            if self._sync.carrying and peer.takeovers not in (None, report.takeovers):
                self._walk.want(Errand.LOOSEN)  # we did not hear each other: both carried the same connections
            carried = peer.carrying
            if self.peers.note(peer, report) and not self.bulk.has_begun(peer.creator_id):
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
                self._counters.lost += peer.received.lost - lost

    def _tell_again(self, now: int, first: int, count: int) -> None:
        remembered = self.sent.remembers(first)
        if not remembered:
            self._digest_at, self._digested = now, (-1, now)  # nothing else can heal that
        numbers = self.sent.tell_again(now, first, count)
        if numbers or not remembered:
            self._answer(list(self.sent.states(numbers)), ended=True)
            self._sync.outbox.told_again(Resend(self.settings.creator_id, first, count))
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
            many = max(peer.states, len(self._sync.table)) >= TOO_DIFFERENT * 64
            if many and len(groups) >= TOO_DIFFERENT and now - peer.bulk_asked >= BULK_ASK_NS:
                peer.bulk_asked = now
                self._counters.resyncs["the tables differed too much"] += 1
                self._request_bulk()
            else:
                self._counters.resyncs["digests differed"] += 1
                self._unnumbered.append(self._anti_entropy.ask_groups(peer.creator_id, groups))

    def _digest_requested(self, _now: int, _peer: Peer | None, messages: Sequence[Any]) -> None:
        self._numbered += self._anti_entropy.answer(messages)

    def _listed(self, _now: int, peer: Peer | None, messages: Sequence[Any]) -> None:
        if messages:
            sender = self.peers.by_id.get(messages[0].creator_id)
            trusted = sender is not None and sender.carrying
            for identity in self._anti_entropy.listed(messages, trusted=trusted):
                self._sync.to_ask[identity] = None

    # The bulk update that we want

    def _request_bulk(self) -> None:
        self._unnumbered.append(UpdateRequests([BULK_REQUEST]))

    def _finish_bulk(self, given_up: str | None) -> None:
        """We take part with all our states as soon as we know those of the peers."""
        reason = given_up or self.bulk.finish(complete=all(peer.complete() for peer in self.peers))
        if reason:
            self._sync.settled, self._sync.complete = True, given_up is None
            self._facts.append(BulkUpdateChanged(True, reason))
            self._walk.want(Errand.COMPARE)
            self._walk.want(Errand.TRIM if self._sync.carrying else Errand.HOLD)  # as it was when we ran last, or not
            self._report_at = 0

    # What goes to the peers

    def packets(self, now: int, *, more: bool) -> list[bytes]:
        """All that is to be said now. Changes leave at once; only while `more` are coming do they wait."""
        if self._sync.to_ask:
            self._ask(now)
        self._report(now)
        outbox = self._sync.outbox
        if not (len(outbox) or self._numbered or self._unnumbered):
            return []
        space = self.settings.max_packet - _OVERHEAD
        numbered: list[Parcel] = []
        if len(outbox) and (self._numbered or not more or outbox.is_due(now)):
            self._sync.outbox = Outbox(self.settings.maxupd)
            numbered += outbox.pack(space, None if self._halves else self._writer)
            self._counters.told += sum(len(parcel.identities) for parcel in numbered) // IDENTITY_SIZE
        numbered += _packed(self._numbered, space) if self._numbered else ()
        unnumbered = list(_packed(self._unnumbered, space)) if self._unnumbered else []
        self._numbered, self._unnumbered = [], []
        write = self._write_halves if self._halves else self._write
        packets = write(now, numbered, unnumbered)
        return packets if self._link_up else []

    def _write(self, now: int, numbered: Sequence[Parcel], unnumbered: Sequence[Parcel]) -> list[bytes]:
        """Packets for Linux nodes. The last one about states asks for a report at once, if anything waits for that."""
        last = next((parcel for parcel in reversed(numbered) if parcel.identities), None)
        flags = ACKNOWLEDGE if self.settings.defer else 0
        packets = [self._numbered_packet(now, parcel, flags if parcel is last else 0) for parcel in numbered]
        return packets + [Packet(v6.VERSION, parcel.batches).to_bytes() for parcel in unnumbered]

    def _write_halves(self, now: int, numbered: Sequence[Parcel], unnumbered: Sequence[Parcel]) -> list[bytes]:
        """Packets for BSDs."""
        assert self._halves is not None
        batches = [batch for parcel in (*numbered, *unnumbered) for batch in parcel.batches]
        if self.settings.defer:
            told = (batch for batch in batches if isinstance(batch, Inserts))
            self._insertions.told(now, (state.identity for batch in told for state in batch.messages))
        return self._halves.packets(batches, self._sync.selection.own, self.settings.max_packet)

    def _ask(self, now: int) -> None:
        """Ask for states, but for those that we asked for a moment ago: we would be told again what we can't use."""
        for identity, asked in list(self._asked.items()):
            if now - asked < ASK_AGAIN_NS:
                break
            del self._asked[identity]
        wanted = [identity for identity in self._sync.to_ask if identity not in self._asked][:ASKED_A_ROUND]
        self._sync.to_ask.clear()
        self._asked.update(dict.fromkeys(wanted, now))
        if wanted:
            self._unnumbered.append(UpdateRequests(wanted))

    def _send_digest(self, now: int) -> None:
        self._digest_at = now + DIGEST_NS
        version, when = self._digested
        differs = any(not peer.equal for peer in self.peers)  # a round repairs only so much
        if version != self._sync.table.version or differs or now - when >= DIGEST_AT_REST_NS:
            self._digested = self._sync.table.version, now
            # First what we have heard: whoever compares must know whether all of its own is in the digest.
            self._numbered += (self._reports(), self._anti_entropy.digest())

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
        flags = (CARRYING if self._sync.carrying else 0) | (COMPLETE if self.bulk.done else 0)
        ours, states = self.settings.creator_id, len(self._sync.table)
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

    def _numbered_packet(self, now: int, parcel: Parcel, flags: int) -> bytes:
        number = self.sent.next(now, parcel.identities)
        for batch in parcel.batches:
            if isinstance(batch, BulkStatuses):
                self._bulk_numbers.update({message.status: number for message in batch.messages})
        first = Sequences([PacketNumber(self.settings.creator_id, number, flags)])
        return Packet(v6.VERSION, [first, *parcel.batches]).to_bytes()


def _packed(batches: Iterable[AnyBatch], space: int) -> Iterator[Parcel]:
    """These, in as few packets as possible."""
    packer = Packer(space)
    for batch in batches:
        kind = type(batch)
        yield from packer.add(kind, batch.messages, v6.KINDS.message_size(kind))  # type: ignore[union-attr]
    yield from packer.rest()
