"""State synchronisation on a node of the laboratory: `pfsyncd` alone, or a carpd that has [pfsync]."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from carpd.control.protocol import ControlError
from carpd.lab.firewalls import SYNC_PEERS
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port
from carpd.lab.waiting import LabTimeoutError, wait_until
from carpd.linux.addresses import local_addresses
from carpd.linux.conntrack import ConntrackTable
from carpd.pfsync.selection import Selection
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, TcpState, flow_key
from tests.daemon.carpd import LIMIT_NS, Carpd
from tests.linux.conversations import ANSWER_LIMIT_S, Conversation
from tests.linux.firewall_pair import comparable

LOOK_S = 0.03
"""Between two looks at a node's table: each costs the kernel 10 ms, however few connections there are."""
SECRET = "a secret of the laboratory's firewalls"

_CLIENTS = 100 << 24 | 64 << 16
"""100.64.0.0, of 4 million addresses."""
_MODULE = "carpd.runtime.pfsyncd"
"""What the supervisor starts."""


def pfsync(node: Node, *secrets: str, **settings: Any) -> str:
    """The table [pfsync] of a node's configuration file; without secrets the transport is plain.

    A value of None leaves the key out.
    """
    merged: dict[str, Any] = {"syncdev": "eth3", "syncpeer": SYNC_PEERS, "transport": "plain"}
    if secrets:
        merged |= {"transport": "sealed", "secret_file": str(write_secrets(node, *secrets))}
    merged |= settings
    lines = [f"{key} = {json.dumps(value)}" for key, value in merged.items() if value is not None]
    return "\n".join(["[pfsync]", *lines]) + "\n"


def write_secrets(node: Node, *secrets: str) -> Path:
    """The file with a node's secrets."""
    path = node.directory / "pfsync.key"
    path.touch(mode=0o600)
    path.write_text("".join(f"{secret}\n" for secret in secrets))
    return path


def table(node: Node) -> dict[bytes, ConntrackEntry]:
    """The connections in the kernel's table of a node that others may have to know of, by their flow keys."""
    with node.inside(), ConntrackTable() as kernel:
        selection = Selection(own=local_addresses())
        return {flow_key(e): e for piece in kernel.dump() for e in piece if selection.takes_part(e)}


def connections(first: int, count: int, **values: Any) -> list[ConntrackEntry]:
    """So many established TCP connections through SNAT, each of another client."""
    status = conntrack.SEEN_REPLY | conntrack.ASSURED | conntrack.CONFIRMED
    server, outside = bytes((198, 51, 100, 10)), bytes((198, 51, 100, 1))
    return [
        ConntrackEntry(
            *((_CLIENTS + number).to_bytes(4), server, conntrack.TCP, 40000, 80),
            *(server, outside, 80, 1024 + number % 60000),
            **{"status": status, "timeout": 3600, "state": TcpState.ESTABLISHED, **values},
        )
        for number in range(first, first + count)
    ]


def insert(node: Node, entries: Sequence[ConntrackEntry]) -> None:
    """As if the node's kernel had seen them begin."""
    with node.inside(), ConntrackTable() as kernel:
        assert kernel.insert(entries) == []


def delete(node: Node, entries: Iterable[ConntrackEntry]) -> None:
    """As somebody with conntrack(8) does."""
    with node.inside(), ConntrackTable() as kernel:
        assert kernel.delete([flow_key(entry) for entry in entries]) == []


def empty(node: Node) -> None:
    """As if its kernel had just been started."""
    with node.inside(), ConntrackTable() as kernel:
        kernel.delete([flow_key(entry) for piece in kernel.dump() for entry in piece])


def are_equal(*nodes: Node) -> None:
    """Wait until all know the same connections. Raise LabTimeoutError with some of those that they don't."""

    def different() -> list[tuple[ConntrackEntry | None, ...]]:
        tables = [{key: comparable(entry) for key, entry in table(node).items()} for node in nodes]
        views = (tuple(table.get(key) for table in tables) for key in set().union(*tables))
        return [view for view in views if len(set(view)) > 1]

    try:
        wait_until(lambda: not different(), LIMIT_NS, "equal tables", poll_s=LOOK_S)
    except LabTimeoutError as error:
        raise LabTimeoutError(f"{error}; of those that differ: {different()[:5]}") from None


