"""From the tables of a document to what each node would use: [carp.NAME] and [pfsync], and over them [node.NODE.*]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from carpd.config.keys import CARP_KEYS, PFSYNC_KEYS, Key
from carpd.config.model import NAME_LIMIT
from carpd.config.problems import KeyPath, Problems, dotted, kind
from carpd.config.values import short_name

_NOTHING_TO_DO = (
    'there is no virtual host: write at least [carp.lan] and, below it, interface = "eth1", vhid = 1, '
    'addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; or [pfsync], for the state table alone'
)

_NODE_FORM = "[node.NODE.carp.NAME] or [node.NODE.pfsync]"


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
    """A virtual host, or pfsync, as one node would use it."""

    path: KeyPath
    keys: Mapping[str, Key]
    common: Written
    """What [carp.NAME] or [pfsync] says."""
    override: Written
    """What [node.NODE.carp.NAME] or [node.NODE.pfsync] says instead."""

    @property
    def name(self) -> str:
        """Of a virtual host: NAME."""
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

    hosts: tuple[Settings, ...]
    """Its virtual hosts."""
    pfsync: Settings | None

    @property
    def tables(self) -> tuple[Settings, ...]:
        return self.hosts if self.pfsync is None else (*self.hosts, self.pfsync)


class Document:
    """All tables of a file, each value read and checked where it stands."""

    def __init__(self, document: Mapping[str, Any], problems: Problems) -> None:
        self.carp: dict[str, Written] = {}
        self.pfsync: Written | None = None
        self.carp_overrides: dict[str, dict[str, Written]] = {}
        """By node, also those without any, and virtual host."""
        self.pfsync_overrides: dict[str, Written] = {}
        """By node."""
        forms = {"carp": "[carp.NAME]", "pfsync": "[pfsync]", "node": _NODE_FORM}
        tables = dict(_tables(document, (), forms, problems))
        if document.get("carp", {}) == {} and "pfsync" not in document:
            problems.error(("carp",), _NOTHING_TO_DO)
        self._read_carp(tables.get("carp", {}), problems)
        if "pfsync" in tables:
            self.pfsync = _read(tables["pfsync"], ("pfsync",), PFSYNC_KEYS, problems)
        self._read_overrides(tables.get("node", {}), tuple(tables.get("carp", {})), "pfsync" in document, problems)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that have a table of their own."""
        return tuple(self.carp_overrides)

    def node(self, name: str | None) -> NodeSettings:
        """What this node would use; what a node without overrides would, if None."""
        overrides = {} if name is None else self.carp_overrides.get(name, {})
        hosts = tuple(
            Settings(("carp", host), CARP_KEYS, common, overrides.get(host, {})) for host, common in self.carp.items()
        )
        if self.pfsync is None:
            return NodeSettings(hosts, None)
        override = {} if name is None else self.pfsync_overrides.get(name, {})
        return NodeSettings(hosts, Settings(("pfsync",), PFSYNC_KEYS, self.pfsync, override))

    def _read_carp(self, carp: Mapping[str, Any], problems: Problems) -> None:
        check_name = short_name("the name of a virtual host", NAME_LIMIT)
        for name, table in _tables(carp, ("carp",), "[carp.NAME]", problems):
            path = ("carp", name)
            try:
                check_name(name)
            except ValueError as error:
                problems.error(path, f"{error}: its device is carp-NAME, and Linux allows that 15 characters")
            self.carp[name] = _read(table, path, CARP_KEYS, problems)

    def _read_overrides(
        self, nodes: Mapping[str, Any], hosts: tuple[str, ...], pfsync: bool, problems: Problems
    ) -> None:
        """`hosts` are the virtual hosts and `pfsync` whether that table is there: there is something to override."""
        forms = {"carp": "[node.NODE.carp.NAME]", "pfsync": "[node.NODE.pfsync]"}
        for node, node_table in _tables(nodes, ("node",), _NODE_FORM, problems):
            path = ("node", node)
            tables = dict(_tables(node_table, path, forms, problems))
            self.carp_overrides[node] = {}
            for name, table in _tables(tables.get("carp", {}), (*path, "carp"), forms["carp"], problems):
                where: KeyPath = (*path, "carp", name)
                if name not in hosts:
                    problems.unknown(where, table, hosts, "virtual host")
                self.carp_overrides[node][name] = _read(table, where, CARP_KEYS, problems, override=True)
            if "pfsync" in tables:
                where = (*path, "pfsync")
                if not pfsync:
                    problems.error(where, "there is no [pfsync]: write there what the nodes have in common")
                self.pfsync_overrides[node] = _read(tables["pfsync"], where, PFSYNC_KEYS, problems, override=True)


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
