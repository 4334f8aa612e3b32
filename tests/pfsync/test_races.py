"""What our kernel has done already and we have not heard yet: it must not be undone, nor taken for something else."""

from __future__ import annotations

from carpd.pfsync import mapping
from carpd.pfsync.events import TableChanged
from carpd.pfsync.table import unpack_record
from carpd.wire import ctnetlink
from carpd.wire.conntrack import ASSURED, SEEN_REPLY, TCP, ConntrackEntry, TcpState, flow_key
from carpd.wire.pfsync.batches import (
    AnyBatch,
    Attributes,
    CompressedDeletes,
    Deletes,
    PackedStates,
    UpdateRequests,
    Updates,
)
from tests.pfsync.node import Node, flow

PEER = b"\x0a" * 4
IDENTITY = bytes(7) + b"\x02" + PEER


def tell(node: Node, identity: bytes, entry: ConntrackEntry) -> None:
    """A peer tells all of a state."""
    whole = mapping.to_whole(identity, entry)
    assert whole is not None
    state, attributes = whole
    node.hear(*([Attributes([attributes])] if attributes else []), Updates([state]))


def told(batches: list[AnyBatch]) -> bool:
    return any(isinstance(batch, PackedStates | Updates) for batch in batches)


def test_a_change_meets_what_has_got_further() -> None:
    """The kernel refuses to go back, and with that all of the change: it is made again, with what is there."""
    node = Node()
    entry = flow()
    tell(node, IDENTITY, entry)
    key = flow_key(entry)
    node.table[key] = node.table[key]._replace(status=node.table[key].status | SEEN_REPLY | ASSURED)
    tell(node, IDENTITY, entry._replace(mark=7))
    assert node.table[key].mark == 7
    assert node.table[key].status & ASSURED
    assert not node.engine.counters.refused


def test_the_next_connection_is_not_the_last() -> None:
    """Of a flow that has ended and begun again a peer wants to know, before we have heard of either."""
    node = Node(carrying=True)
    key = node.opens(flow(TCP, state=TcpState.ESTABLISHED))
    node.changes(node.table[key]._replace(state=TcpState.TIME_WAIT))
    identity, old = node.identity(key), node.table[key]
    new = flow(TCP, state=TcpState.SYN_SENT)._replace(id=old.id + 1)
    node.table[key] = new
    node.said()
    node.hear(UpdateRequests([identity]))
    assert node.table[key] == new
    assert not told(node.said())
    node.handle(TableChanged([(ctnetlink.Change.DESTROY, old), (ctnetlink.Change.NEW, new)]))
    assert any(isinstance(batch, Deletes | CompressedDeletes) for batch in node.said())
    assert node.identity(key) != identity
    assert node.table[key] == new


def test_an_old_mark() -> None:
    """A peer has set another one since the kernel told of it: what we remember and tell is what is there."""
    node = Node(carrying=True)
    key = node.opens(flow())
    identity = node.identity(key)
    tell(node, identity, flow()._replace(mark=7))
    assert node.table[key].mark == 7
    node.handle(TableChanged([(ctnetlink.Change.UPDATE, node.table[key]._replace(mark=5))]))
    assert unpack_record(node.engine.sync.table.records[key]).mark == 7
    assert node.table[key].mark == 7