def broken(conversations: Mapping[str, Conversation], limit_s: float = ANSWER_LIMIT_S) -> list[str]:
    """Those of them that can't go on."""
    found = []
    for name, conversation in conversations.items():
        try:
            conversation.talk(limit_s)
            conversation.talk(limit_s)
        except OSError:  # no answer, or a reset
            found.append(name)
    return found


class SyncNode(Carpd):
    """A node that synchronises states: with virtual hosts it is carpd, without it is pfsyncd alone."""

    def __init__(
        self,
        node: Node,
        *virtual_hosts: str,
        secrets: Sequence[str] = (SECRET,),
        program: Sequence[str] = (),
        owner: int = 0,
        others: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """With these settings in [pfsync], and other tables; `owner` is the user that `program` runs as."""
        usual = (sys.executable, "-m", "carpd.cli.carpd" if virtual_hosts else "carpd.cli.pfsyncd")
        tables = (*virtual_hosts, pfsync(node, *secrets, **settings), *others)
        super().__init__(node, *tables, program=program or usual, owner=owner)

    # What it says of synchronisation

    def pfsync(self) -> dict[str, Any]:
        """The `pfsync` element of its status; empty while nobody answers."""
        try:
            found: dict[str, Any] = self.status()["pfsync"]
        except ControlError:
            return {}
        return found

    def child(self) -> int:
        """The process ID of its pfsyncd, as the laboratory sees it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = (int(c) for c in children if _MODULE in Path(f"/proc/{c}/cmdline").read_text().split("\0"))
        return found

    # What is waited for

    def has_begun(self) -> None:
        """Wait until its bulk update is done. Raise LabTimeoutError with its log."""
        self.says(lambda status: status["bulk_update"]["done"], "its bulk update is done")

    def is_covered(self, peers: int = 1) -> None:
        """Wait until so many peers have found their tables to be the same as its own. Raise LabTimeoutError."""

        def covered(status: dict[str, Any]) -> bool:
            return [peer["coverage"] for peer in status["peers"]] == [100.0] * peers

        self.says(covered, "all peers have all of its states")

    def says(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait until this is true of its pfsync's status. Raise LabTimeoutError with that, and with its log."""

        def met() -> bool:
            status = self.pfsync()
            return "states" in status and condition(status)

        try:
            self._wait(met, f"{self.node.name}: {what}")
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error}\nIts status is: {json.dumps(self.pfsync())}") from None


class Member(NamedTuple):
    """A node of those that synchronise, and the switch's end of its cable."""

    node: Node
    port: Port
    daemon: SyncNode


def members(lab: Lab, count: int, *, secrets: Sequence[str] = (SECRET,), **settings: Any) -> list[Member]:
    """So many nodes with a link for nothing but synchronisation, each of which may carry traffic.

    All have had their bulk update.
    """
    switch = lab.switch("sync")
    found = []
    for number in range(1, count + 1):
        node = lab.node(f"node-{number}")
        port = lab.cable(node, "eth3", switch, f"10.0.0.{number}/24", f"fd00::{number}/64")
        found.append(Member(node, port, SyncNode(node, secrets=secrets, **settings)))
    for member in found:
        member.daemon.has_begun()
    return found


def recovered(*members: Member) -> None:
    """Wait until all have the same states, and have found that out themselves. Raise LabTimeoutError."""
    are_equal(*(member.node for member in members))
    for member in members:
        member.daemon.is_covered(len(members) - 1)


def turbulence(node: Node, first: int = 0) -> None:
    """Connections begin, change and end: 600 are left."""
    entries = connections(first, 1000)
    for start in range(0, 1000, 100):
        insert(node, entries[start : start + 100])
    delete(node, entries[:400])
    with node.inside(), ConntrackTable() as kernel:
        assert kernel.update([entry._replace(mark=7, timeout=None) for entry in entries[400:500]]) == []
