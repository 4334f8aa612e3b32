"""Files whose content is nobody else's business: passwords and secrets."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from carpd.config.problems import Problems, Severity
from carpd.config.settings import Setting, Settings

_OPEN = "others can read this file: take that permission from them (chmod o-r)"


def check_private_value(
    table: Settings, key: str, fault: Callable[[bytes], str | None], readable: Severity | None, problems: Problems
) -> None:
    """Check what stands in the configuration itself. `fault` is what is wrong with it, if anything.

    `readable` is how bad it is that others may read the configuration; None: they can't.
    """
    setting = table.get(key)
    if setting is None or setting.refused:
        return
    if reason := fault(setting.value.encode()):
        problems.error(setting.path, reason)
    if readable:
        problems.add(readable, setting.path, f"{_OPEN}, or use {key}_file")


def read_private_file(
    setting: Setting, directory: Path, limit: int, readable: Severity, problems: Problems
) -> bytes | None:
    """The first `limit` bytes of the file that a key names, below `directory` if relative; None if it can't be read.

    `readable` is how bad it is that others may read it.
    """
    file: Path = directory / setting.value
    try:
        content, mode = read_regular_file(file, limit)
    except (OSError, ValueError) as error:  # ValueError: a name that the system can't even express
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.error(setting.path, f"can't be read: {reason}", setting.raw)
        return None
    if readable_by_others(mode):
        problems.add(readable, setting.path, _OPEN, setting.raw)
    return content


def read_regular_file(path: Path, limit: int) -> tuple[bytes, int]:
    """The first `limit` bytes of a file, and its mode. A pipe is refused: it would be waited for. Raise OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(limit), mode


def readable_by_others(mode: int) -> bool:
    """By anybody, that is: a group that may read it is how an unprivileged carpd is given the password."""
    return bool(mode & stat.S_IROTH)
