"""Writes edits into a configuration file; all that is not edited stays as it is written, comments too."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from carpd.config.edits import Edit, edited
from carpd.config.problems import dotted
from carpd.errors import CarpdError


class SaveError(CarpdError):
    """The file is as it was: one line that says why."""


@contextmanager
def alone(file: str) -> Iterator[None]:
    """Nobody else who also waits for this writes the file meanwhile. Raise SaveError."""
    while True:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SaveError(f"{file}: can't be read: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(file, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def save(file: str, edits: Sequence[Edit]) -> None:
    """The file is replaced as a whole, if it then says what was meant. Raise SaveError."""
    path = Path(file).resolve()  # a link stays one
    try:
        before = path.stat()
        text = _written(path.read_bytes().decode(), edits)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as new:
                new.write(text.encode())
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


def _written(text: str, edits: Sequence[Edit]) -> str:
    """With new tables beside their like; or else at the end, where tomlkit can't put them between dotted keys.

    Raise ValueError if it would say anything else than was meant.
    """
    tables = tomllib.loads(text)
    meant = edited(tables, edits)
    old = [edit for edit in edits if edit.value is None or _is_there(tables, edit.path[:-1])]
    new = [edit for edit in edits if edit not in old]
    for within, behind in ((edits, []), (old, new)):
        try:
            written = _in_place(text, within)
            if behind:
                written = f"{written.rstrip()}\n\n{_in_place('', behind)}"
            if tomllib.loads(written) == meant:
                return written
        except (ValueError, TOMLKitError):  # by tomlkit or of what it wrote
            pass
    keys = ", ".join(dotted(edit.path) for edit in edits)
    raise ValueError(f"the way in which it is spelled leaves no place for {keys}: edit it by hand")


def _is_still(file: str, descriptor: int) -> bool:
    """Or somebody has replaced it while we waited."""
    try:
        return os.path.samestat(Path(file).stat(), os.fstat(descriptor))
    except OSError:
        return False


def _is_there(tables: Any, path: Sequence[str]) -> bool:
    for name in path:
        if name not in tables:
            return False
        tables = tables[name]
    return True


def _in_place(text: str, edits: Sequence[Edit]) -> str:
    """Raise ValueError, TOMLKitError."""
    document = tomlkit.parse(text)
    for edit in edits:
        _set(document, edit.path, edit.value)
    headers = dict.fromkeys(f"[{dotted(edit.path[:-1])}]" for edit in edits)
    return _set_apart(tomlkit.dumps(document), [header for header in headers if header not in text])


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
    elif not (isinstance(value, list) and isinstance(table.get(name), Array) and _set_elements(table[name], value)):
        table[name] = _inline(value) if isinstance(value, dict) else value


def _set_elements(array: Array, value: list[Any]) -> bool:
    """With the comments between those that stay. Whether that is enough: not if their order changes."""
    new = [element for element in value if element not in array]
    if [*(element for element in array if element in value), *new] != value:
        return False
    for position in reversed(range(len(array))):
        if array[position] not in value:
            del array[position]
    array.extend(new)
    return True


def _set_apart(text: str, headers: Iterable[str]) -> str:
    """Before a table that follows one of these, which are new, tomlkit leaves no line free."""
    for header in headers:
        text = re.sub(rf"(^{re.escape(header)}\n(?:[^\[\n].*\n)+)(?=\[)", r"\1\n", text, flags=re.MULTILINE)
    return text


def _inline(value: dict[str, Any]) -> Any:
    table = tomlkit.inline_table()
    table.update(value)
    return table
