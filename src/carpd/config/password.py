"""The password of a virtual host: from its file, or from the configuration."""

from __future__ import annotations

import stat
from pathlib import Path

from carpd.config.problems import Problems, Severity
from carpd.config.settings import HostSettings
from carpd.wire.carp_auth import PASSWORD_LIMIT


def check_password(host: HostSettings, readable: bool, problems: Problems) -> None:
    """Check what stands in the configuration; `readable`: others may read that."""
    setting = host.get("password")
    if setting is None or setting.refused:
        return
    if fault := _fault(setting.value.encode()):
        problems.error(setting.path, fault)
    if readable:
        message = "others can read this file: take that permission from them, or use password_file"
        problems.add(Severity.WARNING, setting.path, message)


def read_password(host: HostSettings, directory: Path, problems: Problems) -> bytes:
    """The key of the digest on this node, empty without a password. A relative name is below `directory`."""
    if host["password"] is not None:
        return str(host["password"]).encode()
    setting = host.get("password_file")
    if setting is None or setting.refused:
        return b""
    file: Path = directory / setting.value
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            problems.error(setting.path, "is no regular file", setting.raw)
            return b""
        with file.open("rb") as stream:
            password = stream.read(PASSWORD_LIMIT + len("\n") + 1).removesuffix(b"\n")
    except (OSError, ValueError) as error:  # ValueError: a name that the system can't even express
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.error(setting.path, f"can't be read: {reason}", setting.raw)
        return b""
    if fault := _fault(password):
        problems.error(setting.path, fault, setting.raw)
    if readable_by_others(mode):
        message = "others can read this file: take that permission from them (chmod o-r)"
        problems.add(Severity.WARNING, setting.path, message, setting.raw)
    return password


def readable_by_others(mode: int) -> bool:
    """By anybody, that is: a group that may read it is how an unprivileged carpd is given the password."""
    return bool(mode & stat.S_IROTH)


def _fault(password: bytes) -> str | None:
    if not password:
        return "the password is empty"
    if len(password) > PASSWORD_LIMIT:
        return f"a password has at most {PASSWORD_LIMIT} bytes"
    if b"\0" in password:
        return "a password contains no zero byte"
    return None
