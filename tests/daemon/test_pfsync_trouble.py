"""Whatever breaks between two nodes that synchronise: their tables become equal again, and the status says why."""

from __future__ import annotations

import os
import signal

import pytest

from carpd.lab.topology import Lab
from carpd.linux.conntrack import ConntrackTable
from tests.daemon.pfsync import Member, are_equal, connections, delete, insert, members, recovered, table, turbulence

LOSSY = """
table netdev lossy {
    chain in { type filter hook ingress device eth3 priority 0; numgen random mod 4 == 0 counter drop; }
}
"""


@pytest.fixture
def two(lab: Lab) -> tuple[Member, Member]:
    """Two nodes, either of which may carry traffic; both have had their bulk update."""
    a, b = members(lab, 2)
    return a, b


@pytest.mark.parametrize("which", [0, 1])
def test_pfsyncd_is_killed(two: tuple[Member, Member], which: int) -> None:
    """On the node whose connections change, and on the other one; changes meanwhile are not lost."""
    a, b = two
    turbulence(a.node)
    are_equal(a.node, b.node)
    killed = two[which].daemon
    first = killed.child()
    os.kill(first, signal.SIGKILL)
    turbulence(a.node, 1000)
    killed.logs("pfsyncd ended (killed by SIGKILL): states are not synchronised; starting it again")
    killed.has_begun()
    recovered(a, b)
    assert killed.child() != first
    assert killed.pfsync()["restarts"] == 1
    assert len(table(b.node)) == 1200


def test_the_link_is_lost(two: tuple[Member, Member]) -> None:
    """Its cable, on one side, then the interface itself."""
    a, b = two
    turbulence(a.node)
    are_equal(a.node, b.node)
    b.port.unplug()
    turbulence(a.node, 1000)
    delete(b.node, connections(400, 100))
    b.port.plug()
    recovered(a, b)
    assert b.daemon.pfsync()["counters"]["lost"] > 0
    assert len(table(b.node)) == 1200  # of those that were deleted there the other one carries the connections

    a.node.ip("link set eth3 down")
    a.daemon.says(lambda status: not status["link"]["up"], "the link is lost")
    assert a.daemon.pfsync()["link"]["reason"] == "eth3: the interface is down"
    turbulence(a.node, 2000)
    a.node.ip("link set eth3 up")
    recovered(a, b)
    assert a.daemon.pfsync()["link"] == {"up": True, "reason": None}


def test_packets_are_lost(two: tuple[Member, Member]) -> None:
    """A quarter of all that comes to each of the nodes."""
    a, b = two
    for member in two:
        member.node.run(("nft", "-f", "-"), stdin=LOSSY)
    for start in range(0, 5000, 1000):
        turbulence(a.node, start)
        turbulence(b.node, start + 10_000)
    recovered(a, b)
    for member in two:
        assert member.daemon.pfsync()["counters"]["lost"] > 0
        assert len(table(member.node)) == 6000


def test_events_overflow(two: tuple[Member, Member]) -> None:
    """pfsyncd stands still while the kernel tells more than its buffer takes."""
    a, b = two
    entries = connections(0, 20_000)
    insert(a.node, entries)
    are_equal(a.node, b.node)
    os.kill(a.daemon.child(), signal.SIGSTOP)
    with a.node.inside(), ConntrackTable() as kernel:
        for _ in range(6):
            assert kernel.update([entry._replace(timeout=None) for entry in entries]) == []
        assert kernel.update([entry._replace(mark=7, timeout=None) for entry in entries[:1000]]) == []
    insert(a.node, connections(20_000, 1000))
    delete(a.node, entries[:500])
    os.kill(a.daemon.child(), signal.SIGCONT)
    a.daemon.says(lambda status: status["counters"]["overflows"] > 0, "its kernel told of too much")
    recovered(a, b)
    assert a.daemon.pfsync()["resyncs"] == {"the kernel told of changes faster than they were read": 1}
    assert "pfsync: resynchronising: the kernel told of changes faster than they were read" in a.daemon.log()
    marks = [entry.mark for entry in table(b.node).values()]
    assert (marks.count(0), marks.count(7)) == (20_000, 500)
