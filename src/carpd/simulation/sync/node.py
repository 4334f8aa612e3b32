"""A node: the synchronisation engine in a process that can die or hang, on a kernel that goes on.

It does what pfsyncd does: effects in order and at once, their outcomes after them; the kernel's events wait in a socket
that overflows; the table is read piece by piece, with other things in between.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from carpd.pfsync import effects, events
from carpd.pfsync.effects import Effect
from carpd.pfsync.engine import SyncEngine
from carpd.pfsync.events import Event, Refused
from carpd.pfsync.selection import Selection
from carpd.pfsync.state_sync import Settings
from carpd.pfsync.timeouts import LinuxTimeouts
from carpd.simulation.clock import Clock
from carpd.simulation.network import Network
from carpd.simulation.sync.kernel import Conntrack
from carpd.simulation.world import World
from carpd.units import MICROSECOND, MILLISECOND, SECOND
from carpd.wire import ctnetlink
from carpd.wire.conntrack import ConntrackEntry, flow_key

LINK = "sync"
MAX_PACKET = 700
"""Small, so that few states make several packets."""
MAX_STATES = 10_000
EVENTS_AT_ONCE = 16
PACKETS_AT_ONCE = 8
EVENTS_MAX = 64
"""Events that the socket has room for."""
PACKETS_MAX = 200
TIMEOUTS = LinuxTimeouts({})


class Datagram(NamedTuple):
    """A pfsync packet on its way."""

    sender: int
    payload: bytes


class Observer(Protocol):
    """Who is told what a node does, before and after."""

    def fact(self, node: SyncNode, fact: Effect) -> None: ...
    def sends(self, node: SyncNode, payload: bytes) -> None: ...
    def inserted(self, node: SyncNode, entry: ConntrackEntry) -> None: ...
    def updated(self, node: SyncNode, before: ConntrackEntry, after: ConntrackEntry) -> None: ...
    def deletes(self, node: SyncNode, key: bytes) -> None: ...
    def handled(self, node: SyncNode, event: Event) -> None: ...
    def failed(self, node: SyncNode, event: Event, error: Exception) -> None: ...


class SyncNode:
    """One of the firewalls. Faults that do not apply (a dead process hangs) change nothing."""

    def __init__(
        self,
        number: int,
        world: World,
        network: Network[Datagram],
        rng: random.Random,
        observer: Observer,
        *,
        latency_ns: int,
        limit: int,
    ) -> None:
        self.number = number
        self.kernel = Conntrack(world, TIMEOUTS, limit)
        self.engine: SyncEngine | None = None
        self.carrying = False
        self.powered = True
        self.link_up = True
        self.hung = False
        self.sent = 0
        """Packets, ever."""
        self.local: set[bytes] = set()
        """The flow keys of which the kernel told this process, or that it found."""
        self.unread: deque[ctnetlink.Event] = deque()
        """Events that wait in the socket."""
        self._world = world
        self._network = network
        self._rng = rng
        self._observer = observer
        self._latency_ns = latency_ns
        """The longest time from an event until it is read."""
        self._clock = Clock(world, rng.randrange(1_000_000 * SECOND), self._ring)
        self._lost = False
        self._reading = False
        self._packets: deque[tuple[str, bytes]] = deque()
        self._inbox: deque[Event] = deque()
        """What else happens while the process hangs."""
        self._dump: Iterator[list[ConntrackEntry]] = iter(())
        self._deaf_for = 0
        self.starts = 0
        """How often the process was started."""
        network.plug(number, LINK, self._receive)

    @property
    def awake(self) -> bool:
        return self.engine is not None and not self.hung

    @property
    def clock(self) -> int:
        return self._clock.now

    # The process

    def start(self) -> None:
        self.powered = True
        if self.engine is not None:
            return
        self.starts += 1
        settings = Settings(
            creator_id=self._rng.getrandbits(31).to_bytes(4, "big") or bytes((1, 2, 3, 4)),
            first_id=((self._world.now // SECOND + self.starts) << 32) + 2 * self._rng.randrange(1000),
            selection=Selection(),
            max_states=MAX_STATES,
            max_packet=MAX_PACKET,
        )
        self.engine = SyncEngine(self.clock, settings, TIMEOUTS, carrying=self.carrying)
        self.kernel.listener = self._hear
        self.local = set(self.kernel.slots)
        self.tell(events.LinkChanged(self.link_up))

    def kill(self) -> None:
        """The process is gone; the kernel's table stays, and changes."""
        self.engine, self.hung, self._lost = None, False, False
        self.kernel.listener = None
        self.unread.clear()
        self._packets.clear()
        self._inbox.clear()
        self._clock.set_alarm(None)

    def power_off(self) -> None:
        self.kill()
        self.powered = False
        self.kernel.clear()

    def hang(self) -> None:
        self.hung = self.engine is not None

    def resume(self) -> None:
        if self.hung:
            self.hung = False
            self._read_events(self.starts)
            while self._inbox:
                self.tell(self._inbox.popleft())
            self._read_packets()
            self.tell(events.TimersDue())

    # What happens to it

    def set_link(self, up: bool) -> None:
        self.link_up = up
        self.tell(events.LinkChanged(up))

    def set_role(self, carrying: bool) -> None:
        self.carrying = carrying
        self.tell(events.RoleChanged(carrying))

    def lose_events(self, count: int) -> None:
        """The socket has no room for the next ones."""
        self._deaf_for += count if self.engine is not None else 0

    def _hear(self, event: ctnetlink.Event) -> None:
        """Ends that could not be told are told again later, as Linux does if asked."""
        self.local.add(flow_key(event[1]))
        if self._deaf_for or len(self.unread) >= EVENTS_MAX:
            self._deaf_for = max(0, self._deaf_for - 1)
            self._lost = True
            if event[0] is ctnetlink.Change.DESTROY and self._rng.random() < 0.5:
                self._world.after(self._rng.randint(1, 500) * MILLISECOND, self._again(event))
        else:
            self.unread.append(event)
        self._read_soon()

    def _again(self, event: ctnetlink.Event) -> Callable[[], None]:
        start = self.starts

        def tell() -> None:
            if self.engine is not None and self.starts == start:
                self.unread.append(event)
                self._read_soon()

        return tell

    def _read_soon(self) -> None:
        if not self._reading:
            self._reading = True
            start = self.starts
            self._world.after(self._rng.randint(0, self._latency_ns), lambda: self._read_events(start))

    def _read_events(self, start: int) -> None:
        self._reading = False
        while self.awake and start == self.starts and (self.unread or self._lost):
            some = [self.unread.popleft() for _ in range(min(EVENTS_AT_ONCE, len(self.unread)))]
            lost, self._lost = self._lost, False
            self.tell(events.TableChanged(some, lost, bool(self.unread)))

    def _receive(self, datagram: Datagram) -> None:
        if self.engine is None or not self.link_up or len(self._packets) >= PACKETS_MAX:
            return
        self._packets.append((f"10.0.0.{1 + datagram.sender}", datagram.payload))
        if not self.hung and self._rng.random() < 0.8:
            self._read_packets()
        elif len(self._packets) == 1:
            self._world.after(MILLISECOND, self._read_packets)

    def _read_packets(self) -> None:
        while self.awake and self._packets:
            some = [self._packets.popleft() for _ in range(min(PACKETS_AT_ONCE, len(self._packets)))]
            self.tell(events.PacketsReceived(some))

    # The driver

    def tell(self, event: Event) -> None:
        """Hand an event to the engine and do what follows. The dead hear nothing, and those that hang hear it later."""
        if self.engine is None:
            return
        if self.hung:
            self._inbox.append(event)
            return
        waiting = deque([event])
        while waiting:
            told = waiting.popleft()
            try:
                following = self.engine.handle(self.clock, told)
            except Exception as error:
                self._observer.failed(self, told, error)
                raise
            for effect in following:
                outcome = self._perform(effect)
                if outcome is not None:
                    waiting.append(outcome)
            self._observer.handled(self, told)
        self._arm()

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case effects.SendPackets():
                self._send(effect.packets)
            case effects.InsertEntries():
                return self._each(events.Change.INSERT, effect.entries, self._insert)
            case effects.UpdateEntries():
                return self._each(events.Change.UPDATE, effect.entries, self._update)
            case effects.DeleteEntries():
                return self._delete(effect.keys)
            case effects.SetTimeouts():
                for key, seconds in effect.timeouts:
                    self.kernel.set_timeout(key, seconds)
            case effects.FetchEntries():
                return events.EntriesFetched(effect.purpose, effect.keys, [self.kernel.get(key) for key in effect.keys])
            case effects.ReadTable():
                if effect.begin:
                    self._dump = self.kernel.dump()
                start = self.starts
                self._world.after(self._rng.randint(0, 500) * MICROSECOND, lambda: self._read_piece(start))
            case effects.ReadExpectations():
                return events.ExpectationsFound([])
            case effects.InsertExpectations() | effects.LoosenEntries() | effects.HearChanges():
                pass  # nobody here has a helper, nor looks at windows; and all is heard, wanted or not
            case _:
                self._observer.fact(self, effect)
        return None

    def _send(self, packets: Sequence[bytes]) -> None:
        for payload in packets:
            self.sent += 1
            self._observer.sends(self, payload)
            if self.link_up:
                self._network.send(LINK, Datagram(self.number, payload))

    def _each(
        self, change: events.Change, entries: Sequence[ConntrackEntry], do: Callable[[ConntrackEntry], int]
    ) -> Event | None:
        refused = [
            Refused(flow_key(entry), entry, code, errno.errorcode[code]) for entry in entries if (code := do(entry))
        ]
        return events.EntriesRefused(change, refused) if refused else None

    def _insert(self, entry: ConntrackEntry) -> int:
        code = self.kernel.insert(entry)
        if not code:
            self._observer.inserted(self, entry)
        return code

    def _update(self, entry: ConntrackEntry) -> int:
        before = self.kernel.get(flow_key(entry))
        code = self.kernel.update(entry)
        after = self.kernel.get(flow_key(entry))
        if before and after:
            self._observer.updated(self, before, after)
        return code

    def _delete(self, keys: Sequence[bytes]) -> Event | None:
        refused = []
        for key in keys:
            self._observer.deletes(self, key)
            if code := self.kernel.delete(key):
                refused.append(Refused(key, None, code, errno.errorcode[code]))
        return events.EntriesRefused(events.Change.DELETE, refused) if refused else None

    def _read_piece(self, start: int) -> None:
        if self.engine is None or start != self.starts:
            return
        piece: Any = next(self._dump, None)
        self.tell(events.TableRead(piece or [], last=piece is None))

    # The clock

    def _arm(self) -> None:
        self._clock.set_alarm(None if self.engine is None else self.engine.deadline)

    def _ring(self) -> None:
        if self.awake:
            self.tell(events.TimersDue())
