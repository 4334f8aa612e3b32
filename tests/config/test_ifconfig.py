"""OpenBSD's words, and what becomes of our tables: a row is the words, the tables before, and those after."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.config.edits import edited
from carpd.config.ifconfig import DemotionOrder, IfconfigError, StateOrder, request

LAN: dict[str, Any] = {"interface": "eth1", "vhid": 1, "advskew": 0, "addresses": ["192.0.2.1/24"], "password": "x"}
FILE: dict[str, Any] = {"carp": {"lan": LAN}}
SHARED: dict[str, Any] = {"carp": {"lan": {**LAN, "nodes": {"1": 0, "2": 100}, "balancing": "ip"}}}
del SHARED["carp"]["lan"]["vhid"], SHARED["carp"]["lan"]["advskew"]
HOSTS = {**FILE, "node": {"fw-b": {"carp": {"lan": {"advskew": 100}}}}}
_WITHOUT_PASSWORD = {key: value for key, value in LAN.items() if key != "password"}


def lan(**changes: Any) -> dict[str, Any]:
    """The file with other keys in [carp.lan]; None: without the key."""
    return {"carp": {"lan": {key: value for key, value in {**LAN, **changes}.items() if value is not None}}}


EDITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a new one": (
        "carp0 create vhid 1 carpdev eth1 pass xyzzy advskew 100 192.0.2.1/24",
        {},
        {
            "carp": {
                "carp0": {
                    "vhid": 1,
                    "interface": "eth1",
                    "password": "xyzzy",
                    "advskew": 100,
                    "addresses": ["192.0.2.1/24"],
                }
            }
        },
    ),
    "a new one, without create": ("carp0 vhid 3", {}, {"carp": {"carp0": {"vhid": 3}}}),
    "advskew": ("lan advskew 50", FILE, lan(advskew=50)),
    "several words": ("lan advbase 2 advskew 50 group edge", FILE, lan(advbase=2, advskew=50, group="edge")),
    "advskew, where hosts differ": (
        "lan advskew 50",
        HOSTS,
        {**FILE, "node": {"fw-b": {"carp": {"lan": {"advskew": 100}}}, "fw-a": {"carp": {"lan": {"advskew": 50}}}}},
    ),
    "a new one, where hosts differ in others": (
        "carp0 create vhid 3 carpdev eth1",
        HOSTS,
        {**HOSTS, "carp": {"lan": LAN, "carp0": {"vhid": 3, "interface": "eth1"}}},
    ),
    "vhid is the same on all hosts": ("lan vhid 9", HOSTS, {**lan(vhid=9), "node": HOSTS["node"]}),
    "pass": ("lan pass y", {"carp": {"lan": {**LAN, "password_file": "f"}}}, lan(password="y")),
    "a first address is replaced": ("lan inet 192.0.2.7/24", FILE, lan(addresses=["192.0.2.7/24"])),
    "a netmask": ("lan inet 192.0.2.7 netmask 255.255.255.128", FILE, lan(addresses=["192.0.2.7/25"])),
    "a netmask in hex": ("lan 192.0.2.7 netmask 0xffffff00", FILE, lan(addresses=["192.0.2.7/24"])),
    "an alias": ("lan 192.0.2.7/24 alias", FILE, lan(addresses=["192.0.2.1/24", "192.0.2.7/24"])),
    "an alias, and more words": (
        "lan inet6 2001:db8::1 prefixlen 64 broadcast 0 alias advskew 3",
        FILE,
        lan(addresses=["192.0.2.1/24", "2001:db8::1/64"], advskew=3),
    ),
    "alias before it": (
        "lan inet alias 192.0.2.7 0xffffff00 NONE",
        FILE,
        lan(addresses=["192.0.2.1/24", "192.0.2.7/24"]),
    ),
    "words between": (
        "lan inet6 alias advskew 3 fe80::1%carp0 64",
        lan(addresses=["fe80::2/64"]),
        lan(addresses=["fe80::2/64", "fe80::1/64"], advskew=3),
    ),
    "a family of its own": ("lan 2001:db8::1/64", FILE, lan(addresses=["192.0.2.1/24", "2001:db8::1/64"])),
    "the same again": ("lan 192.0.2.1/25 alias", FILE, lan(addresses=["192.0.2.1/25"])),
    "the first one again": (
        "lan 192.0.2.1/25",
        lan(addresses=["fe80::1/64", "192.0.2.1/24", "192.0.2.7/24"]),
        lan(addresses=["fe80::1/64", "192.0.2.1/25", "192.0.2.7/24"]),
    ),
    "the second one, alone": (
        "lan 192.0.2.7/24",
        lan(addresses=["192.0.2.1/24", "192.0.2.7/24"]),
        lan(addresses=["192.0.2.7/24"]),
    ),
    "less an alias": ("lan 192.0.2.1 -alias", FILE, lan(addresses=[])),
    "delete": ("lan delete 192.0.2.1", FILE, lan(addresses=[])),
    "carpdev": ("lan carpdev eth2", FILE, lan(interface="eth2")),
    "carppeer": ("lan carppeer 192.0.2.3", FILE, lan(peers=["192.0.2.3"], multicast=False)),
    "carppeer, of one family of two": (
        "lan carppeer 192.0.2.3 inet6 2001:db8::1 prefixlen 64",
        FILE,
        lan(peers=["192.0.2.3"], addresses=["192.0.2.1/24", "2001:db8::1/64"]),
    ),
    "another family beside a carppeer": (
        "lan 2001:db8::1/64",
        lan(peers=["192.0.2.3"], multicast=False),
        lan(peers=["192.0.2.3"], addresses=["192.0.2.1/24", "2001:db8::1/64"]),
    ),
    "-carppeer": ("lan -carppeer", lan(peers=["192.0.2.3"], multicast=False), FILE),
    "carppeer, the usual group": ("lan carppeer 224.0.0.18", lan(peers=["192.0.2.3"], multicast=False), FILE),
    "-group": ("lan -group edge", lan(group="edge"), FILE),
    "-group, another": ("lan -group other", lan(group="edge"), lan(group="edge")),
    "down": ("lan down", FILE, lan(up=False)),
    "up": ("lan up", lan(up=False), FILE),
    "carpnodes": ("lan carpnodes 1:0,2:100 balancing ip", FILE, SHARED),
    "advbase of nodes": ("lan advbase 2", SHARED, {"carp": {"lan": {**SHARED["carp"]["lan"], "advbase": 2}}}),
    "the last word counts": ("lan advskew 3 carpnodes 3:0,4:9 vhid 2 advskew 5", FILE, lan(vhid=2, advskew=5)),
    "one node shares nothing": ("lan carpnodes 1:0", SHARED, FILE),
    "balancing none": (
        "lan balancing none",
        SHARED,
        {"carp": {"lan": {key: value for key, value in SHARED["carp"]["lan"].items() if key != "balancing"}}},
    ),
    "no nodes any more": ("lan vhid 1 advskew 0", SHARED, FILE),
    "destroy": ("lan destroy", HOSTS, {}),
    "pass, from a file": ("lan pass /etc/x", FILE, {"carp": {"lan": {**_WITHOUT_PASSWORD, "password_file": "/etc/x"}}}),
    "pfsync": (
        "pfsync0 syncdev eth2 syncpeer 10.0.0.2 secret hush maxupd 64 up",
        FILE,
        {**FILE, "pfsync": {"syncdev": "eth2", "syncpeer": ["10.0.0.2"], "secret": "hush", "maxupd": 64}},
    ),
    "pfsync, create": (
        "pfsync0 create syncdev eth2 secret /etc/key",
        {},
        {"pfsync": {"syncdev": "eth2", "secret_file": "/etc/key"}},
    ),
    "secret": ("pfsync0 secret hush", {"pfsync": {"secret_file": "key"}}, {"pfsync": {"secret": "hush"}}),
    "secret, from a file": ("pfsync0 secret /key", {"pfsync": {"secret": "hush"}}, {"pfsync": {"secret_file": "/key"}}),
    "defer": ("pfsync0 defer", {**FILE, "pfsync": {"a": 1}}, {**FILE, "pfsync": {"a": 1, "defer": ["eth1"]}}),
    "-defer": ("pfsync0 -defer", {"pfsync": {"a": 1, "defer": ["eth1"]}}, {"pfsync": {"a": 1}}),
    "-syncpeer": ("pfsync0 -syncpeer", {"pfsync": {"a": 1, "syncpeer": ["10.0.0.2"]}}, {"pfsync": {"a": 1}}),
    "-syncdev": ("pfsync0 -syncdev", {"pfsync": {"a": 1, "syncdev": "eth2"}}, {"pfsync": {"a": 1}}),
    "pfsync down": ("pfsync0 down", {"pfsync": {"a": 1}}, {"pfsync": {"a": 1, "up": False}}),
    "pfsync destroy": (
        "pfsync0 destroy",
        {**HOSTS, "pfsync": {"a": 1}, "node": {**HOSTS["node"], "fw-c": {"pfsync": {"a": 2}}}},
        HOSTS,
    ),
}


@pytest.mark.parametrize(("words", "before", "after"), EDITS.values(), ids=EDITS.keys())
def test_edits(words: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    asked = request(words.split(), before, "fw-a")
    assert edited(before, asked.edits) == after
    assert len({edit.path for edit in asked.edits}) == len(asked.edits), "each key is edited once"
    assert (asked.orders, asked.shown) == ([], None)


ORDERS = {
    "lan state backup": StateOrder("lan", "backup"),
    "lan state master": StateOrder("lan", "master"),
    "-g carp carpdemote": DemotionOrder("carp", 1),
    "-g carp carpdemote 10": DemotionOrder("carp", 10),
    "-g carp -carpdemote 10": DemotionOrder("carp", -10),
}


@pytest.mark.parametrize(("words", "order"), ORDERS.items())
def test_orders(words: str, order: object) -> None:
    asked = request(words.split(), FILE, "fw-a")
    assert (asked.orders, asked.edits, asked.shown) == ([order], [], None)


@pytest.mark.parametrize(("words", "shown"), {"": "", "lan": "lan", "-g edge": "-g edge"}.items())
def test_what_is_shown(words: str, shown: str) -> None:
    asked = request(words.split(), FILE, "fw-a")
    assert (asked.shown, asked.edits, asked.orders) == (shown, [], [])


REFUSED = {
    "lan advskw 50": "lan: unknown word 'advskw': did you mean 'advskew'?",
    "lan advskew": "lan: advskew: wants a value",
    "lan advskew much": "lan: advskew much: wants a number",
    "lam advskew 3": "lam: no such interface (a new one begins with create): did you mean 'lan'?",
    "eth0 up": "eth0: no such interface (a new one begins with create): known are lan, pfsync0",
    "lan create": "lan: it is there already",
    "lan state init": "lan: state init: must be master or backup",
    "lan carpnodes 1,2": "lan: carpnodes 1,2: write VHID:ADVSKEW,VHID:ADVSKEW..., each vhid once",
    "lan carpnodes 1:0,1:1": "lan: carpnodes 1:0,1:1: write VHID:ADVSKEW,VHID:ADVSKEW..., each vhid once",
    "lan carppeer 224.0.0.99": "lan: carppeer 224.0.0.99: another group than 224.0.0.18 and ff02::12 is not supported",
    "lan carppeer fw-b": "lan: carppeer fw-b: wants an address, such as 192.0.2.2",
    "lan 192.0.2.300": "lan: 192.0.2.300: wants an address, such as 192.0.2.1/24",
    "lan 192.0.2.7 netmask": "lan: 192.0.2.7 netmask: wants a value",
    "lan 192.0.2.7 netmask 255.0.255.0": "lan: 192.0.2.7 netmask 255.0.255.0: wants a netmask",
    "lan delete 192.0.2.9": "lan: it has no address 192.0.2.9",
    "lan 192.0.2.9 -alias": "lan: it has no address 192.0.2.9",
    "lan inet alias": "lan: inet alias: wants an address, such as 192.0.2.1/24",
    "lan description gateway": "lan: description gateway: there is none here: write a comment into the file",
    "pfsync0 syncpeer": "pfsync0: syncpeer: wants a value",
    "pfsync0 create syncdev eth2": "pfsync0: a new one wants a secret: secret /etc/carpd/pfsync.key, with the same "
    "file on all hosts (head -c 32 /dev/urandom | base64)",
    "-g": "-g wants the name of a group",
    "-g carp demote": "unknown word 'demote' of a group: carpdemote [N] or -carpdemote [N]",
    "-g carp carpdemote much": "carpdemote much: wants a number",
    "-g carp carpdemote 129": "carpdemote 129: a demotion is 0 to 128",
    "-a": "unknown option -a: carpctl ifconfig [INTERFACE | -g GROUP] [WORDS]",
}


@pytest.mark.parametrize(("words", "line"), REFUSED.items())
def test_refused(words: str, line: str) -> None:
    with pytest.raises(IfconfigError) as caught:
        request(words.split(), FILE, "fw-a")
    assert str(caught.value) == line


WORDS = st.sampled_from([*" ".join([*(row[0] for row in EDITS.values()), *REFUSED]).split(), "x", "::", "1:0,,", "0x"])


@given(st.lists(WORDS | st.text(max_size=5), max_size=8))
def test_any_words_are_obeyed_or_refused_in_one_line(words: list[str]) -> None:
    try:
        asked = request(words, HOSTS, "fw-a")
    except IfconfigError as error:
        assert "\n" not in str(error) or any("\n" in word for word in words)  # noqa: PT017
    else:
        edited(HOSTS, asked.edits)
