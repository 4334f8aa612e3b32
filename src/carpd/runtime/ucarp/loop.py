"""ucarp's loop: sockets, signals and timers in, the CARP engine, packets and scripts out.

As in `runtime.election` the sockets come first and the clock last: a backup must not believe its timer while the
advertisement that it misses waits.
"""

from __future__ import annotations

import gc
import os
import secrets
import select
import signal
import socket
import time
from collections import deque
from errno import ENETDOWN

from carpd.carp.announce import announcement
from carpd.carp.engine import CarpEngine
from carpd.effects import Announce, Effect, Reason, SendAdvertisement, SendWithOwnMac, StateChanged
from carpd.errors import CarpdError, DecodeError, SystemCallError
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    ForceState,
    FrameReceived,
    HostPrepared,
    InterfaceChanged,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TimersDue,
)
from carpd.linux import bpf, privileges
from carpd.linux.links import LinkAppeared, LinkChange, LinkChanged, LinkGone, LinkMonitor, find_link
from carpd.linux.packets import Interest, PacketSocket
from carpd.linux.timer import Timer
from carpd.runtime.ucarp.log import Log
from carpd.runtime.ucarp.scripts import Scripts
from carpd.runtime.ucarp.settings import GROUP, SUPPRESSED, Settings
from carpd.units import SECOND
from carpd.wire.carp import Advertisement
from carpd.wire.carp_auth import Authenticator
from carpd.wire.ethernet import BROADCAST, ETHERTYPE_IPV4, format_mac
from carpd.wire.frames import advertisement_frame, arp_frame, decode_ip_frame

REALTIME_PRIORITY = 50
FRAMES_PER_WAKE_UP = 64
"""Read before anything else is done: a flood must not keep a master from advertising."""

SUPPRESSED_NS = 3 * SECOND
"""How long SIGUSR2 keeps a host from preempting. Ref: ucarp(8)."""

BAD_DIGESTS_NS = SECOND
"""At most one line of the log for bad digests in this time: whoever is on the link can send them."""

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

_REASONS = {
    Reason.PREEMPT: "Putting MASTER down - preemption",
    Reason.WILL_TIME_OUT: "Putting MASTER DOWN (going to time out)",
    Reason.MASTER_LEFT: "Putting MASTER DOWN (going to time out)",
    Reason.BETTER_MASTER: "Preferred master advertised: going back to BACKUP state",
}

_ETHERTYPE, _DESTINATION = slice(12, 14), slice(30, 34)
"""Of a frame: the protocol, and where an IPv4 packet goes to."""


class StartError(CarpdError):
    """ucarp can't begin; the message is the line for its log."""


