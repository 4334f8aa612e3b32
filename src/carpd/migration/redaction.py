"""Passwords are never shown: in no remark and no comment of carpd.toml, whatever line they were found in.

What stands behind a password's word in a file is secret wherever it turns up: readers take lines apart, and tell of
single words. Rather too much is hidden than too little: there is the place of the line to look at.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from functools import lru_cache

from carpd.migration import words

HIDDEN = "…"

_NAMES = ("pass", "auth_pass", "ucarp_password", "password", "passwd", "pw")
"""What the formats call a password, and scripts."""
_PARTS = ("pass", "secret")
"""What has one of them in its name is one, too."""
_OF_FILES = ("passfile", "password_file")
"""But what is known to be none."""
_ALIKE = 0.75
"""How like one of them a misspelt one is: auth_pas and psas are, auth_type and class are not."""

_KEYWORD = re.compile(
    r"(?<![\w/-])(?:auth_type\s+\w+|(?P<option>-[BDMPSnz]*[pP])|(?P<name>-{0,2}[A-Za-z_][\w-]*)(?=\\\n|[\s=]))"
)
"""A word that may be one for a password: `name`, or `option`, which is ucarp's, alone or behind others; -P is easily
typed for it. A type of authentication is called PASS."""
_VALUE = r"""(?P<value>(?:\\?"[^"\n]*"|'[^'\n]*'|\S)+)"""
_FIRST = re.compile(rf"(?P<assigned>\s*=)?(?:\\\n|\s)*{_VALUE}")
_FURTHER = re.compile(rf"[^\S\n]+(?!-){_VALUE}")
_UNQUOTED = re.compile(r"""(?:\\\n|[\s=])*(?P<word>[^\s"'-][^\s"']*)""")
_BARE = re.compile(r"""[^"'\\;&|<>(){}]+""")
_BRACES = ("{", "}")


def secrets(text: str) -> set[str]:
    """What stands behind the words for a password in a file, but in its comments."""
    found: set[str] = set()
    lines = text.split("\n")
    text = "\n".join("" if line.lstrip().startswith("!") else line[: words.scan(line).comment] for line in lines)
    for keyword in _keywords(text):
        for value in _values(text, keyword):
            found |= {value, *words.split(value), *words.split(value.replace("\\", ""))}
            if bare := _BARE.match(value):
                found.add(bare[0])  # what closes a quote around it is none of it
    return found.difference(("", *_BRACES))


def redact(text: str, known: Collection[str]) -> str:
    """A part of a file without what is known to be secret, and without what is behind a word for a password."""
    for keyword in _keywords(text):
        if any(_values(text, keyword)):
            text = f"{text[: keyword.end()]} {HIDDEN}"
            break
    return hide(text, known)


def hide(text: str, known: Collection[str]) -> str:
    """A text without what is known to be secret; only whole words of it count."""
    for secret in sorted((secret for secret in known if secret in text), key=len, reverse=True):
        text = re.sub(rf"{_edge(secret[0])}{re.escape(secret)}{_edge(secret[-1])}", HIDDEN, text)
    return text


def _edge(character: str) -> str:
    return r"\b" if re.match(r"\w", character) else ""


def _keywords(text: str) -> Iterator[re.Match[str]]:
    """The words for a password. A password that looks like one, as in `pass mypass`, is none; nor is $PASS, used."""
    position = 0
    while match := _KEYWORD.search(text, position):
        begin, position = match.span()
        used = text[max(begin - 2, 0) : begin].endswith(("$", "${")) and not text.startswith("=", position)
        if match["option"] or (match["name"] and _is_password(match["name"]) and not used):
            yield match
            behind = _UNQUOTED.match(text, position)
            if behind is not None and _folded(behind["word"]) not in _NAMES:
                position = behind.end()


def _folded(name: str) -> str:
    return name.strip("-_").casefold().replace("-", "_")


@lru_cache(maxsize=4096)
def _is_password(name: str) -> bool:
    folded = _folded(name)
    if folded in _OF_FILES or len(folded) < 2:
        return False
    likely = any(part in folded for part in _PARTS) or _NAMES[0].startswith(folded)
    return likely or bool(get_close_matches(folded, _NAMES, 1, _ALIKE))


def _values(text: str, keyword: re.Match[str]) -> Iterator[str]:
    """What is behind a word; behind one that has nothing else on its line or up to the next option, all of that."""
    match = _FIRST.match(text, keyword.end())
    if match is not None and keyword[0].endswith("P") and match["value"].startswith("-"):
        return  # -P as it should be: the next option
    alone = match is not None and not match["assigned"] and re.search("[-_]", keyword[0])
    while match is not None:
        yield match["value"]
        match = _FURTHER.match(text, match.end()) if alone else None
