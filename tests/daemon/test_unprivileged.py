"""The daemon as a user who is nobody, with the capabilities that a service manager grants."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.carpd import FAST, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Segment, addresses
from tests.daemon.unprivileged import NOBODY, run_as_nobody

NEEDED = ("net_admin", "net_raw")
WANTED = {"real-time priority": "sys_nice", "locked memory": "ipc_lock"}


@pytest.mark.parametrize("mac", ["virtual", "real"])
@pytest.mark.parametrize("wanted", [(), tuple(WANTED)], ids=["needed", "wanted"])
def test_fails_over(segment: Segment, wanted: tuple[str, ...], mac: str) -> None:
    """With what is needed it works, and what is only wanted is missed in the log. It leaves nothing behind."""
    node = segment["a"].node
    before = addresses(node)
    table: dict[str, Any] = {"addresses": ADDRESSES, "mac": mac, "preempt": True}
    program = run_as_nobody(node.directory, "carpd.cli.carpd", *NEEDED, *(WANTED[name] for name in wanted))
    a = Carpd(node, virtual_host(**table, **FAST), program=program, owner=NOBODY)
    a.becomes("MASTER")
    b = Carpd(segment["b"].node, virtual_host(**table, **SLOWER))
    b.becomes("BACKUP")

    segment["a"].port.drop_everything()
    b.becomes("MASTER")
    segment["a"].port.restore()
    b.becomes("BACKUP")
    a.becomes("MASTER")
    assert a.stop() == 0
    b.becomes("MASTER")

    for name in WANTED:
        assert (f"WARNING: election: no {name}: " in a.log()) == (name not in wanted)
    assert addresses(node) == before
    assert "carp-" not in node.run(["ip", "link"])
    assert node.run(["nft", "list", "ruleset"]) == ""


@pytest.mark.parametrize(
    ("capabilities", "missing"), [((), "CAP_NET_ADMIN, CAP_NET_RAW"), (("net_raw",), "CAP_NET_ADMIN")]
)
def test_without_what_is_needed(segment: Segment, capabilities: tuple[str, ...], missing: str) -> None:
    """One line, and exit status 1."""
    node = segment["a"].node
    program = run_as_nobody(node.directory, "carpd.cli.carpd", *capabilities)
    daemon = Carpd(node, virtual_host(addresses=ADDRESSES), program=program, owner=NOBODY)
    assert daemon.process.wait() == 1
    (line,) = daemon.log().splitlines()
    assert f"ERROR: missing capabilities: {missing}: " in line