class Ucarp:
    """One run of the program."""

    def __init__(self, settings: Settings, log: Log) -> None:
        """Open what is needed. Raise StartError."""
        self._settings = settings
        self._log = log
        self._config = settings.virtual_host
        self._engine = CarpEngine()
        self._scripts = Scripts(settings, log)
        self._master = False
        self._ending = False
        self._suppressed_until: int | None = None
        self._bad_digest_told = 0
        self._poll = select.epoll()
        self._packets: PacketSocket | None = None
        """None while the interface is not there."""
        try:
            self._links = LinkMonitor()
            self._timer = Timer()
            link = find_link(settings.interface)
            if link is None:
                raise StartError(f"Unable to find MAC address of [{settings.interface}]")
            self._link = link
            self._open()
        except SystemCallError as error:
            raise StartError(str(error)) from error
        for source in (self._links, self._timer):
            self._poll.register(source.fileno(), select.EPOLLIN)
        _require_own(settings)
        log.info(f"Local advertised ethernet address is [{format_mac(link.mac)}]")

    def run(self) -> None:
        """Until it is told to end, and its scripts have."""
        self._listen_to_signals()
        for reason in (privileges.set_realtime(REALTIME_PRIORITY), privileges.lock_memory()):
            if reason:
                self._log.debug(f"timers may be late under load: {reason}")
        gc.collect()
        gc.freeze()
        self._log.warning("Switching to state: BACKUP")
        if not self._settings.neutral:
            self._scripts.call(up=False)
        self._feed(time.monotonic_ns(), Configure((self._config,), secrets.randbits(64)))
        self._prepared()
        while not (self._engine.stopped and self._scripts.idle):
            due = [time for time in (self._engine.deadline, self._suppressed_until) if time is not None]
            self._timer.arm(min(due, default=None))
            self._poll.poll()
            self._timer.acknowledge()
            self._wake_up()

    def _wake_up(self) -> None:
        heard_until = self._hear()
        for change in self._link_changes():
            self._link_changed(change)
        for number in self._signals():
            self._signal(number)
        now = time.monotonic_ns()
        if self._suppressed_until is not None and self._suppressed_until <= now:
            self._suppressed_until = None
            self._feed(now, SetDemotion(GROUP, signal.SIGUSR2.name, 0))
        if (deadline := self._engine.deadline) is not None and deadline <= now:
            self._feed(now, TimersDue(min(heard_until, now)))

    # Advertisements

    def _hear(self) -> int:
        """Hand the waiting frames to the engine; return until when those were all."""
        heard_until = time.monotonic_ns()
        frames = self._packets.receive(FRAMES_PER_WAKE_UP) if self._packets else []
        if len(frames) == FRAMES_PER_WAKE_UP:
            heard_until = frames[-1].time_ns
        group, ipv4 = self._settings.group.packed, ETHERTYPE_IPV4.to_bytes(2, "big")
        for frame, time_ns in frames:
            if (frame[_ETHERTYPE], frame[_DESTINATION]) == (ipv4, group):
                self._feed(time_ns, FrameReceived(self._config.interface, frame))
        return heard_until

    def _feed(self, now: int, event: Event) -> None:
        """Hand one event to the engine, perform what follows, and hand in what comes of that."""
        events = deque([event])
        while events:
            event = events.popleft()
            was_master, refused = self._master, self._refused
            for effect in self._engine.handle(now, event):
                if was_master and isinstance(effect, Announce) and isinstance(event, FrameReceived):
                    self._log.warning(
                        "Non-preferred master advertising: reasserting control of VIP with another gratuitous arp"
                    )
                outcome = self._perform(effect)
                if outcome is not None:
                    events.append(outcome)
            if isinstance(event, FrameReceived) and self._refused > refused:
                self._tell_of_bad_digest(now, event.frame)

    @property
    def _refused(self) -> int:
        host = self._engine.hosts.get(self._config.name)
        return host.counters.badauth if host else 0

    def _tell_of_bad_digest(self, now: int, frame: bytes) -> None:
        packet = decode_ip_frame(frame)
        assert packet is not None, "the engine has read it"
        if now < self._bad_digest_told + BAD_DIGESTS_NS:
            return
        self._bad_digest_told = now
        heard = Advertisement.from_bytes(packet.payload)
        ours = Authenticator(self._config.key, self._config.vhid, self._config.addresses4, ()).sign(heard.counter)
        self._log.warning(
            f"Bad digest - md2=[{ours[:4].hex()}...] md=[{heard.digest[:4].hex()}...] "
            "- Check vhid, password and virtual IP address"
        )

    # What the engine wants done: the addresses are the scripts' business

    def _perform(self, effect: Effect) -> Event | None:
        if isinstance(effect, SendAdvertisement):
            error = self._advertise(effect.message)
            return AdvertisementSent(effect.host, effect.family, error)
        if isinstance(effect, SendWithOwnMac):
            self._advertise(effect.message)
        elif isinstance(effect, Announce):
            self._announce(effect)
        elif isinstance(effect, StateChanged):
            self._state_changed(effect)
        return None

    def _advertise(self, message: Advertisement) -> int:
        """Return an errno, 0 for success."""
        self._log.debug("-> carp_send_ad()")
        error = self._send(
            advertisement_frame(
                message,
                source_mac=self._link.mac,
                source=self._settings.source.packed,
                destination=self._settings.group.packed,
                destination_mac=BROADCAST if self._settings.broadcast else None,
            )
        )
        if error:
            self._log.error(f"write() has failed: {os.strerror(error)}")
        else:
            self._log.debug("* advertisement injected *")
        return error

    def _announce(self, effect: Announce) -> None:
        for arp in effect.arps:
            if error := self._send(arp_frame(arp)):
                self._log.error(f"write() in garp: {os.strerror(error)}")

    def _send(self, frame: bytes) -> int:
        return self._packets.send(frame) if self._packets else ENETDOWN

    def _state_changed(self, fact: StateChanged) -> None:
        """ucarp has two states: who can't take part is a backup."""
        master = fact.new is CarpState.MASTER
        if master is self._master:
            return
        self._master = master
        if self._ending:
            self._log.debug(f"sighandler_exit(): Calling [{self._settings.down_script}] and exiting")
        else:
            self._log.warning(f"Switching to state: {self._state}")
        self._scripts.call(up=master)
        # The original sees no more in a bow-out than a slower master.
        preempted = self._config.preempt and fact.reason is Reason.MASTER_LEFT
        if reason := _REASONS.get(Reason.PREEMPT if preempted else fact.reason):
            self._log.warning(reason)

    @property
    def _state(self) -> str:
        return (CarpState.MASTER if self._master else CarpState.BACKUP).name

    # Links

    def _link_changes(self) -> list[LinkChange]:
        try:
            return self._links.changes()
        except (SystemCallError, DecodeError, OSError) as error:  # elections go on with what is known
            self._log.error(f"changes of the links can't be read: {error}")
            return []

    def _link_changed(self, change: LinkChange) -> None:
        if isinstance(change, LinkGone) and self._packets and change.index == self._link.index:
            self._poll.unregister(self._packets.fileno())
            self._packets.close()
            self._packets = None
            self._feed(time.monotonic_ns(), InterfaceGone(self._config.interface))
        elif isinstance(change, LinkAppeared) and not self._packets and change.link.name == self._config.interface:
            self._link = change.link
            try:
                self._open()
            except SystemCallError as error:  # it may be going away just now
                self._log.error(str(error))
            else:
                self._prepared()
        elif isinstance(change, LinkChanged) and self._packets and change.link.index == self._link.index:
            self._link = change.link
            self._tell_of_link()

    def _open(self) -> None:
        """Raise SystemCallError."""
        packets = PacketSocket(self._link.index, Interest(bpf.ADVERTISEMENTS, (self._settings.group.packed,)))
        self._poll.register(packets.fileno(), select.EPOLLIN)
        self._packets = packets

    def _prepared(self) -> None:
        self._tell_of_link()
        self._feed(time.monotonic_ns(), HostPrepared(self._config.name))

    def _tell_of_link(self) -> None:
        """To the engine the group of -m is an address of the interface: what goes to it is for us."""
        addresses = (self._settings.source.packed, self._settings.group.packed)
        up = self._link.up or self._settings.ignore_link
        self._feed(time.monotonic_ns(), InterfaceChanged(self._link.name, up, self._link.mac, addresses))

    # Signals

    def _listen_to_signals(self) -> None:
        """Without -z those that end a process end this one, as ever."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._signalled, writer = socket.socketpair()
        self._signalled.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, *(_ENDING if self._settings.shutdown else ())):
            signal.signal(number, lambda *_: None)  # it is read from the socket
        self._poll.register(self._signalled.fileno(), select.EPOLLIN)

    def _signals(self) -> bytes:
        """The numbers of those that came."""
        try:
            return self._signalled.recv(4096)
        except BlockingIOError:
            return b""

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._scripts_ended()
        elif number == signal.SIGUSR1:
            self._log.info(f"{self._state} on {self._config.interface} id {self._config.vhid}")
        elif number == signal.SIGUSR2:
            self._log.debug("Caught signal (USR2) considering going down")
            now = time.monotonic_ns()
            self._suppressed_until = now + SUPPRESSED_NS
            self._feed(now, ForceState(self._config.name, CarpState.BACKUP))
            self._feed(now, SetDemotion(GROUP, signal.SIGUSR2.name, SUPPRESSED))
        elif number in _ENDING:
            if self._ending:
                raise SystemExit(0)  # asked twice: whoever does so won't wait for a script that hangs
            self._ending = True
            self._feed(time.monotonic_ns(), Shutdown())

    def _scripts_ended(self) -> None:
        """The address may not have been there before: tell once more where it is."""
        for up in self._scripts.collect():
            if up and self._master:
                self._announce(announcement(self._config, self._link.mac, router=False))


def _require_own(settings: Settings) -> None:
    """Refuse a source address that is not this host's, as ucarp does. Raise StartError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = settings.group.packed + settings.source.packed
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        except OSError as error:
            raise StartError(f"Can't do IP_ADD_MEMBERSHIP errno={error.strerror} ({error.errno})") from error
