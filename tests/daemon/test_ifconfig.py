"""`carpctl ifconfig` against a running daemon: what a BSD administrator types, and what becomes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from carpd.lab.topology import Lab
from tests.daemon.carpd import FAST, Carpd, virtual_host

Ctl = Callable[..., tuple[int, str, str]]

LAN = """\
lan: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>
\tlladdr 00:00:5e:00:01:07
\tcarp: MASTER carpdev eth1 vhid 7 advbase 0 advskew {advskew}
\tgroups: carp
\tstatus: master
\tinet 192.0.2.1 netmask 0xffffff00 broadcast 192.0.2.255
"""
SHARED = """\
carp1: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>
\tlladdr 01:00:5e:00:01:09
\tcarp: carpdev eth2 advbase 0 balancing ip
\t\tstate MASTER vhid 9 advskew 5
\t\tstate MASTER vhid 10 advskew 8
\tgroups: carp
\tstatus: master
\tinet 198.51.100.1 netmask 0xffffff00 broadcast 198.51.100.255
"""
DOWN = """\
carp1: flags=8802<BROADCAST,SIMPLEX,MULTICAST>
\tcarp: carpdev eth2 advbase 0 balancing ip
\t\tstate INIT vhid 9 advskew 5
\t\tstate INIT vhid 10 advskew 8
\tstatus: invalid
\tinet 198.51.100.1 netmask 0xffffff00 broadcast 198.51.100.255
"""
PFSYNC = """\
pfsync0: flags=1<UP>
\tpfsync: syncdev: eth2 syncpeer: 198.51.100.3 maxupd: 64 defer: off
"""


@pytest.fixture
def host(lab: Lab) -> Carpd:
    """One host with two interfaces, master of `lan`."""
    node = lab.node("a")
    lab.cable(node, "eth1", lab.switch("one"), "192.0.2.2/24")
    lab.cable(node, "eth2", lab.switch("two"), "198.51.100.2/24")
    daemon = Carpd(node, virtual_host(addresses=["192.0.2.1/24"], **FAST))
    daemon.becomes("MASTER")
    return daemon


@pytest.fixture
def ctl(host: Carpd) -> Ctl:
    """Runs `carpctl ifconfig` with these words; its exit status, output and errors."""

    def run(line: str, *options: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "carpd.cli.carpctl", "ifconfig", "--socket", str(host.socket), *options]
        done = subprocess.run([*command, *line.split()], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_shows_and_sets(host: Carpd, ctl: Ctl) -> None:
    assert ctl("") == (0, LAN.format(advskew=12), "")
    assert ctl("lan advskew 30") == (0, "~ lan: advskew 12 -> 30\n", "")
    assert ctl("lan") == (0, LAN.format(advskew=30), "")

    made = "+ virtual host carp1 (vhid 9 on eth2): 198.51.100.1/24\n"
    assert ctl("carp1 create vhid 9 carpdev eth2 pass x advbase 0 advskew 5 198.51.100.1/24")[:2] == (0, made)
    host.becomes("MASTER", "carp1")
    status, told, warnings = ctl("carp1 carpnodes 9:5,10:8 balancing ip")
    assert (status, told.count("\n")) == (0, 1)
    assert "set preempt = true" in warnings
    host.becomes("MASTER", "carp1:9", "carp1:10")
    assert ctl("carp1") == (0, SHARED, "")
    assert ctl("carp1 down")[0] == 0
    assert ctl("carp1") == (0, DOWN, "")
    assert host.states() == {"lan": "MASTER"}
    assert ctl("carp1 up")[0] == 0
    host.becomes("MASTER", "carp1:9", "carp1:10")
    assert ctl("carp1 destroy")[0] == 0
    assert ctl("carp1")[0] == 6

    assert ctl("lan state backup") == (0, "", "")
    assert ctl("-g carp carpdemote 10") == (0, "", "")
    assert ctl("-g carp carpdemote") == (0, "", "")
    assert ctl("-g carp") == (0, "carp: carp demote count 11\n", "")
    assert ctl("-g carp -carpdemote 11") == (0, "", "")
    assert ctl("-g carp") == (0, "carp: carp demote count 0\n", "")


def test_pfsync(host: Carpd, ctl: Ctl) -> None:
    status, _, line = ctl("pfsync0 syncdev eth2 syncpeer 198.51.100.3 maxupd 64 up")
    assert (status, line.count("\n")) == (3, 1)
    assert "there is no secret" in line
    key = host.node.directory / "key"
    key.write_text("a secret of sixteen characters")
    key.chmod(0o600)
    configuration = host.node.directory / "carpd.toml"
    configuration.write_text(
        f'{configuration.read_text()}\n[pfsync]\nsyncdev = "eth1"\nup = false\nsecret_file = "key"\n'
    )
    assert (
        subprocess.run(
            [sys.executable, "-m", "carpd.cli.carpctl", "reload", "--socket", host.socket], check=False
        ).returncode
        == 0
    )
    assert ctl("pfsync0 syncdev eth2 syncpeer 198.51.100.3 maxupd 64 up")[0] == 0
    host.logs("pfsync: synchronising on eth2 (sealed)")
    assert re.sub(r"41<UP,RUNNING>", "1<UP>", ctl("pfsync0")[1]) == PFSYNC
    assert ctl("pfsync0 down")[0] == 0
    assert ctl("pfsync0")[1].startswith("pfsync0: flags=0<>\n")


def test_save_keeps_what_is_written(host: Carpd, ctl: Ctl) -> None:
    configuration = host.node.directory / "carpd.toml"
    configuration.write_text("# by hand\n" + configuration.read_text() + "\n# the end\n")
    assert ctl("lan advskew 33", "--save") == (0, "~ lan: advskew 12 -> 33\n", "")
    text = configuration.read_text()
    assert text.startswith("# by hand\n")
    assert "advskew = 33" in text
    assert text.endswith("# the end\n")
    assert configuration.stat().st_mode & 0o777 == 0o600
    assert ctl("carp1 create vhid 9 carpdev eth2 pass x 198.51.100.1/24", "--save")[0] == 0
    host.stop()
    host.start()
    host.becomes("MASTER", "lan")
    assert host.host("lan")["advskew"] == 33
    assert host.host("carp1")["vhid"] == 9


REFUSED = {
    "lam": (6, "carpctl: no interface 'lam': did you mean 'lan'?\n"),
    "lan advskw 5": (2, "carpctl: lan: unknown word 'advskw': did you mean advskew?\n"),
    "lan state mastr": (2, "carpctl: lan: state mastr: must be master or backup\n"),
    "-g edge carpdemote": (6, "carpctl: no group 'edge': known are carp\n"),
}


def test_refused(host: Carpd, ctl: Ctl) -> None:
    for words, (status, line) in REFUSED.items():
        got = ctl(words)
        assert (got[0], got[1]) == (status, "")
        assert got[2].split(":")[:2] == line.split(":")[:2]
    status, told, line = ctl("lan vhid 300")
    assert (status, told, line.count("\n")) == (3, "", 1)
    assert "carp.lan.vhid = 300: a vhid is 1 to 255" in line
    assert ctl("lan")[1] == LAN.format(advskew=12)


def test_json(ctl: Ctl) -> None:
    shown = json.loads(ctl("lan", "--json")[1])
    assert shown["interfaces"][0]["nodes"] == [{"state": "MASTER", "vhid": 7, "advskew": 12}]
    changed = json.loads(ctl("lan advskew 13", "--json")[1])
    assert changed["plan"] == [{"sign": "~", "text": "lan: advskew 12 -> 13", "disruptive": False}]
    assert changed["applied"] is True
