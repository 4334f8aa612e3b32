"""What the documentation shows and nobody has to run: configurations, rules, JSON, links, commands' names, pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from carpd.cli import carpctl
from carpd.config.parse import load
from carpd.lab.story import table
from carpd.lab.topology import Lab
from tests.docs.markdown import DOCUMENTS, QUICK_START, ROOT, Block, blocks, indented_code
from tests.docs.shape import shape
from tests.lab.test_story import STORY
from tests.linux.test_balance import fold

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
RUN = ("sh", "console")
"""What tests/docs/test_walks.py does, where the block says."""
PICTURES = ("", "mermaid")


def test_all_are_known() -> None:
    """Whatever looks like code is written so that something can be done with it."""
    checked = (*PICTURES, "toml", "json", "nft")
    assert [
        f"{block}: {block.language}" for block in BLOCKS if not block.orders and block.language not in checked
    ] == []
    assert [f"{document}:{line}" for document in DOCUMENTS for line in indented_code(document)] == []


SECRETS = {"password": "xyzzy", "pfsync.key": "0123456789abcdef"}
WHOLE = next(block for block in BLOCKS if block.document == QUICK_START and block.language == "toml")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_configuration(tmp_path: Path, block: Block) -> None:
    """A whole file; or, without [carp.*] and [pfsync], what stands below the quick start's: right on all hosts."""
    for name, content in SECRETS.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    tables = tomllib.loads(block.text)
    is_whole = "carp" in tables or "pfsync" in tables
    text = block.text if is_whole else WHOLE.text + block.text
    file = tmp_path / "carpd.toml"
    file.write_text(re.sub(r"/(etc/carpd|run/credentials/carpd\.service)/", f"{tmp_path}/", text))
    for node in ("fw-a", *tables.get("node", {})):
        loaded = load(file, node)
        assert [str(problem) for problem in loaded.problems] == [], node
        assert loaded.config


def test_json() -> None:
    """An object a line."""
    for block in BLOCKS:
        for line in block.text.splitlines() if block.language == "json" else ():
            assert isinstance(json.loads(line), dict), block


def test_rules(lab: Lab) -> None:
    for block in BLOCKS:
        if block.language == "nft":
            lab.node("fw-a").run(("nft", "--check", "--file", "-"), stdin=block.text)


# Links, and words between back quotes

LINK = re.compile(r"\[[^]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
COMMAND = re.compile(r"`carpctl ([a-z]\S*?)[`\s]")
TARGET = re.compile(r"(?:`|^ *)make (\w+)", re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links(document: Path) -> None:
    """Each leads to a file, or to a heading in one."""
    for path, anchor in LINK.findall(document.read_text()):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert not anchor or anchor in _anchors(target), f"{path}#{anchor}"


def _anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_commands(document: Path) -> None:
    """Each `carpctl COMMAND` and `make TARGET` that is spoken of is there."""
    text = document.read_text()
    assert set(COMMAND.findall(text)) <= carpctl.COMMANDS.keys()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(TARGET.findall(text)) <= set(targets.split())


# Pictures

_PACKET = re.compile(r"(\S+) --> (\S+) +hash (\d) --> node (\d)")


def test_the_state_diagram_is_that_of_the_code() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "state-diagram", "--check"], check=True)


def test_the_hash_of_packets_is_as_drawn() -> None:
    drawn = _PACKET.findall((ROOT / "docs" / "concepts.md").read_text())
    assert drawn
    for source, destination, remainder, node in drawn:
        assert fold(source, destination) % 2 == int(remainder) == int(node) - 1


def test_the_table_of_the_demo_has_its_columns() -> None:
    titles = shape(table(STORY.steps))[0]
    assert titles in [shape(block.text)[0] for block in BLOCKS if block.document.name == "README.md"]
