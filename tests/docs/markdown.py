"""The fenced blocks of a Markdown document, and what the tests do with each.

The first word behind the fence is the language, as for every viewer. What follows it is for careful readers, and us:

    sh on fw-a and fw-b               run there, as root; it succeeds
    console on fw-a                   what stands behind "# " is run there, and prints what is shown below it
    console on fw-a, until Ctrl-C     likewise, and it goes on in the meantime
    json on fw-a                      requests to the daemon there, and its answers
    sh on a machine                   run by tests/packaging/test_deb.py, where the package has been installed
    toml file /etc/carpd/carpd.toml   written there, on every firewall (or "on fw-a")
    toml                              a whole configuration, or what is added to the quick start's
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "man").glob("*.md")))
QUICK_START = ROOT / "docs" / "quick-start.md"
MIGRATION = ROOT / "docs" / "migration.md"
"""Typed by tests/migration/test_guide.py."""
ELSEWHERE = "on a machine"

_FENCE = re.compile(r"(?P<indent> *)(?P<marks>```+)(?P<language>\S*) *(?P<orders>.*)")
_LIST = re.compile(r" *([*+-]|\d+\.) ")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `orders` are the words behind its language."""

    document: Path
    line: int
    section: str
    """The heading that it stands below."""
    language: str
    orders: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """In order."""
    lines = document.read_text(encoding="utf-8").splitlines()
    section = ""
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("#"):
            section = line.lstrip("#").strip()
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        indent, marks, language, orders = fence.groups()
        begin = number
        while lines[number] != indent + marks:
            number += 1
        text = "".join(f"{inner.removeprefix(indent)}\n" for inner in lines[begin:number])
        number += 1
        yield Block(document, begin, section, language, orders, text)


def indented_code(document: Path) -> Iterator[int]:
    """The lines at which something is code because it is indented: nothing can be said of it to the tests."""
    in_fence = in_list = False
    before = ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        in_fence ^= _FENCE.fullmatch(line) is not None
        if line and not line.startswith(" "):
            in_list = _LIST.match(line) is not None or line.startswith(": ")
        if not in_fence and not in_list and not before and line.startswith("    "):
            yield number
        before = line
