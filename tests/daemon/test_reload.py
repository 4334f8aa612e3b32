"""The configuration changes while everything goes on: as a whole or not at all, and back if it was no good."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from carpd.control import client
from carpd.control.protocol import ControlError, Failure
from carpd.lab.firewalls import LAN_GATEWAYS, SERVER, WAN_GATEWAYS, FirewallNetwork
from carpd.lab.nodes import Node
from carpd.lab.topology import Lab
from carpd.lab.traffic import Probe
from carpd.lab.waiting import wait_until
from carpd.units import MILLISECOND
from tests.daemon.carpd import FAST, LIMIT_NS, PASSWORD, SLOWER, Carpd, served, virtual_host
from tests.daemon.pfsync import SECRET, SyncNode, are_equal, broken, members, pfsync, recovered, turbulence
from tests.daemon.segment import ADDRESS4, ADDRESS6, ADDRESSES, Segment, addresses
from tests.daemon.sharing import SHARED, SharedSegment, sharing_host
from tests.daemon.test_pfsync_failover import KINDS, RULES
from tests.daemon.test_processes import election_of, everything
from tests.daemon.test_sharing import all_are_served, questions
from tests.daemon.test_status import carpctl
from tests.daemon.unprivileged import NOBODY, run_as_nobody
from tests.linux.firewall_pair import FirewallPair

PATIENT: dict[str, Any] = {"advbase": 1}
"""A master-down time of three seconds: long enough for an operator to change one node after the other."""


def lost(probe: Probe, *names: str) -> dict[str, int]:
    """Of these targets the probes that were never answered, although later ones were: they come in order."""
    found = {}
    for name in names:
        received = list(probe[name].received)
        answered = [number for number, time_ns in enumerate(received) if time_ns]
        found[name] = sum(not time_ns for time_ns in received[answered[0] : answered[-1]])
    return {name: number for name, number in found.items() if number}


@contextmanager
def probing(node: Node, **targets: str) -> Iterator[Probe]:
    """A thousand times a second."""
    probe = Probe(node, targets, interval_ns=MILLISECOND)
    try:
        yield probe
    finally:
        probe.stop()


def gate(node: Node, interface: str) -> str:
    """What the kernel has of an interface's lease gate; nothing if there is none."""
    tables = node.run(["nft", "list", "tables", "netdev"])
    if f"carpd_{interface}\n" not in tables + "\n":
        return ""
    return node.run(["nft", "list", "table", "netdev", f"carpd_{interface}"])


def guarded(node: Node, interface: str) -> set[int]:
    """The vhids that a gate knows."""
    return {int(vhid) for vhid in re.findall(r"set live_(\d+)", gate(node, interface))}


def changes_of_state(daemon: Carpd) -> list[str]:
    """Every one that it has logged."""
    return [line.partition("INFO: ")[2] for line in daemon.log().splitlines() if " -> " in line and "vhid" in line]


# What stays goes on


LAN = [f"{LAN_GATEWAYS[0]}/24", f"{LAN_GATEWAYS[1]}/64"]
WAN = [f"{WAN_GATEWAYS[0]}/24", f"{WAN_GATEWAYS[1]}/64"]
MORE, LEAVING4, COMING4 = "192.0.2.99", "192.0.2.50", "10.0.0.9"
STAYING = {
    "server4": SERVER[0],
    "server6": SERVER[1],
    "lan4": LAN_GATEWAYS[0],
    "lan6": LAN_GATEWAYS[1],
}


