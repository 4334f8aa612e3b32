"""What docs/troubleshooting.md has in quotes is said by the programs, and the counters that it names are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from carpd.cli.statistics import CARP, PFSYNC
from carpd.config.keys import CARP_KEYS
from tests.docs.markdown import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
OWN = {"counters", *CARP_KEYS["balancing"].meaning.split('"')[1::2]}
"""Titles and values, which no program says in a sentence."""


def _said() -> Iterator[str]:
    """Every text of the sources, with a \\0 for what is put in."""
    for source in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                yield text.removeprefix("\0: ")  # what it is about
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_quotes() -> None:
    """A quote is a part of a text, or all of a text that is mostly the same whatever is put in."""
    texts = set(_said())
    for quote in set(re.findall(r'"([^"\n]+)"', TEXT)) - OWN:
        forms = (text for text in texts if "\0" in text and len(text.replace("\0", "")) > len(quote) / 2)
        is_formed = any(re.fullmatch(re.escape(form).replace("\0", ".+"), quote) for form in forms)
        assert is_formed or any(quote in text for text in texts), quote


def test_counters() -> None:
    (table,) = re.findall(r"^\| the counter that grows .*?(?=\n\n)", TEXT, re.DOTALL | re.MULTILINE)
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named
    assert named <= CARP.keys() | PFSYNC.keys()
