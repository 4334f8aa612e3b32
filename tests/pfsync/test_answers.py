"""Who answers a peer that asks for a state: whoever carries it, and who only holds it if nobody else is there."""

from __future__ import annotations

import pytest

from carpd.pfsync import mapping
from carpd.pfsync.peers import SILENT_NS
from carpd.pfsync.timeouts import HOLD
from carpd.units import SECOND
from carpd.wire.conntrack import flow_key
from carpd.wire.pfsync.batches import Inserts, PackedStates, Reports, Sequences, UpdateRequests, Updates
from carpd.wire.pfsync.linux_messages import CARRYING, COMPLETE, PacketNumber, Report
from tests.pfsync.node import OURS, Node, flow

CARRIER, ASKER = b"\x0a" * 4, b"\x0b" * 4


def answers(node: Node, identity: bytes) -> bool:
    node.said()
    node.hear(UpdateRequests([identity]), source="asker")
    told = [batch.of if isinstance(batch, PackedStates) else type(batch) for batch in node.said()]
    return Updates in told


def told(node: Node, *, carrying: bool) -> bytes:
    """A state that a peer has told us of; its identity."""
    identity = bytes(7) + b"\x02" + CARRIER
    state = mapping.to_state(identity, flow())
    assert state is not None
    flags = COMPLETE | (CARRYING if carrying else 0)
    node.hear(Reports([Report(CARRIER, OURS, 0, 0, 1, flags)]), source="carrier")
    node.hear(Sequences([PacketNumber(CARRIER, 1)]), Inserts([state]), source="carrier")
    assert node.table[flow_key(flow())].timeout == HOLD
    return identity


@pytest.mark.parametrize("ours", [False, True], ids=["we carry nothing", "we carry other connections"])
def test_what_is_held(ours: bool) -> None:
    """Two who hold a state would go on telling each other what the one who carries it has changed or ended."""
    node = Node(carrying=ours)
    identity = told(node, carrying=True)
    assert not answers(node, identity)
    node.sleep(SILENT_NS + SECOND)
    assert answers(node, identity), "the other one is not heard any more"


def test_what_nobody_carries() -> None:
    node = Node()
    assert answers(node, told(node, carrying=False))


def test_what_is_carried_here() -> None:
    node = Node(carrying=True)
    identity = told(node, carrying=True)
    assert answers(node, node.identity(node.opens(flow(source_port=40001))))
    node.table[flow_key(flow())] = flow()  # a packet of it has come by
    assert answers(node, identity)
