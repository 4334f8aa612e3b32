"""What the files of one host say, in the keys of our configuration: what every reader makes.

Values are checked as they come, by the configuration's own keys. What they refuse is left over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carpd.config.keys import CARP_KEYS, IGNORE_KEYS, PFSYNC_KEYS, Key
from carpd.errors import CarpdError
from carpd.migration import redaction
from carpd.wire.carp_auth import PASSWORD_LIMIT

_SHOWN_LIMIT = 72
"""Characters of a construct that are shown: a remark is to fit on a line."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class MigrationError(CarpdError):
    """A file that can't be read as what it is taken for; the message begins with file and line."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(f"{place}: {message}")


@dataclass(frozen=True, slots=True)
class Remark:
    """What an operator must know about a line, or about the same line of several hosts."""

    places: tuple[Place, ...]
    text: str
    """The construct, as it is written."""
    reason: str
    taken: bool
    """Whether it was taken over, though not quite as it was."""

    def __str__(self) -> str:
        return f"{self.where}: {'note' if self.taken else 'not taken over'}: {self.text}: {self.reason}"

    @property
    def where(self) -> str:
        return ", ".join(map(str, self.places))


@dataclass(slots=True)
class Table:
    """[carp.NAME] or [pfsync] in the making."""

    name: str
    """As the other program calls it; empty: it has no name for it."""
    place: Place
    keys: Mapping[str, Key]
    values: dict[str, Any] = field(default_factory=dict)
    """In TOML's own types."""
    comments: dict[str, str] = field(default_factory=dict)
    """By key: what its value comes from."""
    alone: bool = False
    """It does not move together with any other: it has a group of its own."""

    @property
    def vhids(self) -> tuple[int, ...]:
        """All of a virtual host, ascending; none if the file does not say."""
        return tuple(sorted(map(int, self.values.get("nodes") or ()))) or tuple(
            [self.values["vhid"]] if "vhid" in self.values else []
        )


@dataclass(frozen=True, slots=True)
class Script:
    """A program that is run when something happens to a virtual host."""

    place: Place
    event: str
    """"master" or "backup", as for [hook.NAME]; empty: whatever happens."""
    command: tuple[str, ...]
    table: Table
    user: str = ""
    """Who runs it; empty: the files don't say."""


@dataclass(slots=True)
class Found:
    """All that the files of one host say."""

    node: str | None = None
    """Its name, if it was said."""
    interfaces: Mapping[str, str] = field(default_factory=dict)
    """What interfaces are called on Linux, by their name in the files."""
    hosts: list[Table] = field(default_factory=list)
    """The virtual hosts."""
    pfsync: Table | None = None
    scripts: list[Script] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    sysctls: dict[str, tuple[str, Place]] = field(default_factory=dict)
    """Of sysctl.conf, by name: what is said last counts."""
    secrets: set[str] = field(default_factory=set)
    """Passwords, right or wrong: what is told shows none of them."""

    def host(self, name: str, place: Place) -> Table:
        """A new virtual host."""
        table = Table(name, place, CARP_KEYS)
        self.hosts.append(table)
        return table

    def pfsync_table(self, place: Place) -> Table:
        """[pfsync], new or as it is."""
        if self.pfsync is None:
            self.pfsync = Table("", place, PFSYNC_KEYS)
        return self.pfsync

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        return [*self.hosts, *([self.pfsync] if self.pfsync else [])]

    # What is told

    def leave(self, place: Place, text: str, reason: str) -> None:
        """It is not taken over. `text` is of the file; `reason` is ours, and names nothing that may be secret."""
        self.remarks.append(Remark((place,), self._shown(text), printable(reason), taken=False))

    def note(self, place: Place, text: str, reason: str) -> None:
        """It is taken over, and the operator must know something about it."""
        self.remarks.append(Remark((place,), self._shown(text), printable(reason), taken=True))

    def _shown(self, text: str) -> str:
        line = printable(" ".join(redaction.redact(text, self.secrets).split()))
        return line if len(line) <= _SHOWN_LIMIT else line[: _SHOWN_LIMIT - 1] + "…"

    # What is taken over

    def script(self, table: Table, place: Place, event: str, command: Sequence[str], user: str = "") -> None:
        """For what Script says; it is only suggested, so that it shows no password either."""
        shown = tuple(redaction.hide(word, self.secrets) for word in command)
        self.scripts.append(Script(place, event, shown, table, user))

    def set(self, table: Table, key: str, value: Any, place: Place, comment: str = "") -> None:
        """Set a key that is no array, if the configuration accepts the value."""
        if self._good(table.keys[key], value, key, place):
            table.values[key] = value
            if comment:
                table.comments[key] = comment

    def add(self, table: Table, key: str, value: Any, place: Place) -> None:
        """Append to an array what is not yet in it."""
        if self._good(table.keys[key], [value], key, place) and value not in table.values.setdefault(key, []):
            table.values[key].append(value)

    def ignore(self, key: str, value: Any, place: Place) -> None:
        """Append to an array of [pfsync.ignore]."""
        if self._good(IGNORE_KEYS[key], [value], key, place):
            table = self.pfsync_table(place).values.setdefault("ignore", {})
            if value not in table.setdefault(key, []):
                table[key].append(value)

    def password(self, table: Table, text: str, place: Place, *, cut: bool) -> None:
        """`cut`: what is too long did not count before, and is left out."""
        data = text.encode()
        if "\ufffd" in text:
            self.leave(place, "the password", "is no UTF-8: put its bytes into a file, and set password_file")
        elif not data:
            self.leave(place, "the password", "is empty")
        elif len(data) > PASSWORD_LIMIT and not cut:
            self.leave(place, "the password", f"has more than {PASSWORD_LIMIT} bytes: choose another")
        else:
            if len(data) > PASSWORD_LIMIT:
                data = data[:PASSWORD_LIMIT]
                self.note(place, "the password", f"only its first {PASSWORD_LIMIT} bytes ever counted, and are taken")
            self.set(table, "password", data.decode(errors="ignore"), place)

    def interface(self, name: str) -> str:
        """What an interface is called here."""
        return self.interfaces.get(name, name)

    def _good(self, key: Key, value: Any, name: str, place: Place) -> bool:
        _, refused = key.read(value)
        for path, raw, reason in refused:
            self.leave(place, " ".join(map(str, (name, *path, raw))), reason)
        return not refused


def number(text: str) -> int | str:
    """A number that is written in decimal; anything else as it is, for the configuration to refuse."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else text


def printable(text: str) -> str:
    """On one line, whatever it is."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
