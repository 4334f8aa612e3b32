"""How `carpctl` and the daemon speak: one JSON object a line, a request and its answer, over a Unix socket.

{"command": "status", "name": "lan"}     ->  {"ok": {...}}
                                         or  {"error": "no_such_host", "message": "..."}
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

from carpd.errors import CarpdError, DecodeError

DEFAULT_SOCKET = Path("/run/carpd/carpd.sock")

LINE_LIMIT = 64 << 10
"""Bytes of a request; an answer may be as long as it has to be."""

TIMEOUT_S = 5.0
"""How long a client waits for an answer, and the daemon for a request."""


class Failure(enum.Enum):
    """Why a command failed; the value is `carpctl`'s exit status."""

    BAD_REQUEST = 2
    UNREACHABLE = 4
    FORBIDDEN = 5
    NO_SUCH_HOST = 6
    TIMED_OUT = 7


class ControlError(CarpdError):
    """A command that failed, with the one line to print."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raise DecodeError unless the line is one JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DecodeError("not a JSON object")
    return value


def answer(result: dict[str, Any]) -> dict[str, Any]:
    return {"ok": result}


def refusal(error: ControlError) -> dict[str, Any]:
    return {"error": error.failure.name, "message": str(error)}


def result_of(reply: dict[str, Any]) -> dict[str, Any]:
    """What the daemon answered. Raise ControlError if it refused, DecodeError if that is no answer of ours."""
    if "ok" in reply:
        result: dict[str, Any] = reply["ok"]
        return result
    try:
        raise ControlError(Failure[reply["error"]], reply["message"])
    except KeyError as error:
        raise DecodeError(f"no answer of carpd: {reply}") from error
