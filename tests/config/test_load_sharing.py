"""Load sharing: what `carpd --check` says about nodes and balancing, and the virtual hosts that come of them."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from carpd.config.model import Balancing, BalancingMode, Config, VirtualHostConfig
from carpd.config.parse import Loaded, load
from carpd.units import SECOND, SKEW


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file yet to be written, with its password beside it."""
    (tmp_path / "password").write_text("xyzzy")
    (tmp_path / "password").chmod(0o640)
    return tmp_path / "carpd.toml"


def read(file: Path, text: str, node: str = "fw-a") -> Loaded:
    file.write_text(text)
    return load(file, node)


def lines(loaded: Loaded, file: Path) -> list[str]:
    """The problems as printed, without the name of the file."""
    return [str(problem).removeprefix(f"{file}:").lstrip() for problem in loaded.problems]


def lan(nodes: str = "nodes = { 1 = 0, 2 = 100 }", *keys: str, preempt: str = "preempt = true") -> str:
    """A good virtual host in lines 1 to 6, the nodes in line 6, and these keys from line 7 on."""
    head = ("[carp.lan]", 'interface = "eth1"', 'addresses = ["192.0.2.1/24"]', 'password_file = "password"')
    return "\n".join([*head, preempt, nodes, *keys, ""])


def hosts(a: str, b: str, *keys: str) -> str:
    """The nodes of fw-a in line 6, these keys from line 7 on, and the nodes of fw-b last."""
    return lan(f"nodes = {a}", *keys, "[node.fw-b.carp.lan]", f"nodes = {b}")


def nodes_of(number: int, first: int = 1) -> str:
    return "nodes = { " + ", ".join(f"{vhid} = {vhid % 2}" for vhid in range(first, first + number)) + " }"


A_NODE = "a node is named by its vhid, 1 to 255, as in { 1 = 0, 2 = 100 }"
NO_NODES = (
    "there are no nodes that would share: set nodes = { 1 = 0, 2 = 100 } instead of vhid and advskew, or remove it"
)
HAS_VHIDS = "nodes has the vhids: remove vhid, or nodes if no load is to be shared"
HAS_ADVSKEWS = "nodes has an advskew for each vhid: remove advskew, or nodes if no load is to be shared"
VIRTUAL_MACS = 'nodes share by virtual MACs: remove mac = "real", or nodes if no load is to be shared'
NO_LINK_LOCAL = (
    "nodes can't share a link-local address: theirs are on the loopback interface, where Linux finds none of another "
    "link; list global ones"
)
NO_PREEMPT = "with nodes, but without preempt, a host that returns does not get its share back: set preempt = true"
NO_TIME = "with advbase 0 and advskew 0 there is no time between advertisements: set advskew to 1 or more"
NO_VHID = "is missing: it is the number of the virtual host on its link, 1 to 255; for load sharing set nodes instead"
SAME_VHIDS = "list the same vhids on every host, each with the advskew of that host"
PREFERRED = (
    "is preferred for every vhid and leaves nothing to the others while it lives: with one advbase, give each host "
    "the smallest advskew for a vhid, such as"
)
ALIKE = "give each its own, the preferred one the smallest"
MODES = 'must be "arp" or "ip" or "ip-stealth" or "ip-unicast"'

WAN = '[carp.wan]\ninterface = "eth1"\naddresses = ["198.51.100.1/24"]\npassword_file = "password"\npreempt = true\n'

