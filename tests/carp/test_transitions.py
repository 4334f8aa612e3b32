"""Each change of state in the table happens, for each of its reasons. That no other does the machine itself asserts."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from carpd.carp.virtual_host import TRANSITIONS
from carpd.effects import Reason
from carpd.events import (
    CarpState,
    Configure,
    Event,
    ForceState,
    HostPrepared,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TakeFailed,
)
from tests.carp.harness import SEED, Node, host_config, interface

CONFIG = host_config()
BEGIN = {
    CarpState.INIT: lambda: Node(CONFIG, prepared=False),
    CarpState.BACKUP: lambda: Node(CONFIG),
    CarpState.MASTER: lambda: Node.master(CONFIG),
}
OTHER = {CarpState.BACKUP: CarpState.MASTER, CarpState.MASTER: CarpState.BACKUP}
HAPPENS: dict[Reason, Callable[[Node], object]] = {
    Reason.READY: lambda node: node.tell(HostPrepared("lan")),
    Reason.CONFIGURED: lambda node: node.tell(Configure((host_config(addresses=()),), SEED)),
    Reason.MASTER_DOWN: Node.expire,
    Reason.PREEMPT: lambda node: after(node, Configure((host_config(preempt=True),), SEED)).hear(advskew=101),
    Reason.DEMOTED_MASTER: lambda node: node.hear(advskew=0, demotion=1),
    Reason.WILL_TIME_OUT: lambda node: node.hear(advbase=4),
    Reason.MASTER_LEFT: lambda node: node.hear(advbase=255, advskew=255),
    Reason.BETTER_MASTER: lambda node: node.hear(advskew=99),
    Reason.LESS_DEMOTED: lambda node: after(node, SetDemotion("carp", "test", 1)).hear(advskew=101),
    Reason.LINK_DOWN: lambda node: node.tell(interface(up=False)),
    Reason.INTERFACE_GONE: lambda node: node.tell(InterfaceGone("eth0")),
    Reason.USER: lambda node: node.tell(ForceState("lan", OTHER[node.state])),
    Reason.TAKE_FAILED: lambda node: node.tell(TakeFailed("lan", errno.EPERM)),
    Reason.SHUTDOWN: lambda node: node.tell(Shutdown()),
}


def after(node: Node, event: Event) -> Node:
    node.tell(event)
    return node


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [(old, new, reason) for (old, new), reasons in TRANSITIONS.items() for reason in reasons],
    ids=str,
)
def test_transition(old: CarpState, new: CarpState, reason: Reason) -> None:
    node = BEGIN[old]()
    assert node.state is old
    HAPPENS[reason](node)
    if node.state is old:  # a master that leaves waits for its successor, in vain
        node.expire()
    assert (node.state, node.host.reason) == (new, reason)
