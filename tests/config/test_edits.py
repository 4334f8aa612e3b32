"""Edits: made of tables, and found again between what a file has and what runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.config.edits import Edit, edited, unmade
from carpd.config.problems import KeyPath

LAN = ("carp", "lan")
MINE = ("node", "fw-a", *LAN)

UNMADE: dict[str, tuple[list[KeyPath], dict[str, Any], dict[str, Any], list[Edit]]] = {
    # paths, what the file has, what runs, what is to be done about it
    "nothing is asked for": ([], {"carp": {"lan": {"vhid": 1}}}, {}, []),
    "a key": (
        [(*LAN, "vhid")],
        {"carp": {"lan": {"vhid": 1, "advskew": 3}}},
        {"carp": {"lan": {"vhid": 2, "advskew": 4}}},
        [Edit((*LAN, "vhid"), 2)],
    ),
    "a key of another table": ([("pfsync", "maxupd")], {}, {"pfsync": {"maxupd": 3}}, [Edit(("pfsync", "maxupd"), 3)]),
    "a key that has gone": (
        [(*MINE, "vhid")],
        {"node": {"fw-a": {"carp": {"lan": {"vhid": 1, "advskew": 3}}}}},
        {"node": {"fw-a": {"carp": {"lan": {"advskew": 4}}}}},
        [Edit((*MINE, "vhid"), None)],
    ),
    "a key that is alike, and one that is nowhere": (
        [(*LAN, "vhid"), (*LAN, "group"), (*MINE, "group")],
        {"carp": {"lan": {"vhid": 1}}},
        {"carp": {"lan": {"vhid": 1}}},
        [],
    ),
    "a table as a value": (
        [(*LAN, "nodes")],
        {"carp": {"lan": {"nodes": {"1": 0, "2": 100}}}},
        {"carp": {"lan": {"nodes": {"1": 0, "3": 100}}}},
        [Edit((*LAN, "nodes"), {"1": 0, "3": 100})],
    ),
    "a table that has gone": (
        [(*LAN, "vhid"), LAN, (*MINE, "advskew"), MINE],
        {"carp": {"lan": {"vhid": 1, "advskew": 3}}},
        {},
        [Edit(LAN, None)],
    ),
    "one that has gone and come again": (
        [LAN, (*LAN, "vhid")],
        {"carp": {"lan": {"vhid": 1, "advskew": 3}}},
        {"carp": {"lan": {"vhid": 1, "group": "edge"}}},
        [Edit((*LAN, "advskew"), None), Edit((*LAN, "group"), "edge")],
    ),
    "one that has come and gone": ([(*LAN, "vhid"), LAN], {}, {}, []),
    "pfsync": ([("pfsync",)], {"pfsync": {"maxupd": 3}}, {}, [Edit(("pfsync",), None)]),
}


@pytest.mark.parametrize(("paths", "now", "wanted", "expected"), UNMADE.values(), ids=UNMADE)
def test_unmade(paths: list[KeyPath], now: dict[str, Any], wanted: dict[str, Any], expected: list[Edit]) -> None:
    assert unmade(paths, now, wanted) == expected


KEYS = st.dictionaries(st.sampled_from(["vhid", "group", "nodes"]), st.integers(1, 3), min_size=1)
LANS = st.builds(lambda keys: {"lan": keys}, KEYS)
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "carp": LANS | st.builds(lambda lan, wan: {"lan": lan, "wan": wan}, KEYS, KEYS),
        "pfsync": KEYS,
        "node": st.builds(lambda lans: {"fw-a": {"carp": lans}}, LANS),
    },
)
PATHS = st.sampled_from(
    [(*table, *key) for table in (LAN, ("carp", "wan"), ("pfsync",), MINE) for key in ((), ("vhid",), ("group",))]
)


def is_table(path: KeyPath) -> bool:
    return path in (LAN, ("carp", "wan"), ("pfsync",), MINE)


@given(st.lists(st.tuples(PATHS, st.none() | st.integers(4, 6))), TABLES)
def test_what_is_saved_is_what_runs(orders: list[tuple[KeyPath, int | None]], file: dict[str, Any]) -> None:
    """Whatever was set, if nobody else has edited the file: by then all of it or a part of it may have been saved."""
    edits = [Edit(path, None if is_table(path) else value) for path, value in orders]
    runs = edited(file, edits)
    paths = list(dict.fromkeys(edit.path for edit in edits))
    for part in (paths[::2], paths):
        file = edited(file, unmade(part, file, runs))
    assert file == runs
    assert unmade(paths, file, runs) == []
