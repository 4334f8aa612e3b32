"""The daemon's end of the control socket: bounded in clients, bytes and time, so that no client can hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from carpd.control import protocol
from carpd.control.protocol import ControlError, Failure
from carpd.errors import DecodeError

CLIENT_LIMIT = 64

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Performs one command with the request's other fields. May raise ControlError."""


class ControlServer:
    """Answers requests on a Unix socket with the handlers of its commands."""

    def __init__(self, path: Path, commands: dict[str, Handler]) -> None:
        self._path = path
        self._commands = commands
        self._clients = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. A socket of that name is replaced: the caller knows that its owner is gone. Raise OSError."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o117)  # owner and group may connect
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=protocol.LINE_LIMIT)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= CLIENT_LIMIT:
                async with asyncio.timeout(protocol.TIMEOUT_S):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, ValueError):
            pass  # slow, gone, or a line without end: cut off, nobody else is hurt
        finally:
            self._clients -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                reply = protocol.answer(await self._perform(protocol.decode(line)))
            except ControlError as error:
                reply = protocol.refusal(error)
            except DecodeError as error:
                reply = protocol.refusal(ControlError(Failure.BAD_REQUEST, str(error)))
            writer.write(protocol.encode(reply))
            await writer.drain()

    async def _perform(self, fields: dict[str, Any]) -> dict[str, Any]:
        command = fields.pop("command", None)
        handler = self._commands.get(command) if isinstance(command, str) else None
        if handler is None:
            raise ControlError(Failure.BAD_REQUEST, f"unknown command {command!r}: one of {', '.join(self._commands)}")
        return await handler(fields)
