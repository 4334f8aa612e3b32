"""`carpctl ifconfig` against a running daemon: what a BSD administrator types, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from carpd.control import client
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.waiting import wait_until
from tests.daemon.carpd import FAST, LIMIT_NS, Carpd, virtual_host
from tests.daemon.segment import Segment
from tests.daemon.test_processes import everything
from tests.daemon.test_status import carpctl

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
pfsync0: flags=41<UP,RUNNING>
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
    return ifconfig(host)


def ifconfig(daemon: Carpd) -> Ctl:
    """Runs `carpctl ifconfig` with these words; its exit status, output and errors."""

    def run(line: str, *options: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "carpd.cli.carpctl", "ifconfig", "--socket", str(daemon.socket), *options]
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


def test_from_nothing(lab: Lab) -> None:
    """An empty file and OpenBSD's words make a firewall, and end it; and so does what --save writes."""
    node = lab.node("a")
    lab.cable(node, "eth1", lab.switch("one"), "192.0.2.2/24")
    lab.cable(node, "eth2", lab.switch("two"), "198.51.100.2/24")
    node.run(("nft", "add table inet filter"))
    before = everything(node)
    key = node.directory / "key"
    key.touch(mode=0o600)
    key.write_text("a secret of sixteen characters\n")
    file = node.directory / "carpd.toml"
    daemon = idle(node)
    assert "INFO: carpd " in daemon.log()
    assert "node a: no virtual host is configured" in daemon.log()
    with closing(client.follow(daemon.socket, "monitor")) as events:
        assert next(events)["text"] == "no virtual host is configured"
    ctl = ifconfig(daemon)
    assert ctl("") == (0, "", "")

    made = "+ virtual host carp0 (vhid 7 on eth1): 192.0.2.1/24\n"
    assert ctl("carp0 create vhid 7 carpdev eth1 pass hush,hush advbase 0 advskew 12 192.0.2.1/24") == (0, made, "")
    daemon.becomes("MASTER", "carp0")
    assert ctl("pfsync0 create syncdev eth2")[0] == 2
    synchronised = "+ pfsync on eth2 (sealed)\n"
    assert ctl(f"pfsync0 create syncdev eth2 syncpeer 198.51.100.3 maxupd 64 secret {key}") == (0, synchronised, "")
    daemon.logs("pfsync: synchronising on eth2 (sealed)")
    assert ctl("pfsync0") == (0, PFSYNC, "")
    assert daemon.states() == {"carp0": "MASTER"}, "it gives way to nobody for it"

    assert ctl("", "--save") == (0, f"{made}{synchronised}saved in {file}\n", "")
    assert file.read_text() == FROM_NOTHING.format(key=key)
    assert ctl("", "--save") == (0, f"{file} has all that was set\n", "")
    assert reload(daemon) == "nothing has changed\n"
    daemon.stop()
    assert everything(node) == before
    daemon.start()
    daemon.becomes("MASTER", "carp0")
    daemon.logs("pfsync: synchronising on eth2 (sealed)")

    assert ctl("pfsync0 destroy", "--save") == (0, "- pfsync\n", "")
    assert daemon.status()["pfsync"] is None
    status, told, warning = ctl("carp0 destroy", "--save")
    assert (status, told) == (0, "- virtual host carp0 (vhid 7 on eth1): 192.0.2.1/24\n")
    assert "no virtual host is configured" in warning
    assert file.read_text().strip() == ""
    assert "nothing has changed" in reload(daemon)
    assert summary(daemon) == NOTHING
    assert "hush" not in "".join(node.logs().values())
    assert daemon.stop() == 0
    assert everything(node) == before


FROM_NOTHING = """\
[carp.carp0]
vhid = 7
interface = "eth1"
password = "hush,hush"
advbase = 0
advskew = 12
addresses = ["192.0.2.1/24"]

[pfsync]
syncdev = "eth2"
syncpeer = ["198.51.100.3"]
maxupd = 64
secret_file = "{key}"
"""


NOTHING = "a: no virtual host is configured\n"


def idle(node: Node, *tables: str) -> Carpd:
    """A daemon that says that it has nothing to do."""
    daemon = Carpd(node, *tables)
    wait_until(lambda: summary(daemon) == NOTHING, LIMIT_NS, "an answer")
    return daemon


def summary(daemon: Carpd) -> str:
    return carpctl("status", "--socket", daemon.socket).stdout


