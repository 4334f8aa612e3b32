"""Short ways to read a text as a format, and to see what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carpd.migration.formats import read_all
from carpd.migration.found import Found

FILES = {
    "openbsd": "/etc/hostname.carp0",
    "freebsd": "rc.conf",
    "ucarp": "start.sh",
    "keepalived": "keepalived.conf",
    "conntrackd": "conntrackd.conf",
    "sysctl.conf": "sysctl.conf",
}
"""What a file of each format is called."""


def read(*texts: tuple[str, str], node: str | None = None, interfaces: Mapping[str, str] | None = None) -> Found:
    """Each with the name of its format. Raise MigrationError."""
    found = Found(node, interfaces or {})
    read_all(found, [(name, FILES[name], text) for name, text in texts])
    return found


def only_host(found: Found) -> dict[str, Any]:
    """The keys of its one virtual host."""
    (table,) = found.hosts
    return table.values


def left(found: Found) -> list[str]:
    """What is not taken over, without the file."""
    return [f"{r.places[0].line}: {r.text}: {r.reason}" for r in found.remarks if not r.taken]


def notes(found: Found) -> list[str]:
    """What is taken over, but not as it was."""
    return [f"{r.places[0].line}: {r.text}: {r.reason}" for r in found.remarks if r.taken]
