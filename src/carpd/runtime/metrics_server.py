"""A server of one page, /metrics, over TCP or a Unix socket: bounded in clients, bytes and time.

It knows GET and HEAD, and closes after each answer, which is what Prometheus needs. Ref: RFC 9112.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from carpd.config.model import Endpoint, MetricsConfig
from carpd.control import unix_socket
from carpd.errors import CarpdError
from carpd.runtime.logs import LOG
from carpd.runtime.notices import Notices

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = b"/metrics"

CLIENT_LIMIT = 16
"""At a time. When one more comes, who has been silent for longest is cut off."""
REQUEST_LIMIT = 8 << 10
"""Bytes."""
TIMEOUT_S = 10.0
"""From a client's first byte to our last."""
LISTEN_AGAIN_S = 10.0
"""After the kernel did not let us: the address may be yet to come."""

_TEXT = "text/plain; charset=utf-8"
_END_OF_HEAD = b"\r\n\r\n"


class MetricsServer:
    """Where metrics of `status`, of notices and of the results of hooks are to be had."""

    def __init__(
        self,
        notices: Notices,
        status: Callable[[], Awaitable[Mapping[str, Any]]],
        hook_results: Mapping[tuple[str, str], int],
    ) -> None:
        self._sources = (notices, status, hook_results)
        self._text: Callable[[], Awaitable[bytes]] | None = None
        self._config: MetricsConfig | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}
        """Those who have not asked yet, in the order in which they came."""
        self._listening: asyncio.Task[None] | None = None

    async def configure(self, config: MetricsConfig | None) -> None:
        """Listen there from now on, and nowhere else. The log says what it comes to."""
        if config == self._config:
            return
        await self.stop()
        self._config = config
        if config is not None and self._prepare():
            self._listening = asyncio.create_task(self._listen(config.listen))

    async def stop(self) -> None:
        """Listen no more; who is being answered is cut off."""
        self._config = None
        tasks = {*self._clients, *([self._listening] if self._listening else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._listening = None

    def _prepare(self) -> bool:
        """Whether there is a page to be had. The library is for those alone who want metrics."""
        if self._text is None:
            try:
                from carpd.runtime.metrics import Metrics
            except ImportError as error:
                LOG.error("metrics: there are none without the Python package prometheus-client: %s", error)
                return False
            self._text = Metrics(*self._sources).text
        return True

    async def _listen(self, place: Endpoint | str) -> None:
        """Until it is cancelled."""
        said = False
        while True:
            try:
                server = await self._start(place)
            except OSError as error:
                if not said:
                    LOG.error("metrics: can't listen on %s: %s; trying again", place, error.strerror or error)
                said = True
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            LOG.info("metrics: listening on %s", place)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                server.close()
                if isinstance(place, str):
                    with contextlib.suppress(OSError):
                        os.unlink(place)

    async def _start(self, place: Endpoint | str) -> asyncio.Server:
        """Raise OSError."""
        if isinstance(place, Endpoint):
            return await asyncio.start_server(self._serve, str(place.address), place.port, limit=REQUEST_LIMIT)
        return await unix_socket.listen(Path(place), self._serve, REQUEST_LIMIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._clients.add(task)
        self._silent[task] = None
        try:
            if len(self._clients) > CLIENT_LIMIT:
                self._make_room(task)
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readuntil(_END_OF_HEAD)
                del self._silent[task]
                writer.write(await self._answer(head))
                writer.close()
                await writer.wait_closed()  # what is closed must not be aborted as well: that raises
        except (TimeoutError, OSError, ValueError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()  # slow, gone, no request, one too many, or our own end
        finally:
            self._clients.discard(task)
            self._silent.pop(task, None)

    def _make_room(self, newest: asyncio.Task[None]) -> None:
        """Cut off who has been silent for longest. Raise ConnectionAbortedError if that is the newest itself."""
        oldest = next(iter(self._silent))
        if oldest is newest:
            raise ConnectionAbortedError(errno.ECONNABORTED, "all others are being answered")
        del self._silent[oldest]
        oldest.cancel()

    async def _answer(self, head: bytes) -> bytes:
        method, target, version = (head.split(b"\r\n", 1)[0].split(b" ") + [b""] * 2)[:3]
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"speak HTTP/1.1\n")
        answer = await self._page(method, target)
        return answer if method != b"HEAD" else answer.partition(_END_OF_HEAD)[0] + _END_OF_HEAD

    async def _page(self, method: bytes, target: bytes) -> bytes:
        if target.partition(b"?")[0] != PATH:
            return _response("404 Not Found", b"there is only /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"there are only GET and HEAD\n", "Allow: GET, HEAD\r\n")
        assert self._text is not None, "it is made before we listen"
        try:
            return _response("200 OK", await self._text(), content_type=CONTENT_TYPE)
        except CarpdError as error:
            return _response("503 Service Unavailable", f"{error}\n".encode())


def _response(status: str, body: bytes, fields: str = "", *, content_type: str = _TEXT) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{fields}"
    return head.encode() + b"Connection: close" + _END_OF_HEAD + body
