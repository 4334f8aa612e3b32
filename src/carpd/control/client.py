"""Asks the daemon over its Unix socket. Blocking and small: `carpctl` starts, asks and ends."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from carpd.control import protocol
from carpd.control.protocol import ControlError, Failure
from carpd.errors import DecodeError


def request(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Send one command and return its result. Raise ControlError with a line for the user."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(protocol.TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(protocol.encode({"command": command, **arguments}))
            with connection.makefile("rb") as stream:
                line = stream.readline()
        return protocol.result_of(protocol.decode(line))
    except TimeoutError as error:
        raise ControlError(Failure.TIMED_OUT, f"{path}: no answer within {protocol.TIMEOUT_S:.0f} s") from error
    except PermissionError as error:
        raise ControlError(
            Failure.FORBIDDEN, f"{path}: permission denied: be root, or in the socket's group"
        ) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(Failure.UNREACHABLE, f"{path}: carpd is not running here: {error.strerror}") from error
    except (OSError, DecodeError) as error:
        raise ControlError(Failure.UNREACHABLE, f"{path}: {error}") from error
