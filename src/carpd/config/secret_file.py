"""The secrets of pfsync's sealed transport: from their file, or one from the configuration.

One a line: the first seals what this node sends, all open what it receives. So a secret is changed without a gap: add
the new one below the old on every node, then move it to the top on every node, then remove the old.
"""

from __future__ import annotations

from pathlib import Path

from carpd.config.private_file import check_private_value, read_private_file
from carpd.config.problems import Problems, Severity
from carpd.config.settings import Settings

SECRETS_LIMIT = 8
"""Every secret is one more to try for each datagram that nobody sealed."""

SHORTEST_SECRET, LONGEST_SECRET = 16, 256
"""Bytes. They are printable characters of ASCII, so that no editor and no locale makes two of one secret."""

_FILE_LIMIT = 1 << 16
"""Bytes. What is longer is another file."""


def check_secret(pfsync: Settings, readable: bool, problems: Problems) -> None:
    """Check one that stands in the configuration; `readable`: others may read that."""
    check_private_value(pfsync, "secret", _fault, Severity.ERROR if readable else None, problems)


def read_secrets(pfsync: Settings, directory: Path, problems: Problems) -> tuple[bytes, ...]:
    """In the order of the file; blank lines and those that begin with # are none. A relative name is below `directory`.

    Problems name the line in that file and never say what is on it.
    """
    if pfsync["secret"] is not None:
        return (str(pfsync["secret"]).encode(),)
    setting = pfsync.get("secret_file")
    if setting is None or setting.refused:
        return ()
    content = read_private_file(setting, directory, _FILE_LIMIT + 1, Severity.ERROR, problems)
    if content is None:
        return ()
    if len(content) > _FILE_LIMIT:
        problems.error(setting.path, f"has more than {_FILE_LIMIT} bytes: it is no file of secrets", setting.raw)
        return ()
    secrets = []
    for number, line in enumerate(content.splitlines(), 1):
        secret = line.strip()
        if not secret or secret.startswith(b"#"):
            continue
        if fault := _fault(secret):
            problems.error(setting.path, f"line {number} of that file: {fault}", setting.raw)
            return ()
        secrets.append(secret)
    if not secrets:
        message = "there is no secret in it: make one with `head -c 32 /dev/urandom | base64`, for all nodes the same"
        problems.error(setting.path, message, setting.raw)
    elif len(secrets) > SECRETS_LIMIT:
        problems.error(setting.path, f"has {len(secrets)} secrets: at most {SECRETS_LIMIT} are tried", setting.raw)
    return tuple(secrets)


def _fault(secret: bytes) -> str | None:
    if not (secret.isascii() and secret.decode().isprintable()):
        return "a secret has printable ASCII characters alone, as base64 makes them"
    if not SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
        return f"a secret has {SHORTEST_SECRET} to {LONGEST_SECRET} characters"
    return None
