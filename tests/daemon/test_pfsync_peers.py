"""Who is heard, by which way, and what is never told: two and three nodes, both transports, both families."""

from __future__ import annotations

import contextlib
import socket

import pytest

from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, WAN_GATEWAYS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Switch
from carpd.lab.waiting import wait_until
from carpd.pfsync import mapping
from carpd.wire.conntrack import flow_key
from carpd.wire.frames import decode_ip_frame
from carpd.wire.pfsync import v6
from carpd.wire.pfsync.batches import (
    BulkStatuses,
    CompressedDeletes,
    CompressedUpdates,
    Inserts,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.header import PROTOCOL
from carpd.wire.pfsync.messages import BULK_START
from carpd.wire.pfsync.packet import Packet
from tests.daemon.carpd import LIMIT_NS
from tests.daemon.pfsync import (
    SECRET,
    Member,
    SyncNode,
    are_equal,
    broken,
    connections,
    insert,
    members,
    recovered,
    table,
    turbulence,
    write_secrets,
)
from tests.linux.conversations import SILENCE_S, Conversation, Tcp, Udp
from tests.linux.firewall_pair import FirewallPair

OTHER_SECRET = "a secret that the others do not know"
PLAIN: tuple[str, ...] = ()
SEALED = (SECRET,)


WAYS = {
    "plain multicast": (PLAIN, None),
    "sealed multicast": (SEALED, None),
    "plain IPv6": (PLAIN, ["fd00::1", "fd00::2", "fd00::3"]),
}


class Overheard:
    """What a node that does not seal has sent, of which states it told, and for which it asked."""

    def __init__(self, member: Member) -> None:
        self._capture = member.port.lab.backbone.capture(member.port.name)

    def stop(self) -> tuple[set[bytes], set[bytes]]:
        """The identities of the states that it told of by itself or as an answer, and of those that it asked for.

        Not told is what it tells in a bulk update, which somebody wanted.
        """
        told, asked = list[bytes](), set[bytes]()
        bulk, tells_all = 0, False  # so many had it told when that began: before we listened, or later
        for frame in self._capture.frames():
            packet = decode_ip_frame(frame.frame)
            if frame.outgoing or packet is None or packet.protocol != PROTOCOL:
                continue
            for batch in Packet.from_bytes(packet.payload).batches:
                if isinstance(batch, Inserts | Updates | CompressedUpdates):
                    told += [message.identity for message in batch.messages]
                elif isinstance(batch, CompressedDeletes):
                    told += batch.messages
                elif isinstance(batch, UpdateRequests):
                    asked.update(batch.messages)
                elif isinstance(batch, BulkStatuses):
                    (status,) = batch.messages
                    tells_all = status.status == BULK_START
                    if tells_all:
                        bulk = len(told)
                    else:
                        del told[bulk:]
        self._capture.close()
        if tells_all:
            del told[bulk:]
        return set(told), asked


@pytest.mark.parametrize(("secrets", "syncpeer"), WAYS.values(), ids=WAYS)
def test_three_nodes(lab: Lab, secrets: tuple[str, ...], syncpeer: list[str] | None) -> None:
    """What one tells, the others never tell again, unless they are asked."""
    first, second, third = members(lab, 3, secrets=secrets, syncpeer=syncpeer)
    ears = [] if secrets else [Overheard(member) for member in (first, second, third)]
    turbulence(first.node)
    recovered(first, second, third)
    if ears:
        (news, _), *answers = heard = [ear.stop() for ear in ears]
        asked = set().union(*(asked for _, asked in heard))
        assert len(news) >= 600
        assert [told - asked for told, _ in answers] == [set(), set()]
    turbulence(second.node, 1000)
    turbulence(third.node, 2000)
    recovered(first, second, third)
    assert len(table(first.node)) == 1800


def test_multicast_over_ipv6(lab: Lab) -> None:
    """On a link without IPv4 addresses."""
    switch = lab.switch("sync")
    nodes = [lab.node(f"node-{number}") for number in (1, 2)]
    ports = [lab.cable(node, "eth3", switch) for node in nodes]
    one, other = (Member(n, p, SyncNode(n, syncpeer=None)) for n, p in zip(nodes, ports, strict=True))
    for member in (one, other):
        member.daemon.has_begun()
    turbulence(one.node)
    recovered(one, other)
    assert other.daemon.pfsync()["counters"]["ipackets6"] > 0


class Asymmetric(FirewallPair):
    """What the client sends goes through the first firewall, what the server answers through the second."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        for firewall, (ipv4, ipv6), name in ((self.a, LAN_GATEWAYS, "eth1"), (self.b, WAN_GATEWAYS, "eth2")):
            firewall.node.ip(f"address add {ipv4}/32 dev {name}", f"address add {ipv6}/128 dev {name} nodad")
        self.same_rules()
        for daemon in [SyncNode(firewall.node) for firewall in self.firewalls]:
            daemon.has_begun()


def test_asymmetric_paths(lab: Lab) -> None:
    """Neither firewall sees more than half of a connection. The second one lets pass what it was told of."""
    pair = Asymmetric(lab)
    with contextlib.ExitStack() as stack:
        conversations: dict[str, Conversation] = {}
        for address in SERVER:
            udp = conversations[f"udp {address}"] = stack.enter_context(Udp(pair.client, pair.server, address))
            with contextlib.suppress(TimeoutError):
                udp.talk(SILENCE_S)  # the first answer may be quicker than the state
            tcp = conversations[f"tcp {address}"] = stack.enter_context(Tcp(pair.client, pair.server, address))
            tcp.open()  # TCP says it again then
        are_equal(pair.a.node, pair.b.node)
        for _ in range(10):
            assert broken(conversations) == []
        are_equal(pair.a.node, pair.b.node)


def tell(node: Node, ttl: int, number: int) -> bytes:
    """Tell the first node of a connection in a plain packet; return its flow key."""
    (entry,) = connections(number, 1)
    state = mapping.to_state(number.to_bytes(8) + b"evil", entry)
    assert state is not None
    with node.inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        raw.sendto(Packet(v6.VERSION, [Inserts([state])]).to_bytes(), ("10.0.0.1", 0))
    return flow_key(entry)


def stranger(lab: Lab) -> Node:
    """Another node on the link."""
    node = lab.node("stranger")
    lab.cable(node, "eth3", Switch("sync"), "10.0.0.3/24")
    return node


def test_plain_packets(lab: Lab) -> None:
    """Of whoever is no peer, or comes over a router, nothing is obeyed."""
    first, second = members(lab, 2, secrets=PLAIN)
    before = first.daemon.pfsync()["counters"]
    tell(stranger(lab), 255, 1)
    tell(second.node, 64, 2)
    obeyed = tell(second.node, 255, 3)
    wait_until(lambda: list(table(first.node)) == [obeyed], LIMIT_NS, "the state that a peer told of")
    counters = first.daemon.pfsync()["counters"]
    assert {name: counters[name] - before[name] for name in ("badpeer", "badttl")} == {"badpeer": 1, "badttl": 1}


def test_without_the_secret(lab: Lab) -> None:
    """Whoever has another secret learns nothing, and changes nothing."""
    first, second = members(lab, 2, syncpeer=None)
    other = stranger(lab)
    daemon = SyncNode(other, secrets=(OTHER_SECRET,), syncpeer=None)
    daemon.says(lambda status: status["link"]["up"], "it can speak")
    insert(other, connections(5000, 10))
    turbulence(first.node)
    recovered(first, second)
    for member in (first, second):
        member.daemon.says(lambda status: status["counters"]["sealed_unknown_key"] > 0, "it has heard of the other")
        assert len(table(member.node)) == 600
    assert len(table(other)) == 10
    assert daemon.pfsync()["peers"] == []


def test_key_change(lab: Lab) -> None:
    """Node by node, and there is always one secret that both know."""
    first, second = members(lab, 2)
    steps = [(first, (SECRET, OTHER_SECRET)), (second, (OTHER_SECRET, SECRET)), (first, (OTHER_SECRET,))]
    for number, (member, secrets) in enumerate(steps):
        write_secrets(member.node, *secrets)
        assert member.daemon.stop() == 0
        turbulence(second.node if member is first else first.node, 1000 * number)
        member.daemon.start()
        are_equal(first.node, second.node)
    assert len(table(first.node)) == 1800
