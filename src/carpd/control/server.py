"""The daemon's end of the control socket: bounded in clients, bytes and time, so that no client can hold it up.

Anybody may connect; who may ask and who may change is decided by the credentials that the kernel tells of the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carpd.control import protocol
from carpd.control.protocol import ControlError, Failure
from carpd.errors import DecodeError

CLIENT_LIMIT = 64

_SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: process, user, group
_GROUPS_SIZE = 1024  # as much as Python asks the kernel for: 256 groups

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Performs one command with the request's other fields. May raise ControlError."""

Stream = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]
"""Likewise, with one answer after the other until the client goes."""


class Access(enum.Enum):
    """What a command needs."""

    READ = "read"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Command:
    """What the daemon does when it is asked: exactly one of `handler` and `stream`."""

    access: Access
    handler: Handler | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """The ids of the groups whose members may do what root may; None: nobody else."""

    read: int | None = None
    change: int | None = None

    def allow(self, access: Access, user: int, groups: Collection[int]) -> bool:
        if user in (0, os.geteuid()) or self.change in groups:
            return True
        return access is Access.READ and self.read in groups


class ControlServer:
    """Answers requests on a Unix socket with the handlers of its commands."""

    def __init__(self, path: Path, commands: Mapping[str, Command], groups: Groups | None = None) -> None:
        self.groups = groups or Groups()
        self._path = path
        self._commands = commands
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. A socket of that name is replaced: the caller knows that its owner is gone. Raise OSError."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o111)  # anybody may connect
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=protocol.LINE_LIMIT)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            for client in tuple(self._clients):
                client.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._clients.add(task)
        try:
            if len(self._clients) <= CLIENT_LIMIT:
                await self._answer(reader, writer)
        except (TimeoutError, OSError, ValueError, asyncio.CancelledError):
            pass  # slow, gone, a line without end, or our own end: cut off, nobody else is hurt
        finally:
            self._clients.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(protocol.TIMEOUT_S):
                line = await reader.readline()
            if not line:
                return
            try:
                fields = protocol.decode(line)
                command = self._command(fields, writer)
                if command.stream is not None:
                    await self._follow(command.stream(fields), reader, writer)
                    return
                assert command.handler is not None, "a command has a handler or a stream"
                reply = protocol.answer(await command.handler(fields))
            except ControlError as error:
                reply = protocol.refusal(error)
            except DecodeError as error:
                reply = protocol.refusal(ControlError(Failure.BAD_REQUEST, str(error)))
            await self._send(writer, reply)

    async def _follow(
        self, answers: AsyncIterator[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send answer after answer until the client goes, or reads too slowly."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(anext(answers, None))
                await asyncio.wait((gone, following), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                answer = following.result()
                if answer is None:
                    return
                await self._send(writer, protocol.answer(answer))
        finally:
            gone.cancel()

    async def _send(self, writer: asyncio.StreamWriter, reply: dict[str, Any]) -> None:
        async with asyncio.timeout(protocol.TIMEOUT_S):
            writer.write(protocol.encode(reply))
            await writer.drain()

    def _command(self, fields: dict[str, Any], writer: asyncio.StreamWriter) -> Command:
        name = fields.pop("command", None)
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            raise ControlError(Failure.BAD_REQUEST, f"unknown command {name!r}: one of {', '.join(self._commands)}")
        if not self.groups.allow(command.access, *_peer(writer.get_extra_info("socket"))):
            raise ControlError(Failure.FORBIDDEN, f"permission denied: {name} is for root and {self._group(command)}")
        return command

    def _group(self, command: Command) -> str:
        reads = command.access is Access.READ
        return f"the {'read' if reads else 'change'}_group of [control]"


def _peer(client: socket.socket) -> tuple[int, set[int]]:
    """The user and the groups of who is at the other end. Who is in more than 256 counts with the first of them alone.

    Ref: unix(7), SO_PEERCRED and SO_PEERGROUPS.
    """
    _, user, group = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    others = b""
    with contextlib.suppress(OSError):
        others = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
    return user, {group, *(number for (number,) in struct.iter_unpack("=I", others))}
