"""A node: the engine in a process that can die or hang, on a kernel with a clock that goes a little wrong.

It does what the election process does (runtime.election): every effect at once and in order, their outcomes after
them; and after a hang the socket first, a bounded number of frames at a time, before a timer is believed.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from errno import EPERM
from functools import partial
from typing import NamedTuple, Protocol

from carpd.carp.announce import sending_mac
from carpd.carp.engine import CarpEngine
from carpd.config.model import VirtualHostConfig
from carpd.effects import (
    Announce,
    Answer,
    DemotionChanged,
    Effect,
    OpenShare,
    PeerLeftBehind,
    ReleaseAddresses,
    SendAdvertisement,
    SendProbe,
    SendWithOwnMac,
    SharingChanged,
    StateChanged,
    SurrenderLease,
    TakeAddresses,
)
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    Family,
    FrameReceived,
    HostPrepared,
    InterfaceChanged,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TakeFailed,
    TimersDue,
)
from carpd.simulation.clock import Clock
from carpd.simulation.kernel import Kernel
from carpd.simulation.network import Network, Transmission
from carpd.simulation.world import World
from carpd.units import SECOND
from carpd.wire.carp import ADVERTISEMENT, GROUP4, GROUP6
from carpd.wire.frames import advertisement_frame

FRAMES_PER_WAKE_UP = 4
"""Fewer than the daemon's, so that a backlog is read in several parts."""

OPERATOR = "operator"
"""The reason of the demotions that are set from outside."""

_GROUPS = {Family.IPV4: GROUP4, Family.IPV6: GROUP6}


@dataclass(slots=True, eq=False)
class Interface:
    """One that was removed and made again is another one."""

    up: bool = True


class _Arrival(NamedTuple):
    """A frame that waits in the socket, with the kernel's timestamp."""

    time_ns: int
    interface: str
    transmission: Transmission


class Observer(Protocol):
    """Who is told what a node does."""

    def state_changed(self, node: Node, change: StateChanged) -> None: ...
    def demotion_changed(self, node: Node, change: DemotionChanged) -> None: ...
    def bowed_out(self, node: Node, host: str) -> None: ...
    def ended(self, node: Node) -> None: ...
    def acted(self, node: Node) -> None: ...


