"""The daemon's file: read at the start and again at each reload, with all that this host can say to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carpd.config.parse import Loaded, load, load_tables
from carpd.config.problems import Problem, Severity
from carpd.errors import CarpdError
from carpd.linux import privileges
from carpd.runtime.logs import LOG
from carpd.runtime.preparation import own_addresses_by_interface

_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING}


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """Which file, for whom, and for which of the daemons."""

    path: Path
    node: str | None
    """None: this host's name."""
    pfsync_alone: bool = False
    """Whether pfsyncd reads it, which does nothing about virtual hosts."""

    def read(self) -> Loaded:
        """Raise CarpdError if the file is good, but this process lacks the capabilities for it."""
        loaded = load(self.path, self.node, own_addresses_by_interface())
        config = loaded.config
        if config is None:
            return loaded
        if self.pfsync_alone:
            config = replace(config, virtual_hosts=())
            if config.pfsync is None:
                return self._without("pfsync", "there is no [pfsync]: write at least syncdev and secret_file below it")
        if not self.pfsync_alone and not config.virtual_hosts:
            return self._without("carp", "there is no [carp.NAME]: for state synchronisation alone run pfsyncd")
        return self._able(replace(loaded, config=config))

    @staticmethod
    def _able(loaded: Loaded) -> Loaded:
        hosts = loaded.config.virtual_hosts if loaded.config else ()
        missing = privileges.missing_capabilities(bpf=any(host.balancing for host in hosts))
        if loaded.config and missing:
            what = ", ".join(missing)
            raise CarpdError(f"missing capabilities: {what}: be root, or let the service manager grant them")
        return loaded

    def with_tables(self, tables: Mapping[str, Any], node: str) -> Loaded:
        """What it would be if it had these values. All virtual hosts may be down. Raise CarpdError."""
        return self._able(load_tables(tables, self.path, node, own_addresses_by_interface()))

    def of(self, node: str) -> ConfigurationFile:
        """The same, as this node reads it."""
        return replace(self, node=node)

    def _without(self, key: str, message: str) -> Loaded:
        problem = Problem(severity=Severity.ERROR, file=self.path, line=0, key=key, value="", message=message)
        return Loaded(None, (problem,))


def log(problems: Iterable[Problem]) -> None:
    """Tell the log what is wrong with it."""
    for problem in problems:
        LOG.log(_LEVELS[problem.severity], "%s", problem)
