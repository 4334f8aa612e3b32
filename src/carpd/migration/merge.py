"""Several hosts' files make one configuration: what they have in common, and what is each host's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any, NamedTuple

from carpd.config.keys import Key
from carpd.config.model import NAME_LIMIT
from carpd.migration.found import Found, Place, Remark, Script, Table

_UNITED = ("addresses", "peers", "syncpeer", "defer")
"""Arrays of what all hosts name together; of a list of hosts each leaves itself out."""

_OF_EACH_HOST = ("advskew",)
"""What differs from host to host, even if only one is known."""

_NEEDED = ("interface", "nodes", "syncdev")
"""What every host must have: it stands in the common part too, for hosts that are not known."""


class Value(NamedTuple):
    """Of a key, with what it comes from."""

    value: Any
    comment: str = ""


@dataclass(slots=True)
class Section:
    """A table of the configuration, with what differs in [node.NODE.*]."""

    path: tuple[str, ...]
    """Of its header: ("carp", "lan"), ("pfsync",)."""
    place: Place
    common: dict[str, Value] = field(default_factory=dict)
    own: dict[str, dict[str, Value]] = field(default_factory=dict)
    """By node."""


@dataclass(slots=True)
class Configuration:
    """All that becomes of the files."""

    sections: list[Section] = field(default_factory=list)
    scripts: list[tuple[Script, str]] = field(default_factory=list)
    """Each with the name of its virtual host."""
    remarks: list[Remark] = field(default_factory=list)


class _Part(NamedTuple):
    """What one host says of a table."""

    host: Found
    table: Table


def merge(hosts: Sequence[Found]) -> Configuration:
    """Of several hosts each has a name of its own."""
    result = Configuration(remarks=[remark for host in hosts for remark in host.remarks])
    names: dict[int, str] = {}
    everything = _same_virtual_hosts(hosts)
    for parts in everything:
        first = parts[0].table
        name = _short(first.name, names.values())
        names |= {id(part.table): name for part in parts}
        section = _section(("carp", name), parts, result.remarks)
        if first.alone and len(everything) > 1:
            section.common["group"] = Value(name, "it moves alone")
        result.sections.append(section)
        if missing := [str(host.node) for host in hosts if not any(part.host is host for part in parts)]:
            reason = f"is not in the files of {', '.join(missing)}: there it would take part too"
            result.remarks.append(Remark((section.place,), f"[carp.{name}]", reason, taken=True))
    if synchronised := [_Part(host, host.pfsync) for host in hosts if host.pfsync is not None]:
        result.sections.append(_section(("pfsync",), synchronised, result.remarks))
    scripts: dict[tuple[object, ...], tuple[Script, str]] = {}
    for script in (script for host in hosts for script in host.scripts):
        name = names[id(script.table)]
        scripts.setdefault((script.event, script.command, script.user, name), (script, name))
    result.scripts = list(scripts.values())
    result.remarks = _once(result.remarks)
    return result


def _once(remarks: Iterable[Remark]) -> list[Remark]:
    """What holds for several lines is said once, at the first."""
    places: dict[tuple[str, str, bool], dict[Place, None]] = {}
    for remark in sorted(remarks, key=lambda remark: remark.places):
        places.setdefault((remark.text, remark.reason, remark.taken), {}).update(dict.fromkeys(remark.places))
    return [Remark(tuple(where), *what) for what, where in places.items()]


def _same_virtual_hosts(hosts: Sequence[Found]) -> list[list[_Part]]:
    """The virtual hosts, each with what the hosts say of it."""
    everything: list[list[_Part]] = []
    for host in hosts:
        for table in host.hosts:
            for parts in everything:
                if not any(part.host is host for part in parts) and _is_same(parts[0].table, table):
                    parts.append(_Part(host, table))
                    break
            else:
                everything.append([_Part(host, table)])
    return everything


def _is_same(one: Table, other: Table) -> bool:
    """Two hosts share it: by its vhids, and an address or the link that it is on."""
    linked = one.values.get("interface") == other.values.get("interface")
    return one.vhids == other.vhids and (linked or not _addresses(one).isdisjoint(_addresses(other)))


def _addresses(table: Table) -> set[object]:
    return {ip_interface(address).ip for address in table.values.get("addresses", [])}


def _short(name: str, taken: Collection[str]) -> str:
    """A name that a virtual host can have, and no other one has."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", name) or "host"
    short, number = name[:NAME_LIMIT], 1
    while short in taken:
        number += 1
        short = f"{name[: NAME_LIMIT - 1 - len(str(number))]}-{number}"
    return short


def _section(path: tuple[str, ...], parts: Sequence[_Part], remarks: list[Remark]) -> Section:
    first = parts[0].table
    section = Section(path, first.place)
    for key in first.keys.values():
        if not any(key.name in part.table.values for part in parts):
            continue
        if key.name in _UNITED:
            _unite(section, key, parts, remarks)
        elif _differs(key, parts):
            (_keep_first if key.shared or key.secret else _tell_apart)(section, key, parts, remarks)
        else:
            section.common[key.name] = _value(key, first)
    return section


def _value(key: Key, table: Table) -> Value:
    return Value(table.values.get(key.name), table.comments.get(key.name, ""))


def _differs(key: Key, parts: Sequence[_Part]) -> bool:
    if key.name in _OF_EACH_HOST and len(parts) == 1:
        return parts[0].host.node is not None
    return any(part.table.values.get(key.name) != parts[0].table.values.get(key.name) for part in parts)


def _unite(section: Section, key: Key, parts: Sequence[_Part], remarks: list[Remark]) -> None:
    lists = [part.table.values.get(key.name, []) for part in parts]
    united = list(dict.fromkeys(element for elements in lists for element in elements))
    section.common[key.name] = Value(united)
    for part, elements in zip(parts, lists, strict=True) if key.shared else ():
        if missing := [element for element in united if element not in elements]:
            reason = f"not in the files of {part.host.node}, and all hosts must have the same {key.name}"
            remarks.append(Remark((part.table.place,), " ".join(missing), reason, taken=True))


def _keep_first(section: Section, key: Key, parts: Sequence[_Part], remarks: list[Remark]) -> None:
    """Of what must be the same on all hosts."""
    kept = next(part.table for part in parts if key.name in part.table.values)
    section.common[key.name] = _value(key, kept)
    for part in parts:
        if part.table.values.get(key.name) != kept.values[key.name]:
            shown = "" if key.secret else f" {part.table.values.get(key.name, 'unset')}"
            reason = f"{part.host.node} has another one than the others, and it must be the same on all hosts"
            remarks.append(Remark((part.table.place,), f"{key.name}{shown}", reason, taken=False))


def _tell_apart(section: Section, key: Key, parts: Sequence[_Part], remarks: list[Remark]) -> None:
    having = [part for part in parts if key.name in part.table.values]
    if key.name in _NEEDED:
        section.common[key.name] = _value(key, having[0].table)
        having = [part for part in having if part.table.values[key.name] != section.common[key.name].value]
    for part in having:
        section.own.setdefault(str(part.host.node), {})[key.name] = _value(key, part.table)
    if key.name == "advbase":
        for part in parts:
            text = f"advbase {part.table.values.get('advbase', key.default)}"
            reason = f"hosts have different ones: {part.host.node} waits by its own"
            remarks.append(Remark((part.table.place,), text, reason, taken=True))