def reload(daemon: Carpd) -> str:
    done = carpctl("reload", "--socket", daemon.socket)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pfsync_alone(lab: Lab) -> None:
    """It may come first, and ends by itself; who is master of nothing is told that his connections are not told of."""
    node = lab.node("a")
    lab.cable(node, "eth1", lab.switch("one"), "192.0.2.2/24")
    node.sysctl(netfilter__nf_conntrack_events=0)
    daemon = idle(node, "# nothing yet\n")
    status, told, warning = ifconfig(daemon)(
        "pfsync0 create syncdev eth1 secret hush,hush,hush,hush", "--save", "--json"
    )
    assert status == 0
    assert json.loads(told)["saved"]["plan"][0]["text"] == "pfsync on eth1 (sealed)"
    assert "tells its peers of no connection" in json.loads(told)["problems"][0]
    assert "hush" not in told + warning + daemon.log()
    daemon.logs("pfsync: synchronising on eth1 (sealed)")
    assert daemon.status()["pfsync"]["carrying"] is False
    daemon.stop()
    daemon.start()
    daemon.logs("tells its peers of no connection")
    daemon.logs("pfsync: synchronising on eth1 (sealed)")
    assert ifconfig(daemon)("pfsync0 down")[:2] == (0, "- pfsync\n")
    assert ifconfig(daemon)("pfsync0")[1].startswith("pfsync0: flags=0<>\n")
    assert ifconfig(daemon)("pfsync0 up")[:2] == (0, "+ pfsync on eth1 (sealed)\n")
    assert daemon.stop() == 0
    assert node.run(("cat", "/proc/sys/net/netfilter/nf_conntrack_events")) == "0\n"


def test_save_keeps_what_is_written(host: Carpd, ctl: Ctl) -> None:
    """What was set is saved, all or the words that are said; what somebody has edited in the meantime stays."""
    file = host.node.directory / "carpd.toml"
    file.write_text("# by hand\n" + file.read_text() + "\n# the end\n")
    assert ctl("lan advskew 33", "--save") == (0, "~ lan: advskew 12 -> 33\n", "")
    text = file.read_text()
    assert text.startswith("# by hand\n")
    assert "advskew = 33" in text
    assert text.endswith("# the end\n")
    assert file.stat().st_mode & 0o777 == 0o600

    assert ctl("carp1 create vhid 9 carpdev eth2 pass x advbase 0 advskew 9 198.51.100.1/24")[0] == 0
    assert ctl("lan group edge", "--save") == (
        0,
        "~ lan: group carp -> edge\n",
        "carpctl: not saved: what was set of carp1 before; carpctl ifconfig --save saves all\n",
    )
    assert "carp1" not in file.read_text()
    status, told, line = ctl("carp1 advskew 8", "--save")
    assert (status, told) == (8, "~ carp1: advskew 9 -> 8\n")
    assert line == (
        "carpctl: nothing was saved: it makes no sense without what was set of carp1 before: carpctl ifconfig --save "
        "saves all\n"
    )
    assert ctl("lan state master", "--save") == (
        0,
        "",
        "carpctl: state and carpdemote are not saved: they are for now\n",
    )

    file.write_text(file.read_text().replace("advskew = 33", "advskew = 33  # mine\npreempt = true"))
    added = "+ virtual host carp1 (vhid 9 on eth2): 198.51.100.1/24\n"
    assert ctl("", "--save") == (0, f"{added}saved in {file}\n", "")
    assert "advskew = 33  # mine\npreempt = true\n" in file.read_text()
    assert ctl("carp1 destroy")[0] == 0
    removed = "- virtual host carp1 (vhid 9 on eth2): 198.51.100.1/24\n"
    assert ctl("", "--save") == (0, f"{removed}saved in {file}\n", "")
    assert ctl("carp1 create vhid 9 carpdev eth2 pass x 198.51.100.1/24", "--save")[0] == 0
    host.stop()
    host.start()
    host.becomes("MASTER", "lan")
    assert (host.host("lan")["advskew"], host.host("lan")["preempt"], host.host("lan")["group"]) == (33, True, "edge")
    assert host.host("carp1")["vhid"] == 9


