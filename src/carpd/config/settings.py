"""From the tables of a document to what each node would use: [carp.NAME] and so on, and over them [node.NODE.*]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from carpd.config.keys import CARP_KEYS, CONTROL_KEYS, HOOK_KEYS, METRICS_KEYS, PFSYNC_KEYS, Key
from carpd.config.model import NAME_LIMIT
from carpd.config.problems import KeyPath, Problems, Severity, dotted, kind
from carpd.config.values import short_name

_NOTHING_TO_DO = (
    'no virtual host is configured: write at least [carp.lan] and, below it, interface = "eth1", vhid = 1, '
    'addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; or use carpctl ifconfig'
)

_NODE_FORM = "such as [node.NODE.carp.NAME]"

HOOK_NAME_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """A key as the file sets it."""

    path: KeyPath
    raw: object
    """As it is written; None if it is not to be printed."""
    value: Any
    """As the model wants it; of a table its settings. Of what was refused: None, or the good elements."""
    refused: bool


Written = Mapping[str, Setting]
"""The settings that stand in one table."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One table as one node would use it: a virtual host, pfsync, a hook."""

    path: KeyPath
    keys: Mapping[str, Key]
    common: Written
    """What [carp.NAME] says, for example."""
    override: Written
    """What [node.NODE.carp.NAME] says instead."""

    @property
    def name(self) -> str:
        """NAME in [carp.NAME] or [hook.NAME]."""
        return self.path[-1]

    def get(self, key: str) -> Setting | None:
        return self.override.get(key) or self.common.get(key)

    def __getitem__(self, key: str) -> Any:
        """What is set, or else the default; None if there is neither."""
        setting = self.get(key)
        return self.keys[key].default if setting is None else setting.value

    def usable(self, *keys: str) -> bool:
        """Whether all of them are there and good. From others, reported already, nothing is to be concluded."""
        settings = {key: self.get(key) for key in keys}
        return all(
            not self.requires(key) if setting is None else not setting.refused for key, setting in settings.items()
        )

    def requires(self, key: str) -> bool:
        """Whether it must be set."""
        return self.keys[key].required and not (self.keys[key].instead and self.get(self.keys[key].instead))

    def place(self, *keys: str) -> tuple[KeyPath, object]:
        """Where to report a problem between these keys, and with what value.

        It is the first that the node sets, as the common settings may be right for others; else the first that is set.
        """
        for settings in (self.override, self.common):
            for key in keys:
                if key in settings:
                    return settings[key].path, settings[key].raw
        return self.path, None


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """All that one node would use."""

    tables: tuple[Settings, ...]

    @property
    def hosts(self) -> tuple[Settings, ...]:
        """Its virtual hosts."""
        return self._called("carp")

    @property
    def hooks(self) -> tuple[Settings, ...]:
        return self._called("hook")

    @property
    def pfsync(self) -> Settings | None:
        return next(iter(self._called("pfsync")), None)

    @property
    def control(self) -> Settings | None:
        return next(iter(self._called("control")), None)

    @property
    def metrics(self) -> Settings | None:
        return next(iter(self._called("metrics")), None)

    def _called(self, name: str) -> tuple[Settings, ...]:
        return tuple(table for table in self.tables if table.path[0] == name)


@dataclass(frozen=True, slots=True)
class _Sort:
    """Tables of one sort: how their header is written, what they are, and the keys that they have."""

    form: str
    what: str
    keys: Mapping[str, Key]
    name_limit: int = 0
    """Characters of their NAME; 0 if there is only one, without a name."""
    why: str = ""
    """Of that limit."""


_SORTS = {
    "carp": _Sort(
        "[carp.NAME]",
        "virtual host",
        CARP_KEYS,
        NAME_LIMIT,
        ": its device is carp-NAME, and Linux allows that 15 characters",
    ),
    "pfsync": _Sort("[pfsync]", "pfsync", PFSYNC_KEYS),
    "control": _Sort("[control]", "control", CONTROL_KEYS),
    "metrics": _Sort("[metrics]", "metrics", METRICS_KEYS),
    "hook": _Sort("[hook.NAME]", "hook", HOOK_KEYS, HOOK_NAME_LIMIT),
}
"""By the first part of their header."""


