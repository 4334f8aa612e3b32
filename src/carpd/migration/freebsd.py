"""FreeBSD: the lines of rc.conf about vhids and pfsync, and what sysctl.conf adds.

Ref: FreeBSD rc.conf(5), carp(4), pfsync(4), ifconfig(8).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_interface

from carpd.migration import sysctl, words
from carpd.migration.found import Found, Place, Table
from carpd.migration.ifconfig import VirtualHostWords, tell_of_interfaces, unicast
from carpd.migration.openbsd import defer, plain, read_pfsync

PFSYNC_VERSION = "1400"
"""rc.conf does not say which FreeBSD it is of."""

_ASSIGNMENT = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)(?P<more>\+?)=(?P<value>.*)", re.DOTALL)
_IFCONFIG = re.compile(r"ifconfig_(?P<interface>[a-z][a-z0-9]*?(?:_[0-9]+)?)(?:_(?:alias[0-9]*|aliases|ipv6))*$")
_FAMILIES = ("inet", "inet6")
_NOT_NEEDED = ("carp_load",)


def recognises(_: str, text: str) -> bool:
    return bool(re.search(r"(?m)^\s*(ifconfig_\w+|pfsync_\w+|carp_load)\+?=", text))


def read(file: str, text: str, found: Found) -> None:
    hosts: dict[tuple[str, str], _Carp] = {}
    pfsync: dict[str, tuple[str, Place]] = {}
    others = []
    for line_number, line in _assignments(text):
        place = Place(file, line_number)
        match = _ASSIGNMENT.match(line)
        if match is None:
            found.leave(place, line, "is no NAME=VALUE")
            continue
        name = match["name"]
        value, *behind = words.split(match["value"].replace("\n", " ")) or [""]
        interface = _IFCONFIG.match(name)
        if behind:
            found.leave(place, " ".join(behind), f"is behind the value of {name}")
        if "$" in value and (interface or name.startswith("pfsync_")):
            found.leave(place, line, "variables are not followed: write their values")
        elif interface and re.search(r"\bvhid\b", value):
            _read_addresses(interface["interface"], value, place, found, hosts)
        elif name.startswith("pfsync_"):
            pfsync[name] = value, place
        elif name not in _NOT_NEEDED:
            others.append(name)
    _read_pfsync(pfsync, found)
    sysctl.leave_others(file, others, found)


def finish(found: Found) -> None:
    sysctl.tell_of_preemption(found)
    unicast(found)
    tell_of_interfaces(found)
    for table in found.hosts:
        if any(ip_interface(address).is_link_local for address in table.values.get("addresses", [])):
            found.set(table, "digest_link_local", True, table.place, "as on FreeBSD")
    defer(found)


def _assignments(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments and blank ones; a value in quotes may have several."""
    begun, first = "", 0
    for line_number, line in words.lines(text):
        begun, first = (f"{begun}\n{line}", first) if begun else (line, line_number)
        if begun.count('"') % 2 and not begun.lstrip().startswith("#"):
            continue
        if begun.strip() and not begun.lstrip().startswith("#"):
            yield first, begun
        begun = ""
    if begun:
        yield first, begun


def _read_addresses(
    interface: str, value: str, place: Place, found: Found, hosts: dict[tuple[str, str], _Carp]
) -> None:
    """One or more addresses, each behind the words of its vhid; "inet" or "inet6" begins the next."""
    here = words.split(value)
    starts = [0, *(number for number, word in enumerate(here) if word in _FAMILIES and number)]
    for start, end in zip(starts, [*starts[1:], len(here)], strict=True):
        part = here[start:end]
        if "vhid" not in part:
            found.leave(place, " ".join(part), "has no vhid: an address of the host itself")
            continue
        vhid = part[part.index("vhid") + 1] if part[-1] != "vhid" else ""
        key = (interface, vhid)
        if key not in hosts:
            table = found.host(f"{interface}-{vhid}", place)
            hosts[key] = _Carp(found, table)
            found.set(table, "interface", found.interface(interface), place)
            found.set(table, "demotion", "advskew", place, "as FreeBSD tells it")
        hosts[key].read(part, place)


def _read_pfsync(settings: dict[str, tuple[str, Place]], found: Found) -> None:
    enabled, place = settings.pop("pfsync_enable", ("NO", Place("", 0)))
    if enabled.upper() not in ("YES", "TRUE", "ON", "1"):
        for name, (value, place) in settings.items():
            found.leave(place, f'{name}="{value}"', "pfsync_enable is not YES")
        return
    table = found.pfsync_table(place)
    plain(found, table, PFSYNC_VERSION)
    found.note(place, "pfsync", 'the version is "1301" before FreeBSD 14, "1500" from FreeBSD 15 on')
    readers: dict[str, Callable[[str, Place], None]] = {
        "pfsync_syncdev": lambda value, place: found.set(table, "syncdev", found.interface(value), place),
        "pfsync_syncpeer": lambda value, place: found.add(table, "syncpeer", value, place),
        "pfsync_ifconfig": lambda value, place: read_pfsync(found, table, value.split(), place),
    }
    for name, (value, place) in settings.items():
        if name not in readers:
            found.leave(place, f'{name}="{value}"', "there is no such setting")
        elif value:
            readers[name](value, place)


class _Carp(VirtualHostWords):
    def __init__(self, found: Found, table: Table) -> None:
        super().__init__(found, table)
        default = "advertisements go to 224.0.0.18 and ff02::12"
        self.known |= {
            "add": lambda: self.address(self.words.take()),
            "peer": lambda: self.peer("peer"),
            "peer6": lambda: self.peer("peer6"),
            "mcast": lambda: found.note(self.place, "mcast", default),
            "mcast6": lambda: found.note(self.place, "mcast6", default),
        }
