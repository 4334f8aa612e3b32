"""Files whose content is nobody else's business: passwords and secrets."""

from __future__ import annotations

import stat
from pathlib import Path

from carpd.config.problems import Problems, Severity
from carpd.config.settings import Setting


def read_private_file(
    setting: Setting, directory: Path, limit: int, readable: Severity, problems: Problems
) -> bytes | None:
    """The first `limit` bytes of the file that a key names, below `directory` if relative; None if it can't be read.

    `readable` is how bad it is that others may read it.
    """
    file: Path = directory / setting.value
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            problems.error(setting.path, "is no regular file", setting.raw)
            return None
        with file.open("rb") as stream:
            content = stream.read(limit)
    except (OSError, ValueError) as error:  # ValueError: a name that the system can't even express
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.error(setting.path, f"can't be read: {reason}", setting.raw)
        return None
    if readable_by_others(mode):
        message = "others can read this file: take that permission from them (chmod o-r)"
        problems.add(readable, setting.path, message, setting.raw)
    return content


def readable_by_others(mode: int) -> bool:
    """By anybody, that is: a group that may read it is how an unprivileged carpd is given the password."""
    return bool(mode & stat.S_IROTH)
