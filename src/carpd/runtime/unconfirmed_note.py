"""A note of the configuration that nobody has confirmed: it outlives a daemon that ends meanwhile, as its file does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carpd.runtime.logs import LOG


class UnconfirmedNote:
    """In the state directory: a digest of the values that the file had. What can't be noted is told in the log."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "unconfirmed"

    def write(self, tables: Mapping[str, Any]) -> None:
        """These are on trial."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as note:
                note.write(_digest(tables))
        except OSError as error:
            LOG.warning("reload: can't note that it is not confirmed: %s", error)

    def is_about(self, tables: Mapping[str, Any]) -> bool:
        """Whether these were on trial, and never confirmed."""
        try:
            return self._path.read_text() == _digest(tables)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            LOG.warning("reload: can't tell whether the configuration was confirmed: %s: %s", self._path, error)
            return False

    def remove(self) -> None:
        """It was confirmed, or another one was read."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("reload: can't note that it is confirmed: %s", error)


def _digest(tables: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tables, sort_keys=True, default=str).encode()).hexdigest()
