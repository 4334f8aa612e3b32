"""FreeBSD: the lines of rc.conf about vhids and pfsync, and what sysctl.conf adds.

Ref: FreeBSD rc.conf(5), carp(4), pfsync(4), ifconfig(8).
"""

from __future__ import annotations

import re
from ipaddress import ip_interface

from carpd.config.ifconfig_words import FREEBSD_CARP, FREEBSD_PFSYNC
from carpd.migration import sysctl, words
from carpd.migration.found import Found, Place
from carpd.migration.ifconfig import Interface, tell_of_interfaces, unicast
from carpd.migration.openbsd import defer, plain

PFSYNC_VERSION = "1400"
"""Unless rc.conf names another: it does not say which FreeBSD it is of."""

_PFSYNC_WORDS = {"pfsync_syncdev": ["syncdev"], "pfsync_syncpeer": ["syncpeer"], "pfsync_ifconfig": []}
"""What rc(8) puts before the value of a setting, to make it words for ifconfig."""

_ASSIGNMENT = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)(?P<more>\+?)=(?P<value>.*)", re.DOTALL)
_IFCONFIG = re.compile(r"ifconfig_(?P<interface>[a-z][a-z0-9]*?(?:_[0-9]+)?)(?:_(?:alias[0-9]*|aliases|ipv6))*$")
_CARP_INTERFACE = re.compile("carp[0-9]+")
_FAMILIES = ("inet", "inet6")
_NOT_NEEDED = ("carp_load",)


def recognises(_: str, text: str) -> bool:
    return bool(re.search(r"(?m)^\s*(ifconfig_\w+|pfsync_\w+|carp_load)\+?=", text))


def read(file: str, text: str, found: Found) -> None:
    hosts: dict[tuple[str, str], Interface] = {}
    carps: dict[str, Interface] = {}
    pfsync: dict[str, tuple[str, Place]] = {}
    others = []
    for line_number, line in words.lines(text, words.of_shell):
        place = Place(file, line_number)
        scanned = words.scan(line, operators=True)
        if not scanned.words:
            continue
        if scanned.quote:
            reason = f"the quote {scanned.quote} is never closed: nothing below is read"
            found.leave(place, line.partition("\n")[0], reason)
            continue
        match = _ASSIGNMENT.match(line)
        if match is None:
            found.leave(place, line, "is no NAME=VALUE")
            continue
        name = match["name"]
        value, *behind = words.scan(match["value"], operators=True).words or [""]
        value = value.replace("\n", " ")
        interface = _IFCONFIG.match(name)
        if behind:
            found.leave(place, " ".join(behind), f"is behind the value of {name}")
        if "$" in value and (interface or name.startswith("pfsync_")):
            found.leave(place, line, "variables are not followed: write their values")
        elif interface and _CARP_INTERFACE.fullmatch(interface["interface"]):
            _read_carp_interface(interface["interface"], value, place, found, carps)
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


def _read_addresses(
    interface: str, value: str, place: Place, found: Found, hosts: dict[tuple[str, str], Interface]
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
            hosts[key] = Interface(found, table, FREEBSD_CARP)
            found.set(table, "interface", found.interface(interface), place)
            found.set(table, "demotion", "advskew", place, "as FreeBSD tells it")
        hosts[key].read(part, place)


def _read_carp_interface(name: str, value: str, place: Place, found: Found, carps: dict[str, Interface]) -> None:
    """Before FreeBSD 10 a virtual host was an interface, on whichever one had the network of its addresses."""
    if name not in carps:
        carps[name] = Interface(found, found.host(name, place), FREEBSD_CARP)
        found.leave(place, name, "a carp interface, as before FreeBSD 10, does not say what it is on: set interface")
    carps[name].read(words.split(value), place)


def _read_pfsync(settings: dict[str, tuple[str, Place]], found: Found) -> None:
    enabled, place = settings.pop("pfsync_enable", ("NO", Place("", 0)))
    if enabled.upper() not in ("YES", "TRUE", "ON", "1"):
        for name, (value, place) in settings.items():
            found.leave(place, f'{name}="{value}"', "pfsync_enable is not YES")
        return
    table = found.pfsync_table(place)
    interface = Interface(found, table, FREEBSD_PFSYNC)
    for name, (value, where) in settings.items():
        if name not in _PFSYNC_WORDS:
            found.leave(where, f'{name}="{value}"', "there is no such setting")
        elif value:
            interface.read([*_PFSYNC_WORDS[name], *value.split()], where)
    version = table.values.get("version")
    plain(found, table, version or PFSYNC_VERSION)
    if version is None:
        found.note(place, "pfsync", 'the version is "1301" before FreeBSD 14, "1500" from FreeBSD 15 on')
