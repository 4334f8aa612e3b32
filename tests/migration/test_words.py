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


COMMANDS = {
    "a b": ["a b"],
    "if a; then b; fi": ["if a", "then b", "fi"],
    "a && b || c & d | e;": ["a", "b", "c", "d", "e"],
    "a 'b;c' \\; d": ["a b;c ; d"],
    "a>b 2>&1 3 >c": ["a > b 2>& 1 3 > c"],
    "a;# b; c": ["a"],
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str) -> None:
    assert [" ".join(command) for command in words.commands(line)] == COMMANDS[line]


LINES: dict[str, tuple[words.Ending, list[tuple[int, str]]]] = {
    "a \\\n b\nc": (words.of_shell, [(1, "a  b"), (3, "c")]),
    "a\\\\\nb\\": (words.of_shell, [(1, "a\\\\"), (2, "b")]),
    "# a \\\nb # c\\\nd": (words.of_shell, [(1, "# a \\"), (2, "b # c\\"), (3, "d")]),
    "a='b\\\nc' # it's\nd": (words.of_shell, [(1, "a='b\\\nc' # it's"), (3, "d")]),
    "a='b\nc": (words.of_shell, [(1, "a='b\nc\n")]),
    "a='b\nc\\\nd": (words.of_lines, [(1, "a='b"), (2, "cd")]),
    "# a \\\nb\\\\\n'c\\\nd": (words.of_read, [(1, "# a b\\\\"), (3, "'cd")]),
    " # a \\\nb # c\\\nd\\\\\ne": (words.of_ifupdown, [(1, " # a \\"), (2, "b # cd\\e")]),
    "a\r\nb": (words.of_shell, [(1, "a"), (2, "b")]),
}
"""Of ifupdown as its ifquery shows it."""


@pytest.mark.parametrize("text", LINES)
def test_lines_go_on(text: str) -> None:
    ending, expected = LINES[text]
    assert [*words.lines(text, ending)] == expected


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
