"""Read a configuration file, for one node, and say everything that is wrong with it.

    file -> tomllib: values          -> settings: what each node would use -> rules -> model
         -> locate: lines of keys    -> keys: what each key may be

All nodes that the file names are checked, so that a mistake shows on the first node that gets the file; only what
depends on the host (password files, its own addresses) is checked for the node alone that reads it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carpd.config.keys import DEFAULTS, KEYS
from carpd.config.locate import key_lines
from carpd.config.model import Config, DemotionMode, VirtualHostConfig
from carpd.config.password import check_password, read_password, readable_by_others
from carpd.config.problems import Problem, Problems, dotted
from carpd.config.rules import (
    OwnAddresses,
    check_addresses,
    check_groups,
    check_host,
    check_own_addresses,
    check_patience,
    check_preference,
    check_required,
    check_vhids,
    master_down_ns,
)
from carpd.config.settings import Document, HostSettings

_ADVSKEW_DEMOTION_FACTOR = 240
"""Where advskew carries the demotion, one step must be more than any advskew. Ref: spec carp §10.2."""

_TOML_PLACE = re.compile(r" \((?:at line (?P<line>\d+), column \d+|at end of document)\)$")
"""How tomllib ends its messages; before Python 3.14 the line is to be had nowhere else."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of a file."""

    config: Config | None
    """None if one of the problems is an error."""
    problems: tuple[Problem, ...]


def load(path: Path, node: str | None = None, own_addresses: OwnAddresses | None = None) -> Loaded:
    """Read `path` as `node` (by default this host's name, without its domain) uses it.

    Whatever is in the file is reported in the result, never raised; so is a file that can't be read. Without
    `own_addresses` it is not checked whether a shared address is the host's own.
    """
    node = node or os.uname().nodename.partition(".")[0]
    problems = Problems(path)
    try:
        data, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        problems.error((), f"can't be read: {error.strerror}")
        return Loaded(None, problems.in_order())
    table = _toml(data, problems)
    if table is None:
        return Loaded(None, problems.in_order())
    document = Document(table, problems)
    names = dict.fromkeys((node, *document.overrides))
    hosts_by_node = {dotted((name,)): document.hosts(name) for name in names}

    check_required(hosts_by_node, problems)
    unnamed = _others(document, node)
    check_preference(hosts_by_node | unnamed, problems)
    check_patience(hosts_by_node | unnamed, problems)
    for hosts in hosts_by_node.values():
        check_vhids(hosts, problems)
        check_addresses(hosts, problems)
        check_groups(hosts, problems)
        for host in hosts:
            check_host(host, problems)
            check_password(host, readable_by_others(mode), problems)

    hosts = document.hosts(node)
    keys = [read_password(host, path.parent, problems) for host in hosts]
    if own_addresses is not None:
        check_own_addresses(hosts, own_addresses, problems)
    if problems.errors:
        return Loaded(None, problems.in_order())
    others = [host for name, theirs in (hosts_by_node | unnamed).items() if name != dotted((node,)) for host in theirs]
    virtual_hosts = tuple(_virtual_host(host, key, others) for host, key in zip(hosts, keys, strict=True))
    return Loaded(Config(node=node, virtual_hosts=virtual_hosts), problems.in_order())


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


def _others(document: Document, node: str) -> dict[str, tuple[HostSettings, ...]]:
    """The nodes without a table of their own, as far as there must be one: a node is not alone."""
    return {"every other node": document.hosts(None)} if list(document.overrides) == [node] else {}


def _virtual_host(host: HostSettings, key: bytes, others: Iterable[HostSettings]) -> VirtualHostConfig:
    """The model's form of settings without an error; `others` are the virtual hosts of the other nodes."""
    values = {name: host[name] for name in ("interface", "vhid", "addresses", *DEFAULTS) if name in KEYS}
    values["others_master_down_ns"] = min((master_down_ns(o) for o in others if o.name == host.name), default=None)
    if host["demotion"] is not DemotionMode.COUNTER:
        for factor in ("ifdown_demotion_factor", "senderr_demotion_factor"):
            if host.get(factor) is None:
                values[factor] = _ADVSKEW_DEMOTION_FACTOR
    return VirtualHostConfig(name=host.name, key=key, **values)
