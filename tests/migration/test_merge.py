"""What several hosts have in common, what is each one's own, and what can't be."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from carpd.migration.merge import Configuration, merge
from carpd.migration.write import write
from tests.migration.reading import read

CARP = "vhid 1 carpdev {} 192.0.2.1/24 pass {} advskew {}\n"
VRRP = "vrrp_instance {} {{ interface {}\nvirtual_router_id {}\nvirtual_ipaddress {{ {}\n}}\n{}\n}}\n"


def merged(
    *texts: str, program: str = "openbsd", names: tuple[str | None, ...] = ("fw-a", "fw-b", "fw-c")
) -> Configuration:
    return merge([read((program, text), node=name) for text, name in zip(texts, names, strict=False)])


def tables(configuration: Configuration) -> dict[str, Any]:
    return tomllib.loads(write(configuration.sections, configuration.scripts, configuration.remarks, ["a file"]).text)


def told(configuration: Configuration) -> list[str]:
    """The remarks of merging, without the file."""
    own = ("interface", "carp0: net.inet", "vrrp_instance")
    return [f"{r.text}: {r.reason}" for r in configuration.remarks if not f"{r.text}: {r.reason}".startswith(own)]


def test_one_host_without_a_name_has_nothing_of_its_own() -> None:
    found = tables(merged(CARP.format("em1", "x", 5), names=(None,)))
    assert found["carp"]["carp0"]["advskew"] == 5
    assert "node" not in found


def test_one_host_with_a_name_leaves_room_for_others() -> None:
    found = tables(merged(CARP.format("em1", "x", 5)))
    assert "advskew" not in found["carp"]["carp0"]
    assert found["node"] == {"fw-a": {"carp": {"carp0": {"advskew": 5}}}}


def test_what_differs() -> None:
    """What is needed stands in the common part too, the rest with the hosts alone."""
    found = tables(merged(CARP.format("em1", "x", 5), CARP.format("em7", "x", 9)))
    assert found["carp"]["carp0"]["interface"] == "em1"
    assert found["node"] == {
        "fw-a": {"carp": {"carp0": {"advskew": 5}}},
        "fw-b": {"carp": {"carp0": {"interface": "em7", "advskew": 9}}},
    }


def test_nodes_are_of_each_host() -> None:
    text = "carpnodes {} carpdev em1 192.0.2.1/24\n"
    found = tables(merged(text.format("1:0,2:100"), text.format("1:100,2:0")))
    assert found["carp"]["carp0"]["nodes"] == {"1": 0, "2": 100}
    assert found["node"] == {"fw-b": {"carp": {"carp0": {"nodes": {"1": 100, "2": 0}}}}}


def test_lists_of_hosts_are_united() -> None:
    text = "vhid 1 carpdev em1 192.0.2.1/24 carppeer {}\n"
    found = tables(merged(text.format("192.0.2.3"), text.format("192.0.2.2")))
    assert found["carp"]["carp0"]["peers"] == ["192.0.2.3", "192.0.2.2"]


def test_what_must_be_the_same_and_is_not() -> None:
    one = CARP.format("em1", "x", 5)
    other = CARP.format("em1", "y", 9).replace("192.0.2.1/24", "192.0.2.1/24 192.0.2.9/24") + "group edge\n"
    configuration = merged(one, other)
    assert tables(configuration)["carp"]["carp0"] | {"addresses": None} == {
        "interface": "em1",
        "vhid": 1,
        "addresses": None,
        "password_file": "password",
        "group": "edge",
    }
    assert tables(configuration)["carp"]["carp0"]["addresses"] == ["192.0.2.1/24", "192.0.2.9/24"]
    same = "another one than the others, and it must be the same on all hosts"
    assert told(configuration) == [
        "192.0.2.9/24: not in the files of fw-a, and all hosts must have the same addresses",
        f"password: fw-b has {same}",
        f"group unset: fw-a has {same}",
        "group edge: a virtual host is in one group here: it leaves the group carp, and moves with this one alone",
    ]


def test_a_virtual_host_of_some_hosts_only() -> None:
    text = CARP.format("em1", "x", 5)
    assert told(merged(text, text, "# nothing\n")) == [
        "[carp.carp0]: is not in the files of fw-c: there it would take part too"
    ]


def test_intervals_that_differ_are_told_of() -> None:
    text = CARP.format("em1", "x", 5)
    configuration = merged(text, text + "advbase 3\n")
    assert tables(configuration)["node"]["fw-b"]["carp"]["carp0"]["advbase"] == 3
    assert told(configuration) == [
        "advbase 1: hosts have different ones: fw-a waits by its own",
        "advbase 3: hosts have different ones: fw-b waits by its own",
    ]


def test_the_same_virtual_host_may_have_other_names() -> None:
    """By its vhid, and an address or the link; not by its vhid alone."""
    one = VRRP.format("GATEWAY_1", "eth1", 1, "192.0.2.1/24", "")
    other = VRRP.format("GATEWAY_2", "eth9", 1, "192.0.2.1/24", "")
    stranger = VRRP.format("GATEWAY_2", "eth9", 1, "198.51.100.1/24", "")
    assert [*tables(merged(one, other, program="keepalived"))["carp"]] == ["GATEWAY_1"]
    assert [*tables(merged(one, stranger, program="keepalived"))["carp"]] == ["GATEWAY_1", "GATEWAY_2"]


def test_names_are_short_and_differ() -> None:
    text = "".join(VRRP.format(f"the/gateway{n}", f"eth{n}", n, f"192.0.2.{n}/24", "") for n in (1, 2, 3))
    assert [*tables(merged(text, program="keepalived"))["carp"]] == ["the-gatewa", "the-gate-2", "the-gate-3"]


def test_who_moves_alone_has_a_group_of_its_own() -> None:
    text = "".join(VRRP.format(f"V{n}", f"eth{n}", n, f"192.0.2.{n}/24", "") for n in (1, 2, 3))
    text += "vrrp_sync_group both { group { V2 V3\n}\n}\n"
    hosts = tables(merged(text, program="keepalived"))["carp"]
    assert [host["group"] for host in hosts.values()] == ["V1", "both", "both"]
    (single,) = tables(merged(VRRP.format("V1", "eth1", 1, "192.0.2.1/24", ""), program="keepalived"))["carp"].values()
    assert "group" not in single


def test_equal_passwords_have_one_file() -> None:
    def files(*passwords: str) -> Mapping[str, str]:
        text = "".join(
            VRRP.format(f"V{n}", f"eth{n}", n, f"192.0.2.{n}/24", f"authentication {{ auth_pass {password}\n}}")
            for n, password in enumerate(passwords, start=1)
        )
        return write(merged(text, program="keepalived").sections, [], [], []).files

    assert files("x", "x") == {"password": "x\n"}
    assert files("x", "y") == {"V1.password": "x\n", "V2.password": "y\n"}


def test_every_host_is_given_one_new_secret() -> None:
    text = "Sync { UDP { Interface eth3\n} }\n"
    files = [write(merged(text, text, program="conntrackd").sections, [], [], []).files for _ in range(2)]
    assert [[*names] for names in files] == [["pfsync.key"], ["pfsync.key"]]
    assert files[0] != files[1]
    assert 40 < len(files[0]["pfsync.key"]) < 50
