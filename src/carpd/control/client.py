"""Asks the daemon over its Unix socket. Blocking and small: `carpctl` starts, asks and ends."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager, suppress

from carpd.control import protocol
from carpd.control.protocol import ControlError, Failure
from carpd.errors import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, BinaryIO

Path = str | os.PathLike[str]

_TIMEOUT = struct.Struct("@ll")  # struct timeval


def request(path: Path, command: str, *, timeout_s: float | None = None, **arguments: Any) -> dict[str, Any]:
    """Send one command and return its result; some take longer. Raise ControlError with a line for the user."""
    with _asked(path, command, arguments, timeout_s) as (_, answers):
        return _result(answers.readline())


def follow(path: Path, command: str, **arguments: Any) -> Generator[dict[str, Any], None, None]:
    """Send one command and return result after result. Raise ControlError, in the end because the daemon has ended."""
    with _asked(path, command, arguments) as (connection, answers):
        yield _result(answers.readline())
        connection.settimeout(None)
        while True:
            yield _result(answers.readline())


@contextmanager
def _asked(
    path: Path, command: str, arguments: dict[str, Any], timeout_s: float | None = None
) -> Generator[tuple[socket.socket, BinaryIO], None, None]:
    """A connection on which this was asked, and what is read from it. What goes wrong becomes a ControlError."""
    timeout_s = timeout_s or protocol.TIMEOUT_S
    try:
        asked = protocol.encode({"command": command, **arguments}, errors="strict")
    except UnicodeError as error:
        raise ControlError(Failure.BAD_REQUEST, "a word of the command is not UTF-8: see the locale") from error
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            # A connect with a timeout of Python's would fail at once while others queue; with the kernel's it waits.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT.pack(int(protocol.TIMEOUT_S), 0))
            connection.connect(os.fspath(path))
            connection.settimeout(timeout_s)
            with suppress(BrokenPipeError):  # we are refused before we have asked: the answer says why
                connection.sendall(asked)
            with connection.makefile("rb") as answers:
                yield connection, answers
    except (TimeoutError, BlockingIOError) as error:
        raise ControlError(Failure.TIMED_OUT, f"{path}: no answer within {timeout_s:.0f} s") from error
    except PermissionError as error:
        raise ControlError(Failure.FORBIDDEN, f"{path}: permission denied") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(Failure.UNREACHABLE, f"{path}: carpd is not running here: {error.strerror}") from error
    except (OSError, DecodeError) as error:
        raise ControlError(Failure.UNREACHABLE, f"{path}: {error}") from error


def _result(line: bytes) -> dict[str, Any]:
    """Raise ControlError, DecodeError."""
    if not line:
        raise ControlError(Failure.UNREACHABLE, "carpd has closed the connection: it ended, or was too busy")
    return protocol.result_of(protocol.decode(line))
