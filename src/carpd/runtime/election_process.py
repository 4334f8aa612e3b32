"""The supervisor's view of the election process: starts it, speaks with it, notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from carpd.errors import DecodeError
from carpd.runtime.channel import Channel, ChannelClosedError
from carpd.runtime.logs import LOG
from carpd.runtime.messages import RECORD, LogLine, Recorded, StatusReport, StatusWanted

MODULE = "carpd.runtime.election"

CHUNK = 16
"""Virtual hosts asked about at a time: about a millisecond of the election process's time."""


class ElectionProcess:
    """One run of the election process. `on_fact` is given what it reports, `on_end` its exit status, once."""

    def __init__(
        self, on_fact: Callable[[object], None], on_end: Callable[[int], None], recording: TextIO | None
    ) -> None:
        """Start it; what it is told is written to `recording`. Raise OSError."""
        self._recording = recording
        self._on_fact = on_fact
        self._on_end = on_end
        self._tokens = itertools.count()
        self._waiting: dict[int, asyncio.Future[StatusReport]] = {}
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(theirs.fileno()), *([RECORD] if recording else [])],
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

    async def status(self, hosts: Sequence[str], interfaces: Sequence[str]) -> list[StatusReport]:
        """Ask about all of these, a few at a time. What it does not know is missing. Raise TimeoutError."""
        reports = [await self._ask(StatusWanted(next(self._tokens), (), tuple(interfaces)))]
        for first in range(0, len(hosts), CHUNK):
            wanted = StatusWanted(next(self._tokens), tuple(hosts[first : first + CHUNK]))
            reports.append(await self._ask(wanted))
        return reports

    async def _ask(self, wanted: StatusWanted) -> StatusReport:
        answer: asyncio.Future[StatusReport] = self._loop.create_future()
        self._waiting[wanted.token] = answer
        try:
            self.send(wanted)
            async with asyncio.timeout(2):
                return await answer
        finally:
            del self._waiting[wanted.token]

    def _readable(self) -> None:
        try:
            messages = self._channel.receive()
        except ChannelClosedError:
            self._ended()
            return
        except DecodeError as error:
            LOG.error("election process %d speaks nonsense, ending it: %s", self.pid, error)
            self.kill()
            self._ended()
            return
        for message in messages:
            self._heard(message)

    def _heard(self, message: object) -> None:
        if isinstance(message, LogLine):
            LOG.log(message.level, "%s", message.text)
        elif isinstance(message, Recorded):
            print(message.line, file=self._recording)
        elif isinstance(message, StatusReport):
            waiting = self._waiting.get(message.token)
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
        self._on_end(status)

    def kill(self) -> None:
        self._process.kill()