def test_added_changed_and_removed_under_traffic(lab: Lab) -> None:
    """Both nodes are changed and changed back; not one probe is lost of what stays, and nothing is left in the end."""
    common = {"preempt": True, **PATIENT}

    def table(name: str, interface: str, vhid: int, addresses: list[str]) -> str:
        host = virtual_host(name, interface=interface, vhid=vhid, addresses=addresses, **common)
        return f"{host}[node.fw-b.carp.{name}]\nadvskew = 100\n"

    wan = table("wan", "eth2", 2, WAN)
    leaving = table("leaving", "eth1", 5, [f"{LEAVING4}/24"])
    coming = virtual_host("coming", interface="eth3", vhid=3, addresses=[f"{COMING4}/24"], **FAST)
    before = [table("lan", "eth1", 1, LAN), wan, leaving]
    after = [table("lan", "eth1", 1, [*LAN, f"{MORE}/24"]), wan]

    network = FirewallNetwork(lab)
    untouched = everything(network.a.node)
    a = Carpd(network.a.node, *before)
    a.becomes("MASTER")
    b = Carpd(network.b.node, *before)
    b.becomes("BACKUP")
    with probing(network.client, **STAYING, more=MORE, leaving=LEAVING4) as probe:
        b.reload(*after, leaving)
        assert a.reload(*after, coming) == [
            f"- virtual host leaving (vhid 5 on eth1): {LEAVING4}/24",
            f"~ lan: address added {MORE}/24: the other nodes need it, too",
            f"+ virtual host coming (vhid 3 on eth3): {COMING4}/24",
        ]
        a.becomes("MASTER")
        b.becomes("MASTER", "leaving")
        served(probe)
        assert a.states().keys() == {"lan", "wan", "coming"}
        assert b.states() == {"lan": "BACKUP", "wan": "BACKUP", "leaving": "MASTER"}
        assert (guarded(a.node, "eth1"), guarded(a.node, "eth3")) == ({1}, {3})
        links = a.node.run(["ip", "link"])
        assert "carp-coming@eth3" in links
        assert "carp-leaving" not in links
        assert lost(probe, *STAYING) == {}

        b.reload(*before)
        a.reload(*before)
        a.becomes("MASTER")
        b.becomes("BACKUP")
        wait_until(lambda: f"{MORE}/32" not in addresses(a.node), LIMIT_NS, "the address is given up")
        assert (guarded(a.node, "eth1"), gate(a.node, "eth3")) == ({1, 5}, "")
        assert "somebody" not in a.log()
        assert lost(probe, *STAYING) == {}
    assert [line for line in changes_of_state(a) if line.startswith(("lan", "wan"))] == [
        f"{name}: {change}"
        for change in ("INIT -> BACKUP (initialization complete)", "BACKUP -> MASTER (master timed out)")
        for name in ("lan (vhid 1 on eth1)", "wan (vhid 2 on eth2)")
    ]
    assert a.stop() == 0
    assert everything(a.node) == untouched


QUICK: dict[str, Any] = {"advbase": 0, "advskew": 30}
LONG: dict[str, Any] = {"advbase": 1}
"""Advertisements every 0.12 s with a lease of 0.35 s, and every second with one of 3 s."""


def test_leases_follow_the_interval(segment: Segment) -> None:
    """Longer before advertisements come more rarely, shorter after they come more often: a master is never silent."""
    a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES, **QUICK))
    a.becomes("MASTER")
    with probing(segment.client.node, ipv4=ADDRESS4, ipv6=ADDRESS6) as probe:
        for timers, lease in ((LONG, "2s996ms"), (QUICK, "352ms")):
            a.reload(virtual_host(addresses=ADDRESSES, **timers))
            assert f"update @live_7 {{ oif timeout {lease} }}" in gate(a.node, "eth1")
            sent = a.host()["counters"]["opackets"]
            wait_until(lambda sent=sent: a.host()["counters"]["opackets"] >= sent + 3, LIMIT_NS, "advertisements")  # type: ignore[misc]
        served(probe)
        assert lost(probe, "ipv4", "ipv6") == {}
    assert a.states() == {"lan": "MASTER"}


OTHER = {"moving": "192.0.2.51", "real": "192.0.2.52", "renamed": "192.0.2.53", "given": "192.0.2.54"}
ELSEWHERE = "198.51.100.51"


