"""`carpd --check FILE`: what is wrong with a configuration, without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from carpd.config.parse import load
from carpd.config.rules import OwnAddresses

EXIT_CONFIG = 3
"""The exit status for a configuration that can't be used."""


def check(path: Path, node: str | None, own_addresses: OwnAddresses | None, out: TextIO) -> int:
    """Print every problem on a line of its own; without an error, what the file is good for. The exit status."""
    loaded = load(path, node, own_addresses)
    for problem in loaded.problems:
        print(problem, file=out)
    if loaded.config is None:
        return EXIT_CONFIG
    count = len(loaded.config.virtual_hosts)
    parts = [f"{count or 'no'} virtual host{'s' * (count > 1)}"] if count or not loaded.config.pfsync else []
    if loaded.config.pfsync is not None:
        parts.append(f"pfsync on {loaded.config.pfsync.syncdev}")
    print(f"{path}: ok: {' and '.join(parts)} on node {loaded.config.node}", file=out)
    return 0
