"""Read a configuration file, for one node, and say everything that is wrong with it.

    file -> tomllib: values          -> settings: what each node would use -> rules -> model
         -> locate: lines of keys    -> keys: what each key may be

All nodes that the file names are checked, so that a mistake shows on the first node that gets the file; only what
depends on the host (password and secret files, its own addresses, its users and programs) is checked for the node alone
that reads it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carpd.config.keys import CARP_KEYS, CONTROL_KEYS, HOOK_KEYS, PFSYNC_KEYS
from carpd.config.locate import key_lines
from carpd.config.model import (
    Balancing,
    BalancingMode,
    Config,
    ControlConfig,
    DemotionMode,
    HookConfig,
    Ignore,
    MetricsConfig,
    PfsyncConfig,
    VirtualHostConfig,
)
from carpd.config.operation_rules import HOOK_RULES, check_accounts, check_hooks, check_listen, check_programs
from carpd.config.password import check_password, read_password
from carpd.config.pfsync_rules import PFSYNC_RULES, check_link, other_nodes
from carpd.config.private_file import read_regular_file, readable_by_others
from carpd.config.problems import Problem, Problems, dotted
from carpd.config.rules import (
    HOST_RULES,
    OwnAddresses,
    SettingsByNode,
    check_addresses,
    check_groups,
    check_nodes,
    check_own_addresses,
    check_patience,
    check_preference,
    check_required,
    check_rules,
    check_shares,
    check_vhids,
    master_down_ns,
    nodes_of,
)
from carpd.config.secret_file import check_secret, read_secrets
from carpd.config.settings import Document, NodeSettings, Settings

_FILE_LIMIT = 4 << 20
"""Bytes: ten times what a thousand virtual hosts need."""

_ADVSKEW_DEMOTION_FACTOR = 240
"""Where advskew carries the demotion, one step must be more than any advskew. Ref: spec carp §10.2."""

_NOT_OF_A_HOST = ("up", "vhid", "advskew", "nodes", "balancing", "password", "password_file")
_NOT_OF_PFSYNC = ("up", "syncpeer", "secret_file", "secret", "ignore")
"""Keys that are not passed on as they are."""

_TOML_PLACE = re.compile(r" \((?:at line (?P<line>\d+), column \d+|at end of document)\)$")
"""How tomllib ends its messages; before Python 3.14 the line is to be had nowhere else."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a file."""

    config: Config | None
    """None if one of the problems is an error."""
    problems: tuple[Problem, ...]
    is_blank: bool = False
    """Whether there is nothing in the file, not even a comment."""


def load(path: Path, node: str | None = None, own_addresses: OwnAddresses | None = None) -> Loaded:
    """Read `path` as `node` (by default this host's name, without its domain) uses it.

    Whatever is in the file is reported in the result, never raised; so is a file that can't be read. Without
    `own_addresses` it is not checked whether a shared address is the host's own, and all syncpeers are kept.
    """
    node = node or os.uname().nodename.partition(".")[0]
    problems = Problems(path)
    try:
        data, mode = read_regular_file(path, _FILE_LIMIT + 1)
    except OSError as error:
        problems.error((), f"can't be read: {error.strerror}")
        return Loaded(None, problems.in_order())
    if len(data) > _FILE_LIMIT:
        problems.error((), f"has more than {_FILE_LIMIT} bytes: it is no configuration")
        return Loaded(None, problems.in_order())
    table = _toml(data, problems)
    if table is None:
        return Loaded(None, problems.in_order())
    loaded = _load(table, node, path, problems, readable=readable_by_others(mode), own_addresses=own_addresses)
    return replace(loaded, is_blank=not data.strip())


def load_tables(
    tables: Mapping[str, Any],
    path: Path,
    node: str,
    own_addresses: OwnAddresses | None = None,
    *,
    to_be_saved: bool = False,
) -> Loaded:
    """Likewise of values that are in no file: files that they name are looked for beside `path`.

    If they are to be saved there it matters who can read it. Raise OSError if it is not there.
    """
    readable = to_be_saved and readable_by_others(path.stat().st_mode)
    return _load(tables, node, path, Problems(path), readable=readable, own_addresses=own_addresses)


def _load(
    tables: Mapping[str, Any],
    node: str,
    path: Path,
    problems: Problems,
    *,
    readable: bool,
    own_addresses: OwnAddresses | None,
) -> Loaded:
    """`readable` says whether others can read where the values come from."""
    document = Document(tables, problems)
    nodes = {dotted((name,)): document.node(name) for name in dict.fromkeys((node, *document.nodes))}
    possible = {"every other node": document.node(None)} if node in document.nodes else {}  # they may exist
    unnamed = possible if document.nodes == (node,) else {}  # nobody is alone
    _check(nodes, unnamed, readable, problems)
    check_shares(_hosts(nodes | unnamed), _hosts(possible), problems)

    ours, own = document.node(node), own_addresses or {}
    keys = [read_password(host, path.parent, problems) for host in ours.hosts]
    check_own_addresses(ours.hosts, own, problems)
    pfsync = _pfsync(ours, path.parent, own, problems)
    check_accounts(ours.tables, problems)
    check_programs(ours.hooks, problems)
    if problems.errors:
        return Loaded(None, problems.in_order())
    others = [host for name, other in (nodes | unnamed).items() if name != dotted((node,)) for host in other.hosts]
    virtual_hosts = tuple(
        part
        for host, key in zip(ours.hosts, keys, strict=True)
        if host["up"]
        for part in _virtual_hosts(host, key, others)
    )
    config = Config(
        node=node,
        virtual_hosts=virtual_hosts,
        pfsync=pfsync if ours.pfsync and ours.pfsync["up"] else None,
        control=_control(ours),
        metrics=_metrics(ours),
        hooks=tuple(_hook(hook) for hook in ours.hooks),
        tables=tables,
    )
    return Loaded(config, problems.in_order())


