"""Edits written into a file: what it looks like afterwards, and that it says what was meant."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpd.config.edits import Edit, edited
from carpd.config.problems import KeyPath
from carpd.config.save import SaveError, save
from tests.config.test_edits import PATHS, TABLES, is_table

LAN = ("carp", "lan")

WRITTEN: dict[str, tuple[str, list[Edit], str]] = {
    "the first of all": (
        "",
        [Edit((*LAN, "vhid"), 1), Edit((*LAN, "addresses"), ["192.0.2.1/24"]), Edit((*LAN, "up"), False)],
        '[carp.lan]\nvhid = 1\naddresses = ["192.0.2.1/24"]\nup = false\n',
    ),
    "below a comment": (
        "# mine\n",
        [Edit((*LAN, "nodes"), {"1": 0, "2": 100}), Edit(("pfsync", "syncdev"), "eth2")],
        '# mine\n\n[carp.lan]\nnodes = {1 = 0, 2 = 100}\n\n[pfsync]\nsyncdev = "eth2"\n',
    ),
    "one more, and what single hosts have": (
        "[carp.lan]\nvhid = 1  # the first\n\n[metrics]  # last\n",
        [Edit(("carp", "wan", "vhid"), 2), Edit(("node", "fw-a", *LAN, "advskew"), 5), Edit((*LAN, "vhid"), 3)],
        "[carp.lan]\nvhid = 3  # the first\n\n[carp.wan]\nvhid = 2\n\n[metrics]  # last\n"
        "\n[node.fw-a.carp.lan]\nadvskew = 5\n",
    ),
    "where others are spelled with dots": (
        "carp.lan.vhid = 7  # the first\ncarp.lan.advskew = 1\n\n[metrics]\nlisten = 'x'\n\n\n",
        [Edit((*LAN, "vhid"), 8), Edit((*LAN, "group"), "g"), Edit(("carp", "carp1", "nodes"), {"1": 0, "2": 9})],
        "carp.lan.vhid = 8  # the first\ncarp.lan.group = \"g\"\ncarp.lan.advskew = 1\n\n[metrics]\nlisten = 'x'\n"
        "\n[carp.carp1]\nnodes = {1 = 0, 2 = 9}\n",
    ),
    "again": (
        "carp.lan.vhid = 7\n\n[metrics]\nlisten = 'x'\n\n[carp.carp1]\nvhid = 8\n",
        [Edit(("carp", "carp1", "vhid"), 9), Edit(("node", "a", *LAN, "advskew"), 3)],
        "carp.lan.vhid = 7\n\n[metrics]\nlisten = 'x'\n\n[carp.carp1]\nvhid = 9\n\n[node.a.carp.lan]\nadvskew = 3\n",
    ),
    "elements between comments": (
        "[carp.lan]\naddresses = [\n  'a',  # one\n  'b',  # two\n  # free: 3\n]\npeers = ['x', 'y']\n",
        [Edit((*LAN, "addresses"), ["a", "c", "d"]), Edit((*LAN, "peers"), ["y", "x"])],
        '[carp.lan]\naddresses = [\n  \'a\',  # one\n  # free: 3\n  "c",\n  "d"\n]\npeers = ["y", "x"]\n',
    ),
    "less": (
        "# a\n[carp.lan]\nvhid = 1\n# c\ngroup = 'x'\n\n[carp.wan]\nvhid = 2\n\n[node.fw-a.carp.lan]\nadvskew = 5\n",
        [Edit(("carp", "wan"), None), Edit(("node", "fw-a", *LAN, "advskew"), None), Edit((*LAN, "group"), None)],
        "# a\n[carp.lan]\nvhid = 1\n# c\n\n",
    ),
}


@pytest.mark.parametrize(("before", "edits", "after"), WRITTEN.values(), ids=WRITTEN)
def test_written(tmp_path: Path, before: str, edits: list[Edit], after: str) -> None:
    file = tmp_path / "carpd.toml"
    file.write_text(before)
    file.chmod(0o640)
    save(str(file), edits)
    assert file.read_text() == after
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def with_dots(tables: dict[str, Any], above: str = "") -> str:
    return "".join(
        with_dots(value, f"{above}{name}.") if isinstance(value, dict) else f"{above}{name} = {value}\n"
        for name, value in tables.items()
    )


def on_a_line(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{name} = {on_a_line(inner)}" for name, inner in value.items()) + "}"


def with_braces(tables: dict[str, Any]) -> str:
    return "".join(f"{name} = {on_a_line(value)}\n" for name, value in tables.items())


ORDERS = st.lists(st.tuples(PATHS, st.none() | st.integers(4, 6)))


@pytest.mark.parametrize("spelled", [tomlkit.dumps, with_dots, with_braces])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables=TABLES, orders=ORDERS)
def test_meant(
    tmp_path: Path,
    spelled: Callable[[dict[str, Any]], str],
    tables: dict[str, Any],
    orders: list[tuple[KeyPath, int | None]],
) -> None:
    """However it is spelled: if it can't be done the file stays, which tables in the usual way never need."""
    file = tmp_path / "carpd.toml"
    file.write_text(before := spelled(tables) + "\n[metrics]\nlisten = 1\n")
    edits = [Edit(path, None if is_table(path) else value) for path, value in orders]
    try:
        save(str(file), edits)
    except SaveError:
        assert spelled is not tomlkit.dumps
        assert file.read_text() == before
    else:
        assert tomllib.loads(file.read_text()) == edited({**tables, "metrics": {"listen": 1}}, edits)


def test_not_written(tmp_path: Path) -> None:
    """It is as it was, and one line says why; a link stays one."""
    file = tmp_path / "carpd.toml"
    (tmp_path / "kept.toml").write_text(braces := "carp = {lan = {vhid = 7}}\n")
    file.symlink_to("kept.toml")
    with pytest.raises(SaveError, match=r"leaves no place for carp\.carp1\.vhid: edit it by hand"):
        save(str(file), [Edit(("carp", "carp1", "vhid"), 30)])
    assert file.read_text() == braces
    save(str(file), [Edit((*LAN, "vhid"), 8)])
    assert (file.is_symlink(), file.read_text()) == (True, braces.replace("7", "8"))
    file.unlink()
    with pytest.raises(SaveError, match=r"carpd.toml: can't be written: .*No such file"):
        save(str(file), [Edit(LAN, None)])
    file.write_text("[carp")
    with pytest.raises(SaveError, match="can't be written: "):
        save(str(file), [Edit(LAN, None)])
    assert file.read_text() == "[carp"
