"""A netlink socket that asks the kernel and reads its answers. Set-up and hot path use the same one.

The kernel does what a request says within the send, so the answer waits when the send returns: nothing here
waits long, and a time limit makes sure of it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

from carpd.errors import SystemCallError
from carpd.wire import netlink, nftnetlink
from carpd.wire.netlink import Acknowledgement, Message

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 1, 10, 11
_RECEIVE_SIZE = 64 * 1024  # the kernel fills dumps into as much as the reader offers, 32 KiB at most
_ANSWER_SIZE = 4 * 1024  # what the kernel gives to a message that is no part of a dump
_SEQUENCE_LIMIT = 0xFFFFFFFF
_TIME_LIMIT = struct.pack("@ll", 1, 0)  # struct timeval: 1 s
_DUMP_ATTEMPTS = 10
_RECEIVE_BUFFER = 208 * 1024  # the most that everybody may ask for; the kernel gives twice of it
REQUESTS_AT_ONCE = 128
"""So many refusals or answers, 1.3 KiB of receive buffer each, fit into it, even if the kernel gives half of it."""


class Refusal(NamedTuple):
    """What the kernel would not do: the position of the request among those sent, errno and reason."""

    position: int
    errno: int
    reason: str


class Answers(NamedTuple):
    """What came of questions: each one's answer by its position, None for those that were refused."""

    found: list[bytes | None]
    refused: list[Refusal]