class Document:
    """All tables of a file, each value read and checked where it stands."""

    def __init__(self, document: Mapping[str, Any], problems: Problems) -> None:
        self._common: dict[KeyPath, Written] = {}
        """By where they stand: ("carp", "lan"), ("pfsync",)."""
        self._overrides: dict[str, dict[KeyPath, Written]] = {}
        """By node, also those without any, and by where what they override stands."""
        forms = {name: sort.form for name, sort in _SORTS.items()} | {"node": _NODE_FORM}
        tables = dict(_tables(document, (), forms, problems))
        if document.get("carp", {}) == {} and "pfsync" not in document:
            problems.add(Severity.WARNING, ("carp",), _NOTHING_TO_DO)
        for path, sort, table in _tables_of_keys(tables, (), problems):
            _check_name(path, sort, problems)
            self._common[path] = _read(table, path, sort.keys, problems)
        forms = {name: _in_node(sort.form) for name, sort in _SORTS.items()}
        for node, node_table in _tables(tables.get("node", {}), ("node",), _NODE_FORM, problems):
            self._overrides[node] = {}
            where = ("node", node)
            overrides = dict(_tables(node_table, where, forms, problems))
            for path, sort, table in _tables_of_keys(overrides, where, problems):
                _check_overridden(path, sort, where, document, problems)
                self._overrides[node][path] = _read(table, (*where, *path), sort.keys, problems, override=True)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that have a table of their own."""
        return tuple(self._overrides)

    def node(self, name: str | None) -> NodeSettings:
        """What this node would use; what a node without overrides would, if None."""
        overrides = {} if name is None else self._overrides.get(name, {})
        return NodeSettings(
            tuple(
                Settings(path, _SORTS[path[0]].keys, common, overrides.get(path, {}))
                for path, common in self._common.items()
            )
        )


def _in_node(form: str) -> str:
    return form.replace("[", "[node.NODE.")


def _check_name(path: KeyPath, sort: _Sort, problems: Problems) -> None:
    if sort.name_limit:
        try:
            short_name(f"the name of a {sort.what}", sort.name_limit)(path[-1])
        except ValueError as error:
            problems.error(path, f"{error}{sort.why}")


def _check_overridden(
    path: KeyPath, sort: _Sort, node: KeyPath, document: Mapping[str, Any], problems: Problems
) -> None:
    """There is something to override."""
    name, *own = path
    common = document.get(name)
    if own and not (isinstance(common, dict) and own[0] in common):
        problems.unknown((*node, *path), {}, common if isinstance(common, dict) else (), sort.what)
    elif common is None:
        problems.error((*node, *path), f"there is no {sort.form}: write there what the nodes have in common")


def _tables_of_keys(
    tables: Mapping[str, Any], above: KeyPath, problems: Problems
) -> Iterator[tuple[KeyPath, _Sort, dict[str, Any]]]:
    """Those of the file, or of the node that is `above`: where each stands below that, and of which sort it is."""
    for name, sort in _SORTS.items():
        table = tables.get(name)
        if table is None:
            continue
        if not sort.name_limit:
            yield (name,), sort, table
            continue
        form = _in_node(sort.form) if above else sort.form
        for own, inner in _tables(table, (*above, name), form, problems):
            yield (name, own), sort, inner


def _tables(
    parent: Mapping[str, Any], path: KeyPath, form: str | Mapping[str, str], problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables in a table; what is none is reported. `form` says how to write one: any, or each by its name."""
    for name, raw in parent.items():
        where = (*path, name)
        if isinstance(form, Mapping) and name not in form:
            problems.unknown(where, raw, form, "table")
        elif isinstance(raw, dict):
            yield name, raw
        else:
            wanted = form if isinstance(form, str) else form[name]
            problems.error(where, f"must be a table, {wanted}, not {kind(raw)}", raw)


def _read(
    table: Mapping[str, Any], path: KeyPath, keys: Mapping[str, Key], problems: Problems, *, override: bool = False
) -> Written:
    settings = {}
    for name, raw in table.items():
        where = (*path, name)
        key = keys.get(name)
        if key is None:
            problems.unknown(where, raw, keys, "key")
        elif override and key.shared:
            problems.error(where, f"is the same on every node: set it in [{dotted(path[2:])}]", raw)
        else:
            value, refused = key.read(raw)
            for part, element, message in refused:
                problems.error((*where, *part), message, None if key.secret else element)
            if key.keys is not None and not refused:
                value = _read(value, where, key.keys, problems)
            settings[name] = Setting(where, None if key.secret else raw, value, bool(refused))
    return settings
