"""Changes of tables as TOML has them, key by key: made, and found between two states of them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carpd.config.problems import KeyPath

Tables = Mapping[str, Any]

_NAMED = ("carp", "hook")
"""Of these there is a table for each name: [carp.NAME]. The keys of the others stand in themselves."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A key that is set, with a value of TOML's own types, or deleted (None); or a table of keys that is deleted."""

    path: KeyPath
    value: Any


def edited(tables: Tables, edits: Sequence[Edit]) -> dict[str, Any]:
    """The tables with these edits; a table that has lost its last key has gone too."""
    result = copy.deepcopy(dict(tables))
    for edit in edits:
        _set(result, edit.path, edit.value)
    return result


def _set(tables: dict[str, Any], path: KeyPath, value: Any) -> None:
    name, *rest = path
    if not rest:
        if value is None:
            tables.pop(name, None)
        else:
            tables[name] = value
        return
    inner = tables.setdefault(name, {})
    _set(inner, tuple(rest), value)
    if not inner:
        del tables[name]


def unmade(paths: Collection[KeyPath], now: Tables, wanted: Tables) -> list[Edit]:
    """What makes one the other at these paths, of keys and of whole tables, and nowhere else."""
    old, new = dict(_tables_of_keys(now)), dict(_tables_of_keys(wanted))
    gone = [path for path in paths if path in old and path not in new]
    keys: dict[KeyPath, None] = {}
    for path in paths:
        if path in new:  # deleted once, and made again
            keys |= {(*path, name): None for name in (*old.get(path, {}), *new[path])}
        elif path[:-1] not in gone:
            keys[path] = None
    return [
        *(Edit(path, None) for path in gone),
        *(Edit(path, _value(new, path)) for path in keys if _value(new, path) != _value(old, path)),
    ]


def strange(paths: Iterable[KeyPath], now: Tables, known: Sequence[Tables]) -> list[KeyPath]:
    """Those at which it has something else than any of the known: somebody has edited it there."""
    return [path for path in paths if all(_at(now, path) != _at(tables, path) for tables in known)]


def _at(tables: Any, path: KeyPath) -> Any:
    """A value or a table; None if there is none."""
    for name in path:
        tables = tables.get(name, {}) if isinstance(tables, Mapping) else {}
    return tables or None if isinstance(tables, Mapping) else tables


def _value(tables: Mapping[KeyPath, Tables], key: KeyPath) -> Any:
    """None if it is not set."""
    return tables.get(key[:-1], {}).get(key[-1])


def _tables_of_keys(tables: Tables, above: KeyPath = ()) -> Iterator[tuple[KeyPath, Tables]]:
    """Where each stands, those of single nodes too."""
    for name, table in tables.items():
        if name == "node" and not above:
            for node, of_node in table.items():
                yield from _tables_of_keys(of_node, ("node", node))
        elif name in _NAMED:
            for own, keys in table.items():
                yield (*above, name, own), keys
        else:
            yield (*above, name), table
