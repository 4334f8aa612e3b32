"""What is wrong with a configuration file: one line each, with the place, the key, its value and what to do."""

from __future__ import annotations

import datetime
import enum
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from carpd.nearest import hint

KeyPath = tuple[str, ...]
"""Where a key or table is in the document: ("carp", "lan", "vhid")."""

_SHOWN_LIMIT = 60
"""Characters of a value that are shown: a problem is to fit on a line."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),  # before int, whose subclass it is
    (int, "a whole number"),
    (float, "a fraction"),
    (str, "a string"),
    (list, "an array"),
    (dict, "a table"),
    (datetime.date, "a date"),
    (datetime.time, "a time"),
)


class Severity(enum.Enum):
    """An error keeps the daemon from using the file, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. Printed as `carpd.toml:3: error: carp.lan.vhid = 300: a vhid is 1 to 255`."""

    severity: Severity
    file: Path
    line: int
    """0 when it belongs to no line."""
    key: str
    """Dotted; empty when it belongs to no key."""
    value: str
    """As TOML spells it; empty when there is none, or none to be shown."""
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else f"{self.file}"
        subject = f"{self.key} = {self.value}: " if self.value else f"{self.key}: " if self.key else ""
        return f"{place}: {self.severity.value}: {subject}{self.message}"


class Problems:
    """Collects the problems of one file; the same one, found on two nodes, is kept once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: Mapping[KeyPath, int] = {}
        """Where the keys stand, as `locate.key_lines` finds it."""
        self._found: dict[Problem, None] = {}

    @property
    def errors(self) -> bool:
        return any(problem.severity is Severity.ERROR for problem in self._found)

    def in_order(self) -> tuple[Problem, ...]:
        """As one reads the file, downwards."""
        return tuple(sorted(self._found, key=lambda problem: problem.line))

    def error(self, path: KeyPath, message: str, value: object = None, line: int = 0) -> None:
        self.add(Severity.ERROR, path, message, value, line)

    def unknown(self, path: KeyPath, value: object, known: Iterable[str], what: str) -> None:
        """A name that nobody knows. A string is not shown: it may be the password of a misspelt key."""
        message = f"unknown {what}: {nearest(path[-1], known)}"
        self.error(path, message, None if isinstance(value, str | dict) else value)

    def add(self, severity: Severity, path: KeyPath, message: str, value: object = None, line: int = 0) -> None:
        """TOML has no null: a value of None is none to be shown."""
        shown = "" if value is None else show(value)
        place = line or self._line(path)
        found = Problem(severity=severity, file=self.file, line=place, key=dotted(path), value=shown, message=message)
        self._found[found] = None

    def _line(self, path: KeyPath) -> int:
        """The line of a key; of the table around it if the key is missing."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def dotted(path: KeyPath) -> str:
    """A key path as TOML spells it, on one line whatever the names are."""
    return ".".join(name if _BARE_KEY.fullmatch(name) else json.dumps(name) for name in path)


def show(value: object) -> str:
    """A value about as TOML spells it, on one short line."""
    if isinstance(value, list):
        text = "[" + ", ".join("[…]" if isinstance(element, list) else show(element) for element in value) + "]"
    elif isinstance(value, dict):
        text = "{…}" if value else "{}"
    elif isinstance(value, bool | str):
        text = json.dumps(value)
    elif isinstance(value, int) and value.bit_length() > 64:
        text = f"{value:#x}"  # Python refuses to print thousands of decimal digits
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_LIMIT else text[: _SHOWN_LIMIT - 1] + "…"


def kind(value: object) -> str:
    """What sort of TOML value this is, with its article."""
    return next(name for python, name in _KINDS if isinstance(value, python))


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name, with the names as TOML spells them."""
    return hint(dotted((name,)), (dotted((each,)) for each in known))