def test_what_is_taken_anew(lab: Lab) -> None:
    """Another interface, MAC, name, or owner of an address: it comes back, and the rest goes on."""
    network = FirewallNetwork(lab)
    a = network.a.node

    def tables(*addresses: str, real: str, renamed: str, owner: str, **moving: Any) -> list[str]:
        return [
            virtual_host("lan", vhid=1, addresses=[*LAN, *addresses], **FAST),
            virtual_host("moving", vhid=2, **{"addresses": [f"{OTHER['moving']}/24"], **moving}, **FAST),
            virtual_host("real", vhid=3, addresses=[f"{OTHER['real']}/24"], mac=real, **FAST),
            virtual_host(renamed, vhid=4, addresses=[f"{OTHER['renamed']}/24"], **FAST),
            virtual_host("owner", vhid=5, addresses=["192.0.2.55/24", *([owner] if owner else [])], **FAST),
        ]

    given = f"{OTHER['given']}/24"
    before = tables(real="virtual", renamed="old", owner=given)
    after = tables(given, real="real", renamed="new", owner="", interface="eth2", addresses=[f"{ELSEWHERE}/24"])
    daemon = Carpd(a, *before)
    daemon.becomes("MASTER")
    with (
        probing(network.client, lan4=LAN_GATEWAYS[0], lan6=LAN_GATEWAYS[1], **OTHER) as probe,
        probing(network.server, moving=ELSEWHERE) as outside,
    ):
        served(probe)
        plan = daemon.reload(*after)
        assert "~ moving: interface eth1 -> eth2: it is given up and taken anew" in plan
        assert "~ real: mac virtual -> real: it is given up and taken anew" in plan
        daemon.becomes("MASTER")
        served(outside)
        now = time.monotonic_ns()
        for name in ("real", "renamed", "given"):
            wait_until(lambda name=name: probe[name].answered_since(now), LIMIT_NS, name)  # type: ignore[misc]
        assert (guarded(a, "eth1"), guarded(a, "eth2")) == ({1, 3, 4, 5}, {2})
        links = a.run(["ip", "link"])
        assert "carp-moving@eth2" in links
        assert "carp-new@eth1" in links
        assert not re.search("carp-(real|old)", links)
        assert OTHER["moving"] not in " ".join(addresses(a))

        daemon.reload(*before)
        daemon.becomes("MASTER")
        served(probe)
        assert gate(a, "eth2") == ""
        assert lost(probe, "lan4", "lan6") == {}


# What serves and watches


def test_hooks_metrics_and_who_may_ask(segment: Segment) -> None:
    """They come with a reload, which a new hook is told of already, and go with the next."""
    node = segment["a"].node
    lan = virtual_host(addresses=ADDRESSES, **FAST)
    a = Carpd(node, lan)
    a.becomes("MASTER")
    nobody = run_as_nobody(node.directory / "nobody", "carpd.cli.carpctl")
    node.directory.chmod(0o755)

    def asks() -> int:
        return carpctl("status", "--socket", a.socket, program=nobody).returncode

    assert asks() == Failure.FORBIDDEN.value
    told, page = node.directory / "told", node.directory / "metrics.sock"
    hook = f'[hook.note]\ncommand = ["/bin/sh", "-c", "cat >> {told}"]\nevents = ["reload"]\n'
    metrics = f'[metrics]\nlisten = "{page}"\n'
    control = f'[control]\nread_group = "{grp.getgrgid(NOBODY).gr_name}"\n'
    assert a.reload(lan, control, metrics, hook) == [
        f"~ control: read_group none -> {grp.getgrgid(NOBODY).gr_name}",
        f"+ metrics on {page}",
        f"+ hook note: /bin/sh -c cat >> {told}",
    ]
    wait_until(lambda: told.exists() and '"phase": "end"' in told.read_text(), LIMIT_NS, "the hook is run")
    wait_until(page.exists, LIMIT_NS, "a page of metrics")
    assert asks() == 0
    a.reload(lan, hook.replace("note", "other"))
    assert asks() == Failure.FORBIDDEN.value
    wait_until(lambda: not page.exists(), LIMIT_NS, "no page any more")
    assert a.states() == {"lan": "MASTER"}


# Nodes that share


def test_nodes_that_share(lab: Lab) -> None:
    """Their preferences change, and with them the leases; then they are one node more. All is served, by one each."""
    segment = SharedSegment(lab, "ip", 2)
    with closing(segment):
        segment.settle()
        with questions(segment):
            for number, daemon in enumerate(segment.daemons):
                table = sharing_host("ip", segment.vhids, number)
                plan = daemon.reload(table.replace("= 12", "= 40").replace("= 18", "= 60"))
                assert [line.partition(": ")[0] for line in plan if "advskew" in line] == ["~ lan:1", "~ lan:2"]
            segment.settle()
        all_are_served(segment)
        segment.vhids = (1, 2, 3)
        for number, daemon in enumerate(segment.daemons):
            nodes = "~ lan: nodes 1, 2, balancing ip -> nodes 1, 2, 3, balancing ip: it is given up and taken anew"
            assert any(line.startswith(nodes) for line in daemon.reload(sharing_host("ip", segment.vhids, number)))
        for daemon in segment.daemons:
            wait_until(lambda d=daemon: len(d.states()) == 3, LIMIT_NS, "three nodes")  # type: ignore[misc]
        segment.all_are_open()
        all_are_served(segment)
        assert all(not host["findings"] for daemon in segment.daemons for host in daemon.hosts())
        for daemon in segment.daemons:
            daemon.reload(virtual_host("lan", vhid=1, addresses=[f"{SHARED[0]}/16"], **FAST))
            assert daemon.stop() == 0
            assert daemon.node.run(["nft", "list", "ruleset"]) == ""


