"""Two stateful firewalls with carpd and [pfsync]: connections go on wherever the shared addresses are.

Nothing new passes a firewall that takes over: what passes belongs to a connection that it was told of.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from carpd.lab.firewalls import CLIENT, SERVER, WAN_GATEWAYS, Firewall
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from carpd.pfsync.timeouts import DEFAULTS, HOLD, HOLD_THRESHOLD
from carpd.wire import conntrack
from carpd.wire.conntrack import flow_key
from tests.daemon.carpd import FAST, LIMIT_NS, SLOWER, virtual_host
from tests.daemon.crowd import Crowd
from tests.daemon.pfsync import LOOK_S, SyncNode, are_equal, broken, delete, empty, table
from tests.daemon.test_failover import LAN, WAN
from tests.linux.conversations import SILENCE_S, Conversation, Ping, Sctp, Tcp, Udp, gre, unknown
from tests.linux.firewall_pair import FirewallPair

RULES = {
    "srcnat": "\n".join(
        f"oif eth2 {ip} daddr {server} snat {ip} to {wan}"
        for ip, server, wan in zip(("ip", "ip6"), SERVER, WAN_GATEWAYS, strict=True)
    ),
    "dstnat": f"ip daddr {WAN_GATEWAYS[0]} tcp dport 8080 dnat ip to {CLIENT[0]}:80",
}
FORWARDED = WAN_GATEWAYS[0], 8080
KINDS: dict[str, Callable[..., Conversation]] = {
    "tcp": Tcp,
    "udp": Udp,
    "ping": Ping,
    "sctp": Sctp,
    "gre": gre,
    "unknown": unknown,
}
STANDBY_TIMEOUT_S = 100
"""How long the second firewall keeps UDP, by itself: as long as no kernel does by default, and longer than any test
leaves a conversation idle."""


class Edge(FirewallPair):
    """`a` is the better one, and master when a test begins; with conversations of all kinds through it."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.same_rules(**RULES)
        self.b.node.sysctl(
            netfilter__nf_conntrack_udp_timeout=STANDBY_TIMEOUT_S,
            netfilter__nf_conntrack_udp_timeout_stream=STANDBY_TIMEOUT_S,
        )
        self.carpd_a = SyncNode(self.a.node, *_virtual_hosts(**FAST))
        self.carpd_b = SyncNode(self.b.node, *_virtual_hosts(**SLOWER))
        for daemon in (self.carpd_a, self.carpd_b):
            daemon.logs("group edge: promoted from 32 to 0 (pfsync bulk update)")
        self.carpd_a.says(lambda status: status["carrying"], "it carries traffic")
        self.carpd_b.says(lambda status: not status["carrying"], "it carries none")

    def begin(self, stack: contextlib.ExitStack) -> dict[str, Conversation]:
        """Conversations that end with the stack."""
        begun: dict[str, Conversation] = {"forwarded": Tcp(self.server, self.client, CLIENT[0], asked=FORWARDED)}
        for name, kind in KINDS.items():
            for ip, server in zip(("IPv4", "IPv6"), SERVER, strict=True):
                begun[f"{name} {ip}"] = kind(self.client, self.server, server)
        for conversation in begun.values():
            stack.enter_context(conversation)
            conversation.open()
            conversation.talk()
        assert len(table(self.a.node)) == len(begun)
        are_equal(self.a.node, self.b.node)
        return begun

    def comes_back_without_states(self) -> None:
        """The first firewall is booted, lets nothing new pass, and becomes master."""
        self.a.node.kill()
        empty(self.a.node)
        self.rules(self.a, new="drop", **RULES)
        self.lab.power_back(self.a.ports)
        self.carpd_a.start()
        self.carpd_a.becomes("MASTER")
        self.carpd_b.becomes("BACKUP")


def _virtual_hosts(**timers: Any) -> list[str]:
    common = {"group": "edge", "preempt": True, **timers}
    return [
        virtual_host("lan", interface="eth1", vhid=1, addresses=LAN, **common),
        virtual_host("wan", interface="eth2", vhid=2, addresses=WAN, **common),
    ]


@pytest.fixture
def edge(lab: Lab) -> Edge:
    return Edge(lab)


@pytest.fixture
def conversations(edge: Edge) -> Iterator[dict[str, Conversation]]:
    with contextlib.ExitStack() as stack:
        yield edge.begin(stack)


def test_power_cut_and_return(edge: Edge, conversations: dict[str, Conversation]) -> None:
    """The first firewall comes back without any state, and gets all before it becomes master again."""
    edge.lab.power_cut(edge.a.ports)
    edge.carpd_b.becomes("MASTER")
    assert broken(conversations) == []

    edge.comes_back_without_states()
    assert broken(conversations) == []
    are_equal(edge.a.node, edge.b.node)
    log = edge.carpd_a.log()
    events = [
        "group edge: demoted from 0 to 32 (pfsync bulk update)",
        "pfsync: bulk done",
        "group edge: promoted from 32 to 0 (pfsync bulk update)",
        "BACKUP -> MASTER",
    ]
    places = [log.find(event) for event in events]
    assert -1 not in places, log
    assert places == sorted(places), log


