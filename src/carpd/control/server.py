"""The daemon's end of the control socket: bounded in clients, bytes and time, so that no client can hold it up.

Anybody may connect; who may ask and who may change is decided by the credentials that the kernel tells of the peer. Who
may do neither is told so, and cut off at once; of the others each user has a number of connections of his own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import grp
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from carpd.config.model import ControlConfig
from carpd.control import protocol, unix_socket
from carpd.control.protocol import ControlError, Failure
from carpd.errors import CarpdError, DecodeError
from carpd.nearest import hint

CLIENT_LIMIT = 64
"""Connections of a user at a time."""

BACKLOG_LIMIT = 2 << 20
"""Bytes that a client may leave unread of what it is told without asking: some 5000 notices."""

_LOG = logging.getLogger("carpd")
_SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: process, user, group
_GROUPS_SIZE = 1024  # as much as Python asks the kernel for: 256 groups

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Performs one command with the request's other fields. May raise ControlError."""

Tell = Callable[[dict[str, Any]], None]
"""Sends one more answer. It never waits: who does not read is cut off."""

Stream = Callable[[dict[str, Any], Tell], Awaitable[Callable[[], None]]]
"""Likewise begins to tell; what it returns ends that, and is called when the client has gone."""


class Access(enum.Enum):
    """What a command needs."""

    READ = "read"
    CHANGE = "change"
    SECRETS = "secrets"
    """The answer may have passwords in it, as the file has: it is for nobody of the groups."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the daemon does when it is asked: exactly one of `handler` and `stream`."""

    access: Access
    handler: Handler | None = None
    stream: Stream | None = None


class Peer(NamedTuple):
    """Who is at the other end."""

    user: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Groups:
    """The ids of the groups whose members may do what root may; None: nobody else."""

    read: int | None = None
    change: int | None = None

    @classmethod
    def of(cls, config: ControlConfig) -> Groups:
        """Raise CarpdError if this host has no such group."""
        return cls(_group("read_group", config.read_group), _group("change_group", config.change_group))

    def allow(self, access: Access, peer: Peer) -> bool:
        if peer.user in (0, os.geteuid()):
            return True
        if self.change in peer.groups:
            return access is not Access.SECRETS
        return access is Access.READ and self.read in peer.groups


class ControlServer:
    """Answers requests on a Unix socket with the handlers of its commands."""

    def __init__(self, path: Path, commands: Mapping[str, Command], groups: Groups | None = None) -> None:
        self.groups = groups or Groups()
        self._path = path
        self._commands = commands
        self._clients: dict[asyncio.Task[None], int] = {}
        """Whose they are."""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raise CarpdError."""
        try:
            self._server = await unix_socket.listen(self._path, self._serve, protocol.LINE_LIMIT)
        except OSError as error:
            raise CarpdError(f"can't listen on {self._path}: {error.strerror or error}") from error

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            for client in tuple(self._clients):
                client.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        try:
            peer = _peer(writer.get_extra_info("socket"))
            self._clients[task] = peer.user
            try:
                self._admit(peer)
                await self._answer(reader, writer, peer)
            except ControlError as error:
                writer.write(protocol.encode(protocol.refusal(error)))
            async with asyncio.timeout(protocol.TIMEOUT_S):
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, ValueError, asyncio.CancelledError):
            # Slow, gone, a line without end, or our own end: cut off, with what is unread; nobody else is hurt.
            writer.transport.abort()
        finally:
            self._clients.pop(task, None)

    def _admit(self, peer: Peer) -> None:
        """Raise ControlError for whom we don't listen to."""
        if not self.groups.allow(Access.READ, peer):
            raise ControlError(Failure.FORBIDDEN, f"permission denied: carpd listens to {_who(Access.READ)}")
        if list(self._clients.values()).count(peer.user) > CLIENT_LIMIT:
            raise ControlError(Failure.REFUSED, f"user {peer.user} has {CLIENT_LIMIT} other connections: end some")

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        """Line by line, until the client goes, or to the end of a stream."""
        follower = _Follower(reader, writer)
        while True:
            async with asyncio.timeout(protocol.TIMEOUT_S):
                line = await reader.readline()
            if not line:
                return
            outcome = await self._perform(line, peer, follower.tell)
            if not isinstance(outcome, dict):
                await follower.wait(outcome)
                return
            async with asyncio.timeout(protocol.TIMEOUT_S):
                writer.write(protocol.encode(outcome))
                await writer.drain()

    async def _perform(self, line: bytes, peer: Peer, tell: Tell) -> dict[str, Any] | Callable[[], None]:
        """The reply to a request; or, if it is answered by a stream, what ends that."""
        name: object = None
        try:
            fields = protocol.decode(line)
            name = fields.pop("command", None)
            command = self._command(name, peer)
            if command.stream is not None:
                return await command.stream(fields, tell)
            assert command.handler is not None, "a command has a handler or a stream"
            return protocol.answer(await command.handler(fields))
        except ControlError as error:
            return protocol.refusal(error)
        except DecodeError as error:
            return protocol.refusal(ControlError(Failure.BAD_REQUEST, str(error)))
        except Exception:  # a defect of a command: it concerns nobody else
            _LOG.exception("control: the command %.60s met an error of carpd itself", name)  # its words may be secret
            return protocol.refusal(ControlError(Failure.DEFECT, "carpd met an error of its own: see its log"))

    def _command(self, name: object, peer: Peer) -> Command:
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            raise ControlError(Failure.BAD_REQUEST, f"unknown command {name!r}: {hint(str(name), self._commands)}")
        if not self.groups.allow(command.access, peer):
            raise ControlError(Failure.FORBIDDEN, f"permission denied: {name} is for {_who(command.access)}")
        return command


class _Follower:
    """A client that is told without asking."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._too_slow = asyncio.Event()

    def tell(self, answer: dict[str, Any]) -> None:
        """Ref: Tell"""
        if self._writer.transport.get_write_buffer_size() > BACKLOG_LIMIT:
            self._too_slow.set()
        elif not self._too_slow.is_set() and not self._writer.is_closing():
            self._writer.write(protocol.encode(protocol.answer(answer)))

    async def wait(self, end: Callable[[], None]) -> None:
        """Until it goes, or, with a last line that says so, is cut off; then call `end`."""
        ends = [asyncio.create_task(waiting) for waiting in (self._goes(), self._too_slow.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            end()
            for waiting in ends:
                waiting.cancel()
        if self._too_slow.is_set():
            error = ControlError(Failure.TIMED_OUT, "too much was left unread: cut off, what came after this is lost")
            self._writer.write(protocol.encode(protocol.refusal(error)))

    async def _goes(self) -> None:
        with contextlib.suppress(OSError):
            await self._reader.read(1)


def _who(access: Access) -> str:
    if access is Access.SECRETS:
        return "root"
    groups = "change_group" if access is Access.CHANGE else "read_group and change_group"
    return f"root and the {groups} of [control]"


def _group(key: str, name: str | None) -> int | None:
    try:
        return None if name is None else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise CarpdError(f"[control] {key}: this host has no group {name!r}") from error


def _peer(client: socket.socket) -> Peer:
    """Who is in more than 256 groups counts with the first of them alone. Raise OSError.

    Ref: unix(7), SO_PEERCRED and SO_PEERGROUPS.
    """
    _, user, group = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    others = b""
    with contextlib.suppress(OSError):
        others = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
    return Peer(user, frozenset((group, *(number for (number,) in struct.iter_unpack("=I", others)))))
