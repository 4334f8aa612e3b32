"""Writes edits into a configuration file; all that is not edited stays as it is written, comments too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomlkit

from carpd.errors import CarpdError


class SaveError(CarpdError):
    """The file is as it was: one line that says why."""


def save(file: str, edits: Sequence[tuple[Sequence[str], Any]]) -> None:
    """Set the keys at these paths, or delete them (None). The file is replaced as a whole. Raise SaveError."""
    path = Path(file)
    try:
        before = path.stat()
        document = tomlkit.parse(path.read_text())
        for keys, value in edits:
            _set(document, keys, value)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as new:
                new.write(tomlkit.dumps(document))
                new.flush()
                os.fsync(new.fileno())
            os.chown(name, before.st_uid, before.st_gid)
            Path(name).chmod(before.st_mode & 0o7777)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise SaveError(f"{file}: can't be written: {error}") from error


def _set(table: Any, keys: Sequence[str], value: Any) -> None:
    """In a table of tomlkit, which takes the place of a dictionary."""
    name, *rest = keys
    if rest:
        if name not in table:
            if value is None:
                return
            table[name] = tomlkit.table(is_super_table=len(rest) > 1)
        _set(table[name], rest, value)
        if value is None and not table[name]:
            del table[name]
    elif value is None:
        table.pop(name, None)
    else:
        table[name] = _inline(value) if isinstance(value, dict) else value


def _inline(value: dict[str, Any]) -> Any:
    table = tomlkit.inline_table()
    table.update(value)
    return table
