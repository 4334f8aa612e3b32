"""Messages between our processes, over a stream socket that neither side ever waits for."""

from __future__ import annotations

import socket
from typing import Any

from carpd.runtime.messages import CODEC

_READ_SIZE = 1 << 18
UNSENT_LIMIT = 64 << 20
"""A peer that lets 64 MiB wait has stopped reading: it is taken for gone."""


class ChannelClosedError(Exception):
    """The process at the other end has gone."""


class Channel:
    """Whole messages in and out; bytes wait in our memory while the socket is full."""

    def __init__(self, endpoint: socket.socket) -> None:
        endpoint.setblocking(False)
        self._socket = endpoint
        self._unread = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether `flush` is wanted as soon as the socket is writable."""
        return bool(self._unsent)

    def send(self, message: object) -> None:
        """Queue and, as far as possible, write. Raise ChannelClosedError if nobody reads any more."""
        self._unsent += CODEC.encode(message)
        self.flush()
        if len(self._unsent) > UNSENT_LIMIT:
            raise ChannelClosedError("the other process does not read")

    def flush(self) -> None:
        """Write what the socket takes. Raise ChannelClosedError."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self) -> list[Any]:
        """The messages that have come. Raise ChannelClosedError at the end."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        if not data:
            raise ChannelClosedError("the other process has gone")
        self._unread += data
        *lines, rest = bytes(self._unread).split(b"\n")
        self._unread = bytearray(rest)
        return [CODEC.decode(line) for line in lines]

    def shut(self) -> None:
        """Say no more; what the other process says can still be received. Raise OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()
