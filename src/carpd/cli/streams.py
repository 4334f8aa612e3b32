"""The standard streams of a program: they are there whoever has closed them, and what can't be written is told.

An exit status is an answer for scripts: neither a full disk nor an error of ours must look like one.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_UNWRITTEN = 74
"""The exit status when the output could not be written. Ref: sysexits.h, EX_IOERR."""

EXIT_UNREAD = 141
"""Likewise when nobody reads it any more, as after `| head -1`: what a shell says of SIGPIPE."""


@contextmanager
def standard_streams(program: str) -> Iterator[None]:
    """In here there are all three, and in the end everything is written. Raise SystemExit with a status above if not.

    An OSError without a file's name is taken to be one of the output: all others are dealt with where they happen.
    """
    _open_missing()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard()
        raise SystemExit(EXIT_UNREAD) from None
    except OSError as error:
        if error.filename is not None:
            raise
        with suppress(OSError):  # it may be standard error itself
            print(f"{program}: can't write the output: {error.strerror}", file=sys.stderr)
        _discard()
        raise SystemExit(EXIT_UNWRITTEN) from None


def _open_missing() -> None:
    """/dev/null for what is closed: the next socket would get its number, and what others print would go there."""
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(nothing, nothing == number)
            setattr(sys, name, os.fdopen(nothing, mode))


def _discard() -> None:
    """What is still buffered goes nowhere, or the interpreter would complain at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        os.dup2(nothing, stream.fileno())
