"""Whether a program printed what a document shows: word by word, but for numbers."""

from __future__ import annotations

import re

from carpd.effects import Reason

_REASON = re.compile("|".join(re.escape(reason.value) for reason in Reason))
_ADDRESS = re.compile(r"\d+(?:\.\d+){3}(?:/\d+)?")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BLANKS = re.compile(r"[ \t]+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d (?=\d\d:)")
_AGE = re.compile(r"\b0[smhd]\b")


def shape(text: str) -> list[str]:
    """Its lines. Addresses stay, other numbers are 0, an age in any unit is 0s, and columns are as wide as they are.

    A state's reason is one of those that there are: which one may depend on who was there first. A time that is not
    today has a date.
    """
    return [_line(_DATE.sub("", line)) for line in text.splitlines()]


def _line(line: str) -> str:
    parts = []
    begin = 0
    for address in _ADDRESS.finditer(line):
        parts += [_NUMBER.sub("0", line[begin : address.start()]), address.group()]
        begin = address.end()
    parts.append(_NUMBER.sub("0", line[begin:]))
    return _AGE.sub("0s", _REASON.sub("REASON", _BLANKS.sub(" ", "".join(parts)))).strip()


def fits(printed: str, shown: str) -> bool:
    """A shown line "..." stands for any lines, or none."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in shape(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in shape(printed))) is not None
