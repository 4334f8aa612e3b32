"""The election process: sockets and timers in, the CARP engine, the kernel's addresses and packets out.

It does nothing else, imports the standard library alone, and runs with real-time priority and locked memory where it
may: a take-over must not wait for anything. The supervisor starts it and speaks to it over a socket pair; when the
supervisor goes, it bows out. Ref: design §2, §4, §7.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from carpd.carp.engine import CarpEngine
from carpd.carp.status import HostStatus, host_status, interface_status
from carpd.effects import DemotionChanged, Effect, PeerLeftBehind, SharingChanged, StateChanged
from carpd.errors import DecodeError, SystemCallError
from carpd.events import (
    AdvertisementSent,
    Configure,
    Event,
    Family,
    FrameReceived,
    HostPrepared,
    InterfaceGone,
    Shutdown,
    TakeFailed,
    TimersDue,
)
from carpd.linux import privileges
from carpd.linux.links import (
    AddressesChanged,
    Link,
    LinkAppeared,
    LinkChange,
    LinkChanged,
    LinkGone,
    LinkMonitor,
    links,
)
from carpd.linux.timer import Timer
from carpd.runtime.channel import Channel, ChannelClosedError
from carpd.runtime.interface_port import InterfacePort
from carpd.runtime.lateness import LatenessMeter
from carpd.runtime.messages import RECORD, LogLine, Recorded, StatusReport, StatusWanted
from carpd.runtime.performer import Performer, failure
from carpd.trace.recording import recorded

REALTIME_PRIORITY = 50
FRAMES_PER_WAKE_UP = 64
"""Read from one socket before anything else is done: a flood must not keep a master from advertising."""


NEIGHBORS_PER_WAKE_UP = 16
"""Likewise of those who ask where a shared address is: each costs some 0.1 ms."""


class _Arrival(NamedTuple):
    time_ns: int
    event: FrameReceived


class Election:
    """The loop that feeds events to the engine and performs its effects."""

    def __init__(self, channel: Channel, *, recording: bool = False) -> None:
        self._channel = channel
        self._engine = CarpEngine()
        self._interfaces: set[str] = set()
        """Those that virtual hosts are on; the port of each that exists:"""
        self._ports: dict[str, InterfacePort] = {}
        self._performer = Performer(self._ports.get, lambda text: self._log(logging.ERROR, text))
        self._links = LinkMonitor()
        self._timer = Timer()
        self._lateness = LatenessMeter()
        self._poll = select.epoll()
        self._orphaned = False
        self._recording = recording
        self._not_sent: set[tuple[str, Family]] = set()
        for source in (self._links, self._timer):
            self._poll.register(source.fileno(), select.EPOLLIN)
        self._channel_events = select.EPOLLIN
        self._poll.register(channel.fileno(), self._channel_events)

    def run(self) -> None:
        """Until the supervisor says so, or has gone, and what this node is master of is in other hands."""
        while not self._engine.stopped:
            self._timer.arm(self._engine.deadline)
            self._poll.poll()
            self._timer.acknowledge()
            self._wake_up()
        self._performer.close()

    def _wake_up(self) -> None:
        """Sockets first, then what has become of the links, then the supervisor, then the clock.

        A backup must not believe its timer while the advertisement it misses waits in the socket; and an interface
        that went and came back must be seen going before the supervisor says that it is prepared again.
        """
        heard_until = self._hear()
        for change in self._link_changes():
            self._link_changed(change)
        for message in self._listen():
            self._told(message)
        now = time.monotonic_ns()
        deadline = self._engine.deadline
        if deadline is not None and deadline <= now:
            self._feed(now, TimersDue(min(heard_until, now)))
            if self._engine.deadline != deadline:  # else a backup does not believe it yet
                self._lateness.add(now - deadline)
        self._watch_channel()

    def _hear(self) -> int:
        """Hand the waiting frames to the engine, in the order they came; return until when those were all."""
        heard_until = time.monotonic_ns()
        arrivals: list[_Arrival] = []
        for name, port in self._ports.items():
            frames = port.packets.receive(FRAMES_PER_WAKE_UP)
            if len(frames) == FRAMES_PER_WAKE_UP:
                heard_until = min(heard_until, frames[-1].time_ns)
            if port.neighbors is not None:  # these wait for no timer, and no timer for them
                frames += port.neighbors.receive(NEIGHBORS_PER_WAKE_UP)
            arrivals += (_Arrival(frame.time_ns, FrameReceived(name, frame.frame)) for frame in frames)
        for arrival in sorted(arrivals, key=lambda a: a.time_ns):
            self._feed(arrival.time_ns, arrival.event)
        return heard_until

    # The engine and its effects

    def _feed(self, now: int, event: Event) -> None:
        """Hand one event to the engine, perform what follows, and hand in what comes of that."""
        events = deque([event])
        while events:
            event = events.popleft()
            if self._recording:
                self._tell(Recorded(recorded(now, event)))
            for effect in self._engine.handle(now, event):
                outcome = self._perform(effect)
                if outcome is not None:
                    events.append(outcome)

    def _perform(self, effect: Effect) -> Event | None:
        if isinstance(effect, (StateChanged, DemotionChanged, SharingChanged, PeerLeftBehind)):
            self._tell(effect)
            return None
        outcome = self._performer.perform(effect)
        self._report_failure(outcome)
        return outcome

    def _report_failure(self, outcome: Event | None) -> None:
        """A refused address each time, a failing interface when it begins to fail and when it is over."""
        if isinstance(outcome, TakeFailed):
            self._log(logging.ERROR, f"{outcome.host}: the addresses can't be put on: {os.strerror(outcome.errno)}")
        elif isinstance(outcome, AdvertisementSent):
            what = (outcome.host, outcome.family)
            if outcome.errno and what not in self._not_sent:
                text = f"{outcome.host}: IPv{outcome.family} advertisements {failure(outcome.errno)}"
                self._log(logging.ERROR, text)
                self._not_sent.add(what)
            elif not outcome.errno and what in self._not_sent:
                self._log(logging.INFO, f"{outcome.host}: IPv{outcome.family} advertisements are sent again")
                self._not_sent.remove(what)

    # Links

    def _link_changes(self) -> list[LinkChange]:
        try:
            return self._links.changes()
        except (SystemCallError, DecodeError, OSError) as error:  # elections go on with what is known
            self._log(logging.ERROR, f"changes of the links can't be read: {error}")
            return []

    def _present_links(self) -> list[Link]:
        try:
            return links()
        except SystemCallError as error:
            self._log(logging.ERROR, str(error))
            return []

    def _link_changed(self, change: LinkChange) -> None:
        if isinstance(change, (LinkAppeared, LinkChanged)):
            self._use(change.link)
        elif isinstance(change, LinkGone):
            self._drop(lambda port: port.link.index == change.index)
        elif isinstance(change, AddressesChanged):
            for port in self._ports.values():
                if port.link.index == change.index:
                    self._read_addresses(port)

    def _read_addresses(self, port: InterfacePort) -> None:
        try:
            port.read_addresses()
        except SystemCallError as error:
            self._log(logging.ERROR, f"{port.link.name}: its addresses can't be read: {error}")
            return
        self._feed(time.monotonic_ns(), port.as_event())

    def _use(self, link: Link) -> None:
        """An interface is there, or has changed; under its name there may have been another one."""
        self._drop(lambda port: (port.link.index == link.index) != (port.link.name == link.name))
        if link.name not in self._interfaces:
            return
        port = self._ports.get(link.name)
        if port is None:
            try:
                port = self._ports[link.name] = InterfacePort(link)
            except SystemCallError as error:  # it may be going away just now
                self._log(logging.ERROR, f"{link.name}: {error}")
                return
            self._poll.register(port.packets.fileno(), select.EPOLLIN)
            self._share(port)
        port.link = link
        self._feed(time.monotonic_ns(), port.as_event())

    def _share(self, port: InterfacePort) -> None:
        """Hear who asks for what is shared on this interface, by the present configuration."""
        if port.neighbors is not None:
            self._poll.unregister(port.neighbors.fileno())
        try:
            port.share(config for config in self._performer.configs if config.interface == port.link.name)
        except SystemCallError as error:
            self._log(logging.ERROR, f"{port.link.name}: {error}")
        if port.neighbors is not None:
            self._poll.register(port.neighbors.fileno(), select.EPOLLIN)

    def _drop(self, is_dropped: Callable[[InterfacePort], bool]) -> None:
        for name, port in list(self._ports.items()):
            if is_dropped(port):
                self._poll.unregister(port.packets.fileno())
                if port.neighbors is not None:
                    self._poll.unregister(port.neighbors.fileno())
                self._ports.pop(name).close()
                self._feed(time.monotonic_ns(), InterfaceGone(name))

    # The supervisor

    def _listen(self) -> list[object]:
        """What the supervisor has said. Without it nobody prepares interfaces or reports: we leave, in order."""
        if self._orphaned:
            return []
        try:
            self._channel.flush()
            return self._channel.receive()
        except ChannelClosedError:
            self._orphaned = True
            self._poll.unregister(self._channel.fileno())
            return [Shutdown()]

    def _tell(self, message: object) -> None:
        """Never an exception: effects that are under way must all be performed."""
        with suppress(ChannelClosedError):
            self._channel.send(message)

    def _told(self, message: object) -> None:
        now = time.monotonic_ns()
        if isinstance(message, StatusWanted):
            self._report(message)
        elif isinstance(message, Configure):
            self._configure(now, message)
        elif isinstance(message, HostPrepared):
            self._prepared(now, message)
        else:
            self._feed(now, message)  # type: ignore[arg-type]  # the codec reads nothing else

    def _configure(self, now: int, message: Configure) -> None:
        wanted = {config.interface for config in message.virtual_hosts}
        self._interfaces |= wanted
        self._performer.expect(message.virtual_hosts)
        for link in self._present_links():
            self._use(link)
        self._feed(now, message)
        self._performer.configure(message.virtual_hosts)
        self._interfaces = wanted
        self._drop(lambda port: port.link.name not in wanted)
        for port in self._ports.values():
            self._share(port)

    def _prepared(self, now: int, message: HostPrepared) -> None:
        if message.host not in self._engine.hosts:  # it was removed meanwhile
            return
        try:
            self._performer.prepared(message.host)
        except OSError as error:  # it went again: we are told when it is back
            self._log(logging.WARNING, f"{message.host}: the device has gone: {error.strerror}")
            return
        except SystemCallError as error:
            self._log(logging.ERROR, f"{message.host}: traffic can't be shared: {error}")
            return
        self._feed(now, message)

    def _report(self, wanted: StatusWanted) -> None:
        engine = self._engine
        hosts = tuple(self._host_status(name) for name in wanted.hosts if name in engine.hosts)
        interfaces = tuple(
            interface_status(engine, name) for name in wanted.interfaces if name in engine.interface_counters
        )
        self._tell(StatusReport(wanted.token, hosts, interfaces, self._lateness.lateness, self._performer.gates))

    def _host_status(self, name: str) -> HostStatus:
        """What is shared is taken by engine and gate together."""
        status, gate = host_status(self._engine, name), self._performer.gate_status(name)
        if gate is None:
            return status
        serves, findings = status.serves and gate.live, status.findings + gate.findings
        return replace(status, serves=serves, taken=gate.taken, findings=findings)

    def _log(self, level: int, text: str) -> None:
        self._tell(LogLine(level, text))

    def _watch_channel(self) -> None:
        """Wait for the channel to become writable only while something is unsent."""
        if self._orphaned:
            return
        events = select.EPOLLIN | (select.EPOLLOUT if self._channel.wants_to_write else 0)
        if events != self._channel_events:
            self._channel_events = events
            self._poll.modify(self._channel.fileno(), events)


def prepare_process(channel: Channel) -> None:
    """What makes timers punctual, as far as we are allowed to; the log says what we are not."""
    for what, reason in (
        ("real-time priority", privileges.set_realtime(REALTIME_PRIORITY)),
        ("locked memory", privileges.lock_memory()),
    ):
        if reason:
            channel.send(LogLine(logging.WARNING, f"election: no {what}: {reason}; timers may be late under load"))
    gc.collect()
    gc.freeze()


def main() -> None:
    """Run on the socket that is file descriptor argv[1], and record if argv[2] says so. The supervisor starts this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group: the supervisor decides
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    election = Election(channel, recording=RECORD in sys.argv[2:])
    prepare_process(channel)
    election.run()


if __name__ == "__main__":
    main()