class NetlinkSocket:
    """One netlink socket, and its sequence numbers. Use as a context manager, or close it."""

    def __init__(self, protocol: int) -> None:
        """Raise SystemCallError if the kernel has no such protocol."""
        self._socket = open_socket(protocol)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME_LIMIT)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._sequence = 0
        self.port: int = self._socket.getsockname()[0]
        """The number of this socket, which what it changes bears when others are told."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def perform(self, requests: Sequence[Message]) -> list[Refusal]:
        """Do all of these, in one send each REQUESTS_AT_ONCE, and return those that were refused.

        A refused one does not stop the next. Raise SystemCallError if the kernel does not answer.
        """
        refused = []
        for start in range(0, len(requests), REQUESTS_AT_ONCE):
            refused += self._perform(requests[start : start + REQUESTS_AT_ONCE], start)
        return refused

    def _perform(self, requests: Sequence[Message], start: int) -> list[Refusal]:
        def numbered(first: int) -> bytes:
            return b"".join(r._replace(sequence=n).to_bytes() for n, r in enumerate(requests, first))

        return [refusal._replace(position=start + refusal.position) for refusal in self.send(len(requests), numbered)]

    def send(self, count: int, numbered: Callable[[int], bytes]) -> list[Refusal]:
        """Do `count` requests in one send, and return those that were refused; they do not stop the next.

        At most REQUESTS_AT_ONCE; `numbered` writes them, with sequence numbers counted up from its argument. Raise
        SystemCallError if the kernel does not answer.
        """
        data, first, end = self._numbered(count, numbered)
        answers = self._exchange(data, first, end)
        acknowledgements = ((a.sequence, Acknowledgement.from_message(a)) for a in answers if a.kind == netlink.ERROR)
        return [Refusal(n - first, ack.errno, ack.reason) for n, ack in acknowledgements if ack.errno]

    def ask_many(self, count: int, numbered: Callable[[int], bytes]) -> Answers:
        """Ask `count` questions of one answer each, as `send` does. Raise SystemCallError if one is not answered."""
        data, first, end = self._numbered(count, numbered)
        answers = Answers([None] * count, [])
        try:
            self._socket.send(data)
            while True:
                answer = self._socket.recv(_ANSWER_SIZE)
                _, kind, _, sequence, _ = netlink.HEADER.unpack_from(answer)
                if sequence == end:
                    return answers
                if not first <= sequence < end:
                    continue  # of something earlier, which was given up
                if kind == netlink.ERROR:
                    ack = Acknowledgement.from_message(netlink.messages(answer)[0])
                    answers.refused.append(Refusal(sequence - first, ack.errno, ack.reason))
                else:
                    answers.found[sequence - first] = answer
        except OSError as error:
            raise _failed("ask the kernel by netlink", error) from error

    def _numbered(self, count: int, numbered: Callable[[int], bytes]) -> tuple[bytes, int, int]:
        """Requests and their end, and the sequence numbers of the first and of the end."""
        if self._sequence + count >= _SEQUENCE_LIMIT:
            self._sequence = 0
        first = self._sequence + 1
        end = self._sequence = first + count
        # Refusals are always told; the answer to one request more, for nothing, says that the kernel is through.
        through = Message(netlink.NOOP, netlink.REQUEST | netlink.ACK, b"", end)
        return numbered(first) + through.to_bytes(), first, end

    def do(self, tried: str, *requests: Message) -> None:
        """Do all of these, or raise SystemCallError for the first refused one: `tried` says what they are for."""
        for refusal in self.perform(requests):
            raise SystemCallError(tried, refusal.errno, refusal.reason or os.strerror(refusal.errno))

    def ask(self, tried: str, request: Message) -> list[Message]:
        """The answers to a question, a dump or a single one. Raise SystemCallError."""
        for _ in range(_DUMP_ATTEMPTS):
            self._sequence += 1
            # A dump ends with DONE, whether an acknowledgement was asked for or not.
            numbered = request._replace(sequence=self._sequence, flags=request.flags | netlink.ACK)
            *answers, end = self._exchange(numbered.to_bytes(), self._sequence, self._sequence)
            ack = Acknowledgement.from_message(end)
            if ack.errno:
                raise SystemCallError(tried, ack.errno, ack.reason or os.strerror(ack.errno))
            if not any(a.flags & netlink.DUMP_INTERRUPTED for a in (*answers, end)):
                return answers
        raise SystemCallError(tried, errno.EAGAIN, "it kept changing while it was read")

    def pieces(self, tried: str, request: Message) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
        """The answers to a dump as they come, one datagram each time, and (offset, length) of the messages in it.

        No more than one datagram is waited for at a time, while the kernel fills it. Nothing else may be asked on this
        socket meanwhile. Raise SystemCallError.
        """
        self._sequence += 1
        try:
            self._socket.send(request._replace(sequence=self._sequence).to_bytes())
            while True:
                data = self._socket.recv(_RECEIVE_SIZE)
                spans = list(netlink.message_spans(data))
                last = netlink.messages(data[spans[-1][0] :])[0]
                if last.kind not in (netlink.ERROR, netlink.DONE):
                    yield data, spans
                    continue
                ack = Acknowledgement.from_message(last)
                if ack.errno:
                    raise SystemCallError(tried, ack.errno, ack.reason or os.strerror(ack.errno))
                yield data, spans[:-1]
                return
        except OSError as error:
            raise _failed(tried, error) from error

    def commit(self, message: Message) -> int:
        """Do one nftables request as a transaction; return 0 or the errno. Raise SystemCallError without an answer."""
        self._sequence += 1
        data = nftnetlink.batch(message._replace(sequence=self._sequence))
        return Acknowledgement.from_message(self._exchange(data, self._sequence, self._sequence)[-1]).errno

    def _exchange(self, data: bytes, first: int, last: int) -> list[Message]:
        """Send requests numbered first to last; return all answers up to the one that ends the last request.

        Answers to earlier requests, which were given up, are skipped. Raise SystemCallError.
        """
        answers: list[Message] = []
        try:
            self._socket.send(data)
            while True:
                for message in netlink.messages(self._socket.recv(_RECEIVE_SIZE)):
                    if not first <= message.sequence <= last:
                        continue
                    answers.append(message)
                    if message.sequence == last and message.kind in (netlink.ERROR, netlink.DONE):
                        return answers
        except OSError as error:
            raise _failed("speak to the kernel by netlink", error) from error


class NetlinkListener:
    """A netlink socket that hears what the kernel tells everybody, and never blocks."""

    def __init__(self, protocol: int, groups: Sequence[int]) -> None:
        """Raise SystemCallError if the kernel has no such protocol."""
        self._socket = open_socket(protocol)
        self._socket.setblocking(False)
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Message] | None:
        """One datagram's messages, [] when nothing waits, None when some were lost because we were too slow.

        Raise SystemCallError.
        """
        try:
            return netlink.messages(self._socket.recv(_RECEIVE_SIZE))
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return None
            raise _failed("hear from the kernel by netlink", error) from error


def open_socket(protocol: int) -> socket.socket:
    """Raise SystemCallError if the kernel has no such protocol."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        opened.bind((0, 0))
    except OSError as error:
        raise _failed("open a netlink socket", error) from error
    return opened


def _failed(tried: str, error: OSError) -> SystemCallError:
    if isinstance(error, BlockingIOError):
        return SystemCallError(tried, errno.ETIMEDOUT, "the kernel does not answer")
    return SystemCallError(tried, error.errno or 0, error.strerror or str(error))
