"""The formats that can be read, and how a file is recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from carpd.migration import conntrackd, freebsd, keepalived, openbsd, redaction, sysctl, ucarp
from carpd.migration.found import Found


@dataclass(frozen=True, slots=True)
class Format:
    """How the files of one program are read."""

    recognises: Callable[[str, str], bool]
    """By the file's name and text."""
    read: Callable[[str, str, Found], None]
    """Put what the text says into the last argument. Raise MigrationError if it is not of this format at all."""
    finish: Callable[[Found], None]
    """What depends on all files of a host, when they have been read."""
    files: Sequence[str]
    """What they usually are called: patterns, below /etc."""


SYSCTL = "sysctl.conf"

FORMATS: Mapping[str, Format] = {
    SYSCTL: Format(sysctl.recognises, sysctl.read, sysctl.finish, (SYSCTL,)),
    "keepalived": Format(keepalived.recognises, keepalived.read, keepalived.finish, ("keepalived/keepalived.conf",)),
    "conntrackd": Format(conntrackd.recognises, conntrackd.read, conntrackd.finish, ("conntrackd/conntrackd.conf",)),
    "freebsd": Format(freebsd.recognises, freebsd.read, freebsd.finish, ("rc.conf", "rc.conf.local")),
    "ucarp": Format(ucarp.recognises, ucarp.read, ucarp.finish, ("network/interfaces",)),
    "openbsd": Format(openbsd.recognises, openbsd.read, openbsd.finish, ("hostname.carp*", "hostname.pfsync*")),
}
"""In the order in which they are tried, and finished: what sysctl.conf says goes into what the others found."""

PROGRAMS = tuple(name for name in FORMATS if name != SYSCTL)
"""Those that `--from` can name; sysctl.conf goes along with the files of either BSD."""


def recognise(file: str, text: str, program: str | None = None) -> str | None:
    """The name of the format; None if it is none of them. `program` is what the operator says it is of."""
    if FORMATS[SYSCTL].recognises(file, text):
        return SYSCTL
    return program or next((name for name, known in FORMATS.items() if known.recognises(file, text)), None)


def read_all(found: Found, files: Sequence[tuple[str, str, str]]) -> None:
    """Read the files of one host, each a format, a name and a text. Raise MigrationError."""
    for _, _, text in files:
        found.secrets |= redaction.secrets(text)
    for name, file, text in files:
        FORMATS[name].read(file, text, found)
    for name, known in FORMATS.items():
        if any(name == used for used, _, _ in files):
            known.finish(found)
