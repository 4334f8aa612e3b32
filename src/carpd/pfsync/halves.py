"""BSD peers: a connection that is forwarded is one entry of Linux, and two states of pf, its halves.

One half was made where the connection came in, the other where it went out, each with its own id. This stands between
the engine, which knows whole flows in single-record form alone (`mapping`), and the packets for and of BSDs:

* A flow of ours with the id n, which is even, is told as n (in) and n + 1 (out); one that ends on this host, as one of
  them.
* A half that comes alone is a flow at once. When the other one comes, both are: under the name of the first, with the
  translation of both. What is told of either half, its end too, is told of the flow.
* What only pf knows of a half, as sequence numbers and the rule, is kept as it came, and sent back with our levels. It
  grows old while we carry the flow: a BSD that tracks windows may then call our updates stale.

The engine's table says which flows there are; what is remembered of others goes when there is much of it.

Ref: spec pfsync §12.2, §12.4, §12.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from carpd.config.model import Version
from carpd.pfsync.packer import Packer, Parcel
from carpd.pfsync.table import StateTable
from carpd.wire.conntrack import ICMP, ICMPV6, SCTP, TCP, UDP
from carpd.wire.pfsync import v5, v6
from carpd.wire.pfsync.batches import (
    AnyBatch,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    Deletes,
    InsertAcknowledgements,
    Inserts,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.header import HEADER
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, CompressedUpdate
from carpd.wire.pfsync.numbers import ACK, IN, INET, INET6, OUT, Dialect
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Key, StateRecord

_SWEEP_MIN = 4096
"""Fewer halves than that are not looked through for those of flows that ended."""

_Told = (
    Inserts
    | Updates
    | CompressedUpdates
    | CompressedDeletes
    | UpdateRequests
    | InsertAcknowledgements
    | Clears
    | BulkStatuses
)
"""What BSDs are told."""

_FAMILIES = (INET, INET6)
_NO_CREATOR = bytes(4)

_DIALECTS = {
    Version.LINUX: None,
    Version.OPENBSD: Dialect.OPENBSD,
    Version.FREEBSD_1301: Dialect.FREEBSD_1301,
    Version.FREEBSD_1400: Dialect.FREEBSD_1400,
    Version.FREEBSD_1500: Dialect.FREEBSD_1500,
}


def dialect_of(version: Version) -> Dialect | None:
    """What is spoken with such peers; None with Linux nodes, who need no halves."""
    return _DIALECTS[version]


class _Half(NamedTuple):
    """A half of a flow: its own identity, and what its peer said of it, None if that is nothing."""

    identity: bytes
    direction: int
    heard: StateRecord | None = None


class Halves:
    """Translates batches in both directions. `withdraw` makes the engine forget a flow that is to be told anew."""

    def __init__(
        self,
        dialect: Dialect,
        creator_id: bytes,
        table: StateTable,
        withdraw: Callable[[bytes], None],
        *,
        defer: bool = False,
    ) -> None:
        """With `defer` new states are to be acknowledged."""
        self._dialect = dialect
        self._creator_id = creator_id
        self._table = table
        self._withdraw = withdraw
        self._insert_flags = ACK if defer else 0
        openbsd = dialect is Dialect.OPENBSD
        self._kinds = v6.KINDS if openbsd else v5.KINDS
        self._space = -HEADER.size if openbsd else -HEADER.size - len(v5.EOF)
        self._layout = self._kinds.layout(Inserts, dialect)
        self._heard: dict[bytes, bytes] = {}
        """What peers say of halves, by their identities, as it lies on the wire: small, and nothing to collect."""
        self._places: dict[bytes, bytes] = {}
        """Which half is in a place: of that direction, with those ends inside the host."""
        self._names: dict[bytes, bytes] = {}
        """Under which name the engine knows the flow of a half that came second."""
        self._partial: dict[bytes, tuple[int, ...]] = {}
        """The directions in which flows of ours are told, where those are not both."""
        self._sweep_at = _SWEEP_MIN
        self._unanswered = False
        """Whether nothing has come yet of the bulk update that we asked for last."""

    # What peers say

    def incoming(self, batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
        """What these say of whole flows. Each batch must have been obeyed before the next is asked for."""
        self._sweep()
        for batch in batches:
            if isinstance(batch, Inserts | Updates):
                self._unanswered &= isinstance(batch, Inserts)
                yield from self._join_all(batch)
            elif isinstance(batch, CompressedUpdates):
                yield CompressedUpdates([self._updated(update) for update in batch.messages])
            elif isinstance(batch, CompressedDeletes):
                yield CompressedDeletes(self._ended(batch.messages))
            elif isinstance(batch, Deletes):
                yield CompressedDeletes(self._ended(state.identity for state in batch.messages))
            elif isinstance(batch, UpdateRequests | InsertAcknowledgements):
                yield type(batch)(list(dict.fromkeys(map(self._name, batch.messages))))
            elif isinstance(batch, BulkStatuses):
                ended = [status for status in batch.messages if status.status == BULK_END]
                if ended and self._unanswered and self._dialect is Dialect.OPENBSD:
                    # Of a bulk update without states OpenBSD says nothing but the end. Ref: spec pfsync §7.9.
                    yield BulkStatuses([status._replace(status=BULK_START) for status in ended])
                self._unanswered = False
                yield batch
            elif isinstance(batch, Clears):
                yield batch

    def _join_all(self, batch: Inserts | Updates) -> Iterator[AnyBatch]:
        ours: list[CompressedUpdate] = []
        others: list[StateRecord] = []
        flows: dict[bytes, StateRecord] = {}
        for state in batch.messages:
            name = self._name(state.identity)
            if name[8:] == self._creator_id and self._lives(name) and name not in self._heard:
                ours.append(CompressedUpdate(name, state.src, state.dst, state.timeout))
            elif not _is_half(state):
                others.append(state)  # the engine says what is wrong with it
            else:
                flow = self._join(state, flows)
                if flow.identity in flows:  # a deferred packet waits for the acknowledgement of either half
                    flow = flow._replace(flags=flow.flags | flows[flow.identity].flags & ACK)
                flows[flow.identity] = flow
        if ours:
            yield CompressedUpdates(ours)
        if others or flows:
            yield type(batch)([*others, *flows.values()], batch.dialect)

    def _join(self, state: StateRecord, flows: dict[bytes, StateRecord]) -> StateRecord:
        """The flow of a half. `flows` are those that the engine is about to hear of."""
        identity = state.identity
        other = self._partner(state)
        self._heard[identity] = self._layout.encode([state])
        self._places[_place(state, state.direction)] = identity
        if other is None or not (self._lives(name := self._name(other.identity)) or name in flows):
            self._names.pop(identity, None)
            return state
        wire, stack = _joined(state, other)
        if self._names.get(identity, identity) != name:
            self._names[identity] = name
            if self._lives(name) and (wire, stack) != _alone(other):
                self._withdraw(name)
        return state._replace(identity=name, direction=IN, wire=wire, stack=stack)

    def _updated(self, update: CompressedUpdate) -> CompressedUpdate:
        heard = self._recall(update.identity)
        if heard is not None:
            heard = heard._replace(src=update.src, dst=update.dst, timeout=update.timeout)
            self._heard[update.identity] = self._layout.encode([heard])
        return update._replace(identity=self._name(update.identity))

    def _ended(self, identities: Iterable[bytes]) -> list[bytes]:
        """The flows that end with these halves; a half whose flow has ended with the other one says nothing new."""
        names: dict[bytes, None] = {}
        for identity in identities:
            name = self._name(identity)
            if self._lives(name) or identity not in self._heard:
                names[name] = None
        return list(names)

    def _name(self, identity: bytes) -> bytes:
        """Under which identity the engine knows the flow of a half, if it does."""
        name = self._names.get(identity)
        if name is None and identity[8:] == self._creator_id and self._lives(_even(identity)):
            return _even(identity)
        return name or identity

    def _lives(self, name: bytes) -> bool:
        return self._table.key_of(name) is not None

    def _partner(self, half: StateRecord) -> StateRecord | None:
        """The other half of its flow, or of one that had the same ends."""
        place = _place(half, half.direction ^ (IN | OUT))
        other = self._recall(self._places.get(place, b""))
        return other if other is not None and _place(other, other.direction) == place else None

    def _recall(self, identity: bytes) -> StateRecord | None:
        data = self._heard.get(identity)
        return None if data is None else self._layout.decode(data)[0]

    def _sweep(self) -> None:
        """Forget the halves of flows that ended, whenever there are twice as many as there were after the last time."""
        if len(self._heard) + len(self._partial) < self._sweep_at:
            return
        self._heard = {half: data for half, data in self._heard.items() if self._lives(self._name(half))}
        self._names = {half: name for half, name in self._names.items() if half in self._heard}
        self._places = {place: half for place, half in self._places.items() if half in self._heard}
        self._partial = {name: told for name, told in self._partial.items() if self._lives(name)}
        self._sweep_at = max(_SWEEP_MIN, 2 * (len(self._heard) + len(self._partial)))

    # What we say

    def packets(self, batches: Iterable[AnyBatch], own: frozenset[bytes], max_packet: int) -> list[bytes]:
        """Packets of at most so many bytes that say what these say; `own` are this host's addresses."""
        packer = Packer(max_packet + self._space)
        parcels: list[Parcel] = []
        for batch in self.outgoing(batches, own):
            if isinstance(batch, Inserts | Updates):
                make: Callable[[Sequence[Any]], AnyBatch] = partial(type(batch), dialect=self._dialect)
                parcels += packer.add(make, batch.messages, self._layout.size)
            else:
                parcels += packer.add(type(batch), batch.messages, self._kinds.message_size(type(batch)))
        parcels += packer.rest()
        return [Packet(self._dialect.version, parcel.batches).to_bytes() for parcel in parcels]

    def outgoing(self, batches: Iterable[AnyBatch], own: frozenset[bytes]) -> Iterator[_Told]:
        """What these say, of halves. What only Linux nodes understand is left out."""
        for batch in batches:
            if isinstance(batch, Inserts | Updates):
                flags = self._insert_flags if isinstance(batch, Inserts) else 0
                states = [half for state in batch.messages for half in self._split(state, own, flags)]
                yield type(batch)(states, self._dialect)
            elif isinstance(batch, CompressedUpdates):
                yield CompressedUpdates([half for update in batch.messages for half in self._split_update(update)])
            elif isinstance(batch, CompressedDeletes | UpdateRequests | InsertAcknowledgements):
                self._unanswered |= BULK_REQUEST in batch.messages
                yield type(batch)([half.identity for name in batch.messages for half in self._halves(name)])
            elif isinstance(batch, Clears | BulkStatuses):
                yield batch

    def _halves(self, name: bytes) -> list[_Half]:
        """Those of a flow, the one named like it first."""
        heard = self._recall(name)
        if heard is not None:
            halves = [_Half(name, heard.direction, heard)]
            other = self._partner(heard)
            if other is not None and self._names.get(other.identity) == name:
                halves.append(_Half(other.identity, other.direction, other))
            return halves
        if name[8:] != self._creator_id:
            return [_Half(name, IN)]
        told = self._partial.get(name, (IN, OUT))
        return [_Half(_even(name) if direction == IN else _odd(name), direction) for direction in told]

    def _split(self, state: StateRecord, own: frozenset[bytes], flags: int) -> Iterator[StateRecord]:
        """Its halves, with these flags beside their own."""
        self._note_directions(state, own)
        for identity, direction, heard in self._halves(state.identity):
            wire, stack = _half_keys(state, direction)
            half = state._replace(
                identity=identity,
                direction=direction,
                wire=self._with_ports(wire, state.protocol, direction),
                stack=self._with_ports(stack, state.protocol, direction),
            )
            if heard is not None:
                src = heard.src._replace(state=state.src.state)
                dst = heard.dst._replace(state=state.dst.state)
                half = half._replace(interface=heard.interface, src=src, dst=dst, flags=heard.flags & ~ACK, pf=heard.pf)
            yield half._replace(flags=half.flags | flags) if flags else half

    def _split_update(self, update: CompressedUpdate) -> Iterator[CompressedUpdate]:
        for identity, _, heard in self._halves(update.identity):
            src, dst = update.src, update.dst
            if heard is not None:
                src, dst = heard.src._replace(state=src.state), heard.dst._replace(state=dst.state)
            yield CompressedUpdate(identity, src, dst, update.timeout)

    def _note_directions(self, state: StateRecord, own: frozenset[bytes]) -> None:
        """Which halves of a flow of ours there are."""
        told: tuple[int, ...] = (IN, OUT)
        if state.protocol == SCTP and self._dialect is not Dialect.OPENBSD:
            told = ()  # FreeBSD has levels of its own for it, which we don't know
        elif state.wire.address0 in own:
            told = (OUT,)
        elif state.stack.address1 in own:
            told = (IN,)
        if len(told) == 2:
            self._partial.pop(state.identity, None)
        else:
            self._partial[state.identity] = told

    def _with_ports(self, key: Key, protocol: int, direction: int) -> Key:
        """What counts as a port for pf. Linux has keys of GRE there, and the type of an ICMP query with the answerer.

        Of FreeBSD 14 it is not known what it does with ICMP.
        """
        if protocol in (TCP, UDP):
            return key
        if protocol not in (ICMP, ICMPV6):
            return key._replace(port0=0, port1=0)
        if self._dialect is Dialect.FREEBSD_1301:
            identifier = key.port0 if direction == IN else key.port1
            return key._replace(port0=identifier, port1=identifier)
        return key


