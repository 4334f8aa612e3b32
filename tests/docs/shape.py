"""Whether a program printed what a document shows: word by word, but for numbers."""

from __future__ import annotations

import re

from carpd.effects import Reason

_ALIKE = (
    (r"\d{4}-\d\d-\d\d (?=\d\d:)", ""),  # the date of a time that is not today
    (r"(\d+(?:\.\d+){3}(?:/\d+)?)|\d+(?:\.\d+)?", lambda found: found[1] or "0"),  # addresses stay
    (r"\b0[smhd]\b", "0s"),  # an age, in any unit
    (r"\b0 ([a-z]+)s\b", r"0 \1"),
    ("|".join(re.escape(reason.value) for reason in Reason), "REASON"),  # it may depend on who was there first
    (r"[ \t]+", " "),  # columns are as wide as they are
)
"""What is read as what."""


def shape(text: str) -> list[str]:
    """Its lines, as they are compared."""
    for pattern, alike in _ALIKE:
        text = re.sub(pattern, alike, text)
    return [line.strip() for line in text.splitlines()]


def fits(printed: str, shown: str) -> bool:
    """A shown line "..." stands for any lines, or none."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in shape(shown))
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in shape(printed))) is not None