def test_stop_and_return(edge: Edge, conversations: dict[str, Conversation]) -> None:
    """The last thing that a master does before it leaves is to tell the others all."""
    with Tcp(edge.client, edge.server, SERVER[0], port=8888) as last:
        last.open()
        last.talk()
        assert edge.carpd_a.stop() == 0
        edge.carpd_b.becomes("MASTER")
        assert broken(conversations | {"last": last}) == []

        empty(edge.a.node)
        edge.rules(edge.a, new="drop", **RULES)
        edge.carpd_a.start()
        edge.carpd_a.becomes("MASTER")
        assert broken(conversations | {"last": last}) == []


def timeouts(firewall: Firewall) -> dict[int, int]:
    """The longest that the kernel keeps a flow of each protocol, in seconds."""
    found: dict[int, int] = {}
    for entry in table(firewall.node).values():
        assert entry.timeout is not None
        found[entry.protocol] = max(entry.timeout, found.get(entry.protocol, 0))
    return found


def test_held_and_trimmed(edge: Edge, conversations: dict[str, Conversation]) -> None:
    """A standby holds what would expire; a new master trims that; and whoever was master holds what it had."""
    conversations["udp IPv4"].talk()  # of which the standby hears nothing
    assert min(timeouts(edge.b).values()) > HOLD_THRESHOLD
    assert max(timeouts(edge.a).values()) < HOLD_THRESHOLD

    assert edge.carpd_a.stop() == 0
    edge.carpd_b.becomes("MASTER")
    conversations["udp IPv4"].talk()

    def trimmed() -> bool:
        found = timeouts(edge.b)
        return found.pop(conntrack.GRE) > HOLD_THRESHOLD and max(found.values()) < HOLD_THRESHOLD

    wait_until(trimmed, LIMIT_NS, "normal timeouts", poll_s=LOOK_S)
    assert timeouts(edge.b)[conntrack.TCP] <= DEFAULTS["nf_conntrack_tcp_timeout_established"]
    assert DEFAULTS["nf_conntrack_udp_timeout"] < timeouts(edge.b)[conntrack.UDP] <= STANDBY_TIMEOUT_S
    assert broken(conversations) == []

    edge.carpd_a.start()
    edge.carpd_a.becomes("MASTER")
    edge.carpd_b.becomes("BACKUP")
    wait_until(lambda: min(timeouts(edge.b).values()) > HOLD_THRESHOLD, LIMIT_NS, "held states", poll_s=LOOK_S)
    assert max(timeouts(edge.b).values()) <= HOLD
    assert broken(conversations) == []


def test_deletes(edge: Edge, conversations: dict[str, Conversation]) -> None:
    """What somebody deletes on the standby comes back; what is deleted on the master ends on both."""
    (forwarded,) = (e for e in table(edge.a.node).values() if conntrack.destination_nat(e))
    delete(edge.b.node, [forwarded])
    are_equal(edge.a.node, edge.b.node)
    assert flow_key(forwarded) in table(edge.b.node)
    assert broken(conversations) == []
    delete(edge.a.node, [forwarded])
    are_equal(edge.a.node, edge.b.node)
    assert flow_key(forwarded) not in table(edge.b.node)
    assert broken({"forwarded": conversations.pop("forwarded")}, SILENCE_S) == ["forwarded"]
    assert broken(conversations) == []


def test_pfsyncd_is_killed(edge: Edge, conversations: dict[str, Conversation]) -> None:
    """The master's: it is demoted until it runs again and has got all, and the other one is master meanwhile."""
    os.kill(edge.carpd_a.child(), signal.SIGKILL)
    edge.carpd_a.logs("group edge: demoted from 0 to 32 (pfsyncd does not run)")
    edge.carpd_b.becomes("MASTER")
    assert broken(conversations) == []
    edge.carpd_a.logs("group edge: promoted from 32 to 0 (pfsync bulk update)")
    edge.carpd_a.becomes("MASTER")
    assert broken(conversations) == []
    are_equal(edge.a.node, edge.b.node)
    status = edge.carpd_a.pfsync()
    assert (status["restarts"], status["bulk_update"]) == (1, {"done": True, "reason": "bulk done"})


CROWD = 10_000


def test_ten_thousand_connections(edge: Edge) -> None:
    """Through SNAT, from one client: there and back, and none is broken."""
    with Crowd(edge.client, edge.server, (SERVER[0], 80), CROWD) as crowd:
        assert crowd.broken(LIMIT_NS) == 0
        are_equal(edge.a.node, edge.b.node)
        assert len(table(edge.b.node)) == CROWD
        edge.lab.power_cut(edge.a.ports)
        edge.carpd_b.becomes("MASTER")
        assert crowd.broken(LIMIT_NS) == 0
        edge.comes_back_without_states()
        assert crowd.broken(LIMIT_NS) == 0
