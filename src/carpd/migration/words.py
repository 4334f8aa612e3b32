"""The words of a line, as a shell would see them: blanks part them, quotes keep them together, # begins a comment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_ESCAPED_IN_DOUBLE_QUOTES = '"\\$`'
_OPERATOR = re.compile("[;&|<>()]+")
_REDIRECTIONS = "<>"

_ENDS_IN_A_BACKSLASH = re.compile(r"(?<!\\)(?:\\\\)*\\$")
"""Of its own: one that another one stands before is a character."""


class Operator(str):
    """Of a shell, such as `;` or `2>`. In quotes it would be a word."""

    __slots__ = ()

    @property
    def redirects(self) -> bool:
        """It belongs to the command, as the next word does; any other ends it."""
        return any(character in self for character in _REDIRECTIONS)


class Scanned(NamedTuple):
    """What a line is made of."""

    words: list[str]
    """Without quotes."""
    quote: str
    """That is not closed at the end; empty: none is open."""
    continued: bool
    """It ends in a backslash of its own, that is in no comment and not in single quotes."""
    comment: int
    """Where its comment begins; without one, how long it is."""


def scan(line: str, comment: str = "#", *, quote: str = "", operators: bool = False) -> Scanned:
    """Find the words. What begins with one of the characters of `comment`, and all behind it, is none.

    `quote` is open at the beginning. With `operators` those of a shell stand among the words, each as an Operator.
    """
    words: list[str] = []
    word: list[str] | None = [] if quote else None  # [] is an empty one: it was in quotes
    position, end, continued = 0, len(line), False
    while position < end:
        character = line[position]
        position += 1
        if character == "\\" and quote != "'":
            following = line[position : position + 1]
            position += len(following)
            continued = not following
            if following:
                kept = character if quote and following not in _ESCAPED_IN_DOUBLE_QUOTES else ""
                word = word or []
                word.append(kept + following)
        elif character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote, word = character, word or []
        elif not quote and character.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        elif not quote and word is None and character in comment:
            end = position - 1
        elif not quote and operators and (operator := _OPERATOR.match(line, position - 1)):
            position = operator.end()
            before = "".join(word or [])
            descriptor = before if before.isdigit() and character in _REDIRECTIONS else ""
            if word is not None and not descriptor:
                words.append(before)
            words.append(Operator(descriptor + operator[0]))
            word = None
        else:
            word = word or []
            word.append(character)
    if word is not None:
        words.append("".join(word))
    return Scanned(words, quote, continued, end)


def split(line: str, comment: str = "#") -> list[str]:
    """Its words; a quote that is not closed lasts to the end of the line."""
    return scan(line, comment).words


def commands(line: str) -> Iterator[list[str]]:
    """Those of a shell that stand on one line, each with its redirections."""
    command: list[str] = []
    for word in scan(line, operators=True).words:
        if not isinstance(word, Operator) or word.redirects:
            command.append(word)
        elif command:
            yield command
            command = []
    if command:
        yield command


# How lines go on in the next one


class End(NamedTuple):
    """How a line ends."""

    continued: bool
    """By a backslash, which is no part of it."""
    quote: str = ""
    """That is still open."""


Ending = Callable[[str, str], End]
"""Of a line, and the quote that was open before it."""


def of_shell(line: str, quote: str) -> End:
    """Quotes go on; comments don't, whatever is in them. Ref: POSIX sh §2.2, §2.3."""
    scanned = scan(line, quote=quote, operators=True)
    return End(scanned.continued, scanned.quote)


def of_lines(line: str, _: str) -> End:
    """Likewise, but a quote ends with its line."""
    return End(scan(line, operators=True).continued)


def of_read(line: str, _: str) -> End:
    """As sh's `read` takes a file, which knows no comments: they go on, too. Ref: OpenBSD etc/netstart, ifstart."""
    return End(bool(_ENDS_IN_A_BACKSLASH.search(line)))


def of_ifupdown(line: str, _: str) -> End:
    """Only a line that is all comment does not go on. Two backslashes are one that continues, and one of the value."""
    return End(line.endswith("\\") and not line.lstrip().startswith("#"))


def lines(text: str, ending: Ending) -> Iterator[tuple[int, str]]:
    """The lines with their numbers; those that are continued are joined, and have the number of the first."""
    first, joined, end = 0, "", End(False)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        first = first or number
        end = ending(line, end.quote)
        if end.continued:
            joined += line[:-1]
        elif end.quote:
            joined += line + "\n"
        else:
            yield first, joined + line
            first, joined = 0, ""
    if first:
        yield first, joined
