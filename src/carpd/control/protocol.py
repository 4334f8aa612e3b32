"""How `carpctl` and the daemon speak: one JSON object a line, a request and its answer, over a Unix socket.

{"command": "status", "name": "lan"}     ->  {"ok": {...}}
                                         or  {"error": "NO_SUCH_OBJECT", "message": "..."}

A few commands ("monitor") answer with one such line after the other, until the client goes. The client is to start
quickly: it needs this file, and what this file imports.
"""

from __future__ import annotations

import enum
import json

from carpd.errors import CarpdError, DecodeError

TYPE_CHECKING = False  # `typing` would be a tenth of the client's time
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/run/carpd/carpd.sock"

LINE_LIMIT = 64 << 10
"""Bytes of a request; an answer may be as long as it has to be."""

TIMEOUT_S = 5.0
"""How long a client waits for an answer, and the daemon for a request."""


class Failure(enum.Enum):
    """Why a command failed; the value is `carpctl`'s exit status.

    0 is success; 1 the answer "no" (is-master), or a file or a demonstration with which something is wrong. Output that
    can't be written has statuses of its own, in cli/streams.py.
    """

    BAD_REQUEST = 2
    """Wrong usage: an unknown command, option or value."""
    CONFIGURATION = 3
    """The configuration is wrong, and nothing was changed."""
    UNREACHABLE = 4
    """The daemon does not run, or has ended."""
    FORBIDDEN = 5
    """For root, and the groups that [control] names."""
    NO_SUCH_OBJECT = 6
    """No such virtual host, group or whatever was named."""
    TIMED_OUT = 7
    """There was no answer in time, or the client did not read it in time."""
    REFUSED = 8
    """It can't be done as things are: the message says why."""
    DEFECT = 9
    """The daemon met an error of its own, which is in its log; or carpctl did."""


class ControlError(CarpdError):
    """A command that failed, with the one line to print."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


def encode(value: dict[str, Any], errors: str = "replace") -> bytes:
    """`errors` says what becomes of what is no text, such as a file's name in another encoding. Ref: bytes.encode"""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors=errors) + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Raise DecodeError unless the line is one JSON object, and all that it says is text."""
    try:
        value = json.loads(line.decode())
        if b"\\u" in line:  # half a surrogate pair can be written so, and fits into no file and no log
            encode(value, errors="strict")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise DecodeError(f"not UTF-8: {error.reason}") from error
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