# All or nothing


def status_without_time(daemon: Carpd) -> list[Any]:
    """What a reload could change."""
    return [(host["name"], host["state"], host["advskew"], host["addresses"]) for host in daemon.hosts()]


def test_a_wrong_file_changes_nothing_and_a_plan_neither(segment: Segment) -> None:
    """Every mistake is told, to carpctl and to the log; and what carpctl says otherwise."""
    good = virtual_host(addresses=ADDRESSES, **FAST)
    a = Carpd(segment["a"].node, good)
    a.becomes("MASTER")
    before = status_without_time(a)
    a.configure(virtual_host(addresses=ADDRESSES, advskew=300), virtual_host("wan", vhid=7, addresses=["here"]))

    wrong = carpctl("reload", "--socket", a.socket)
    assert (wrong.returncode, wrong.stdout) == (3, "")
    *mistakes, last = wrong.stderr.splitlines()
    assert last == "carpctl: nothing was changed: the configuration is wrong"
    assert "carp.lan.advskew = 300" in wrong.stderr
    assert 'carp.wan.addresses = "here"' in wrong.stderr
    assert len(mistakes) >= 2
    assert all(f"ERROR: {line}" in a.log() for line in mistakes)
    document = json.loads(carpctl("reload", "--json", "--socket", a.socket).stdout)
    assert (document["applied"], document["problems"]) == (False, mistakes)
    a.process.signal(signal.SIGHUP)
    a.logs("SIGHUP: nothing was changed: the configuration is wrong")
    assert status_without_time(a) == before

    a.configure(virtual_host(addresses=ADDRESSES[:1], **SLOWER))
    planned = carpctl("reload", "--plan", "--socket", a.socket)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert planned.stdout.splitlines() == [
        f"~ lan: address removed {ADDRESSES[1]}: the other nodes need it, too",
        f"~ lan: advskew {FAST['advskew']} -> {SLOWER['advskew']}",
        "2 changes, 1 of which gives addresses up; nothing is changed yet",
    ]
    assert json.loads(carpctl("reload", "--plan", "--json", "--socket", a.socket).stdout)["applied"] is False
    assert status_without_time(a) == before

    a.process.signal(signal.SIGHUP)
    a.logs("SIGHUP: 2 changes")
    assert a.host()["addresses"] == [ADDRESSES[0]]
    wait_until(lambda: f"{ADDRESS6}/128" not in addresses(a.node), LIMIT_NS, "the address is given up")
    same = carpctl("reload", "--socket", a.socket)
    assert (same.returncode, same.stdout) == (0, "nothing has changed\n")
    usage = carpctl("reload", "--plan", "--confirm", "60")
    assert (usage.returncode, usage.stdout) == (2, "")
    assert a.states() == {"lan": "MASTER"}


def test_the_kernel_refuses(segment: Segment) -> None:
    """A gate that can't be made: nothing was changed."""
    a = Carpd(segment["a"].node, virtual_host(addresses=ADDRESSES, **FAST))
    a.becomes("MASTER")
    before = status_without_time(a)
    # A verdict map that jumps to a chain with a hook can't be: nft refuses the whole transaction.
    chain = "chain in_7 { type filter hook ingress device eth1 priority 0; policy accept; }"
    a.node.run(["nft", "-f", "-"], stdin=f"delete table netdev carpd_eth1\ntable netdev carpd_eth1 {{\n{chain}\n}}\n")
    more = virtual_host(addresses=[*ADDRESSES, "192.0.2.99/24"], **FAST)
    with pytest.raises(ControlError, match="nothing was changed: install the lease gate of eth1") as refused:
        a.reload(more)
    assert refused.value.failure is Failure.REFUSED
    assert status_without_time(a) == before
    a.node.run(["nft", "delete", "table", "netdev", "carpd_eth1"])
    a.logs("making it anew")
    a.becomes("MASTER")
    a.reload(more)
    assert "192.0.2.99/32" in addresses(a.node)


