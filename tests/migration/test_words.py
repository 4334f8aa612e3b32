"""Words as a shell sees them, and statements in braces."""

from __future__ import annotations

import pytest

from carpd.migration import blocks, words

SPLIT = {
    "  a  b\tc ": ["a", "b", "c"],
    "": [],
    "'a b' \"c d\"": ["a b", "c d"],
    "a'b c'd": ["ab cd"],
    "''": [""],
    '"\\"\\\\\\x"': ['"\\\\x'],
    "a\\ b \\#": ["a b", "#"],
    "a # b": ["a"],
    "a#b '#' c": ["a#b", "#", "c"],
    "'not closed": ["not closed"],
    "not closed\\": ["not", "closed"],
}


@pytest.mark.parametrize("line", SPLIT)
def test_split(line: str) -> None:
    assert words.split(line) == SPLIT[line]


def test_lines_are_continued() -> None:
    assert [*words.lines("a \\\nb\nc\\\\\n\nd\\")] == [(1, "a  b"), (3, "c\\\\"), (4, ""), (5, "d ")]


PARSED = {
    "a b\nc": "a b | c",
    "a {\nb c\n}\nd": "a {b c} | d",
    "a { b { c d } e } f": "a {b {c d} | e} | f",
    "a\n{\nb\n}": "a {b}",
    "a {} {b}": "a {} |  {b}",
    "a{b}": "a {b}",
    "a # b }\nc !d": "a | c",
    'a \'b # c\' "d } \\" e"': 'a b # c d } " e',
    'a "b\nc': 'a "b | c',
}


@pytest.mark.parametrize("text", PARSED)
def test_blocks(text: str) -> None:
    assert written(blocks.parse("file", text, "#!")) == PARSED[text]


def test_an_exclamation_mark_is_a_word_to_others() -> None:
    assert written(blocks.parse("file", "a !b", "#")) == "a !b"


def test_nesting_has_no_limit() -> None:
    (statement,) = blocks.parse("file", "a {" * 10_000 + "}" * 10_000, "#")
    assert str(statement) == "a {…}"


def written(statements: list[blocks.Statement]) -> str:
    return " | ".join(" ".join(s.words) + ("" if s.block is None else f" {{{written(s.block)}}}") for s in statements)