PROBLEMS: dict[str, tuple[str, list[str]]] = {
    # what the table below leaves out is right
    "good": (lan(), []),
    "good, with a table": (lan("[carp.lan.nodes]", "1 = 0", "2 = 100"), []),
    "good, two hosts": (hosts("{ 1 = 0, 2 = 100 }", "{ 2 = 0, 1 = 100 }"), []),
    "good, two hosts, the second by a table": (lan() + "[node.fw-b.carp.lan.nodes]\n1 = 100\n2 = 0\n", []),
    "good, nodes by host alone": (
        lan("", "[node.fw-a.carp.lan]", "nodes = { 1 = 0, 2 = 1 }", "[node.fw-b.carp.lan]", "nodes = { 1 = 1, 2 = 0 }"),
        [],
    ),
    "good, three hosts of which one waits": (
        hosts("{ 1 = 0, 2 = 50 }", "{ 1 = 50, 2 = 0 }") + "[node.fw-c.carp.lan]\nnodes = { 1 = 100, 2 = 100 }\n",
        [],
    ),
    **{
        f"good, balancing {mode.value}": (lan("nodes = { 1 = 0, 2 = 1 }", f'balancing = "{mode.value}"'), [])
        for mode in BalancingMode
    },
    "good, peers": (lan("nodes = { 1 = 0, 2 = 1 }", "multicast = false", 'peers = ["192.0.2.3"]'), []),
    "good, a virtual MAC": (lan("nodes = { 1 = 0, 2 = 1 }", 'mac = "virtual"'), []),
    "limits": (lan("nodes = { 1 = 0, 255 = 254 }"), []),
    "32 nodes": (lan(nodes_of(32)), []),
    # the table
    "33 nodes": (lan(nodes_of(33)), ["6: error: carp.lan.nodes = {…}: a virtual host has 2 to 32 nodes, not 33"]),
    "one node": (
        lan("nodes = { 1 = 0 }"),
        ["6: error: carp.lan.nodes = {…}: one node is no sharing: use vhid and advskew"],
    ),
    "no node": (lan("nodes = {}"), ["6: error: carp.lan.nodes = {}: a virtual host has 2 to 32 nodes, not 0"]),
    "nodes is no table": (
        lan("nodes = [1, 2]"),
        ["6: error: carp.lan.nodes = [1, 2]: must be a table from vhid to advskew, { 1 = 0, 2 = 100 }, not an array"],
    ),
    "OpenBSD's form": (
        lan('nodes = "1:0,2:100"'),
        [
            '6: error: carp.lan.nodes = "1:0,2:100": must be a table from vhid to advskew, { 1 = 0, 2 = 100 }, '
            "not a string"
        ],
    ),
    "no vhids": (
        lan("nodes = { 0 = 1, 256 = 2, a = 3, 01 = 4, -1 = 5, '1.0' = 6, \"\\n\" = 7, '²' = 8, 1 = 9 }"),
        [
            f"6: error: carp.lan.nodes.0 = 1: {A_NODE}",
            f"6: error: carp.lan.nodes.256 = 2: {A_NODE}",
            f"6: error: carp.lan.nodes.a = 3: {A_NODE}",
            f"6: error: carp.lan.nodes.01 = 4: {A_NODE}",
            f"6: error: carp.lan.nodes.-1 = 5: {A_NODE}",
            f'6: error: carp.lan.nodes."1.0" = 6: {A_NODE}',
            rf'6: error: carp.lan.nodes."\n" = 7: {A_NODE}',
            rf'6: error: carp.lan.nodes."\u00b2" = 8: {A_NODE}',
        ],
    ),
    "a huge vhid": (
        lan(f"nodes = {{ 1 = 0, {'9' * 5000} = 0 }}"),
        [f"6: error: carp.lan.nodes.{'9' * 5000} = 0: {A_NODE}"],
    ),
    "no advskews": (
        lan('nodes = { 1 = 255, 2 = -1, 3 = true, 4 = "0", 5 = 0.5, 6.1 = 0, 7 = [0] }'),
        [
            "6: error: carp.lan.nodes.1 = 255: advskew is 0 to 254",
            "6: error: carp.lan.nodes.2 = -1: advskew is 0 to 254",
            "6: error: carp.lan.nodes.3 = true: advskew is a whole number, not a boolean",
            '6: error: carp.lan.nodes.4 = "0": advskew is a whole number, not a string',
            "6: error: carp.lan.nodes.5 = 0.5: advskew is a whole number, not a fraction",
            "6: error: carp.lan.nodes.6 = {…}: advskew is a whole number, not a table",
            "6: error: carp.lan.nodes.7 = [0]: advskew is a whole number, not an array",
        ],
    ),
    "one mistake of a table is where it stands": (
        lan("[carp.lan.nodes]", "1 = 0", "2 = 255"),
        ["8: error: carp.lan.nodes.2 = 255: advskew is 0 to 254"],
    ),
    "a vhid twice": (lan("nodes = { 1 = 0, 1 = 1 }"), ["6: error: no valid TOML: Duplicate inline table key '1'"]),
    # balancing
    "an unknown balancing": (
        lan("nodes = { 1 = 0, 2 = 1 }", 'balancing = "none"'),
        [f'7: error: carp.lan.balancing = "none": {MODES}'],
    ),
    "balancing is a boolean": (
        lan("nodes = { 1 = 0, 2 = 1 }", "balancing = true"),
        [f"7: error: carp.lan.balancing = true: {MODES}"],
    ),
    "balancing without nodes": (
        lan("vhid = 1", 'balancing = "ip"'),
        [f'7: error: carp.lan.balancing = "ip": {NO_NODES}'],
    ),
    "balancing, of a node": (
        hosts("{ 1 = 0, 2 = 1 }", '{ 1 = 1, 2 = 0 }\nbalancing = "arp"'),
        ['9: error: node.fw-b.carp.lan.balancing = "arp": is the same on every node: set it in [carp.lan]'],
    ),
    # together with other keys
    "a link-local address": (
        lan().replace("192.0.2.1/24", "fe80::1/64").replace("preempt", "digest_link_local = true\npreempt"),
        [f'3: error: carp.lan.addresses = ["fe80::1/64"]: {NO_LINK_LOCAL}'],
    ),
    "neither vhid nor nodes": (lan(""), [f"1: error: carp.lan.vhid: {NO_VHID}"]),
    "neither vhid nor nodes, on one host": (
        lan("", "[node.fw-b.carp.lan]", "nodes = { 1 = 0, 2 = 1 }"),
        [f"1: error: carp.lan.vhid: {NO_VHID.replace(':', ' on fw-a:', 1)}"],
    ),
    "vhid and nodes": (lan("nodes = { 1 = 0, 2 = 1 }", "vhid = 1"), [f"7: error: carp.lan.vhid = 1: {HAS_VHIDS}"]),
    "vhid, and nodes of a host": (
        lan("vhid = 1", "[node.fw-a.carp.lan]", "nodes = { 1 = 1, 2 = 1 }"),
        [f"8: error: node.fw-a.carp.lan.nodes = {{…}}: {HAS_VHIDS}"],
    ),
    "advskew and nodes": (
        lan("nodes = { 1 = 0, 2 = 1 }", "advskew = 0"),
        [f"7: error: carp.lan.advskew = 0: {HAS_ADVSKEWS}"],
    ),
    "advskew of a host, and nodes": (
        lan("nodes = { 1 = 0, 2 = 1 }", "[node.fw-a.carp.lan]", "advskew = 7"),
        [
            f"6: warning: carp.lan.nodes = {{…}}: fw-a and every other node have one advskew for vhid 1, 0: {ALIKE}",
            f"6: warning: carp.lan.nodes = {{…}}: fw-a and every other node have one advskew for vhid 2, 1: {ALIKE}",
            f"8: error: node.fw-a.carp.lan.advskew = 7: {HAS_ADVSKEWS}",
        ],
    ),
    "mac real and nodes": (
        lan("nodes = { 1 = 0, 2 = 1 }", 'mac = "real"'),
        [f'7: error: carp.lan.mac = "real": {VIRTUAL_MACS}'],
    ),
    "mac real and nodes, of a host": (
        hosts("{ 1 = 0, 2 = 1 }", '{ 1 = 1, 2 = 0 }\nmac = "real"'),
        [f'9: error: node.fw-b.carp.lan.mac = "real": {VIRTUAL_MACS}'],
    ),
    "no preempt": (lan(preempt=""), [f"1: warning: carp.lan: {NO_PREEMPT}"]),
    "preempt false": (lan(preempt="preempt = false"), [f"5: warning: carp.lan.preempt = false: {NO_PREEMPT}"]),
    "preempt false, on one host": (
        hosts("{ 1 = 0, 2 = 1 }", "{ 1 = 1, 2 = 0 }\npreempt = false"),
        [f"9: warning: node.fw-b.carp.lan.preempt = false: {NO_PREEMPT}"],
    ),
    "advbase 0, advskew 0": (
        lan("nodes = { 1 = 1, 2 = 0 }", "advbase = 0"),
        [f"6: error: carp.lan.nodes = {{…}}: {NO_TIME}"],
    ),
    "advbase 0, advskew 0, on one host": (
        hosts("{ 1 = 1, 2 = 2 }", "{ 1 = 2, 2 = 0 }", "advbase = 0"),
        [f"9: error: node.fw-b.carp.lan.nodes = {{…}}: {NO_TIME}"],
    ),
    "advbase 0, a refused advskew": (
        lan("nodes = { 1 = 0, 2 = 255 }", "advbase = 0"),
        ["6: error: carp.lan.nodes.2 = 255: advskew is 0 to 254"],
    ),
    "advbase 0, advskews of 1 and more": (hosts("{ 1 = 1, 2 = 2 }", "{ 1 = 2, 2 = 1 }", "advbase = 0"), []),
    "the name is as short as any": (
        lan().replace("carp.lan", "carp.elevenchars"),
        [
            "1: error: carp.elevenchars: the name of a virtual host has 1 to 10 of the characters A-Z a-z 0-9 _ -: "
            "its device is carp-NAME, and Linux allows that 15 characters"
        ],
    ),
    # vhids on a link
    "a vhid of two virtual hosts": (
        lan() + WAN + "nodes = { 2 = 0, 3 = 100 }\n",
        ["12: error: carp.wan.nodes = {…}: carp.lan has vhid 2 on eth1 too: give each its own"],
    ),
    "a vhid of nodes, and alone": (
        lan() + WAN + "vhid = 2\n",
        ["12: error: carp.wan.vhid = 2: carp.lan has vhid 2 on eth1 too: give each its own"],
    ),
    "a vhid alone, and of nodes": (
        WAN + "vhid = 1\n" + lan(),
        ["12: error: carp.lan.nodes = {…}: carp.wan has vhid 1 on eth1 too: give each its own"],
    ),
    "two vhids of two virtual hosts": (
        lan() + WAN + "nodes = { 1 = 0, 2 = 100 }\n",
        [
            "12: error: carp.wan.nodes = {…}: carp.lan has vhid 1 on eth1 too: give each its own",
            "12: error: carp.wan.nodes = {…}: carp.lan has vhid 2 on eth1 too: give each its own",
        ],
    ),
    "the same vhids on another link": (lan() + WAN.replace("eth1", "eth0") + "nodes = { 1 = 0, 2 = 100 }\n", []),
    # hosts
    "another vhid on one host": (
        hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 100, 3 = 0 }"),
        [
            f"6: error: carp.lan.nodes = {{…}}: vhid 3 missing on fw-a: {SAME_VHIDS}",
            f"8: error: node.fw-b.carp.lan.nodes = {{…}}: vhid 2 missing on fw-b: {SAME_VHIDS}",
        ],
    ),
    "vhids that two hosts lack": (
        hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 100, 2 = 0, 3 = 0, 4 = 0 }") + "[node.fw-c.carp.lan]\nadvbase = 2\n",
        [f"6: error: carp.lan.nodes = {{…}}: vhid 3 and 4 missing on fw-a and fw-c: {SAME_VHIDS}"],
    ),
    "a vhid that every other node lacks": (
        lan("nodes = { 1 = 0, 2 = 100 }", "[node.fw-a.carp.lan]", "nodes = { 1 = 100, 2 = 0, 3 = 0 }"),
        [f"6: error: carp.lan.nodes = {{…}}: vhid 3 missing on every other node: {SAME_VHIDS}"],
    ),
    "refused nodes of one host": (
        hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 100, 300 = 0 }"),
        [f"8: error: node.fw-b.carp.lan.nodes.300 = 0: {A_NODE}"],
    ),
    "one advskew": (
        hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 50, 2 = 100 }"),
        [
            f"8: warning: node.fw-b.carp.lan.nodes = {{…}}: fw-a and fw-b have one advskew for vhid 2, 100: {ALIKE}",
        ],
    ),
    "no nodes of the second host": (
        lan("nodes = { 1 = 0, 2 = 100 }", "[node.fw-b]"),
        [
            f"6: warning: carp.lan.nodes = {{…}}: fw-a and fw-b have one advskew for vhid 1, 0: {ALIKE}",
            f"6: warning: carp.lan.nodes = {{…}}: fw-a and fw-b have one advskew for vhid 2, 100: {ALIKE}",
        ],
    ),
    "one host is preferred for all": (
        hosts("{ 1 = 0, 2 = 0, 9 = 10 }", "{ 1 = 100, 2 = 100, 9 = 100 }"),
        [f"6: warning: carp.lan.nodes = {{…}}: fw-a {PREFERRED} fw-b for vhid 9"],
    ),
    "one of three hosts is preferred for all": (
        hosts("{ 1 = 10, 2 = 10 }", "{ 1 = 5, 2 = 5 }") + "[node.fw-c.carp.lan]\nnodes = { 1 = 7, 2 = 20 }\n",
        [f"8: warning: node.fw-b.carp.lan.nodes = {{…}}: fw-b {PREFERRED} fw-a for vhid 2"],
    ),
    "this host is preferred for all, to every other": (
        lan("nodes = { 1 = 1, 2 = 1 }", "[node.fw-a.carp.lan]", "nodes = { 1 = 0, 2 = 0 }"),
        [f"8: warning: node.fw-a.carp.lan.nodes = {{…}}: fw-a {PREFERRED} every other node for vhid 2"],
    ),
    "one host is preferred for all by its advbase": (
        hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 100, 2 = 0 }\nadvbase = 2"),
        [f"6: warning: carp.lan.nodes = {{…}}: fw-a {PREFERRED} fw-b for vhid 2"],
    ),
    "a host that does not wait for the other, for one vhid": (
        hosts("{ 1 = 40, 2 = 10 }", "{ 1 = 10, 2 = 11 }", "advbase = 0"),
        [
            "6: warning: carp.lan.nodes = {…}: fw-a would advertise for vhid 1 every 0.156 s, for which fw-b will not "
            "wait: give the nodes about the same advbase, and with advbase 0 about the same advskew"
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(file: Path, text: str, expected: list[str]) -> None:
    loaded = read(file, text)
    assert sorted(lines(loaded, file)) == sorted(expected)
    assert (loaded.config is None) == any("error: " in line for line in expected)


def config(loaded: Loaded) -> Config:
    assert loaded.config is not None, loaded.problems
    return loaded.config


def node(vhid: int, advskew: int, others_advskew: int | None) -> VirtualHostConfig:
    return VirtualHostConfig(
        name=f"lan:{vhid}",
        interface="eth1",
        vhid=vhid,
        addresses=(ip_interface("192.0.2.1/24"),),
        key=b"xyzzy",
        advskew=advskew,
        preempt=True,
        group="edge",
        others_master_down_ns=None if others_advskew is None else 3 * SECOND + others_advskew * SKEW,
        balancing=Balancing(virtual_host="lan", mode=BalancingMode.IP, vhids=(9, 100)),
    )


def test_one_host(file: Path) -> None:
    loaded = read(file, lan("nodes = { 100 = 7, 9 = 0 }", 'group = "edge"'))
    assert config(loaded) == Config(node="fw-a", virtual_hosts=(node(9, 0, None), node(100, 7, None)))


EXPANSIONS = {
    "fw-a": (node(9, 0, 50), node(100, 100, 10)),
    "fw-b": (node(9, 50, 0), node(100, 10, 80)),
    "fw-c": (node(9, 200, 0), node(100, 80, 10)),
}


@pytest.mark.parametrize(("name", "expected"), EXPANSIONS.items(), ids=EXPANSIONS)
def test_every_host_has_its_advskews(file: Path, name: str, expected: tuple[VirtualHostConfig, ...]) -> None:
    """And what the others wait is theirs for the same vhid."""
    text = hosts("{ 100 = 100, 9 = 0 }", "{ 9 = 50, 100 = 10 }", 'group = "edge"')
    loaded = read(file, text + "[node.fw-c.carp.lan]\nnodes = { 9 = 200, 100 = 80 }\n[node.fw-a]\n", name)
    assert lines(loaded, file) == []
    assert config(loaded).virtual_hosts == expected


@pytest.mark.parametrize("name", ["fw-a", "fw-b", "fw-c"])
def test_preferred_but_for_a_host_without_a_table(file: Path, name: str) -> None:
    """On fw-b and fw-c nothing tells that there is fw-a, but there may be one such."""
    text = hosts("{ 1 = 0, 2 = 100 }", "{ 1 = 50, 2 = 0 }") + "[node.fw-c.carp.lan]\nnodes = { 1 = 200, 2 = 50 }\n"
    assert lines(read(file, text, name), file) == []


@pytest.mark.parametrize(("name", "preferred"), [("fw-a", "fw-a"), ("fw-b", "every other node")])
def test_preferred_on_both_hosts(file: Path, name: str, preferred: str) -> None:
    loaded = read(file, hosts("{ 1 = 0, 2 = 0 }", "{ 1 = 100, 2 = 100 }"), name)
    assert lines(loaded, file) == [f"6: warning: carp.lan.nodes = {{…}}: {preferred} {PREFERRED} fw-b for vhid 2"]


def test_lease_of_fast_timers_is_that_of_the_vhid(file: Path) -> None:
    loaded = read(file, hosts("{ 1 = 6, 2 = 8 }", "{ 1 = 8, 2 = 5 }", "advbase = 0"))
    assert [host.lease_ns for host in config(loaded).virtual_hosts] == [18 * SKEW, 15 * SKEW]


@pytest.mark.parametrize("mode", BalancingMode)
def test_balancing(file: Path, mode: BalancingMode) -> None:
    loaded = read(file, lan(nodes_of(32, first=224), f'balancing = "{mode.value}"'))
    found = config(loaded).virtual_hosts
    assert [host.name for host in found] == [f"lan:{vhid}" for vhid in range(224, 256)]
    assert {host.balancing for host in found} == {
        Balancing(virtual_host="lan", mode=mode, vhids=tuple(range(224, 256)))
    }
    assert {(host.virtual_host, host.device) for host in found} == {("lan", "lo")}


def test_among_others_in_the_order_of_the_file(file: Path) -> None:
    loaded = read(file, WAN + "vhid = 3\n" + lan() + WAN.replace("wan", "dmz").replace("198", "203") + "vhid = 4\n")
    found = config(loaded).virtual_hosts
    assert [host.name for host in found] == ["wan", "lan:1", "lan:2", "dmz"]
    assert [host.virtual_host for host in found] == ["wan", "lan", "lan", "dmz"]
    assert [host.balancing is None for host in found] == [True, False, False, True]


def test_factors_of_demotion_in_advskew(file: Path) -> None:
    loaded = read(file, lan("nodes = { 1 = 0, 2 = 1 }", 'demotion = "advskew"'))
    assert [host.ifdown_demotion_factor for host in config(loaded).virtual_hosts] == [240, 240]
