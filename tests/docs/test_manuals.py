"""The manual pages are made, can be found and read, and have every command and option that there is, and no others."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from carpd.cli import carpctl, carpd, pfsyncd
from carpd.config import ifconfig
from carpd.config.ifconfig_words import BEHIND_ADDRESS
from carpd.runtime.ucarp.options import OPTIONS
from tests.conftest import need
from tests.docs.markdown import DOCUMENTS, ROOT

PAGES = {
    "carpd.8": "man/carpd.8.md",
    "pfsyncd.8": "man/pfsyncd.8.md",
    "carpctl.8": "man/carpctl.8.md",
    "carpd-ucarp.8": "man/carpd-ucarp.8.md",
    "carpd.toml.5": "docs/configuration.md",
    "carpctl-json.7": "docs/json.md",
    "carpd-troubleshooting.7": "docs/troubleshooting.md",
}
"""Each, and what it is made of."""


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make man` makes them."""
    for program in ("lowdown", "mandoc", "lexgrog"):
        need(program)
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([ROOT / "tools" / "manuals", directory], check=True)
    return directory


def test_all_are_made(manuals: Path) -> None:
    assert {page.name for page in manuals.iterdir()} == set(PAGES)
    assert {f"man/{source.name}" for source in (ROOT / "man").iterdir()} <= set(PAGES.values())


def test_references() -> None:
    """Pages of ours that are referred to are there."""
    for document in DOCUMENTS:
        for name, section in re.findall(r"\b((?:carp|pfsync)[\w.-]*)\((\d)\)", document.read_text()):
            assert f"{name}.{section}" in PAGES, document


@pytest.mark.parametrize("page", PAGES)
def test_page(manuals: Path, page: str) -> None:
    """mandoc finds nothing wrong with it, man-db can index it, and it says all that its source says."""
    name = page.rpartition(".")[0]
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", manuals / page], capture_output=True, text=True, check=False
    )
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
    indexed = subprocess.run(["lexgrog", manuals / page], capture_output=True, text=True, check=True).stdout
    assert indexed.startswith(f'{manuals / page}: "{name} - ')
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=1000", manuals / page], capture_output=True, check=True
    )
    text = re.sub(".\x08", "", shown.stdout.decode())
    missing = set(_words((ROOT / PAGES[page]).read_text())) - set(_words(text))
    assert missing == set()
    assert "**" not in text


def _words(text: str) -> Iterator[str]:
    """But for the marks of Markdown, and the addresses of links."""
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^(```.*|#.*\n)", "", text, flags=re.MULTILINE))
    yield from re.findall(r"[A-Za-z][\w./-]*\w", text.replace("\\", ""))


# What the pages say of commands and options: {"status": {"[NAME]", "--watch [SECONDS]", ...}}

_TERM = re.compile(r"^(.*)\n: ", re.MULTILINE)
_TOP = "OPTIONS"


def documented(page: str) -> dict[str, set[str]]:
    """The options below each heading, as they are written."""
    found = {}
    text = re.sub(r"^```.*?^```$", "", (ROOT / PAGES[page]).read_text(), flags=re.MULTILINE | re.DOTALL)
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        terms = (term.replace("**", "").replace("*", "") for term in _TERM.findall(body))
        found[heading] = {option for term in terms for option in _each(term) if option.startswith("-")}
    return found


def _each(term: str) -> Iterator[str]:
    """Of `-v, --vhid N` both `-v N` and `--vhid N`."""
    *others, last = term.split(", ")
    value = last[len(last.split()[0]) :]
    yield from (f"{option}{value}" for option in others)
    yield last


def spelled(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser, in that form."""
    return {f"{spelling} {_value(action)}".rstrip() for action in parser._actions for spelling in action.option_strings}


def _value(action: argparse.Action) -> str:
    """What an option or argument is, in the words of its help."""
    if action.nargs == 0:
        return ""
    title = str(action.metavar or action.dest.upper())
    return {argparse.OPTIONAL: f"[{title}]", argparse.ONE_OR_MORE: f"{title} ..."}.get(str(action.nargs), title)


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Of carpctl."""
    for name in carpctl.COMMANDS:
        yield name, carpctl.subcommand(name)


HELP = {"-h", "--help"}


def test_options_of_daemons() -> None:
    assert documented("carpd.8")[_TOP] == spelled(carpd.parser()) - HELP
    assert documented("pfsyncd.8")[_TOP] == spelled(pfsyncd.parser()) - HELP


def test_options_of_ucarp() -> None:
    known = {f"{form} {option.value}".rstrip() for option in OPTIONS for form in (option.short, f"--{option.long}")}
    assert documented("carpd-ucarp.8")[_TOP] == known


def test_commands() -> None:
    """Of carpctl: each has a heading, with what it takes, and below it the options that it shares with no other."""
    said = documented("carpctl.8")
    shared = said[_TOP]
    known = {
        " ".join([name, *(_value(action) for action in parser._actions if not action.option_strings)]): spelled(parser)
        for name, parser in commands()
    }
    assert {heading for heading in said if heading[:1].islower()} == set(known)
    for heading, options in known.items():
        assert said[heading] == options - shared, heading
    for option in shared:
        assert sum(option in options for options in known.values()) > 1, option


def test_words_of_ifconfig() -> None:
    page = (ROOT / PAGES["carpctl.8"]).read_text()
    (part,) = re.findall(r"^# IFCONFIG\n(.*?)^# ", page, re.MULTILINE | re.DOTALL)
    of_carp, of_pfsync, of_group = (
        {word for term in _TERM.findall(words) for word in re.findall(r"\*\*([\w-]+)\*\*", term)}
        for words in re.split(r"^Of (?:pfsync0|a group).*\n", part, flags=re.MULTILINE)
    )
    assert of_carp == {*ifconfig._Carp.vocabulary.known, *BEHIND_ADDRESS}
    assert of_pfsync == {*ifconfig._Pfsync.vocabulary.known}
    for word in of_group:
        assert ifconfig.request(["-g", "carp", word], {}, "fw-a").orders, word