def _even(identity: bytes) -> bytes:
    return identity[:7] + bytes((identity[7] & ~1,)) + identity[8:]


def _odd(identity: bytes) -> bytes:
    return identity[:7] + bytes((identity[7] | 1,)) + identity[8:]


def _is_half(state: StateRecord) -> bool:
    """Whether it can be told which flow it belongs to."""
    return (
        state.direction in (IN, OUT)
        and state.wire.family == state.stack.family == state.family
        and state.family in _FAMILIES
        and state.identity[8:] != _NO_CREATOR
    )


def _place(half: StateRecord, direction: int) -> bytes:
    """Where a half of this direction stands that has the same ends inside the host: both halves of a flow have."""
    inside = half.stack if half.direction == IN else _turned(half.stack)
    ports = inside.port0.to_bytes(2, "big") + inside.port1.to_bytes(2, "big")
    return bytes((direction, half.protocol)) + ports + inside.address0 + inside.address1


def _turned(key: Key) -> Key:
    return Key(key.address1, key.address0, key.port1, key.port0, key.rdomain, key.family)


def _alone(half: StateRecord) -> tuple[Key, Key]:
    """Wire and stack key of the flow as far as one half tells."""
    if half.direction == IN:
        return half.wire, half.stack
    return _turned(half.stack), _turned(half.wire)


def _joined(one: StateRecord, other: StateRecord) -> tuple[Key, Key]:
    """Wire and stack key of the flow that has both halves."""
    inward, outward = (one, other) if one.direction == IN else (other, one)
    return inward.wire, _turned(outward.wire)


def _half_keys(flow: StateRecord, direction: int) -> tuple[Key, Key]:
    """Wire and stack key of a half. Only the answerer's translation is done when a packet comes in."""
    wire, stack = flow.wire, flow.stack
    inside = stack._replace(address0=wire.address0, port0=wire.port0)
    if direction == IN:
        return wire, inside
    return _turned(stack), _turned(inside)
