"""carpctl against a running daemon: what it prints, and its exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from carpd.cli import statistics
from tests.cli import daemon as invented
from tests.daemon.carpd import FAST, SLOWER, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Segment
from tests.daemon.unprivileged import run_as_nobody

CARPCTL = (sys.executable, "-m", "carpd.cli.carpctl")


def carpctl(*arguments: object, program: Sequence[str] = CARPCTL) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def pair(segment: Segment) -> tuple[Carpd, Carpd]:
    """a is master of lan, and waits for an interface; b is backup."""
    nowhere = virtual_host("dmz", interface="eth9", vhid=9, addresses=["198.51.100.1/24"], group="dmz")
    a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES, **FAST), nowhere)
    a.becomes("MASTER", "lan")
    b = Carpd(segment["b"].node, virtual_host(addresses=ADDRESSES, **SLOWER))
    b.becomes("BACKUP")
    b.hears_a_master()
    return a, b


def test_what_it_says(pair: tuple[Carpd, Carpd]) -> None:
    """The table, one virtual host in full, and both as JSON."""
    a, b = pair
    table = carpctl("status", "--socket", a.socket)
    assert (table.returncode, table.stderr) == (0, "")
    headline, heading, lan, dmz, *below = table.stdout.splitlines()
    assert headline == "a: MASTER of lan; INIT of dmz; dmz demoted by 1 (link of eth9 is down)"
    assert heading.split()[:3] == ["NAME", "STATE", "SINCE"]
    assert lan.split()[:2] == ["lan", "MASTER"]
    assert dmz.split()[:2] == ["dmz", "INIT"]
    assert below == ["dmz: interface eth9 does not exist", "group dmz: demoted by 1: link of eth9 is down"]

    full = carpctl("status", "lan", "--socket", b.socket)
    assert full.returncode == 0
    assert full.stdout.startswith("lan:\n  state       BACKUP since ")
    assert "dmz" not in full.stdout

    document = json.loads(carpctl("status", "--json", "--socket", b.socket).stdout)
    assert document.keys() == invented.status().keys()
    assert document["node"] == "b"
    (host,) = document["virtual_hosts"]
    assert host.keys() == invented.host("lan").keys()
    assert host["counters"].keys() == statistics.CARP.keys()
    assert host["state"] == "BACKUP"
    assert host["mac"] == "00:00:5e:00:01:07"
    assert (host["master"]["advbase"], host["master"]["advskew"]) == (FAST["advbase"], FAST["advskew"])
    assert host["counters"]["ipackets"] > 0
    assert host["counters"]["ipackets6"] > 0
    assert [interface["name"] for interface in document["interfaces"]] == ["eth1"]
    assert document["groups"] == [{"name": "carp", "virtual_hosts": ["lan"], "demotion": 0, "reasons": []}]
    assert document["groups"][0].keys() == invented.group("carp").keys()

    one = json.loads(carpctl("status", "dmz", "--json", "--socket", a.socket).stdout)
    assert [host["name"] for host in one["virtual_hosts"]] == ["dmz"]
    assert one["virtual_hosts"][0]["waits_for"] == "interface eth9 does not exist"


def test_failures(pair: tuple[Carpd, Carpd], tmp_path: Path) -> None:
    """No such virtual host, no permission, not running, and a daemon that hangs: a line and an exit status each."""
    a, b = pair
    a.node.directory.chmod(0o755)
    nobody = run_as_nobody(b.node.directory, "carpd.cli.carpctl")
    b.stop()
    for done, exit_status, line in (
        (carpctl("status", "lam", "--socket", a.socket), 6, "no virtual host 'lam': did you mean 'lan'?"),
        (carpctl("status", "core", "--socket", a.socket), 6, "no virtual host 'core': this node has lan, dmz"),
        (carpctl("status", "--socket", a.socket, program=nobody), 5, "permission denied"),
        (carpctl("status", "--socket", b.socket), 4, "carpd is not running here"),
        (carpctl("status", "--socket", tmp_path), 4, "carpd is not running here"),
    ):
        assert (done.returncode, done.stdout) == (exit_status, ""), done.stderr
        assert done.stderr.startswith("carpctl: ")
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
