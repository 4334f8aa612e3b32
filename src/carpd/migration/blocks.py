"""The form of keepalived.conf and conntrackd.conf: statements of words on a line, some with a block in braces."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from carpd.migration.found import MigrationError, Place

_QUOTED = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_QUOTES = re.compile(_QUOTED)


@dataclass(slots=True)
class Statement:
    """A line of words, and the statements in its block; None if it has none."""

    place: Place
    words: list[str]
    block: list[Statement] | None = None

    def __str__(self) -> str:
        return " ".join(self.words) + " {…}" * (self.block is not None)

    @property
    def keyword(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def value(self) -> str:
        """The word behind the keyword; empty if there is none."""
        return self.words[1] if len(self.words) > 1 else ""

    @property
    def behind(self) -> str:
        """The words behind the value."""
        return " ".join(self.words[2:])

    @property
    def items(self) -> list[Statement]:
        """The statements in its block."""
        return self.block or []


@dataclass(slots=True)
class _Open:
    """A block that is being read; the first one is the file."""

    place: Place
    statements: list[Statement] = field(default_factory=list)
    line: int = 0
    """Of the statement that further words belong to; 0: the next word begins one."""


def parse(file: str, text: str, comment: str) -> list[Statement]:
    """The statements of a file; `comment` are the characters that begin one. Raise MigrationError for its braces."""
    opened = [_Open(Place(file, 1))]
    line = 1
    for token in _tokens(comment).finditer(text):
        if token["newline"]:
            line += 1
            opened[-1].line = 0
        elif token["brace"] == "{":
            opened.append(_Open(Place(file, line), _begin_block(opened[-1], Place(file, line))))
        elif token["brace"] == "}":
            if len(opened) == 1:
                raise MigrationError(Place(file, line), "} closes no block")
            opened.pop()
            opened[-1].line = 0
        elif token["word"]:
            block = opened[-1]
            if block.line != line:
                block.statements.append(Statement(Place(file, line), []))
                block.line = line
            block.statements[-1].words.append(_QUOTES.sub(_unquoted, token["word"]))
    if len(opened) > 1:
        raise MigrationError(opened[-1].place, "the block is not closed")
    return opened[0].statements


def _tokens(comment: str) -> re.Pattern[str]:
    """What a file is made of; blanks match nothing."""
    return re.compile(
        rf"(?P<comment>[{comment}][^\n]*)|(?P<newline>\n)|(?P<brace>[{{}}])"
        rf"""|(?P<word>(?:{_QUOTED}|[^\s{{}}"'{comment}]|["'])+)"""
    )


def _begin_block(block: _Open, place: Place) -> list[Statement]:
    """A brace belongs to the statement before it, on the same line or on one above."""
    last = block.statements[-1] if block.statements else None
    if last is None or last.block is not None:
        last = Statement(place, [])
        block.statements.append(last)
    last.block, block.line = [], 0
    return last.block


def _unquoted(quoted: re.Match[str]) -> str:
    text = quoted[0][1:-1]
    return re.sub(r"\\(.)", r"\1", text) if quoted[0][0] == '"' else text
