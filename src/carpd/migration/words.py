"""The words of a line, as a shell would see them: blanks part them, quotes keep them together, # begins a comment."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ESCAPED_IN_DOUBLE_QUOTES = '"\\$`'

_CONTINUED = re.compile(r"(?<!\\)(?:\\\\)*\\$")
"""A line that ends in a backslash of its own goes on in the next one."""


def split(line: str, comment: str = "#") -> list[str]:
    """Its words, without quotes; a quote that is not closed lasts to the end of the line.

    What begins with one of the characters of `comment`, and all behind it, is none.
    """
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if quote:
            if character == quote:
                quote = ""
            elif character == "\\" and quote == '"':
                following = next(characters, "")
                word = word or []
                word.append(following if following in _ESCAPED_IN_DOUBLE_QUOTES else character + following)
            else:
                word = word or []
                word.append(character)
        elif character.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        elif character in "\"'":
            quote, word = character, word or []
        elif word is None and character in comment:
            break
        else:
            word = word or []
            word.append(next(characters, "") if character == "\\" else character)
    if word is not None:
        words.append("".join(word))
    return words


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers; those that are continued are joined, and have the number of the first."""
    first, joined = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        first = first or number
        line = line.rstrip("\r")
        if _CONTINUED.search(line):
            joined += line[:-1] + " "
            continue
        yield first, joined + line
        first, joined = 0, ""
    if first:
        yield first, joined
