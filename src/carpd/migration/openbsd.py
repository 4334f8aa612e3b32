"""OpenBSD: hostname.carpN and hostname.pfsync0, and what sysctl.conf adds.

Ref: OpenBSD hostname.if(5), ifconfig(8), carp(4), pfsync(4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from carpd.config.ifconfig_words import OPENBSD_CARP, OPENBSD_PFSYNC
from carpd.migration import sysctl, words
from carpd.migration.found import Found, MigrationError, Place, Table
from carpd.migration.ifconfig import Interface, tell_of_interfaces, unicast

_FILE = re.compile(r"(?:.*/)?hostname\.(?P<interface>[a-z]+[0-9]+)$")


def recognises(file: str, text: str) -> bool:
    return bool(_FILE.match(file)) or bool(re.search(r"(?m)^\s*(ifconfig\s+)?(carp|pfsync)[0-9]+\s", text))


def read(file: str, text: str, found: Found) -> None:
    """Raise MigrationError if it can't be told which interface it is of."""
    match = _FILE.match(file)
    interfaces: dict[str, Interface | _Other] = {}
    for line_number, line in words.lines(text, words.of_read):
        place = Place(file, line_number)
        here = words.split(line)
        if not here:
            continue
        if here[0].startswith("!"):
            found.leave(place, line, "commands are not run: see [hook.NAME]")
            continue
        if here[0] == "ifconfig":
            here = here[1:]
        name = match["interface"] if match else here.pop(0) if here else ""
        if not re.fullmatch(r"[a-z]+[0-9]+", name):
            raise MigrationError(place, "which interface is it of? Call the file hostname.carp0, for example")
        if name not in interfaces:
            interfaces[name] = _interface(found, name, place)
        interfaces[name].read(here, place)


def finish(found: Found) -> None:
    sysctl.tell_of_preemption(found)
    unicast(found)
    tell_of_interfaces(found)
    defer(found)


def defer(found: Found) -> None:
    """On the BSDs it is of all interfaces: here, of those that have virtual hosts."""
    if found.pfsync is not None and found.pfsync.values.pop("defer", None) is not None:
        for table in found.hosts:
            if "interface" in table.values:
                found.add(found.pfsync, "defer", table.values["interface"], found.pfsync.place)


def plain(found: Found, table: Table, version: str) -> None:
    """pfsync as the BSDs speak it: hosts can be moved one after the other."""
    found.set(table, "transport", "plain", table.place)
    found.set(table, "version", version, table.place)
    reason = (
        f'transport = "plain" and version = "{version}" speak with hosts that have not moved yet; when all have, take '
        "both out and set a secret_file"
    )
    found.note(table.place, "pfsync", reason)


def _interface(found: Found, name: str, place: Place) -> Interface | _Other:
    if name.startswith("carp"):
        return _Carp(found, found.host(name, place), OPENBSD_CARP)
    if name.startswith("pfsync"):
        table = found.pfsync_table(place)
        plain(found, table, "openbsd")
        return Interface(found, table, OPENBSD_PFSYNC)
    return _Other(found, name)


class _Other:
    """Any other interface is the host's own business."""

    def __init__(self, found: Found, name: str) -> None:
        self._found, self._name = found, name

    def read(self, here: Sequence[str], place: Place) -> None:
        self._found.leave(place, " ".join(here), f"{self._name} is no carp or pfsync interface")


class _Carp(Interface):
    """OpenBSD's may be in several groups, and is in the group carp unless that is taken back."""

    _in_carp = True

    def set(self, key: str, value: object, place: Place) -> None:
        if (key, value) == ("group", "carp"):
            self._in_carp = True
            return
        super().set(key, value, place)
        if key == "group" and self._in_carp and key in self.table.values:
            reason = "a virtual host is in one group here: it leaves the group carp, and moves with this one alone"
            self.found.note(place, f"group {value}", reason)

    def order(self, word: str, value: str, place: Place) -> None:
        if (word, value) == ("-group", "carp"):
            self._in_carp = False
        super().order(word, value, place)
