"""What the status says: a snapshot of the machine, that later events do not change."""

from __future__ import annotations

import pytest

from carpd.carp.status import host_status, interface_status
from carpd.effects import Reason
from carpd.events import CarpState, InterfaceChanged, InterfaceGone
from tests.carp.harness import MAC, Node, host_config, interface


def test_master() -> None:
    node = Node.master()
    status = host_status(node.engine, "lan")
    assert (status.state, status.reason, status.waits_for) == (CarpState.MASTER, Reason.MASTER_DOWN, "")
    assert (status.since_ns, status.heard) == (node.now, None)
    sent = interface_status(node.engine, "eth0").counters.preempt
    node.hear(advskew=0)
    assert status.state is CarpState.MASTER
    assert status.counters.ipackets == 0
    assert sent == 1


def test_backup_tells_whom_it_hears() -> None:
    node = Node()
    node.hear(advskew=7)
    heard = host_status(node.engine, "lan").heard
    assert heard is not None
    assert (heard.message.advskew, heard.time_ns) == (7, node.now)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (InterfaceGone("eth0"), "interface eth0 does not exist"),
        (InterfaceChanged("eth0", up=False, mac=MAC), "link of eth0 is down"),
        (interface(), "carp-lan is being prepared"),
    ],
)
def test_init_says_what_it_waits_for(event: InterfaceGone | InterfaceChanged, words: str) -> None:
    node = Node(prepared=False)
    node.tell(event)
    assert host_status(node.engine, "lan").waits_for == words


def test_an_interface_counts_for_all_its_hosts() -> None:
    node = Node(host_config(), host_config(name="other", vhid=8, group="other"))
    for host in node.engine.hosts.values():
        host.counters.opackets = 5
    node.hear(advskew=7, host=1)
    counters = interface_status(node.engine, "eth0").counters
    assert (counters.opackets, counters.ipackets) == (10, 1)


@pytest.mark.parametrize("tell", [host_status, interface_status])
def test_unknown(tell: object) -> None:
    assert callable(tell)
    with pytest.raises(KeyError):
        tell(Node().engine, "nobody")
