"""From the tables of a document to what each node would use: [carp.NAME], and over it [node.NODE.carp.NAME]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from carpd.config.keys import DEFAULTS, KEYS, short_name
from carpd.config.model import NAME_LIMIT
from carpd.config.problems import KeyPath, Problems, dotted, kind

_NO_VIRTUAL_HOST = (
    'there is no virtual host: write at least [carp.lan] and, below it, interface = "eth1", vhid = 1, '
    'addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"'
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A key as the file sets it."""

    path: KeyPath
    raw: object
    """As it is written; None if it is not to be printed."""
    value: Any
    """As the model wants it. Of what was refused: None, or the good elements."""
    refused: bool


Settings = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class HostSettings:
    """A virtual host as one node would use it."""

    name: str
    common: Settings
    """What [carp.NAME] says."""
    override: Settings
    """What [node.NODE.carp.NAME] says instead."""

    @property
    def path(self) -> KeyPath:
        return ("carp", self.name)

    def get(self, key: str) -> Setting | None:
        return self.override.get(key) or self.common.get(key)

    def __getitem__(self, key: str) -> Any:
        """What is set, or else the default; None if there is neither."""
        setting = self.get(key)
        return DEFAULTS.get(key) if setting is None else setting.value

    def usable(self, *keys: str) -> bool:
        """Whether all of them are there and good. From others, reported already, nothing is to be concluded."""
        settings = {key: self.get(key) for key in keys}
        return all(
            not KEYS[key].required if setting is None else not setting.refused for key, setting in settings.items()
        )

    def place(self, *keys: str) -> tuple[KeyPath, object]:
        """Where to report a problem between these keys, and with what value.

        It is the first that the node sets, as the common settings may be right for others; else the first that is set.
        """
        for settings in (self.override, self.common):
            for key in keys:
                if key in settings:
                    return settings[key].path, settings[key].raw
        return self.path, None


class Document:
    """All tables of a file, each value read and checked where it stands."""

    def __init__(self, document: Mapping[str, Any], problems: Problems) -> None:
        self.common: dict[str, Settings] = {}
        self.overrides: dict[str, dict[str, Settings]] = {}
        """By node and virtual host."""
        tables = dict(_tables(document, (), "[carp.NAME] or [node.NODE.carp.NAME]", problems, known=("carp", "node")))
        if "carp" not in document or document["carp"] == {}:
            problems.error(("carp",), _NO_VIRTUAL_HOST)
        self._read_common(tables.get("carp", {}), problems)
        self._read_overrides(tables.get("node", {}), tuple(tables.get("carp", {})), problems)

    def hosts(self, node: str | None) -> tuple[HostSettings, ...]:
        """The virtual hosts as this node would use them; as a node without overrides would, if None."""
        overrides = self.overrides.get(node, {}) if node is not None else {}
        return tuple(HostSettings(name, common, overrides.get(name, {})) for name, common in self.common.items())

    def _read_common(self, carp: Mapping[str, Any], problems: Problems) -> None:
        check_name = short_name("the name of a virtual host", NAME_LIMIT)
        for name, table in _tables(carp, ("carp",), "[carp.NAME]", problems):
            path = ("carp", name)
            try:
                check_name(name)
            except ValueError as error:
                problems.error(path, f"{error}: its device is carp-NAME, and Linux allows that 15 characters")
            self.common[name] = _read(table, path, problems, override=False)

    def _read_overrides(self, nodes: Mapping[str, Any], names: tuple[str, ...], problems: Problems) -> None:
        form = "[node.NODE.carp.NAME]"
        for node, node_table in _tables(nodes, ("node",), form, problems):
            self.overrides[node] = {}
            for _, hosts in _tables(node_table, ("node", node), form, problems, known=("carp",)):
                for name, table in _tables(hosts, ("node", node, "carp"), form, problems):
                    path = ("node", node, "carp", name)
                    if name not in names:
                        problems.unknown(path, table, names, "virtual host")
                    self.overrides[node][name] = _read(table, path, problems, override=True)


def _tables(
    parent: Mapping[str, Any], path: KeyPath, form: str, problems: Problems, known: tuple[str, ...] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables in a table, whatever their names are unless some are `known`; what is no such table is reported."""
    for name, raw in parent.items():
        where = (*path, name)
        if known is not None and name not in known:
            problems.unknown(where, raw, known, "table")
        elif isinstance(raw, dict):
            yield name, raw
        else:
            problems.error(where, f"must be a table, {form}, not {kind(raw)}", raw)


def _read(table: Mapping[str, Any], path: KeyPath, problems: Problems, *, override: bool) -> Settings:
    settings = {}
    for name, raw in table.items():
        where = (*path, name)
        key = KEYS.get(name)
        if key is None:
            problems.unknown(where, raw, KEYS, "key")
        elif override and key.shared:
            problems.error(where, f"is the same on every node: set it in [{dotted(path[2:])}]", raw)
        else:
            value, refused = key.read(raw)
            for element, message in refused:
                problems.error(where, message, None if key.secret else element)
            settings[name] = Setting(where, None if key.secret else raw, value, bool(refused))
    return settings
