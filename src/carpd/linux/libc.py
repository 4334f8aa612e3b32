"""The C library's calls that Python's standard library lacks, with errors raised as OSError.

ctypes releases the interpreter's lock around each call, as the os module does.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)


def function(name: str, *argument_types: type) -> Callable[..., int]:
    """A libc function that returns an int; -1 is raised as OSError with its errno."""
    call = getattr(_LIBC, name)
    call.argtypes = argument_types
    call.restype = ctypes.c_int

    def checked(*arguments: object) -> int:
        result: int = call(*arguments)
        if result == -1:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result

    return checked
