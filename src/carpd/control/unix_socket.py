"""Unix sockets to listen on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def listen(path: Path, serve: Serve, limit: int) -> asyncio.Server:
    """Listen at `path`, where anybody may connect; `limit` as of asyncio.start_unix_server.

    A socket that a killed daemon left is replaced, nothing else. Raise OSError.
    """
    _require_free(path)
    before = os.umask(0o111)
    try:
        return await asyncio.start_unix_server(serve, path, limit=limit)
    finally:
        os.umask(before)


def _require_free(path: Path) -> None:
    """Raise OSError if there is something of that name that is in use, or is no socket."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is something else of that name")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # who listens may hang
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except BlockingIOError:
        pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
