"""What happens when the daemon, or a part of it, ends; and that nothing of it stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from carpd.lab.nodes import Node
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND
from tests.daemon.carpd import FAST, LIMIT_NS, Carpd, served, virtual_host
from tests.daemon.segment import ADDRESS4, ADDRESS6, ADDRESSES, Segment, addresses

REAL4 = "192.0.2.77"
BOTH_MODES = (
    virtual_host(addresses=ADDRESSES, **FAST),
    virtual_host("real", vhid=8, addresses=[f"{REAL4}/24"], mac="real", **FAST),
)


def everything(node: Node) -> list[str]:
    """All of a node that carpd may change: interfaces, addresses, groups, firewall and settings."""
    commands = ("ip -details link", "ip address", "ip maddress", "ip route", "ip -6 route", "nft list ruleset")
    settings = []
    with node.inside():
        for family in ("ipv4", "ipv6"):
            for path in sorted(Path("/proc/sys/net", family, "conf").glob("*/*")):
                settings.append(f"{path}: {_read(path)}")
    return [line for command in commands for line in node.run(command.split()).splitlines()] + settings


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # stable_secret, while it is unset
        return ""


@pytest.fixture
def segment(segment: Segment) -> Segment:
    """A host whose administrator has settings of his own."""
    segment["a"].node.sysctl(ipv4__conf__eth1__arp_announce=1, ipv4__conf__eth1__rp_filter=1)
    return segment


@pytest.fixture
def a(segment: Segment) -> Carpd:
    """The master of two virtual hosts, one in each MAC mode."""
    a = Carpd(segment["a"].node, *BOTH_MODES)
    a.becomes("MASTER")
    return a


@pytest.fixture
def probe(segment: Segment) -> Iterator[Probe]:
    targets = {address: address for address in (ADDRESS4, ADDRESS6, REAL4)}
    probe = Probe(segment.client.node, targets, interval_ns=5 * MILLISECOND)
    yield probe
    probe.stop()


def election_of(supervisor: int) -> Path:
    """The directory below /proc of its election process."""
    (child,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return Path("/proc", child)


def has_ended(process: Path) -> bool:
    """Whether a process is at most a zombie that nobody collects."""
    try:
        return "State:\tZ" in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_nothing_stays(segment: Segment) -> None:
    """Interfaces, addresses, groups, firewall and settings are what they were before; while it runs they are not."""
    node = segment["a"].node
    before = everything(node)
    a = Carpd(node, *BOTH_MODES)
    a.becomes("MASTER")
    assert set(before) - set(everything(node))
    assert a.stop() == 0
    assert everything(node) == before


def test_the_election_process_is_killed(segment: Segment, a: Carpd, probe: Probe) -> None:
    """The supervisor says so and starts another one, which is master again after a master-down time."""
    first = a.status()["election"]["pid"]
    served(probe)
    os.kill(int(election_of(a.process.pid).name), signal.SIGKILL)
    a.logs("the election process ended (killed by SIGKILL)")
    wait_until(lambda: a.status()["election"]["pid"] not in (first, None), LIMIT_NS, "another election process")
    a.becomes("MASTER")
    served(probe)
    assert a.status()["election"]["restarts"] == 1
    assert a.stop() == 0


def test_the_election_process_hangs(segment: Segment, a: Carpd, probe: Probe) -> None:
    """Its lease runs out. The supervisor notices, ends it, and starts another."""
    served(probe)
    os.kill(int(election_of(a.process.pid).name), signal.SIGSTOP)
    a.logs("does not answer: ending it")
    a.logs("the election process ended (killed by SIGKILL)")
    a.becomes("MASTER")
    served(probe)


def test_the_supervisor_is_killed(segment: Segment, a: Carpd) -> None:
    """The election process bows out, takes the addresses away, and ends; the backup takes over."""
    node = segment["a"].node
    b = Carpd(segment["b"].node, *(table.replace("advskew = 12", "advskew = 18") for table in BOTH_MODES))
    b.becomes("BACKUP")
    election = election_of(a.process.pid)
    a.process.signal(signal.SIGKILL)
    b.becomes("MASTER")
    assert {host["reason"] for host in b.hosts()} != {"master timed out"}
    wait_until(lambda: has_ended(election), LIMIT_NS, "the end of the election process")
    assert not {f"{ADDRESS4}/32", f"{ADDRESS6}/128", f"{REAL4}/32"} & addresses(node)


def test_all_is_killed_and_started_again(segment: Segment, probe: Probe) -> None:
    """The next start finds what was left behind, says so, and goes on; its end puts back what was there at first."""
    node = segment["a"].node
    before = everything(node)
    a = Carpd(node, *BOTH_MODES)
    a.becomes("MASTER")
    a.process.signal_all(signal.SIGKILL)
    a.process.wait()
    a.start()
    a.becomes("MASTER")
    served(probe)
    for line in (
        f"removed address {ADDRESS4} from ",
        f"removed address {REAL4} from ",
        "deleted interface carp-lan",
        "removed the lease gate of eth1",
        "restored net/ipv4/conf/eth1/arp_announce",
    ):
        assert f"WARNING: left behind by a daemon that was killed: {line}" in a.log()
    assert a.stop() == 0
    assert everything(node) == before


def test_a_second_daemon(a: Carpd) -> None:
    """There is one daemon to a state directory: the second one says so, and the first goes on."""
    second = a.node.start(a.argv, log="second.log")
    assert second.wait() == 1
    (line,) = second.output().splitlines()
    assert "another carpd is running" in line
    assert set(a.states().values()) == {"MASTER"}