def _check(
    nodes: Mapping[str, NodeSettings], unnamed: Mapping[str, NodeSettings], readable: bool, problems: Problems
) -> None:
    """What does not depend on the host: `unnamed` stands for nodes without a table; others may read the file."""
    check_required({name: settings.tables for name, settings in nodes.items()}, problems)
    hosts_by_node = _hosts({**nodes, **unnamed})
    check_nodes(hosts_by_node, problems)
    check_preference(hosts_by_node, problems)
    check_patience(hosts_by_node, problems)
    for settings in nodes.values():
        check_vhids(settings.hosts, problems)
        check_addresses(settings.hosts, problems)
        check_groups(settings.hosts, problems)
        for host in settings.hosts:
            check_rules(host, HOST_RULES, problems)
            check_password(host, readable, problems)
        if settings.pfsync is not None:
            check_rules(settings.pfsync, PFSYNC_RULES, problems)
            check_secret(settings.pfsync, readable, problems)
            check_link(settings.pfsync, settings.hosts, problems)
        if settings.metrics is not None:
            check_listen(settings.metrics, settings.hosts, problems)
        check_hooks(settings.hooks, settings.hosts, problems)
        for hook in settings.hooks:
            check_rules(hook, HOOK_RULES, problems)


def _hosts(nodes: Mapping[str, NodeSettings]) -> SettingsByNode:
    """Their virtual hosts alone."""
    return {name: settings.hosts for name, settings in nodes.items()}


def _toml(data: bytes, problems: Problems) -> dict[str, Any] | None:
    """The values in a file, None if it is no TOML. The lines of its keys are noted in `problems`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        problems.error((), "TOML is UTF-8, and this is not", line=1 + data.count(b"\n", 0, error.start))
        return None
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers and brackets beyond Python's limits are no TOMLDecodeError
        place = _TOML_PLACE.search(str(error))
        line = (place["line"] or 1 + text.count("\n")) if place else 0
        problems.error((), f"no valid TOML: {_TOML_PLACE.sub('', str(error))}", line=int(line))
        return None
    problems.lines = key_lines(text)
    return table


def _virtual_hosts(host: Settings, key: bytes, others: Iterable[Settings]) -> Iterator[VirtualHostConfig]:
    """The model's form of settings without an error, one for each node; `others` are those of the other hosts."""
    values = {name: host[name] for name in CARP_KEYS if name not in _NOT_OF_A_HOST}
    if host["demotion"] is not DemotionMode.COUNTER:
        for factor in ("ifdown_demotion_factor", "senderr_demotion_factor"):
            if host.get(factor) is None:
                values[factor] = _ADVSKEW_DEMOTION_FACTOR
    nodes = nodes_of(host)
    balancing = None
    if host["nodes"]:
        vhids = tuple(vhid for vhid, _ in nodes)
        balancing = Balancing(virtual_host=host.name, mode=host["balancing"] or BalancingMode.IP, vhids=vhids)
    waits: dict[int, int] = {}
    for other in others:
        for vhid, advskew in nodes_of(other) if other.name == host.name else ():
            wait = master_down_ns(other, advskew)
            waits[vhid] = min(wait, waits.get(vhid, wait))
    for vhid, advskew in nodes:
        yield VirtualHostConfig(
            **values,
            name=f"{host.name}:{vhid}" if balancing else host.name,
            vhid=vhid,
            advskew=advskew,
            key=key,
            others_master_down_ns=waits.get(vhid),
            balancing=balancing,
        )


def _pfsync(node: NodeSettings, directory: Path, own: OwnAddresses, problems: Problems) -> PfsyncConfig | None:
    """What [pfsync] says on this host, None without it. Worth nothing if there are errors."""
    pfsync = node.pfsync
    if pfsync is None:
        return None
    syncpeers = other_nodes(pfsync, own, problems)
    secrets = read_secrets(pfsync, directory, problems)
    if problems.errors:
        return None
    values = {name: pfsync[name] for name in PFSYNC_KEYS if name not in _NOT_OF_PFSYNC}
    if pfsync.get("carp_demotion_factor") is None and any(host["demotion"].in_advskew for host in node.hosts):
        values["carp_demotion_factor"] = _ADVSKEW_DEMOTION_FACTOR
    if pfsync["secret_file"] is not None:
        values["secret_file"] = str(directory / pfsync["secret_file"])
    if ignore := pfsync.get("ignore"):
        values["ignore"] = Ignore(**{name: setting.value for name, setting in ignore.value.items()})
    return PfsyncConfig(syncpeers=syncpeers, secrets=secrets, **values)


def _control(node: NodeSettings) -> ControlConfig:
    control = node.control
    return ControlConfig() if control is None else ControlConfig(**{name: control[name] for name in CONTROL_KEYS})


def _metrics(node: NodeSettings) -> MetricsConfig | None:
    return None if node.metrics is None else MetricsConfig(listen=node.metrics["listen"])


def _hook(hook: Settings) -> HookConfig:
    return HookConfig(name=hook.name, **{name: hook[name] for name in HOOK_KEYS})