# And back


def test_confirmed_or_taken_back(segment: Segment) -> None:
    fast, slower = (virtual_host(addresses=ADDRESSES, **timers) for timers in (FAST, SLOWER))
    a = Carpd(segment["a"].node, fast)
    a.becomes("MASTER")
    a.configure(slower)
    tried = carpctl("reload", "--confirm", "1", "--socket", a.socket)
    assert tried.stdout.splitlines()[-1] == "1 change; taken back in 1 s unless you say: carpctl confirm"
    a.logs("reload: nobody has confirmed it: taking the last change back, which is still in the file")
    wait_until(lambda: a.host()["advskew"] == FAST["advskew"], LIMIT_NS, "the old timers")
    late = carpctl("confirm", "--socket", a.socket)
    assert (late.returncode, late.stdout) == (8, "")
    assert "nothing waits for a confirmation" in late.stderr

    assert carpctl("reload", "--confirm", "1h", "--socket", a.socket).returncode == 0
    assert 3000 < a.status()["unconfirmed_s"] <= 3600
    second = carpctl("reload", "--socket", a.socket)
    assert (second.returncode, second.stdout) == (8, "")
    assert "the last change waits for `carpctl confirm`" in second.stderr
    confirmed = carpctl("confirm", "--socket", a.socket)
    assert (confirmed.returncode, confirmed.stdout) == (0, "confirmed\n")
    assert a.status()["unconfirmed_s"] is None
    assert a.host()["advskew"] == SLOWER["advskew"]
    assert carpctl("reload", "--socket", a.socket).stdout == "nothing has changed\n"

    a.reload(fast, confirm_s=60)
    a.process.signal(signal.SIGKILL)
    a.process.wait()
    a.start()
    a.becomes("MASTER")
    assert "WARNING: this configuration was tried by reload --confirm, and never confirmed: carpctl confirm" in a.log()
    assert "a: MASTER of lan; the configuration was never confirmed" in carpctl("status", "--socket", a.socket).stdout
    assert carpctl("confirm", "--socket", a.socket).returncode == 0
    assert a.status()["never_confirmed"] is False
    a.stop()
    a.start()
    a.becomes("MASTER")
    assert "never confirmed" not in a.log()


def test_a_file_that_was_emptied(segment: Segment) -> None:
    """By a full disk or an editor, while virtual hosts run: who means it leaves a comment."""
    table = virtual_host(addresses=ADDRESSES, **FAST)
    a = Carpd(segment["a"].node, table)
    a.becomes("MASTER")
    a.configure(" \n\t\n")
    file = segment["a"].node.directory / "carpd.toml"
    line = f"{file} is empty: if no virtual host is to be left, write a comment into it"
    for options in ((), ("--plan",)):
        refused = carpctl("reload", *options, "--socket", a.socket)
        assert (refused.returncode, refused.stdout) == (8, "")
        assert refused.stderr == f"carpctl: nothing was changed: {line}\n"
    a.process.signal(signal.SIGHUP)
    a.logs(f"SIGHUP: nothing was changed: {line}")
    assert a.states() == {"lan": "MASTER"}
    assert len(a.reload("# nothing any more\n")) == 1
    a.configure("")
    assert carpctl("reload", "--socket", a.socket).stdout == "nothing has changed\n"


