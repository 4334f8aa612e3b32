"""Whatever is in a file, reading it makes a configuration that is TOML, or one error with file and line."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.config.keys import CARP_KEYS, PFSYNC_KEYS
from carpd.migration.formats import FORMATS, recognise
from carpd.migration.found import Found, MigrationError
from carpd.migration.merge import merge
from carpd.migration.write import write
from tests.migration.reading import FILES

SAMPLES = [
    path.read_text()
    for path in sorted((Path(__file__).parent / "samples").rglob("*"))
    if path.is_file() and path.name not in ("carpd.toml", "told")
]
NASTY = [
    "",
    "{",
    "}",
    '"',
    "'",
    "\\",
    "\n",
    "#",
    "=",
    "$",
    "`",
    "-1",
    "300",
    "9" * 30,
    "::1",
    "fe80::1%a",
    "1.2.3.4/99",
]
WORDS = sorted({word for text in SAMPLES for word in text.split()}) + 5 * NASTY

words = st.sampled_from(WORDS) | st.text(max_size=4)


@st.composite
def changed_samples(draw: st.DrawFn) -> str:
    """Words and blanks of a sample, with some words taken out, put in or exchanged."""
    parts = re.findall(r"\s+|\S+", draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, len(parts)))
        parts[start : start + draw(st.integers(0, 3))] = draw(st.lists(words, max_size=3))
    return "".join(parts)


texts = changed_samples() | st.lists(words, max_size=40).map(" ".join) | st.text(max_size=200)


@pytest.mark.parametrize("name", FILES)
@given(text=texts, other=texts, node=st.sampled_from([None, "fw-a"]))
def test_any_text(name: str, text: str, other: str, node: str | None) -> None:
    """Two hosts' files of one format, and sysctl.conf with them."""
    recognise(FILES[name], text)
    hosts = [Found(node or "fw-c"), Found("fw-b")]
    for found, content in zip(hosts, (text, other), strict=True):
        FORMATS["sysctl.conf"].read("sysctl.conf", other, found)
        with suppress(MigrationError):
            FORMATS[name].read(FILES[name], content, found)
        FORMATS["sysctl.conf"].finish(found)
        FORMATS[name].finish(found)
    configuration = merge(hosts)
    for remark in configuration.remarks:
        assert re.fullmatch(r"(\S+:[1-9][0-9]*(, )?)+: (note|not taken over): [^\n]*: [^\n]+", str(remark))
    written = write(configuration.sections, configuration.scripts, configuration.remarks, ["a file"])
    tables = tomllib.loads(written.text)
    for table in tables.get("carp", {}).values():
        assert table.keys() <= CARP_KEYS.keys() - {"password"}
    assert tables.get("pfsync", {}).keys() <= PFSYNC_KEYS.keys()


@pytest.mark.parametrize("name", FILES)
@given(text=texts)
def test_an_error_names_its_place(name: str, text: str) -> None:
    try:
        FORMATS[name].read(FILES[name], text, Found())
    except MigrationError as error:
        assert re.match(rf"{FILES[name]}:[1-9][0-9]*: [^\n]+$", str(error))  # noqa: PT017
