"""Where pfsyncd can't work, not yet, or not for all, a line or a counter says why."""

from __future__ import annotations

import signal

import pytest

from carpd.lab.firewalls import SYNC_PEERS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.linux.conntrack_settings import table_count, table_limit
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry
from tests.daemon.carpd import FAST, Carpd, virtual_host
from tests.daemon.pfsync import (
    SECRET,
    Member,
    SyncNode,
    connections,
    delete,
    insert,
    members,
    recovered,
    table,
)
from tests.daemon.unprivileged import NOBODY, run_as_nobody


def only_line(daemon: SyncNode, status: int) -> str:
    """All that it has logged, after it ended with this status."""
    assert daemon.process.wait() == status
    (line,) = daemon.log().splitlines()
    return line.partition("pfsyncd: ")[2]


@pytest.fixture
def node(lab: Lab) -> Node:
    node = lab.node("alone")
    lab.cable(node, "eth3", lab.switch("sync"), f"{SYNC_PEERS[0]}/24")
    return node


def test_no_capability(node: Node) -> None:
    program = run_as_nobody(node.directory, "carpd.cli.pfsyncd", "net_raw")
    daemon = SyncNode(node, program=program, owner=NOBODY, secrets=())
    assert only_line(daemon, 1).startswith("ERROR: missing capabilities: CAP_NET_ADMIN: be root, or")


def test_no_secret(node: Node) -> None:
    line = only_line(SyncNode(node, secrets=(), transport=None, secret_file="nowhere.key"), 3)
    assert line.endswith('pfsync.secret_file = "nowhere.key": can\'t be read: No such file or directory')


def test_a_secret_that_others_can_read(node: Node) -> None:
    path = node.directory / "open.key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o644)
    daemon = SyncNode(node, secrets=(), transport=None, secret_file=str(path))
    assert "others can read this file" in only_line(daemon, 3)


def test_another_pfsyncd(node: Node) -> None:
    first = SyncNode(node)
    first.logs("pfsync: synchronising on eth3 (sealed)")
    second = node.start(first.argv, log="second.log")
    assert second.wait() == 1
    (line,) = second.output().splitlines()
    assert "ERROR: another pfsyncd is running in this network namespace" in line


@pytest.mark.parametrize("found", [0, 2])
def test_events_are_enabled(node: Node, found: int) -> None:
    """As long as they are needed; what a killed pfsyncd could not put back the next one does, or a carpd."""
    node.sysctl(netfilter__nf_conntrack_events=found)

    def setting() -> int:
        return int(node.run(("cat", "/proc/sys/net/netfilter/nf_conntrack_events")))

    def kill() -> None:
        daemon.process.signal_all(signal.SIGKILL)
        daemon.process.wait()
        assert setting() == 1

    daemon = SyncNode(node)
    daemon.logs("pfsync: synchronising on eth3 (sealed)")
    kill()
    daemon.start()
    daemon.logs("pfsync: synchronising on eth3 (sealed)")
    assert setting() == 1
    assert daemon.stop() == 0
    assert setting() == found

    daemon.start()
    daemon.logs("pfsync: synchronising on eth3 (sealed)")
    kill()
    node.run(("nft", "add table inet carpd_defer"))  # as one leaves it that defers
    successor = Carpd(node)
    for line in ("restored net/netfilter/nf_conntrack_events", "removed the nftables table carpd_defer"):
        successor.logs(f"WARNING: left behind by a daemon that was killed: {line}")
    assert setting() == found
    assert "carpd_defer" not in node.run(("nft", "list", "tables"))
    assert successor.stop() == 0


def test_a_carpd_leaves_a_pfsyncd_alone(node: Node) -> None:
    """Which runs beside it, and has changed a setting."""
    node.sysctl(netfilter__nf_conntrack_events=0)
    daemon = SyncNode(node)
    daemon.stop()
    daemon.socket = node.directory / "pfsyncd.sock"
    daemon.start()
    daemon.logs("pfsync: synchronising on eth3 (sealed)")
    beside = Carpd(node, virtual_host(interface="eth3", addresses=["10.0.0.99/24"], **FAST))
    beside.becomes("MASTER")
    assert node.run(("cat", "/proc/sys/net/netfilter/nf_conntrack_events")) == "1\n"
    assert "left behind" not in beside.log()


def test_the_interface_comes_later(lab: Lab) -> None:
    """Until then nothing is synchronised; what is older is told when it has come."""
    node = lab.node("early")
    node.run(("nft", "add table inet filter"))
    early = SyncNode(node)
    early.logs("WARNING: pfsync: eth3: no such interface")
    assert early.pfsync()["link"] == {"up": False, "reason": "eth3: no such interface"}
    insert(node, connections(0, 100))

    switch = lab.switch("sync")
    port = lab.cable(node, "eth3", switch, f"{SYNC_PEERS[0]}/24")
    early.logs("INFO: pfsync: synchronising on eth3 (sealed)")
    late = lab.node("late")
    other = Member(late, lab.cable(late, "eth3", switch, f"{SYNC_PEERS[1]}/24"), SyncNode(late))
    recovered(Member(node, port, early), other)
    assert len(table(late)) == 100


REASON = "insert: the connection tracking table is full"
ROOM = 100
FILLING_LIMIT = 300_000
"""A larger table takes too long to be filled. How large it may be, the machine says and no namespace."""


def filling(count: int) -> list[ConntrackEntry]:
    """Connections of the second node itself, which are nobody else's business."""
    own, other = bytes((10, 0, 0, 2)), bytes((192, 0, 2))
    status = conntrack.SEEN_REPLY | conntrack.ASSURED | conntrack.CONFIRMED
    addresses = (other + bytes((number >> 16,)) for number in range(count))
    return [
        ConntrackEntry(
            *(own, address, conntrack.UDP, number & 0xFFFF, 53),
            *(address, own, 53, number & 0xFFFF),
            status=status,
            timeout=3600,
        )
        for number, address in enumerate(addresses)
    ]


def test_the_table_is_full(lab: Lab) -> None:
    """What the kernel refuses is counted by its reason, and the rest goes in. The status says less than 100 %."""
    first, second = members(lab, 2)
    with second.node.inside():
        limit = table_limit()
        if limit > FILLING_LIMIT:
            pytest.skip(f"nf_conntrack_max is {limit}")
        filled = filling(limit - ROOM - table_count())
    insert(second.node, filled)
    insert(first.node, connections(0, 3 * ROOM))

    second.daemon.logs("ERROR: pfsync: the connection tracking table is full: nf_conntrack_max is ")
    second.daemon.says(lambda status: REASON in status["refused"], "its kernel refuses states")
    first.daemon.says(lambda status: 0 < status["peers"][0]["coverage"] < 100, "the peer has not all")
    assert 0 < len(table(second.node)) <= ROOM
    delete(second.node, filled)
    insert(first.node, connections(3 * ROOM, 1))
    recovered(first, second)