def test_a_backup_goes_back_before_it_becomes_a_second_master(segment: Segment) -> None:
    """Its password was changed, the master's not. When the master's is, it stays."""

    def tables(password: str = PASSWORD) -> list[str]:
        return [virtual_host(addresses=ADDRESSES, password=password, **PATIENT), "[node.b.carp.lan]\nadvskew = 100\n"]

    a = Carpd(segment["a"].node, *tables())
    a.becomes("MASTER")
    b = Carpd(segment["b"].node, *tables())
    b.becomes("BACKUP")
    b.hears_a_master()
    assert b.reload(*tables("another"), confirm_s=60) == ["~ lan: password changed: the other nodes need it, too"]
    b.logs(f"lan: {segment['a'].ipv4} has its former vhid, password or addresses: change it there, too")
    b.logs(f"reload: lan: {segment['a'].ipv4} refuses us: taking the last change back")
    wait_until(lambda: b.status()["unconfirmed_s"] is None and b.host()["master"], LIMIT_NS, "b believes a again")
    assert b.states() == {"lan": "BACKUP"}

    b.reload(*tables("another"), confirm_s=60)
    a.reload(*tables("another"), confirm_s=60)
    heard = b.host()["counters"]["ipackets"]
    wait_until(lambda: b.host()["counters"]["ipackets"] > heard + 3, LIMIT_NS, "more than a master-down time")
    for daemon in (a, b):
        client.request(daemon.socket, "confirm")
    assert changes_of_state(b) == ["lan (vhid 7 on eth1): INIT -> BACKUP (initialization complete)"]
    assert [line.rpartition(": ")[2] for line in changes_of_state(a)] == [
        "INIT -> BACKUP (initialization complete)",
        "BACKUP -> MASTER (master timed out)",
    ]


@pytest.mark.parametrize("change", [{"password": "another"}, {"addresses": ADDRESSES[:1]}, {"vhid": 8}], ids=str)
def test_a_master_goes_back_when_its_peer_takes_over(segment: Segment, change: dict[str, Any]) -> None:
    """The backup, which was not changed, does not believe it any more: there are two, until the change is undone."""

    def table(timers: dict[str, Any], **changed: Any) -> str:
        return virtual_host(**{"addresses": ADDRESSES, "preempt": True, **timers, **changed})

    a = Carpd(segment["a"].node, table(FAST))
    a.becomes("MASTER")
    b = Carpd(segment["b"].node, table(SLOWER))
    b.becomes("BACKUP")
    b.hears_a_master()
    a.reload(table(FAST, **change), confirm_s=60)
    a.logs(f"reload: lan: {segment['b'].ipv4} refuses us: taking the last change back")
    wait_until(lambda: a.status()["unconfirmed_s"] is None, LIMIT_NS, "a goes back")
    b.becomes("BACKUP")
    a.becomes("MASTER")
    assert a.host()["vhid"] == 7
    assert a.host()["addresses"] == list(ADDRESSES)


# Trouble in the middle


def test_the_election_process_is_killed_in_the_middle(segment: Segment) -> None:
    """It hangs when it is told of the change, and is killed. Another one begins with the new configuration."""
    node = segment["a"].node
    old = virtual_host("old", vhid=8, addresses=["192.0.2.77/24"], **FAST)
    new = virtual_host("new", vhid=9, addresses=["192.0.2.78/24"], **FAST)
    a = Carpd(node, virtual_host(addresses=ADDRESSES, **FAST), old)
    a.becomes("MASTER")
    election = int(election_of(a.process.pid).name)
    os.kill(election, signal.SIGSTOP)
    plans: list[list[str]] = []
    more = "192.0.2.79"

    def reload() -> None:
        plans.append(a.reload(virtual_host(addresses=[*ADDRESSES, f"{more}/24"], **SLOWER), new))

    thread = threading.Thread(target=reload)
    thread.start()
    a.logs("reload: + virtual host new")
    os.kill(election, signal.SIGKILL)
    thread.join()
    assert len(plans) == 1
    a.becomes("MASTER")
    assert a.states().keys() == {"lan", "new"}
    assert a.host()["advskew"] == SLOWER["advskew"]
    assert addresses(node) >= {f"{ADDRESS4}/32", f"{more}/32", "192.0.2.78/32"}
    assert "192.0.2.77/32" not in addresses(node)
    assert guarded(node, "eth1") == {7, 9}
    assert "carp-old" not in node.run(["ip", "link"])
    with probing(segment.client.node, lan=ADDRESS4, more=more, new="192.0.2.78") as probe:
        served(probe)
    assert a.stop() == 0


