"""What is promised of state synchronisation. Ref: design §6, rules 4 and 6.

Always, whatever goes wrong:

* The engine does not raise, and once its deadline has been attended to the next one is in the future.
* No peer takes a state back in any kernel: each side's level only grows. (An event that was not read yet can't be
  known of: that is excused, and must heal.)
* No peer ends a connection that a kernel carries: one whose packets it sees, and whose ends still want it.
* Nothing is echoed: who announces or updates a state has been told of it by its own kernel.
* What is open is not lost by a take-over, if nothing went wrong in the seconds before.

Soon after the last fault, with traffic that changes nothing:

* All bulk updates are done, all tables are equal, those of the kernels and those of the engines; every digest was found
  equal, every change is confirmed, nothing waits.
* All open connections are in all kernels, and in none is one that nobody carries: who does not carry traffic holds.
* Little is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from carpd.errors import DecodeError
from carpd.pfsync.effects import Effect
from carpd.pfsync.events import Event, TimersDue
from carpd.pfsync.levels import is_stale, levels, merge
from carpd.pfsync.mapping import Unmappable, from_state
from carpd.pfsync.table import unpack_record
from carpd.pfsync.timeouts import is_carried
from carpd.simulation.invariants import ViolationError, seconds
from carpd.simulation.sync.node import SyncNode
from carpd.simulation.sync.traffic import Flow, Traffic
from carpd.simulation.world import World
from carpd.units import SECOND
from carpd.wire.conntrack import TCP, ConntrackEntry, flow_key
from carpd.wire.pfsync.batches import CompressedUpdates, Inserts
from carpd.wire.pfsync.packet import Packet

CONFIRMED_NS = 10 * SECOND
"""So long after the last trouble, and its own beginning, a connection must survive a take-over."""
PACKETS_A_SECOND = 4
"""The most that a node says while nothing happens, to which the answers to that come."""


class Invariants:
    """Watches the nodes of one world. It is the observer of each."""

    def __init__(
        self,
        world: World,
        nodes: Sequence[SyncNode],
        traffic: Traffic,
        note: Callable[[str], None],
        explain: Callable[[str], str],
    ) -> None:
        self.trouble_ns = 0
        """When something was last wrong."""
        self._world = world
        self._nodes = nodes
        self._traffic = traffic
        self._note = note
        self._explain = explain

    def fail(self, what: str) -> None:
        raise ViolationError(self._explain(f"{seconds(self._world.now)}: {what}"))

    # While it runs

    def fact(self, node: SyncNode, fact: Effect) -> None:
        self._note(f"{node.number}: {fact}")

    def failed(self, node: SyncNode, event: Event, error: Exception) -> None:
        raise ViolationError(self._explain(f"{node.number} raised {error!r} for {event}")) from error

    def handled(self, node: SyncNode, event: Event) -> None:
        if isinstance(event, TimersDue) and node.engine is not None:
            deadline = node.engine.deadline
            if deadline is None or deadline <= node.clock:
                self.fail(f"the deadline of {node.number} stands still")

    def inserted(self, node: SyncNode, entry: ConntrackEntry) -> None:
        pass

    def updated(self, node: SyncNode, before: ConntrackEntry, after: ConntrackEntry) -> None:
        was, now = levels(before), levels(after)
        if merge(was, now) == now:
            return
        key = flow_key(before)
        if not any(flow_key(entry) == key for _, entry in node.unread):
            self.fail(f"{self.name(key)} goes back from {was:#04x} to {now:#04x} in {node.number}")

    def deletes(self, node: SyncNode, key: bytes) -> None:
        flow, slot = self._traffic.flows.get(key), node.kernel.slot(key)
        entry = node.kernel.get(key)
        if not (flow and flow.live and slot and slot.seen and entry and is_carried(entry) and node.carrying):
            return
        if flow.asymmetric:
            return
        if not is_stale(levels(entry), levels(flow.seen)):  # else it is what was there before the connection began anew
            self.fail(f"{node.number} deletes {self.name(key)}, which it carries")

    def sends(self, node: SyncNode, payload: bytes) -> None:
        try:
            batches = Packet.from_bytes(payload).batches
        except DecodeError as error:
            self.fail(f"{node.number} sends what can't be read: {error}")
        for key in self._announced(node, batches):
            entry = node.kernel.get(key)
            if key not in node.local and not (entry and is_carried(entry)):
                self.fail(f"{node.number} tells of {self.name(key)}, of which it only was told")

    def _announced(self, node: SyncNode, batches: Sequence[Any]) -> Iterator[bytes]:
        assert node.engine is not None
        attributes = {
            m.identity: m for b in batches if hasattr(b, "messages") for m in b.messages if hasattr(m, "attributes")
        }
        for batch in batches:
            if isinstance(batch, Inserts):
                for state in batch.messages:
                    try:
                        yield flow_key(from_state(state, attributes.get(state.identity)))
                    except Unmappable as error:
                        self.fail(f"{node.number} sends a state that is none: {error}")
            elif isinstance(batch, CompressedUpdates):
                for update in batch.messages:
                    key = node.engine.sync.table.key_of(update.identity)
                    if key is not None:
                        yield key

    def broken(self, flow: Flow, node: SyncNode) -> None:
        """A packet of an open connection was not let through."""
        since = max(self.trouble_ns, flow.began_ns)
        if flow.seen.protocol == TCP and not flow.asymmetric and self._world.now - since > CONFIRMED_NS:
            self.fail(f"{self.name(flow.key)} is broken: {node.number} does not know it")
        self._note(f"{node.number}: does not know {self.name(flow.key)}")

    def name(self, key: bytes) -> str:
        flow = self._traffic.flows.get(key)
        if flow is None:
            return key.hex()
        entry = flow.stages[0]
        return f"flow {entry.source.hex()}:{entry.source_port} protocol {entry.protocol} stage {flow.stage}"

    # When all is over

    def unsettled(self) -> str | None:
        """What is not as it stays; None if all is."""
        for node in self._nodes:
            if node.engine is None or not node.engine.bulk.done:
                return f"{node.number}: {node.engine.bulk.reason if node.engine else 'not running'}"
        asymmetric = {key for key, flow in self._traffic.flows.items() if flow.asymmetric}
        first, *others = self._nodes
        for other in others:
            for what, view in (("kernels", _kernel_view), ("tables", _table_view)):
                if difference := self._difference(view(first, asymmetric), view(other, asymmetric)):
                    return f"the {what} of {first.number} and {other.number} differ: {difference}"
        for node in self._nodes:
            if problem := self._unsettled_node(node):
                return f"{node.number}: {problem}"
        return self._unsettled_flow()

    def _unsettled_node(self, node: SyncNode) -> str | None:
        engine = node.engine
        assert engine is not None
        difference = set(engine.sync.table.records) ^ set(node.kernel.slots) - _left_over(node)
        if difference:
            return (
                f"the kernel has {len(node.kernel.slots)} entries, and the engine {len(engine.sync.table)}: "
                + ", ".join(map(self.name, difference))
            )
        if len(engine.peers.by_id) != len(self._nodes) - 1:
            return f"knows {len(engine.peers.by_id)} peers"
        for peer in engine.peers:
            if not (peer.equal and peer.equal_theirs and peer.states == len(engine.sync.table) and peer.complete()):
                return f"not sure to be equal with {peer}"
        if engine.peers.oldest_unconfirmed(engine.sent) is not None:
            return "changes are not confirmed"
        sync = engine.sync
        if len(sync.outbox) or sync.to_ask or sync._wanted or sync._expected or any(sync.to_fetch.values()):
            return "something waits"
        return None

    def _difference(self, one: dict[bytes, Any], other: dict[bytes, Any]) -> str:
        keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
        return ", ".join(f"{self.name(key)}: {one.get(key)} and {other.get(key)}" for key in keys[:3])

    def _unsettled_flow(self) -> str | None:
        keys = self._nodes[0].kernel.slots.keys() - _left_over(self._nodes[0])
        for key, flow in self._traffic.flows.items():
            if flow.live and key not in keys:
                return f"nobody knows {self.name(key)}"
        for node in self._nodes:
            for key in keys:
                entry = node.kernel.get(key)
                if entry and is_carried(entry) and not node.carrying and key not in _left_over(node):
                    return f"{node.number} does not carry {self.name(key)}, and will let it end"
        for key in keys:
            entries = [node.kernel.get(key) for node in self._nodes if node.carrying]
            if len(entries) < 3 and not any(entry and is_carried(entry) for entry in entries):
                return f"nobody carries {self.name(key)}: it lives for ever"
        return None

    def check_quiet(self, sent_before: Sequence[int], duration_ns: int) -> None:
        """So many packets each node had sent when a time began in which nothing happened."""
        limit = PACKETS_A_SECOND * duration_ns // SECOND
        for node, before in zip(self._nodes, sent_before, strict=True):
            if node.sent - before > limit:
                self.fail(f"{node.number} sent {node.sent - before} packets in {duration_ns // SECOND} s of silence")


def _kernel_view(node: SyncNode, asymmetric: set[bytes]) -> dict[bytes, Any]:
    """What must be the same in all kernels. Where two see the packets of a connection, one of them may be set back by a
    peer's news that crosses its own kernel's; its packets take it on again."""
    return {
        key: (
            None if key in asymmetric else levels(slot.entry), slot.entry.mark, slot.entry.labels, slot.entry[5:9],
            slot.entry.original_scale, slot.entry.reply_scale, slot.entry.zone,
        )
        for key, slot in node.kernel.slots.items()
        if key not in _left_over(node)
    }  # fmt: skip


def _left_over(node: SyncNode) -> set[bytes]:
    """What a standby's kernel has that nobody told it of: what its own packets left there, which ends by itself, and
    what ended while its process was away."""
    assert node.engine is not None
    unknown = set() if node.carrying else node.kernel.slots.keys() - node.engine.sync.table.records.keys()
    return {
        key for key in unknown if node.starts > 1 or is_carried(node.kernel.get(key) or node.kernel.slots[key].entry)
    }


def _table_view(node: SyncNode, _asymmetric: set[bytes]) -> dict[bytes, Any]:
    assert node.engine is not None
    return {key: unpack_record(data)[:4] for key, data in node.engine.sync.table.records.items()}
