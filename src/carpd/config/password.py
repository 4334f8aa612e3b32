"""The password of a virtual host: from its file, or from the configuration."""

from __future__ import annotations

from pathlib import Path

from carpd.config.private_file import check_private_value, read_private_file
from carpd.config.problems import Problems, Severity
from carpd.config.settings import Settings
from carpd.wire.carp_auth import PASSWORD_LIMIT


def check_password(host: Settings, readable: bool, problems: Problems) -> None:
    """Check what stands in the configuration; `readable`: others may read that."""
    check_private_value(host, "password", _fault, Severity.WARNING if readable else None, problems)


def read_password(host: Settings, directory: Path, problems: Problems) -> bytes:
    """The key of the digest on this node, empty without a password. A relative name is below `directory`."""
    if host["password"] is not None:
        return str(host["password"]).encode()
    setting = host.get("password_file")
    if setting is None or setting.refused:
        return b""
    content = read_private_file(setting, directory, PASSWORD_LIMIT + len("\n") + 1, Severity.WARNING, problems)
    if content is None:
        return b""
    password = content.removesuffix(b"\n")
    if fault := _fault(password):
        problems.error(setting.path, fault, setting.raw)
    return password


def _fault(password: bytes) -> str | None:
    if not password:
        return "the password is empty"
    if len(password) > PASSWORD_LIMIT:
        return f"a password has at most {PASSWORD_LIMIT} bytes"
    if b"\0" in password:
        return "a password contains no zero byte"
    return None
