"""OpenBSD: hostname.carpN and hostname.pfsync0, and what sysctl.conf adds.

Ref: OpenBSD hostname.if(5), ifconfig(8), carp(4), pfsync(4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from carpd.migration import sysctl, words
from carpd.migration.found import Found, MigrationError, Place, Table, number
from carpd.migration.ifconfig import (
    VirtualHostWords,
    Words,
    prefix_length,
    tell_of_interfaces,
    unicast,
    unknown,
    version,
)

_NO_BROADCAST = "NONE"

_FILE = re.compile(r"(?:.*/)?hostname\.(?P<interface>[a-z]+[0-9]+)$")
_MASK = re.compile(r"0x[0-9a-fA-F]+|[0-9]{1,3}(\.[0-9]{1,3}){3}")


def recognises(file: str, text: str) -> bool:
    return bool(_FILE.match(file)) or bool(re.search(r"(?m)^\s*(ifconfig\s+)?(carp|pfsync)[0-9]+\s", text))


def read(file: str, text: str, found: Found) -> None:
    """Raise MigrationError if it can't be told which interface it is of."""
    match = _FILE.match(file)
    interfaces: dict[str, _Carp | _Pfsync | _Other] = {}
    for line_number, line in words.lines(text):
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


def _interface(found: Found, name: str, place: Place) -> _Carp | _Pfsync | _Other:
    if name.startswith("carp"):
        return _Carp(found, found.host(name, place))
    if name.startswith("pfsync"):
        return _Pfsync(found, found.pfsync_table(place))
    return _Other(found, name)


class _Other:
    """Any other interface is the host's own business."""

    def __init__(self, found: Found, name: str) -> None:
        self._found, self._name = found, name

    def read(self, here: Sequence[str], place: Place) -> None:
        self._found.leave(place, " ".join(here), f"{self._name} is no carp or pfsync interface")


class _Carp(VirtualHostWords):
    def __init__(self, found: Found, table: Table) -> None:
        super().__init__(found, table)
        self.known |= {
            "carpdev": lambda: self.set("interface", found.interface(self.words.take())),
            "carpnodes": self.nodes,
            "balancing": self.balancing,
            "carppeer": lambda: self.peer("carppeer"),
            "group": self.group,
            "-group": self.no_group,
            "description": lambda: found.leave(self.place, f"description {self.words.take()}", "write a comment"),
        }
        self._in_carp = True

    def inet(self) -> None:
        """As in hostname.if(5): inet [alias] ADDRESS [NETMASK [BROADCAST]], where the last may be NONE."""
        if self.words.next == "alias":
            self.words.take()
        if version(self.words.next) != 4:
            return
        address = self.words.take()
        if "/" not in address and _MASK.fullmatch(self.words.next):
            address += f"/{prefix_length(self.words.take())}"
            if self.words.next == _NO_BROADCAST or version(self.words.next) == 4:
                self.words.take()
        self.address(address)

    def inet6(self) -> None:
        """inet6 [alias] ADDRESS [LENGTH]."""
        if self.words.next == "alias":
            self.words.take()
        if version(self.words.next) != 6:
            return
        address = self.words.take()
        if "/" not in address and self.words.next.isdigit():
            address += f"/{self.words.take()}"
        self.address(address)

    def nodes(self) -> None:
        text = self.words.take()
        pairs = [pair.partition(":") for pair in text.split(",")]
        nodes = {vhid: number(advskew or "0") for vhid, _, advskew in pairs}
        for key in ("vhid", "advskew"):
            self.table.values.pop(key, None)
        if len(nodes) == 1:  # one node shares nothing
            ((vhid, advskew),) = nodes.items()
            self.set("vhid", number(vhid))
            self.set("advskew", advskew)
        else:
            self.set("nodes", nodes)

    def balancing(self) -> None:
        mode = self.words.take()
        if mode != "none":
            self.set("balancing", mode)

    def group(self) -> None:
        name = self.words.take()
        if name == "carp":
            self._in_carp = True
            return
        self.set("group", name)
        if self._in_carp:
            reason = "a virtual host is in one group here: it leaves the group carp, and moves with this one alone"
            self.found.note(self.place, f"group {name}", reason)

    def no_group(self) -> None:
        self._in_carp = self._in_carp and self.words.take() != "carp"


class _Pfsync:
    def __init__(self, found: Found, table: Table) -> None:
        self._found, self._table = found, table
        plain(found, table, "openbsd")

    def read(self, here: Sequence[str], place: Place) -> None:
        read_pfsync(self._found, self._table, here, place)


def read_pfsync(found: Found, table: Table, here: Sequence[str], place: Place) -> None:
    """The ifconfig words of pfsync0. `defer` is noted as a key without interfaces: `finish` knows them."""
    line = Words(here)
    known: dict[str, Callable[[], object]] = {
        "syncdev": lambda: found.set(table, "syncdev", found.interface(line.take()), place),
        "syncif": lambda: found.set(table, "syncdev", found.interface(line.take()), place),
        "syncpeer": lambda: found.add(table, "syncpeer", line.take(), place),
        "maxupd": lambda: found.set(table, "maxupd", number(line.take()), place),
        "defer": lambda: table.values.setdefault("defer", []),
        "-defer": lambda: table.values.pop("defer", None),
        "up": lambda: None,
    }
    while line:
        word = line.take()
        if word in known:
            known[word]()
        else:
            found.leave(place, " ".join(unknown(word, line, known)), "unknown word")