def test_edited_by_hand(host: Carpd, ctl: Ctl) -> None:
    """What somebody wrote where words set something is not overwritten unseen; a save that failed is no such edit."""
    file = host.node.directory / "carpd.toml"
    by_hand = file.read_text().replace('"192.0.2.1/24"]', '"192.0.2.1/24", "192.0.2.40/24"]')
    file.write_text(by_hand)
    status, told, line = ctl("lan 192.0.2.41/24 alias", "--save")
    assert (status, told.count("\n")) == (8, 1)
    assert line == (
        f"carpctl: nothing was saved: {file} was edited after it was read, at carp.lan.addresses: say carpctl reload, "
        "which reads that, and then the words again\n"
    )
    assert file.read_text() == by_hand
    assert ctl("lan advskew 9", "--save")[0] == 0, "elsewhere"
    assert "advskew = 9" in file.read_text()
    assert carpctl("reload", "--socket", host.socket).returncode == 0
    assert ctl("lan 192.0.2.41/24 alias", "--save")[0] == 0
    assert '["192.0.2.1/24", "192.0.2.40/24", "192.0.2.41/24"]' in file.read_text()

    for advskew in (10, 11):
        assert ctl(f"lan advskew {advskew}")[0] == 0
        client.request(host.socket, "ifconfig_save")  # and whoever asked could not write it
    assert ctl("lan advskew 13", "--save") == (0, "~ lan: advskew 11 -> 13\n", "")
    assert ctl("", "--save") == (0, f"{file} has all that was set\n", "")
    assert "advskew = 13" in file.read_text()


def test_several_at_a_time(host: Carpd, ctl: Ctl) -> None:
    """None undoes another, nor in the file."""
    lines = [f"lan 192.0.2.{number}/24 alias" for number in range(20, 24)]
    with ThreadPoolExecutor() as pool:
        assert [done[0] for done in pool.map(lambda line: ctl(line, "--save"), lines)] == [0] * 4
    all_of_them = {"192.0.2.1/24", *(line.split()[1] for line in lines)}
    assert {*host.host()["addresses"]} == all_of_them
    file = tomllib.loads((host.node.directory / "carpd.toml").read_text())
    assert {*file["carp"]["lan"]["addresses"]} == all_of_them


def test_an_order_that_is_refused(segment: Segment) -> None:
    """Keys are set all the same, told and saved, and the exit status says that there is more to it."""
    host, other = (
        Carpd(segment[name].node, virtual_host(addresses=["192.0.2.200/24"], preempt=True, advbase=0, advskew=advskew))
        for name, advskew in (("a", 12), ("b", 24))
    )
    host.becomes("MASTER")
    other.becomes("BACKUP")
    other.hears_a_master()
    ctl = ifconfig(host)
    status, told, line = ctl("lan advskew 14 state backup", "--save")
    assert (status, told) == (8, "~ lan: advskew 12 -> 14\n")
    assert line.startswith(f"carpctl: lan is MASTER again: it preempts, better placed than {segment['b'].ipv4}")
    assert "advskew = 14" in (host.node.directory / "carpd.toml").read_text()
    status, told, _ = ctl("lan advskew 15 state backup", "--json")
    assert (status, len(json.loads(told)["refused"])) == (8, 1)
    assert ctl("lan state backup")[:2] == (8, "")


def test_beside_dotted_keys(host: Carpd, ctl: Ctl) -> None:
    file = host.node.directory / "carpd.toml"
    file.write_text("".join(f"carp.lan.{line}\n" for line in file.read_text().splitlines()[1:]))
    assert carpctl("reload", "--socket", host.socket).returncode == 0
    assert ctl("carp1 create vhid 30 carpdev eth2 pass x 198.51.100.1/24", "--save")[0] == 0
    assert "\n\n[carp.carp1]\nvhid = 30\n" in file.read_text()
    assert carpctl("reload", "--socket", host.socket).stdout == "nothing has changed\n"


def test_what_can_not_be_saved(host: Carpd, ctl: Ctl) -> None:
    """The file stays as it is, what was set holds, and a line says why; a secret is for no file that others read."""
    file = host.node.directory / "carpd.toml"
    secret = "pfsync0 create syncdev eth2 secret hush,hush,hush,hush"
    file.chmod(0o644)
    before = file.read_text()
    status, told, lines = ctl(secret, "--save")
    assert (status, told) == (3, "+ pfsync on eth2 (sealed)\n")
    assert "pfsync.secret: others can read this file: take that permission from them (chmod o-r)" in lines
    assert file.read_text() == before
    file.write_text(before + "\n[carp.wan\n")
    status, told, lines = ctl("", "--save")
    assert (status, told) == (3, "")
    assert "error: no valid TOML" in lines
    file.unlink()
    status, told, lines = ctl("", "--save")
    assert (status, told) == (3, "")
    assert "can't be read: No such file or directory" in lines
    assert ctl("pfsync0")[1].startswith("pfsync0: flags=")


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