class Node:
    """One of the hosts that share the addresses. Faults that do not apply (a dead process hangs) change nothing."""

    def __init__(
        self,
        number: int,
        configs: tuple[VirtualHostConfig, ...],
        world: World,
        network: Network[Transmission],
        rng: random.Random,
        observer: Observer,
        *,
        drift_ppm: int = 0,
        lateness_ns: int = 0,
    ) -> None:
        self.number = number
        self.configs = {config.name: config for config in configs}
        self.engine: CarpEngine | None = None
        self.kernel = Kernel()
        self.hung = False
        self.stopping = False
        self.send_errno = 0
        self.take_fails = False
        self.failed_since_start = False
        """Whether sending or taking failed: demotions may follow that only the engine knows of."""
        self.operator_demotion: dict[str, int] = {}
        self.heard: dict[tuple[str, int, Family], int] = {}
        """(virtual host, sender, family) -> when the last advertisement was sent that the engine was told of."""
        self.sent: dict[tuple[str, Family], int] = {}
        """When the last one left this node."""
        self.interfaces = {config.interface: Interface() for config in configs}
        """Those that exist at the moment."""
        self._world = world
        self._network = network
        self._rng = rng
        self._observer = observer
        self._clock = Clock(
            world,
            rng.randrange(1_000_000 * SECOND),
            self._ring,
            drift_ppm=drift_ppm,
            lateness_ns=lambda: rng.randint(0, lateness_ns),
        )
        self._known_interfaces: dict[str, Interface] = {}
        self._mac = bytes((2, 0, 0, 0, 0, number))
        self._starts_again = False
        self._backlog: deque[_Arrival] = deque()
        for interface in self.interfaces:
            network.plug(number, interface, partial(self._receive, interface))

    # What others see

    @property
    def awake(self) -> bool:
        """The process runs and does not hang."""
        return self.engine is not None and not self.hung

    @property
    def clock(self) -> int:
        """The node's own time."""
        return self._clock.now

    def state(self, host: str) -> CarpState:
        """Of a node without a process it is INIT."""
        known = None if self.engine is None else self.engine.hosts.get(host)
        return CarpState.INIT if known is None else known.state

    def answers(self, host: str) -> bool:
        """Whether other hosts on the link reach this node at the addresses."""
        config = self.configs[host]
        return self.kernel.answers(config, self.clock) and self.link_is_up(config.interface)

    def link_is_up(self, interface: str) -> bool:
        return interface in self.interfaces and self.interfaces[interface].up

    @property
    def knows_its_interfaces(self) -> bool:
        """Whether the process was told of what was removed and made: after a hang it reads the sockets first."""
        return all(self.interfaces.get(name) is known for name, known in self._known_interfaces.items())

    # The process

    def start(self) -> None:
        """Clean up after a process that was killed, and begin; one that is about to end is waited for."""
        if self.engine is not None:
            self._starts_again = self.stopping
            return
        for config in self.configs.values():
            self.kernel.forget(config)
        self.engine, self.failed_since_start = CarpEngine(), False
        self.operator_demotion.clear()
        self._known_interfaces.clear()
        for interface in self.interfaces:
            self.tell(self._describe(interface))
        self.tell(Configure(tuple(self.configs.values()), self._rng.getrandbits(64)))
        self._tell_interfaces()

    def kill(self) -> None:
        """The process is gone; its kernel goes on answering until the leases have run out."""
        self.engine, self.hung, self.stopping, self._starts_again = None, False, False, False
        self._backlog.clear()
        self._clock.set_alarm(None)

    def power_off(self) -> None:
        self.kill()
        self.kernel = Kernel()

    def stop(self) -> None:
        """In order: with a bow-out, and when another one is heard."""
        if self.awake:
            self.stopping = True
            self.tell(Shutdown())

    def _end(self) -> None:
        starts_again = self._starts_again
        self.kill()
        self._observer.ended(self)
        if starts_again:
            self.start()

    def hang(self) -> None:
        """As SIGSTOP: frames wait in the socket, the clock goes on."""
        self.hung = self.engine is not None

    def resume(self) -> None:
        if not self.hung:
            return
        self.hung = False
        while self._backlog:
            batch = [self._backlog.popleft() for _ in range(min(FRAMES_PER_WAKE_UP, len(self._backlog)))]
            for arrival in batch:
                self._hand_over(arrival)
            self.tell(TimersDue(batch[-1].time_ns if self._backlog else self.clock))
        self._tell_interfaces()
        self.tell(TimersDue(self.clock))

    # What happens to it

    def set_link(self, interface: str, up: bool) -> None:
        if interface in self.interfaces:
            self.interfaces[interface].up = up
            self._tell_interfaces()

    def remove_interface(self, interface: str) -> None:
        """The devices and the gates on it go with it."""
        self.interfaces.pop(interface, None)
        for config in self._on(interface):
            self.kernel.forget(config)
        self._tell_interfaces()

    def restore_interface(self, interface: str) -> None:
        self.interfaces.setdefault(interface, Interface())
        self._tell_interfaces()

    def demote(self, group: str, amount: int) -> None:
        if self.awake:
            self.operator_demotion[group] = amount
            self.tell(SetDemotion(group, OPERATOR, amount))

    def reconfigure(self, host: str, *, preempt: bool) -> None:
        self.configs[host] = replace(self.configs[host], preempt=preempt)
        if self.awake:
            self.tell(Configure(tuple(self.configs.values()), self._rng.getrandbits(64)))

    def _tell_interfaces(self) -> None:
        """What was removed first, even if it is there again; devices are prepared on what is new."""
        if not self.awake:
            return
        for name, interface in list(self._known_interfaces.items()):
            if self.interfaces.get(name) is not interface:
                del self._known_interfaces[name]
                self.tell(InterfaceGone(name))
        for name, interface in self.interfaces.items():
            self.tell(self._describe(name))
            if name not in self._known_interfaces:
                self._known_interfaces[name] = interface
                for config in self._on(name):
                    self.tell(HostPrepared(config.name))

    def _describe(self, interface: str) -> InterfaceChanged:
        own = self._address(Family.IPV4), self._address(Family.IPV6)
        return InterfaceChanged(interface, self.interfaces[interface].up, self._mac, own)

    def _on(self, interface: str) -> list[VirtualHostConfig]:
        return [config for config in self.configs.values() if config.interface == interface]

    def _receive(self, interface: str, transmission: Transmission) -> None:
        if self.engine is None or not self.link_is_up(interface):
            return
        arrival = _Arrival(self.clock, interface, transmission)
        if self.hung:
            self._backlog.append(arrival)
        else:
            self._hand_over(arrival)

    def _hand_over(self, arrival: _Arrival) -> None:
        sent = arrival.transmission
        if not sent.message.is_bow_out:
            self.heard[sent.host, sent.sender, sent.family] = sent.sent_ns
        self.tell(FrameReceived(arrival.interface, sent.frame), arrival.time_ns)

    # The driver

    def tell(self, event: Event, time: int | None = None) -> None:
        """Hand an event to the engine, now or with an older timestamp, and do what follows. The dead hear nothing."""
        events = deque([event] if self.engine is not None else ())
        while events and self.engine is not None:
            for effect in self.engine.handle(self.clock if time is None else time, events.popleft()):
                outcome = self._perform(effect)
                if outcome is not None:
                    events.append(outcome)
        self._observer.acted(self)
        if self.engine is not None and self.engine.stopped:
            self._end()
        self._arm()

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case SendAdvertisement():
                return AdvertisementSent(effect.host, effect.family, self._send(effect))
            case SendWithOwnMac():
                renews = not effect.message.is_bow_out and effect.message.type == ADVERTISEMENT
                if renews and not self.send_errno:
                    self.kernel.advertised(effect.host, self.clock, self.configs[effect.host].lease_ns)
                self._transmit(effect, effect.interface, self._mac)
            case TakeAddresses():
                if self.take_fails:
                    self.failed_since_start = True
                    return TakeFailed(effect.host, EPERM)
                self.kernel.take(self.configs[effect.host], effect.addresses)
            case OpenShare():
                self.kernel.open_share(effect.host)
            case SurrenderLease():
                self.kernel.surrender(effect.host)
            case ReleaseAddresses():
                self.kernel.release(self.configs[effect.host], effect.addresses)
            case StateChanged():
                self._observer.state_changed(self, effect)
            case DemotionChanged():
                self._observer.demotion_changed(self, effect)
            case Announce() | Answer() | SendProbe() | SharingChanged() | PeerLeftBehind():
                pass  # nobody here has an ARP cache, and all share alike
        return None

    def _send(self, effect: SendAdvertisement) -> int:
        """What the kernel answers. A frame that leaves the host has renewed the lease, whether or not it arrives."""
        if self.send_errno:
            self.failed_since_start = True
            return self.send_errno
        config = self.configs[effect.host]
        if not (config.balancing and effect.message.is_bow_out):
            self.kernel.advertised(effect.host, self.clock, config.lease_ns)
        self.sent[effect.host, effect.family] = self._world.now
        if effect.message.is_bow_out:
            self._observer.bowed_out(self, effect.host)
        self._transmit(effect, config.interface, sending_mac(config, self._mac))
        return 0

    def _transmit(self, effect: SendAdvertisement | SendWithOwnMac, interface: str, mac: bytes) -> None:
        if self.send_errno or not self.link_is_up(interface):
            return
        frame = advertisement_frame(
            effect.message,
            source_mac=mac,
            source=self._address(effect.family),
            destination=_GROUPS[effect.family],
        )
        sent = Transmission(self.number, effect.host, effect.family, effect.message, self._world.now, frame)
        self._network.send(interface, sent)

    def _address(self, family: Family) -> bytes:
        if family is Family.IPV4:
            return bytes((10, 0, 0, 1 + self.number))
        return bytes((0xFE, 0x80, *(0,) * 13, 1 + self.number))

    # The clock

    def _arm(self) -> None:
        self._clock.set_alarm(None if self.engine is None else self.engine.deadline)

    def _ring(self) -> None:
        if not self.hung:
            self.tell(TimersDue(self.clock))
