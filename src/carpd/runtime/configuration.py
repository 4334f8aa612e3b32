"""The daemon's file: read at the start and again at each reload, with all that this host can say to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carpd.config.model import Config
from carpd.config.parse import Loaded, load, load_tables
from carpd.config.problems import Problem, Severity
from carpd.errors import CarpdError
from carpd.linux import privileges
from carpd.runtime.logs import LOG
from carpd.runtime.preparation import own_addresses_by_interface

_NO_PFSYNC = "there is no [pfsync]: write at least syncdev and secret_file below it"
_PFSYNC_ALONE = (
    "without a virtual host this host is master of nothing, and tells its peers of no connection: configure one, or "
    "run pfsyncd for state synchronisation alone"
)

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
        return self._suited(load(self.path, self.node, own_addresses_by_interface()))

    def read_again(self, running: Config) -> Loaded:
        """Likewise, while this runs: what a full disk or an editor has emptied is not meant so. Raise CarpdError."""
        loaded = self.read()
        if loaded.is_blank and running.virtual_hosts and any(running.in_file or (running.tables,)):
            raise CarpdError(f"{self.path} is empty: if no virtual host is to be left, write a comment into it")
        return loaded

    def with_tables(self, tables: Mapping[str, Any], node: str, *, to_be_saved: bool = False) -> Loaded:
        """What it would be if it had these values; `to_be_saved`: whoever can read the file will. Raise CarpdError."""
        loaded = load_tables(tables, self.path, node, own_addresses_by_interface(), to_be_saved=to_be_saved)
        return self._suited(loaded)

    def _suited(self, loaded: Loaded) -> Loaded:
        """Whether this daemon can do what it says. Raise CarpdError."""
        config, problems = loaded.config, loaded.problems
        if config is None:
            return loaded
        if self.pfsync_alone:
            config = replace(config, virtual_hosts=())
            if config.pfsync is None:
                return replace(loaded, config=None, problems=(self._problem(Severity.ERROR, _NO_PFSYNC),))
        elif config.pfsync and not config.virtual_hosts:
            problems = (*problems, self._problem(Severity.WARNING, _PFSYNC_ALONE))
        missing = privileges.missing_capabilities(bpf=any(host.balancing for host in config.virtual_hosts))
        if missing:
            what = ", ".join(missing)
            raise CarpdError(f"missing capabilities: {what}: be root, or let the service manager grant them")
        return replace(loaded, config=config, problems=problems)

    def of(self, node: str) -> ConfigurationFile:
        """The same, as this node reads it."""
        return replace(self, node=node)

    def _problem(self, severity: Severity, message: str) -> Problem:
        """Of [pfsync]."""
        return Problem(severity=severity, file=self.path, line=0, key="pfsync", value="", message=message)


def log(problems: Iterable[Problem]) -> None:
    """Tell the log what is wrong with it."""
    for problem in problems:
        LOG.log(_LEVELS[problem.severity], "%s", problem)
