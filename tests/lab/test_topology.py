from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carpd.lab.nodes import Node
from carpd.lab.topology import Lab, Port
from carpd.lab.waiting import LabError, wait_until
from carpd.units import SECOND


@pytest.fixture
def pair(lab: Lab) -> tuple[Node, Port]:
    """A node, and its port on a switch with one other node, 10.0.0.2."""
    switch = lab.switch("lan")
    a, b = lab.node("a"), lab.node("b")
    port = lab.cable(a, "eth0", switch, "10.0.0.1/24", "2001:db8::1/64")
    lab.cable(b, "eth0", switch, "10.0.0.2/24", "2001:db8::2/64")
    return a, port


def reaches(node: Node, address: str) -> bool:
    try:
        node.run(("ping", "-n", "-c", "1", "-W", "0.2", address))
    except LabError:
        return False
    return True


def carrier(node: Node) -> bool:
    return "NO-CARRIER" not in node.run(("ip", "link", "show", "eth0"))


@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
def test_nodes_on_a_switch_reach_each_other(pair: tuple[Node, Port], address: str) -> None:
    assert reaches(pair[0], address)


def test_dropping_everything_leaves_the_carrier(pair: tuple[Node, Port]) -> None:
    node, port = pair
    port.drop_everything()
    assert not reaches(node, "10.0.0.2")
    assert carrier(node)
    port.restore()
    wait_until(lambda: reaches(node, "10.0.0.2"), 5 * SECOND, "an answer")


def test_an_unplugged_cable_has_no_carrier(pair: tuple[Node, Port]) -> None:
    node, port = pair
    port.unplug()
    assert not carrier(node)
    port.plug()
    wait_until(lambda: carrier(node) and reaches(node, "10.0.0.2"), 5 * SECOND, "an answer")


def test_ports_lose_their_power_together(lab: Lab) -> None:
    switch = lab.switch("lan")
    node = lab.node("a")
    ports = [lab.cable(node, name, switch) for name in ("eth0", "eth1", "eth2")]
    lab.power_cut(ports)
    lab.power_back(ports[:1])
    rules = lab.backbone.run(("nft", "list", "ruleset"))
    assert [port.name in rules for port in ports] == [False, True, True]


def test_a_killed_node_keeps_its_network(lab: Lab) -> None:
    node = lab.node("a")
    process = node.start(("sh", "-c", "setsid sleep 1000 & sleep 1000"))
    node.kill()
    assert process.wait() == -signal.SIGKILL
    assert node.run(("echo", "alive")) == "alive\n"


def test_a_program_that_fails_is_quoted(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"a: ip link show nothing: .*nothing"):
        lab.node("a").run(("ip", "link", "show", "nothing"))


def test_logs_are_kept(lab: Lab) -> None:
    node = lab.node("a")
    node.start(("sh", "-c", "echo out; echo err >&2")).wait()
    assert node.logs() == {"sh.log": "out\nerr\n"}


def test_capture_sees_both_directions(lab: Lab, pair: tuple[Node, Port]) -> None:
    capture = lab.nodes["b"].capture("eth0")
    assert reaches(pair[0], "10.0.0.2")
    echoes = [f.outgoing for f in capture.frames() if f.frame[12:14] == b"\x08\x00" and f.frame[23] == 1]
    capture.close()
    assert echoes == [False, True]


LABORATORY = """
import os, signal, sys
from carpd.lab.topology import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background was told to ignore it
with Lab() as lab:
    node = lab.node("a")
    lab.cable(node, "eth0", lab.switch("lan"))
    process = node.start(("sh", "-c", "setsid sleep 1000 & sleep 1000"))
    print(process.pid)
    print(*(os.fstat(node.network).st_ino for node in lab.nodes.values()))
    print(*(node.directory for node in lab.nodes.values()), flush=True)
    {then}
"""


@pytest.mark.usefixtures("lab")  # skipped where that is
@pytest.mark.parametrize(
    ("then", "number"),
    [
        ("pass", 0),
        ("1 / 0", 0),
        ("sys.stdin.read()", signal.SIGINT),
        ("sys.stdin.read()", signal.SIGTERM),
        ("sys.stdin.read()", signal.SIGKILL),
    ],
    ids=["end", "exception", "SIGINT", "SIGTERM", "SIGKILL"],
)
def test_nothing_is_left(then: str, number: int) -> None:
    """However the laboratory ends: its processes, with them its namespaces, and its directories."""
    laboratory = subprocess.Popen(
        (sys.executable, "-c", LABORATORY.format(then=then)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert laboratory.stdout is not None
    pid, networks, directories = (laboratory.stdout.readline().split() for _ in range(3))
    assert len(networks) == len(directories) == 2
    if number:
        process = os.pidfd_open(int(pid[0]))
        laboratory.send_signal(number)
        assert select.select([process], [], [], 10)[0], "the node's process lives on"
        os.close(process)
    laboratory.communicate()
    wait_until(lambda: not any(map(os.path.exists, directories)), 10 * SECOND, "the directories to be deleted")
    wait_until(lambda: not in_use(networks), 10 * SECOND, "the last process to end")


def in_use(networks: list[str]) -> bool:
    """Whether any process that we may look at is in one of these network namespaces."""
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if os.readlink(link).strip("net:[]") in networks:
                return True
    return False
