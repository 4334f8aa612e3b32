"""The kernel's connection tracking table: what happens to it, and changing it.

Both are done by the hundred. Measured, in µs an entry: an event 0.8 in the kernel and 0.8 here, an insert 1.8 and 1.1,
a new timeout 0.8 and 0.9, a look-up 3.8 and 3.
Ref: `carpd.wire.ctnetlink` for what the kernel wants.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate
from typing import NamedTuple, Self, TypeVar

from carpd.errors import DecodeError, SystemCallError
from carpd.linux import bpf, sysctls
from carpd.linux.datagrams import Slots
from carpd.linux.netlink import REQUESTS_AT_ONCE, NetlinkListener, NetlinkSocket, Refusal, open_socket
from carpd.wire import ctnetlink, ctnetlink_expect, netlink
from carpd.wire.conntrack import ConntrackEntry, Expectation
from carpd.wire.ctnetlink import Event
from carpd.wire.ctnetlink_batch import Reader, Writer

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _BROADCAST_ERROR = 1, 2, 4
_SO_RCVBUFFORCE = 33
_GROUPS = (ctnetlink.GROUP_NEW, ctnetlink.GROUP_UPDATE, ctnetlink.GROUP_DESTROY)

_NO_SUCH_ENTRY = (errno.ENOENT, errno.EINVAL)
"""How the kernel says that there is none, and that there can't be one, as of an ICMP message that asks nothing."""

EVENTS_AT_ONCE = 256
_SLOT_SIZE = 1024
"""The longest event, IPv6 with everything, has some 700 bytes."""
_EXPECTATIONS_AT_ONCE = 64
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
        self._slots = Slots(EVENTS_AT_ONCE, _SLOT_SIZE)
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

    def hear_changes(self, wanted: bool) -> None:
        """Hear of new and changed entries, too, as at the beginning, or only of ended ones. Raise SystemCallError.

        Telling us of one takes the kernel 1 to 2 µs, of those that we insert as well.
        """
        option = _ADD_MEMBERSHIP if wanted else _DROP_MEMBERSHIP
        try:
            for group in (ctnetlink.GROUP_NEW, ctnetlink.GROUP_UPDATE):
                self._socket.setsockopt(_SOL_NETLINK, option, group)
        except OSError as error:
            tried = "choose what to hear of connection tracking"
            raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error

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


class NewExpectations(NamedTuple):
    """What helpers have come to expect since the last call."""

    expectations: list[Expectation]
    lost: bool
    """Whether there were others that we will never hear of: they must be read again."""


class ExpectationEvents:
    """Hears of new expectations; they are rare. It never blocks."""

    def __init__(self, ignored_port: int = 0) -> None:
        """Ignore what the netlink socket of this port expects, our own ConntrackTable's. Raise SystemCallError."""
        self._listener = NetlinkListener(netlink.NETFILTER, (ctnetlink_expect.GROUP_NEW,))
        self._ignored_port = ignored_port

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()

    def receive(self) -> NewExpectations:
        """At most 64 expectations, none if nothing waits. Raise SystemCallError."""
        expectations: list[Expectation] = []
        for _ in range(_EXPECTATIONS_AT_ONCE):
            try:
                messages = self._listener.receive()
                if not messages:
                    return NewExpectations(expectations, messages is None)
                expectations += map(ctnetlink_expect.read, (m for m in messages if m.port != self._ignored_port))
            except DecodeError:
                return NewExpectations(expectations, True)
        return NewExpectations(expectations, False)


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

    def loosen(self, keys: Sequence[bytes]) -> list[Refusal]:
        """Be liberal about the windows of the TCP connections with these flow keys. Raise SystemCallError."""
        return self._send(keys, self._writer.loosen)

    def set_timeouts(self, timeouts: Sequence[tuple[bytes, int]]) -> list[Refusal]:
        """Give entries, by their flow keys, so many seconds to live, and change nothing else. Raise SystemCallError.

        Timeouts of GRE that was inserted are fixed (see `ctnetlink.insert`). So such an entry is made anew, in one send
        that takes some microseconds, and its packets will not renew the new timeout either.
        """
        refused = []
        for refusal in self._send(timeouts, self._writer.set_timeouts):
            if refusal.errno == errno.EPERM:
                refused += [r._replace(position=refusal.position) for r in self._remake(*timeouts[refusal.position])]
            else:
                refused.append(refusal)
        return refused

    def _remake(self, key: bytes, seconds: int) -> list[Refusal]:
        """Make an entry anew, to live so many seconds. Its position in what is refused is 0."""
        entry = self.get(key)
        if entry is None:
            return [Refusal(0, errno.ENOENT, "")]
        anew = [entry._replace(timeout=seconds)]

        def write(first: int) -> bytes:
            return self._writer.delete([key], first) + self._writer.insert(anew, first + 1)

        refused = self._netlink.send(2, write)
        if [refusal.position for refusal in refused] == [0]:  # it ended meanwhile, and we made it live again
            self.delete([key])
        return [refusal._replace(position=0) for refusal in refused]

    def get(self, key: bytes) -> ConntrackEntry | None:
        """The entry with this flow key. Raise SystemCallError."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[ConntrackEntry | None]:
        """The entries with these flow keys, None where there is none. Raise SystemCallError."""
        entries: list[ConntrackEntry | None] = []
        for start in range(0, len(keys), REQUESTS_AT_ONCE):
            some = keys[start : start + REQUESTS_AT_ONCE]
            found, refused = self._netlink.ask_many(len(some), partial(self._writer.get, some))
            for refusal in refused:
                if refusal.errno not in _NO_SUCH_ENTRY:
                    raise SystemCallError("look for a connection", refusal.errno, refusal.reason)
            answers = [answer for answer in found if answer is not None]
            lengths = [*map(len, answers)]
            spans = zip(accumulate(lengths, initial=0), lengths, strict=False)
            events = iter(self._reader.read(b"".join(answers), spans))
            entries += [None if answer is None else next(events)[1] for answer in found]
        return entries

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
