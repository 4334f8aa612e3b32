"""sysctl.conf of the BSDs: preemption and demotion are set there."""

from __future__ import annotations

import re
from collections.abc import Callable

from carpd.migration import words
from carpd.migration.found import Found, Place, number

PREEMPT = "net.inet.carp.preempt"

_LINE = re.compile(r"\s*(?P<name>[A-Za-z][\w.%/-]*)\s*=\s*(?P<value>.*?)\s*$")

_OF_CARP = re.compile(r"net\.(inet\.carp|pfsync)\.")

_OF_EACH_HOST = {
    "net.inet.carp.ifdown_demotion_factor": "ifdown_demotion_factor",
    "net.inet.carp.senderr_demotion_factor": "senderr_demotion_factor",
}
"""Of FreeBSD, by name: the key of [carp.NAME]."""

_BULK_DEMOTION = "net.pfsync.carp_demotion_factor"

_NOT_NEEDED = {
    "net.inet.carp.allow": "carpd takes part while it runs",
    "net.inet.carp.log": "carpd logs every change of a state",
    "net.inet.carp.dscp": "the DSCP of advertisements can't be set",
}


def recognises(file: str, text: str) -> bool:
    return file.rpartition("/")[2] == "sysctl.conf" or bool(
        re.search(r"(?m)^\s*net\.(inet\.carp|pfsync)\.\w+\s*=", text)
    )


def read(file: str, text: str, found: Found) -> None:
    """Remember those of CARP and pfsync."""
    others = []
    for line_number, line in words.lines(text, words.of_lines):
        place = Place(file, line_number)
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line.partition("#")[0])
        if match is None:
            found.leave(place, line, "is no NAME=VALUE")
        elif _OF_CARP.match(match["name"]):
            found.sysctls[match["name"]] = match["value"].strip("\"'"), place
        else:
            others.append(match["name"])
    leave_others(file, others, found)


def leave_others(file: str, names: list[str], found: Found) -> None:
    """One line for all that has nothing to do with us."""
    if names:
        unique = ", ".join(dict.fromkeys(names))
        found.leave(Place(file, 1), "other settings", f"nothing of CARP or pfsync: {unique}")


def finish(found: Found) -> None:
    """What was said holds for all virtual hosts."""
    setters: dict[str, Callable[[str, Place], None]] = {
        PREEMPT: lambda value, place: _of_all(found, "preempt", value != "0", place),
        _BULK_DEMOTION: lambda value, place: _of_pfsync(found, value, place),
    }
    for name, key in _OF_EACH_HOST.items():
        setters[name] = lambda value, place, key=key: _of_all(found, key, number(value), place)  # type: ignore[misc]
    for name, (value, place) in found.sysctls.items():
        if name in setters:
            setters[name](value, place)
        else:
            found.leave(place, f"{name}={value}", _NOT_NEEDED.get(name, "there is no such setting"))
    found.sysctls.clear()


def _of_all(found: Found, key: str, value: object, place: Place) -> None:
    for table in found.hosts:
        found.set(table, key, value, place)


def _of_pfsync(found: Found, value: str, place: Place) -> None:
    if found.pfsync is not None:
        found.set(found.pfsync, "carp_demotion_factor", number(value), place)


def tell_of_preemption(found: Found) -> None:
    """Nobody has said whether a host takes over from a worse one."""
    for table in found.hosts[:1]:
        if "preempt" not in table.values:
            reason = f"{PREEMPT} is not in the files: without sysctl.conf it is off, as on the BSDs"
            found.note(table.place, table.name, reason)
