"""Writes to systemd's journal by its own protocol, so that what has happened can be found by fields, not by words.

A datagram is an entry: `NAME=value` a line; a value of several lines has its length in front. What no datagram takes
goes in a sealed file without a name. It is so little that a library would be more.

Ref: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md; systemd.journal-fields(7).
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import TextIO

ADDRESS = "/run/systemd/journal/socket"

PATIENCE_S = 1.0
"""How long a journal that does not read holds the log up, once. Then lines are lost, and counted, until it reads."""

MESSAGE_IDS = {
    "state": "907179d7918e4657ba9b25406df4b679",
    "demotion": "010209d8c1624184a10154b79e7c62b4",
    "sharing": "a9101996627e4730906096cffcf42966",
    "pfsync": "6f08cbc98708400083402ab79b6a6c8e",
    "election": "c5221f7318734e1da7cdc01c7d522d25",
    "reload": "0a825dc14dc449b1b833c8abc3e02af2",
    "left behind": "c23622d77f8645c5996d915f6ed28246",
}
"""MESSAGE_ID by kind of notice. They stay as they are for ever: people search for them (docs/systemd.md)."""

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Without them the journal does not take a file. Ref: memfd_create(2)."""


def reads(stream: TextIO) -> bool:
    """Whether the journal is at the other end of a stream. Ref: systemd.exec(5), $JOURNAL_STREAM."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class PrefixFormatter(logging.Formatter):
    """`<4>text`: the journal takes the priority off a line of standard error. Ref: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_priority(record)}>{super().format(record)}"


class JournalHandler(logging.Handler):
    """Log records to the journal; to `otherwise` while there is no socket of it."""

    def __init__(self, program: str, otherwise: logging.Handler, address: str) -> None:
        super().__init__()
        self._program = program
        self._otherwise = otherwise
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lost = 0
        """Lines since it does not read."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(encode(dict(self._fields(record))))
        except (BlockingIOError, TimeoutError):
            self._lost += 1
            return
        except OSError:
            self._otherwise.handle(record)
            return
        if self._lost:
            text = f"{self._lost} lines were lost here: the journal did not read"
            self._lost = 0
            self.emit(logging.makeLogRecord({"levelno": logging.WARNING, "msg": text}))

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", str(_priority(record))
        yield "SYSLOG_IDENTIFIER", self._program
        notice = getattr(record, "notice", None)
        if notice is not None:
            if notice.kind in MESSAGE_IDS:
                yield "MESSAGE_ID", MESSAGE_IDS[notice.kind]
            for name, value in notice.facts():
                yield name, value if isinstance(value, str) else json.dumps(value)

    def _send(self, entry: bytes) -> None:
        """Raise OSError."""
        self._socket.settimeout(0 if self._lost else PATIENCE_S)
        try:
            self._socket.sendto(entry, self._address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(entry)

    def _send_file(self, entry: bytes) -> None:
        with open(os.memfd_create("carpd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b") as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            self._socket.sendmsg([], [rights], 0, self._address)


def encode(fields: Mapping[str, str]) -> bytes:
    """An entry of the journal."""
    entry = b""
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            entry += name.encode() + b"=" + data + b"\n"
    return entry


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITY.get(record.levelno, 5)