def test_gates_are_flushed_while_it_changes(segment: Segment) -> None:
    """What somebody undoes in the middle is made anew at the end, as it shall be then."""
    node = segment["a"].node
    a = Carpd(node, virtual_host(addresses=ADDRESSES, **FAST))
    a.becomes("MASTER")
    election = int(election_of(a.process.pid).name)
    os.kill(election, signal.SIGSTOP)
    thread = threading.Thread(target=lambda: a.reload(virtual_host(addresses=ADDRESSES[:1], **FAST)))
    thread.start()
    a.logs("reload: ~ lan: address removed")
    node.run(["nft", "flush", "ruleset"])
    a.logs("making it anew")
    os.kill(election, signal.SIGCONT)
    thread.join()
    a.becomes("MASTER")
    wait_until(lambda: guarded(node, "eth1") == {7}, LIMIT_NS, "a new gate")
    assert ADDRESS6 not in gate(node, "eth1")
    with probing(segment.client.node, lan=ADDRESS4) as probe:
        served(probe)


# State synchronisation


def test_pfsync_is_added_changed_and_removed(lab: Lab) -> None:
    """Nobody gives way for it, no connection breaks, and each time the states are the same on both in the end."""
    pair = FirewallPair(lab)
    pair.same_rules(**RULES)
    carp = [
        [
            virtual_host("lan", interface="eth1", vhid=1, addresses=LAN, group="edge", preempt=True, **timers),
            virtual_host("wan", interface="eth2", vhid=2, addresses=WAN, group="edge", preempt=True, **timers),
        ]
        for timers in (FAST, SLOWER)
    ]
    a, b = (SyncNode(firewall.node, *tables) for firewall, tables in zip(pair.firewalls, carp, strict=True))
    for daemon, state in ((a, "MASTER"), (b, "BACKUP")):
        daemon.has_begun()
        daemon.becomes(state)
    for daemon, tables in zip((a, b), carp, strict=True):
        assert daemon.reload(*tables) == ["- pfsync"]
        assert daemon.status()["pfsync"] is None
    so_far = [changes_of_state(daemon) for daemon in (a, b)]
    demoted = a.log().count("demoted")

    with ExitStack() as stack:
        talks = {
            f"{kind} {server}": stack.enter_context(KINDS[kind](pair.client, pair.server, server))
            for server in SERVER
            for kind in ("tcp", "udp")
        }
        for talk in talks.values():
            talk.open()
            talk.talk()
        for daemon, tables in zip((a, b), carp, strict=True):
            assert daemon.reload(*tables, pfsync(daemon.node, SECRET)) == ["+ pfsync on eth3 (sealed)"]
        for daemon in (a, b):
            daemon.has_begun()
        are_equal(a.node, b.node)
        assert broken(talks) == []

        child = a.child()
        a.reload(*carp[0], pfsync(a.node, SECRET, carp_demotion_factor=64))
        assert a.child() == child
        a.reload(*carp[0], pfsync(a.node, SECRET, maxupd=64))
        assert a.child() != child
        assert broken(talks) == []
        a.has_begun()
        a.is_covered()
        are_equal(a.node, b.node)

        a.reload(*carp[0], pfsync(a.node, "a secret that the other has not", maxupd=64), confirm_s=60)
        a.logs("reload: pfsync: the peers have other secrets: taking the last change back")
        wait_until(lambda: a.status()["unconfirmed_s"] is None, LIMIT_NS, "the old secret")
        a.has_begun()
        a.is_covered()
        are_equal(a.node, b.node)
        assert broken(talks) == []
        assert a.pfsync()["restarts"] == 0

        assert [changes_of_state(daemon) for daemon in (a, b)] == so_far
        assert a.log().count("demoted") == demoted
        assert a.stop() == 0
        b.becomes("MASTER")
        assert broken(talks) == []


def test_pfsyncd_alone(lab: Lab) -> None:
    """It has the same commands, and the same signal."""
    first, second = members(lab, 2)
    daemon = first.daemon
    child = daemon.child()
    assert daemon.reload(pfsync(first.node, SECRET, maxupd=64)) == [
        "~ pfsync: maxupd 128 -> 64: pfsyncd is restarted, connections stay"
    ]
    assert daemon.child() != child
    daemon.has_begun()
    turbulence(second.node)
    recovered(first, second)
    daemon.configure("[pfsync]\n")
    daemon.process.signal(signal.SIGHUP)
    daemon.logs("SIGHUP: nothing was changed: the configuration is wrong")
    daemon.configure(virtual_host(addresses=ADDRESSES))
    with pytest.raises(ControlError, match=r"there is no \[pfsync\]"):
        client.request(daemon.socket, "reload")
    assert daemon.stop() == 0
