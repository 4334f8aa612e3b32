"""The kernel's connection tracking table: what happens to it, and changing it.

Both are done by the hundred. Measured, in µs an entry: an event 0.8 in the kernel and 0.8 here, an insert 1.8 and 1.1.
Ref: `carpd.wire.ctnetlink` for what the kernel wants.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self, TypeVar

from carpd.errors import DecodeError, SystemCallError
from carpd.linux import bpf, sysctls
from carpd.linux.datagrams import Slots
from carpd.linux.netlink import REQUESTS_AT_ONCE, NetlinkSocket, Refusal, open_socket
from carpd.wire import ctnetlink, ctnetlink_expect, netlink
from carpd.wire.conntrack import ConntrackEntry, Expectation, Flow, unpack_flow_key
from carpd.wire.ctnetlink import Event
from carpd.wire.ctnetlink_batch import Reader, Writer

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _BROADCAST_ERROR = 1, 4
_SO_RCVBUFFORCE = 33
_GROUPS = (ctnetlink.GROUP_NEW, ctnetlink.GROUP_UPDATE, ctnetlink.GROUP_DESTROY)

_SLOTS = 256
_SLOT_SIZE = 1024
"""The longest event, IPv6 with everything, has some 700 bytes."""
EVENT_BUFFER = 64 * 1024 * 1024
"""Room for 100 000 events: each takes 1280 bytes, and the kernel gives twice what is asked for."""

_Item = TypeVar("_Item")


def events_enabled() -> bool:
    """Whether the kernel tells of every entry here (nf_conntrack_events = 1).

    With 0 it tells nothing; with 2, its default, nothing of entries that are older than the first listener.
    """
    return sysctls.read("netfilter", "nf_conntrack_events") == "1"


class Events(NamedTuple):
    """What happened to the table since the last call, in order."""

    events: list[Event]
    lost: bool
    """Whether something else happened that we will never hear of: the table must be read again."""


class ConntrackEvents:
    """Hears what happens to the table. It never blocks."""

    def __init__(self, buffer_size: int = EVENT_BUFFER, ignored_port: int = 0) -> None:
        """Ignore what the netlink socket of this port changes, our own ConntrackTable's. Raise SystemCallError."""
        self._socket = open_socket(netlink.NETFILTER)
        self._slots = Slots(_SLOTS, _SLOT_SIZE)
        self._reader = Reader()
        try:
            self._configure(buffer_size, ignored_port)
        except OSError as error:
            self._socket.close()
            tried = "listen to connection tracking"
            raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error

    def _configure(self, buffer_size: int, ignored_port: int) -> None:
        option = self._socket.setsockopt
        option(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        with suppress(PermissionError):  # root of a user namespace has to live with the system's limit
            option(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_size)
        # The kernel then keeps ended entries until we heard of their end, however long our queue was full.
        option(_SOL_NETLINK, _BROADCAST_ERROR, 1)
        if ignored_port:
            bpf.attach(self._socket, bpf.messages_not_of(ignored_port))
        for group in _GROUPS:
            option(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> Events:
        """At most 256 events, none if nothing waits. Raise SystemCallError."""
        try:
            data, lengths, truncated = self._slots.receive(self._socket.fileno())
            return Events(self._reader.read(data, zip(self._slots.offsets, lengths, strict=False)), truncated)
        except DecodeError:
            return Events([], True)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return Events([], True)
            raise SystemCallError("hear of connections", error.errno or 0, error.strerror or str(error)) from error


class ConntrackTable:
    """Reads and changes the table. Use as a context manager, or close it.

    Changes are made in sends of REQUESTS_AT_ONCE: a hundred take the kernel a fifth of a millisecond. What it refuses
    comes back by position, and does not keep it from doing the rest. `ctnetlink` tells what is refused and why.
    """

    def __init__(self) -> None:
        """Raise SystemCallError."""
        self._netlink = NetlinkSocket(netlink.NETFILTER)
        self._writer = Writer()
        self._reader = Reader()

    @property
    def port(self) -> int:
        """What events bear that come of our own changes."""
        return self._netlink.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    def insert(self, entries: Sequence[ConntrackEntry]) -> list[Refusal]:
        """Make these entries. Raise SystemCallError if the kernel does not answer."""
        return self._send(entries, self._writer.insert)

    def update(self, entries: Sequence[ConntrackEntry]) -> list[Refusal]:
        """Change these entries, all but their NAT, helper and master. Raise SystemCallError."""
        return self._send(entries, self._writer.update)

    def delete(self, keys: Sequence[bytes]) -> list[Refusal]:
        """Delete the entries with these flow keys. Raise SystemCallError."""
        return self._send(keys, self._writer.delete)

    def get(self, key: bytes) -> ConntrackEntry | None:
        """The entry with this flow key. Raise SystemCallError."""
        try:
            answer, *_ = self._netlink.ask("look for a connection", ctnetlink.get(Flow(*unpack_flow_key(key))))
        except SystemCallError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return ctnetlink.read(answer.to_bytes())[1]

    def dump(
        self, *, zone: int | None = None, mark: int | None = None, mark_mask: int = 0xFFFFFFFF
    ) -> Iterator[list[ConntrackEntry]]:
        """All entries, or those of a zone, or those whose mark has this value in these bits: some hundred at a time.

        Each step takes a fraction of a millisecond, and there may be changes in between. Entries that come or go
        meanwhile may be in it or not; when the kernel changes the size of its table, some may come twice or be missed.
        Raise SystemCallError.
        """
        request = ctnetlink.dump(zone=zone, mark=mark, mark_mask=mark_mask)
        with NetlinkSocket(netlink.NETFILTER) as dumping:
            for data, spans in dumping.pieces("read the connections", request):
                yield [entry for _, entry in self._reader.read(data, spans)]

    def insert_expectations(self, expectations: Sequence[Expectation], zone: int = 0) -> list[Refusal]:
        """Expect these connections. Raise SystemCallError if the kernel does not answer."""
        return self._netlink.perform([ctnetlink_expect.insert(e, zone) for e in expectations])

    def expectations(self) -> list[Expectation]:
        """All connections that are expected. Raise SystemCallError."""
        answers = self._netlink.ask("read the expectations", ctnetlink_expect.dump())
        return [ctnetlink_expect.read(answer) for answer in answers]

    def _send(self, items: Sequence[_Item], write: Callable[[Sequence[_Item], int], bytes]) -> list[Refusal]:
        refused = []
        for start in range(0, len(items), REQUESTS_AT_ONCE):
            some = items[start : start + REQUESTS_AT_ONCE]
            for refusal in self._netlink.send(len(some), partial(write, some)):
                refused.append(refusal._replace(position=start + refusal.position))
        return refused
