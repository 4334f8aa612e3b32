"""One state, seen from two sides: what the kernel tells of it, and what peers say. Who is right is decided here.

* Our kernel's news are announced; a peer's are put into our kernel and never announced again.
* A state never goes back: each end's level only grows (`levels`), and whoever is behind is told.
* A state that is held for a peer has a timeout that no packet gives (HOLD); the first packet that our kernel sees
  gives it the normal one. So the kernel tells who carries a flow: a peer can't end one that we carry.
* Two identities for one flow, because two nodes saw it begin or because one was started anew: the smaller one stays, or
  the one of whoever carries it.

Ref: spec pfsync §7.2, §7.5 to §7.7.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from carpd.pfsync import expectations, mapping
from carpd.pfsync.changes import KernelChanges, joined
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.events import Change, Purpose, Refused
from carpd.pfsync.levels import is_closing, is_stale, levels, merge
from carpd.pfsync.mapping import Unmappable
from carpd.pfsync.ordinary import OrdinaryReader
from carpd.pfsync.outbox import Outbox
from carpd.pfsync.selection import Selection
from carpd.pfsync.table import Record, StateTable, pack_record, unpack_record
from carpd.pfsync.timeouts import HOLD, is_carried
from carpd.wire import ctnetlink
from carpd.wire.conntrack import LIBERAL, SCTP, TCP, ConntrackEntry, Expectation, TcpState, flow_key, tuple_key
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.messages import CompressedUpdate
from carpd.wire.pfsync.numbers import ACK, NOSYNC, Dialect
from carpd.wire.pfsync.state import StateRecord

_STATEFUL = (TCP, SCTP)
"""Of these nothing can be told without their state."""

_OPENING = frozenset((TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.SYN_SENT2))

ABSENT = 0xFFFFFFFF
"""The kernel's number of a state that is not in its table, because it is none of this host's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the engine is told when it is made."""

    creator_id: bytes
    """4 random bytes, not all 0."""
    first_id: int
    """The first id of a state: even, and larger than those of an earlier start."""
    selection: Selection
    max_states: int
    max_packet: int
    """Bytes of the longest packet that a datagram takes."""
    maxupd: int = 128
    dialect: Dialect | None = None
    """What the peers speak if they are BSDs: see `halves`."""
    defer: bool = False
    """Whether packets may wait for what we tell: the peers are to acknowledge it at once."""

    @property
    def extensions(self) -> bool:
        """Whether the peers are Linux nodes, which speak of more than pfsync knows."""
        return self.dialect is None


class StateSync:
    """The states of one node. It collects what is to be told (`outbox`), done (`changes`), looked up and asked for."""

    def __init__(self, settings: Settings, counters: PfsyncCounters) -> None:
        self.table = StateTable()
        self.outbox = Outbox(settings.maxupd)
        self.changes = KernelChanges()
        self.to_fetch: dict[Purpose, dict[bytes, None]] = {purpose: {} for purpose in Purpose}
        self.to_ask: dict[bytes, None] = {}
        """Identities that the peers are to be asked for."""
        self.selection = settings.selection
        self.carrying = True
        self.announcing = False
        """Whether the peers are told of flows that begin here."""
        self.settled = False
        """Whether the peers need not be waited for: whatever flow older than us they don't know can be announced."""
        self.missed = False
        """Whether our kernel told of changes that we did not hear, and its table is not compared yet."""
        self.complete = False
        """Whether a peer has told us all states: what we hold beyond them has ended."""
        self._creator_id = settings.creator_id
        self._next_id = settings.first_id
        self._max_states = settings.max_states
        self._counters = counters
        self._reader = OrdinaryReader()
        self._wanted: dict[bytes, ConntrackEntry] = {}
        """Entries where the kernel has others: compared in a moment."""
        self._doubted: dict[bytes, bytes] = {}
        """Identities, by flow key, that a peer says have ended: verified in a moment."""
        self._progress: dict[bytes, ConntrackEntry] = {}
        """What peers say of flows that our kernel sees itself: joined with what that knows in a moment."""
        self._begun: dict[bytes, int] = {}
        """The kernel's numbers, by flow key, of entries that it says are new: looked at in a moment."""
        self._expected: dict[bytes, list[Expectation]] = {}
        """What helpers expect of states that are about to be told."""

    # What the kernel tells

    def heard(self, events: Iterable[ctnetlink.Event]) -> None:
        """Changes of the kernel's table, in order."""
        records, takes_part = self.table.records, self.selection.takes_part
        new, destroyed = ctnetlink.Change.NEW, ctnetlink.Change.DESTROY
        for change, entry in events:
            key = flow_key(entry)
            data = records.get(key)
            if data is not None:
                if change is destroyed:
                    self._ended(key, unpack_record(data), entry)
                elif change is new:
                    self._began_again(key, unpack_record(data), entry)
                else:
                    self._changed(key, unpack_record(data), entry)
            elif change is new:
                if self.announcing and takes_part(entry):
                    self.announce(key, entry)
            elif change is not destroyed and self.announcing and self.settled and takes_part(entry):
                self.to_fetch[Purpose.ANNOUNCE][key] = None  # an event does not tell all of it

    def announce(self, key: bytes, entry: ConntrackEntry) -> None:
        """A flow that nobody knows has begun here."""
        if len(self.table) >= self._max_states:
            self._counters.limit += 1
            return
        identity = self._next_id.to_bytes(8, "big") + self._creator_id
        self._next_id += 2
        labels = _sum(entry.labels)
        self.table.add(key, identity, pack_record(identity, levels(entry), entry.mark, labels, entry.id))
        self.outbox.insert(identity, entry)

    def read(self, key: bytes, entry: ConntrackEntry) -> None:
        """An entry that was found in the kernel's table: as it is now, whatever events there are still to be heard."""
        data = self.table.records.get(key)
        record = unpack_record(data) if data is not None else None
        if record is not None and self.carrying and _is_unheard_of(record, entry):
            self.table.remove(key)  # the flow has ended and begun again, and we have not heard of it
            self.outbox.delete(record.identity)
            self.announce(key, entry)
        elif record is not None:
            self._changed(key, record, entry)
        elif self.selection.takes_part(entry):
            if self.announcing or self.carrying:
                self.announce(key, entry)
            elif self.complete and not is_carried(entry):
                self.changes.delete(key)  # it ended while we were away

    def _changed(self, key: bytes, record: Record, entry: ConntrackEntry) -> None:
        merged = merge(record.levels, levels(entry))
        labels = record.labels if entry.labels is None else _sum(entry.labels)
        tagged = (entry.mark, labels) != (record.mark, record.labels)
        more = (
            tagged
            or entry.original_adjustment is not None
            or entry.reply_adjustment is not None
            or entry.protocol == SCTP
        )
        if merged == record.levels and not more:
            if record.number != entry.id:
                self.table.renumber(key, pack_record(*record[:4], entry.id))
            return
        self.table.put(key, pack_record(record.identity, merged, entry.mark, labels, entry.id))
        if tagged or (entry.state is None and entry.protocol in _STATEFUL):
            # The event may be older than a mark that we have set for a peer; or it does not tell enough of it.
            self.to_fetch[Purpose.TELL][key] = None
        elif more:
            self.outbox.full(record.identity, entry)
        else:
            self.outbox.update(record.identity, entry)

    def _began_again(self, key: bytes, record: Record, entry: ConntrackEntry) -> None:
        """The kernel says that a flow is new which we know already."""
        if record.identity[8:] == self._creator_id:  # it ended, and the kernel could not say so
            self.table.remove(key)
            self.outbox.delete(record.identity)
            self.announce(key, entry)
        elif record.number == entry.id:  # a peer has just told of it, before our kernel could: both see its packets
            self._changed(key, record, entry)
        else:  # it ended and began anew; or both, before we inserted what is there now
            self._begun[key] = entry.id
            self.to_fetch[Purpose.ANNOUNCE][key] = None

    def _ended(self, key: bytes, record: Record, entry: ConntrackEntry) -> None:
        if record.number == entry.id:
            self.table.remove(key)
            self.outbox.delete(record.identity)
        elif record.number == 0:  # what we inserted, or what was there before it
            self.to_fetch[Purpose.MISSED][key] = None

    def expect(self, expectations: Iterable[Expectation]) -> None:
        """Helpers expect connections: the peers are told with the states of those that announced them."""
        for expectation in expectations:
            key = tuple_key(expectation.master)
            if key in self.table.records:
                self._expected.setdefault(key, []).append(expectation)
                self.to_fetch[Purpose.TELL][key] = None

    # What peers tell

    def learn(
        self, states: Iterable[StateRecord], attributes: Mapping[bytes, LinuxAttributes], *, hold: bool, late: bool
    ) -> None:
        """Whole states. A packet that came late creates nothing: it is asked whether there still is such a state.

        With `hold` our copies don't end by themselves.
        """
        timeout = HOLD if hold else None
        records = self.table.records
        for state in states:
            identity = state.identity
            key = self.table.key_of(identity)
            if key is None and late:
                self.to_ask[identity] = None
                continue
            try:
                entry = mapping.from_state(state, attributes.get(identity), timeout)
            except Unmappable as error:
                self._refuse(error)
                continue
            if key is None:
                if state.flags & NOSYNC:
                    continue
                key = flow_key(entry)
                data = records.get(key)
                if data is not None and not self._makes_way(key, unpack_record(data), identity):
                    continue
                if data is None and len(records) >= self._max_states:
                    self._counters.limit += 1
                    continue
                self._insert(key, identity, entry)
            else:
                try:
                    self._merge_all(key, unpack_record(records[key]), state, entry)
                except Unmappable as error:  # levels that only the two together have
                    self._refuse(error)
                    continue
            if state.flags & ACK:
                self.outbox.acknowledge(identity)
            if identity in attributes:
                self.changes.expect(expectations.decode(attributes[identity]))

    def learn_packed(
        self, records: Iterable[bytes], attributes: Mapping[bytes, LinuxAttributes], *, hold: bool, late: bool
    ) -> None:
        """Likewise, of the 264 bytes of each: new states that are ordinary take the short way."""
        timeout = HOLD if hold else None
        for data in records:
            found = None if late else self._reader.read(data, timeout)
            if found is not None:
                identity, entry = found
                key = flow_key(entry)
                if (
                    identity not in attributes
                    and self.table.key_of(identity) is None
                    and key not in self.table.records
                    and len(self.table) < self._max_states
                ):
                    self._insert(key, identity, entry)
                    continue
            self.learn([v6.decode_state(data)], attributes, hold=hold, late=late)

    def _insert(self, key: bytes, identity: bytes, entry: ConntrackEntry) -> None:
        known = self.table.records.get(key)
        if known is not None:  # the smaller identity for a flow that we see ourselves
            record = unpack_record(known)
            self.table.put(key, pack_record(identity, *record[1:]))
            return
        ours = self.selection.takes_part(entry)
        number = 0 if ours else ABSENT
        data = pack_record(identity, levels(entry), entry.mark or 0, _sum(entry.labels), number)
        self.table.add(key, identity, data)
        if ours:
            self._counters.inserted += 1
            self.changes.insert(key, entry)

    def _makes_way(self, key: bytes, record: Record, identity: bytes) -> bool:
        """Whether the identity that we have for a flow gives way to another one that a peer says."""
        same_creator = record.identity[8:] == identity[8:]
        if same_creator and identity < record.identity:
            return False  # one that ended before
        if not same_creator and record.number and self.carrying:
            if identity > record.identity:
                return False
            self.outbox.forget(record.identity)
            return True
        # The flow ended there and began again, or another node carries it now: what we hold is not it. What our kernel
        # carries may be it, unless it is closing: then the insert is refused, and compared.
        self.outbox.forget(record.identity)
        self.table.remove(key)
        if not self.carrying or (same_creator and is_closing(record.levels)):
            self.changes.delete(key)
        return True

    def _merge_all(self, key: bytes, record: Record, state: StateRecord, entry: ConntrackEntry) -> None:
        """All of a state that is known: what can change of it."""
        theirs = levels(entry)
        merged = merge(record.levels, theirs)
        labels = record.labels if entry.labels is None else _sum(entry.labels)
        mark = entry.mark or 0
        if merged != theirs:
            self._stale(key)
            if merged != record.levels:
                update = CompressedUpdate(state.identity, state.src, state.dst, state.timeout)
                self._advance(key, record, merged, mapping.from_update(key, update, merged))
        elif (
            merged != record.levels
            or (mark, labels) != (record.mark, record.labels)
            or entry.original_adjustment
            or entry.reply_adjustment
            or entry.protocol == SCTP
        ):
            self.table.put(key, pack_record(record.identity, merged, mark, labels, record.number))
            self._update(key, record, entry._replace(timeout=None))

    def update(self, updates: Iterable[CompressedUpdate]) -> None:
        """How far states are now. What is not known is asked for."""
        records = self.table.records
        for update in updates:
            key = self.table.key_of(update.identity)
            if key is None:
                self.to_ask[update.identity] = None
                continue
            record = unpack_record(records[key])
            try:
                theirs = mapping.levels_told(update)
                merged = merge(record.levels, theirs)
                if merged != record.levels:
                    self._advance(key, record, merged, mapping.from_update(key, update, merged))
            except Unmappable as error:
                self._refuse(error)
                continue
            if merged != theirs:
                self._stale(key)

    def _advance(self, key: bytes, record: Record, merged: int, entry: ConntrackEntry) -> None:
        self.table.put(key, pack_record(record.identity, merged, *record[2:]))
        self._update(key, record, entry)

    def _update(self, key: bytes, record: Record, entry: ConntrackEntry) -> None:
        if record.number == ABSENT:
            return
        if self.carrying and (record.number or self.missed) and entry.protocol == TCP:
            self._join_later(key, entry)
            return
        self._counters.updated += 1
        self.changes.update(key, entry)

    def _join_later(self, key: bytes, entry: ConntrackEntry) -> None:
        """What a peer tells of a flow of which our kernel may know more: that is looked at first."""
        self.to_fetch[Purpose.CORRECT][key] = None
        self._progress[key] = joined(self._progress[key], entry) if key in self._progress else entry

    def _stale(self, key: bytes) -> None:
        """The peer is behind: it gets to know our view."""
        self._counters.stale += 1
        self.to_fetch[Purpose.TELL][key] = None

    def end(self, identities: Iterable[bytes]) -> None:
        """States that ended. One that our kernel has seen itself may be one that we carry: it is looked up first."""
        for identity in identities:
            key = self.table.key_of(identity)
            if key is None:
                self._counters.badstate += 1
                continue
            number = unpack_record(self.table.records[key]).number
            if number != ABSENT and (self.carrying or number):
                self.to_fetch[Purpose.VERIFY][key] = None
                self._doubted[key] = identity
            else:
                self._end(key, identity, in_kernel=number != ABSENT)

    def _end(self, key: bytes, identity: bytes, *, in_kernel: bool) -> None:
        self.table.remove(key)
        self.outbox.forget(identity)
        if in_kernel:
            self._counters.deleted += 1
            self.changes.delete(key)

    def withdraw(self, identity: bytes) -> None:
        """A state is about to be told anew with another translation, which an entry can't change: ours gives way."""
        key = self.table.key_of(identity)
        if key is not None:
            number = unpack_record(self.table.records[key]).number
            if number in (0, ABSENT):  # else our kernel has seen the flow itself, and knows
                self._end(key, identity, in_kernel=number != ABSENT)

    def tell(self, identities: Iterable[bytes], *, ended: bool, purpose: Purpose = Purpose.TELL) -> None:
        """A peer wants to know these states. With `ended` it is told that those which we don't know have ended."""
        for identity in identities:
            key = self.table.key_of(identity)
            if key is not None:
                self.to_fetch[purpose][key] = None
            elif ended:
                self.outbox.delete(identity)
            else:
                self._counters.badstate += 1

    def _refuse(self, error: Unmappable) -> None:
        setattr(self._counters, error.counter, getattr(self._counters, error.counter) + 1)

    # What the kernel answers

    def fetched(self, purpose: Purpose, keys: Sequence[bytes], entries: Sequence[ConntrackEntry | None]) -> None:
        """What the kernel has at these keys."""
        handle = {
            Purpose.TELL: self._tell,
            Purpose.ANSWER: self._answer,
            Purpose.ANNOUNCE: self._announce_found,
            Purpose.VERIFY: self._verify,
            Purpose.COMPARE: self._compare,
            Purpose.CORRECT: self._catch_up,
            Purpose.MISSED: self._missed,
        }[purpose]
        for key, entry in zip(keys, entries, strict=True):
            data = self.table.records.get(key)
            handle(key, unpack_record(data) if data else None, entry)
        if purpose is Purpose.COMPARE:
            self._wanted.clear()

    def _tell(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        if record is not None and (key in self._wanted or self.changes.concern(key)):
            self.to_fetch[Purpose.TELL][key] = None  # it was looked up before that is done
            return
        expected = self._expected.pop(key, ())
        if record is None or _is_unheard_of(record, entry):
            return
        if entry is not None:
            if (entry.mark, _sum(entry.labels)) != (record.mark, record.labels):
                data = pack_record(record.identity, record.levels, entry.mark, _sum(entry.labels), record.number)
                self.table.put(key, data)
            entry = self._correct(key, record, entry, entry)
            self.outbox.full(record.identity, entry, tuple(map(expectations.encode, expected)))
        else:
            self._missed(key, record, None)

    def _answer(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        """What we only hold we may know from before it changed or ended: two who hold it would tell each other so."""
        if entry is None or is_carried(entry):
            self._tell(key, record, entry)

    def _catch_up(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        told = self._progress.pop(key)
        if record is None or entry is None or _is_unheard_of(record, entry):
            return
        now = self._correct(key, record, entry, joined(entry, told))
        if now is entry and entry.protocol == TCP and not entry.original_flags & entry.reply_flags & LIBERAL:
            self.changes.loosen(key)  # what is updated is loosened by that
        if told.mark is not None and (told.mark, told.labels) != (entry.mark, entry.labels):
            self.changes.update(key, now._replace(timeout=None, mark=told.mark, labels=told.labels))

    def _correct(self, key: bytes, record: Record, entry: ConntrackEntry, scaled: ConntrackEntry) -> ConntrackEntry:
        """Take the kernel's entry as far as its record; what it is then. Window scales are those of `scaled`.

        It may be behind even what it has told itself: if we updated it, as a peer said, before we knew of that.
        """
        merged = merge(levels(entry), record.levels)
        update = mapping.to_update(record.identity, scaled)
        if merged == levels(entry) or update is None:
            return entry
        try:
            ahead = mapping.from_update(key, update, merged)
        except Unmappable:
            return entry
        self.changes.update(key, ahead)
        return joined(entry, ahead)

    def _announce_found(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        begun = self._begun.pop(key, None)
        if entry is None or (record is not None and begun != entry.id):
            return
        if record is not None:
            self.table.remove(key)
            self.outbox.delete(record.identity)
        self.announce(key, entry)

    def _verify(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        doubted = self._doubted.pop(key, None)
        if record is None or record.identity != doubted:  # the flow has begun anew since
            return
        if entry is not None and is_carried(entry):
            self._counters.kept += 1
            self.outbox.full(record.identity, entry)
        else:
            self._end(key, record.identity, in_kernel=entry is not None)

    def _missed(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        if record is None or record.number == ABSENT:
            return
        if entry is not None:
            if _is_another(entry, record.levels):  # we missed that it began
                self.table.remove(key)
                self.outbox.delete(record.identity)
                self.announce(key, entry)
            return
        self.table.remove(key)
        if self.carrying:
            self.outbox.delete(record.identity)
        else:
            self.outbox.forget(record.identity)

    def _compare(self, key: bytes, record: Record | None, entry: ConntrackEntry | None) -> None:
        """The kernel has an entry where a peer's was to be inserted."""
        wanted = self._wanted.get(key)
        if record is None or wanted is None:
            return
        if entry is None:  # it clashes with the replies of another connection
            self._counters.conflicts += 1
            self.table.remove(key)
        elif entry[5:9] == wanted[5:9] and not _is_outlived(entry, wanted):
            merged = merge(record.levels, levels(entry))
            labels = wanted.labels or entry.labels  # they can't be taken from an entry again
            self.table.put(key, pack_record(record.identity, merged, wanted.mark or 0, _sum(labels), entry.id))
            if (entry.mark, entry.labels) != (wanted.mark, labels):
                state = None if entry.protocol == TCP else wanted.state
                self.changes.update(
                    key, wanted._replace(timeout=None, status=wanted.status | entry.status, state=state)
                )
            self._correct(key, record._replace(levels=merged), entry, wanted)
            if labels != wanted.labels:
                self.outbox.full(record.identity, entry._replace(mark=wanted.mark))
            elif merged != record.levels:
                self.outbox.update(record.identity, entry)
        elif entry[5:9] != wanted[5:9] and is_carried(entry):
            self._counters.conflicts += 1
            self.table.remove(key)
            self.announce(key, entry)
        else:
            self.changes.delete(key)
            self.changes.insert(key, wanted)

    def refused(self, change: Change, refusals: Iterable[Refused]) -> None:
        """What the kernel would not do."""
        for key, entry, number, reason in refusals:
            if number == errno.ENOENT and change is not Change.INSERT:
                continue  # it ended a moment ago: we are about to hear of it
            if change is Change.UPDATE and number == errno.EBUSY and entry is not None:
                self._join_later(key, entry)  # it has got further a moment ago
                continue
            if change is Change.INSERT and entry is not None:
                if number == errno.EEXIST and key not in self._wanted:
                    self._wanted[key] = entry
                    self.to_fetch[Purpose.COMPARE][key] = None
                    continue
                if number == errno.EOPNOTSUPP and entry.helper:
                    self._counters.refused[f"helper {entry.helper}: {reason}"] += 1
                    self.changes.insert(key, entry._replace(helper=""))
                    continue
                self.table.remove(key)
            self._counters.refused[f"{change.value}: {reason}"] += 1


def _is_unheard_of(record: Record, entry: ConntrackEntry | None) -> bool:
    """Whether our kernel has the next connection of a flow already, and we are about to hear of its beginning."""
    return entry is not None and record.number not in (0, ABSENT, entry.id)


def _is_another(entry: ConntrackEntry, known: int) -> bool:
    """Whether our kernel carries the next connection of a flow whose last one was closing, at these levels."""
    return entry.protocol == TCP and is_carried(entry) and is_closing(known) and not is_closing(levels(entry))


def _is_outlived(entry: ConntrackEntry, wanted: ConntrackEntry) -> bool:
    """Whether the kernel's entry is of a connection that is over, and the peer's of the next one of the same flow."""
    if is_carried(entry):
        return entry.protocol == TCP and is_closing(levels(entry)) and wanted.state in _OPENING
    return is_stale(levels(entry), levels(wanted))


def _sum(labels: bytes | None) -> int:
    return crc32(labels) if labels else 0
