"""The supervisor's view of a process that it starts: speaks with it over a socket pair, notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from carpd.errors import DecodeError
from carpd.runtime.channel import Channel, ChannelClosedError
from carpd.runtime.logs import LOG
from carpd.runtime.messages import LogLine

ANSWER_S = 2.0
"""How long an answer is waited for."""


class ChildProcess:
    """One run of a module. `on_fact` is given what it reports, `on_end` its exit status, once."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        on_fact: Callable[[object], None],
        on_end: Callable[[int], None],
    ) -> None:
        """Start it, with the file descriptor of the socket as its first argument. Raise OSError."""
        self._name = name
        self._on_fact = on_fact
        self._on_end = on_end
        self._tokens = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._channel = Channel(ours)
        self._loop.add_reader(ours.fileno(), self._readable)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: object) -> None:
        """Tell it something. If it has gone, `on_end` is about to be called: nothing else happens here."""
        try:
            self._channel.send(message)
        except ChannelClosedError:
            return
        if self._channel.wants_to_write:
            self._loop.add_writer(self._channel.fileno(), self._writable)

    async def ask(self, question: Callable[[int], object]) -> Any:
        """Send the question that is made with a token, and return the answer with that token. Raise TimeoutError."""
        token = next(self._tokens)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[token] = answer
        try:
            self.send(question(token))
            async with asyncio.timeout(ANSWER_S):
                return await answer
        finally:
            del self._waiting[token]

    def leave(self) -> None:
        """Say no more: the process reads the end of the socket, and ends."""
        with contextlib.suppress(OSError):
            self._channel.shut()

    def kill(self) -> None:
        self._process.kill()

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosedError:
            self._ended()
            return
        except DecodeError as error:
            LOG.error("%s process %d speaks nonsense, ending it: %s", self._name, self.pid, error)
            self.kill()
            self._ended()
            return
        for message in messages:
            self._heard(message)

    def _heard(self, message: Any) -> None:
        if isinstance(message, LogLine):
            LOG.log(message.level, "%s", message.text)
        elif (token := getattr(message, "token", None)) is not None:
            waiting = self._waiting.get(token)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        else:
            self._on_fact(message)

    def _writable(self) -> None:
        with contextlib.suppress(ChannelClosedError):
            self._channel.flush()
        if not self._channel.wants_to_write:
            self._loop.remove_writer(self._channel.fileno())

    def _ended(self) -> None:
        """The socket is closed; the process follows at once, unless something is badly wrong with it."""
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(TimeoutError(f"the {self._name} process has ended"))
        self._on_end(status)


def how_it_ended(exit_status: int) -> str:
    """For the log."""
    return f"killed by {signal.Signals(-exit_status).name}" if exit_status < 0 else f"exit status {exit_status}"
