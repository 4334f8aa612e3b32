"""The CARP engine: every virtual host of a node, driven by events, with time as an argument.

    effects = engine.handle(now, event)      # perform them in order; answer those that can fail with events
    timer.arm(engine.deadline)               # then hand in TimersDue; early is harmless

The daemon, the simulator and replays drive this same class. Bytes from the network are counted and dropped, or
obeyed; they never raise out of it. Ref: design §4, spec carp §6.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOBUFS, ENOMEM
from typing import Any

from carpd.carp.balancing import Sharing
from carpd.carp.demotion import Demotion
from carpd.carp.virtual_host import VirtualHost, authenticator_of
from carpd.config.model import VirtualHostConfig
from carpd.effects import DemotionChanged, Effect, PeerLeftBehind, Reason, SendAdvertisement
from carpd.errors import DecodeError
from carpd.events import (
    AdvertisementSent,
    CarpState,
    Configure,
    Event,
    Family,
    ForceState,
    FrameReceived,
    HostPrepared,
    InterfaceChanged,
    InterfaceGone,
    SetDemotion,
    Shutdown,
    TakeFailed,
    TimersDue,
)
from carpd.stats import CarpCounters
from carpd.units import SECOND
from carpd.wire import carp, sharing_probe
from carpd.wire.carp_auth import Authenticator
from carpd.wire.ethernet import ETHERTYPE_ARP, EthernetFrame
from carpd.wire.frames import ReceivedPacket, decode_ip_frame
from carpd.wire.ipv6 import NEXT_HEADER_ICMPV6

CARP_VERSION = 2
_GROUPS = (carp.GROUP4, carp.GROUP6)

LEFT_BEHIND_AGAIN_NS = SECOND
"""Between two words about a peer that was left behind: nobody can make us say more by repeating what it says."""

_STILL_HEARD = (FrameReceived, TimersDue, AdvertisementSent, InterfaceChanged, InterfaceGone)
"""What can still happen after `Shutdown`; orders can't: nobody begins again."""


@dataclass(slots=True)
class _Former:
    """What a virtual host was before it was configured anew: peers that were not still are."""

    host: str
    authenticator: Authenticator
    told_ns: int | None = None


class CarpEngine:
    """The virtual hosts of one node. An event about a host or a group that is not configured (any more) is ignored.

    Interfaces are told first: one that was not is taken for missing, and demotes.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, VirtualHost] = {}
        self.groups: dict[str, Demotion] = {}
        self.interfaces: dict[str, InterfaceChanged] = {}
        self.interface_counters: dict[str, CarpCounters] = {}
        self.sharing: dict[str, Sharing] = {}
        """The virtual hosts whose nodes share traffic, by name."""
        self._by_vhid: dict[tuple[str, int], VirtualHost] = {}
        self._former: dict[tuple[str, int], _Former] = {}
        """By interface and vhid."""
        self._timers: list[tuple[int, str]] = []
        """A heap of (time, host): when to look at the host. Most deadlines only move away, so that one entry lasts."""
        self._queued: dict[str, int] = {}
        """The entry of each host that counts, never later than its deadline; others are passed over."""
        self._leaving = False
        self._handlers: dict[type, Callable[[int, Any], list[Effect]]] = {
            Configure: self._configure,
            InterfaceChanged: self._interface_changed,
            InterfaceGone: self._interface_gone,
            HostPrepared: self._host_prepared,
            FrameReceived: self._frame_received,
            TimersDue: self._timers_due,
            AdvertisementSent: self._advertisement_sent,
            TakeFailed: self._take_failed,
            ForceState: self._force_state,
            SetDemotion: self._set_demotion,
            Shutdown: self._shutdown,
        }

    def handle(self, now: int, event: Event) -> list[Effect]:
        """What follows from the event. `now` may lie a little before that of an earlier call (kernel timestamps)."""
        if self.stopped or (self._leaving and not isinstance(event, _STILL_HEARD)):
            return []
        return self._handlers[type(event)](now, event)

    @property
    def stopped(self) -> bool:
        """After `Shutdown`: every master has given its addresses back, and nothing will happen any more."""
        return self._leaving and all(host.state is CarpState.INIT for host in self.hosts.values())

    @property
    def deadline(self) -> int | None:
        """When `TimersDue` is wanted next, or None."""
        while self._timers:
            time, name = self._timers[0]
            counts = self._queued.get(name) == time
            if counts and self.hosts[name].deadline == time:
                return time
            heapq.heappop(self._timers)
            if counts:
                del self._queued[name]
                self._queue(self.hosts[name])
        return None

    # Configuration

    def _configure(self, now: int, event: Configure) -> list[Effect]:
        effects: list[Effect] = []
        wanted = {config.name: config for config in event.virtual_hosts}
        interfaces = {host.config.interface for host in self.hosts.values()}
        interfaces |= {config.interface for config in event.virtual_hosts}
        self._remember(wanted)
        for name, host in list(self.hosts.items()):
            if name not in wanted or wanted[name].is_another_than(host.config):
                effects += self._remove(now, host)
        self.groups = {c.group: self.groups.get(c.group, Demotion()) for c in event.virtual_hosts}
        for number, config in enumerate(event.virtual_hosts):
            demotion = self.groups[config.group]
            known = self.hosts.get(config.name)
            if known is None:
                self._add(now, config, demotion, event.seed + number)
            elif known.config != config:
                old = known.config
                effects += self._rearm(known, known.reconfigure(now, config, demotion))
                if config.balancing:
                    self.sharing[config.virtual_host].reconfigure(config)
                if old.group != config.group:
                    effects += self._forget_failures(now, old)
        for interface in sorted(interfaces):
            effects += self._demote_for_link(now, interface)
        return effects

    def _remember(self, wanted: Mapping[str, VirtualHostConfig]) -> None:
        """What peers must be told apart by that have not been configured anew yet."""
        self._former = {place: former for place, former in self._former.items() if former.host in wanted}
        for name, host in self.hosts.items():
            old = host.config
            if name in wanted and _proof(old) != _proof(wanted[name]):
                self._former[old.interface, old.vhid] = _Former(name, authenticator_of(old))

    def _add(self, now: int, config: VirtualHostConfig, demotion: Demotion, seed: int) -> None:
        if config.balancing:
            sharing = self.sharing.setdefault(config.virtual_host, Sharing(config))
            host = sharing.nodes[config.vhid] = VirtualHost(config, demotion, seed, sharing.holders)
        else:
            host = VirtualHost(config, demotion, seed)
        self.hosts[config.name] = host
        self._by_vhid[config.interface, config.vhid] = host
        self.interface_counters.setdefault(config.interface, CarpCounters())
        interface = self.interfaces.get(config.interface)
        if interface is not None:
            host.interface_changed(now, interface)  # not prepared yet: nothing can follow

    def _remove(self, now: int, host: VirtualHost) -> list[Effect]:
        effects = host.halt(now, Reason.CONFIGURED, bow_out=True)
        config = host.config
        del self.hosts[config.name], self._by_vhid[config.interface, config.vhid]
        self._queued.pop(config.name, None)
        if config.balancing:
            sharing = self.sharing[config.virtual_host]
            del sharing.nodes[config.vhid]
            if not sharing.nodes:
                effects += self.sharing.pop(config.virtual_host).end()
        return effects + self._forget_failures(now, config)

    # Interfaces

    def _interface_changed(self, now: int, event: InterfaceChanged) -> list[Effect]:
        if self.interfaces.get(event.interface) == event:
            return []
        self.interfaces[event.interface] = event
        return self._tell_hosts(now, event.interface, lambda host: host.interface_changed(now, event))

    def _interface_gone(self, now: int, event: InterfaceGone) -> list[Effect]:
        self.interfaces.pop(event.interface, None)
        return self._tell_hosts(now, event.interface, lambda host: host.interface_gone(now))

    def _tell_hosts(self, now: int, interface: str, happened: Callable[[VirtualHost], list[Effect]]) -> list[Effect]:
        """Tell every virtual host of an interface. A master that has lost it bows out where its group still can."""
        effects: list[Effect] = []
        ways: dict[str, list[str]] = {}
        for host in self._on(interface):
            group, was_master = host.config.group, host.state is CarpState.MASTER
            effects += self._rearm(host, happened(host))
            if was_master and host.state is CarpState.INIT:
                if group not in ways:
                    ways[group] = self._ways_of(group, interface)
                for other in ways[group]:
                    effects += host.farewell(other)
        return effects + self._demote_for_link(now, interface)

    def _ways_of(self, group: str, lost: str) -> list[str]:
        """The interfaces on which a redundancy group can send, having lost one."""
        active = (host for host in self.hosts.values() if host.state is not CarpState.INIT)
        return sorted({host.config.interface for host in active if host.config.group == group} - {lost})

    def _host_prepared(self, now: int, event: HostPrepared) -> list[Effect]:
        host = self.hosts.get(event.host)
        if host is None:
            return []
        return self._rearm(host, host.device_prepared(now)) + self._forget_failures(now, host.config)

    def _demote_for_link(self, now: int, interface: str) -> list[Effect]:
        """A link that is down demotes every group that has a virtual host on it, until after they are BACKUP again.

        Every group is told, so that one that has left the link is not demoted by it for ever. Ref: spec carp §11.2.
        """
        known = self.interfaces.get(interface)
        down = known is None or not known.up
        factors = dict.fromkeys(self.groups, 0)
        effects: list[Effect] = []
        for host in self._on(interface):
            group = host.config.group
            if down:
                factors[group] = max(factors[group], host.config.ifdown_demotion_factor)
            if host.state is CarpState.INIT:
                effects += self._forget_failures(now, host.config)
        for group, factor in factors.items():
            effects += self._demote(now, group, f"link of {interface} is down", factor)
        return effects

    def _forget_failures(self, now: int, config: VirtualHostConfig) -> list[Effect]:
        """A host in INIT starts afresh, so does one whose device and gate were made anew, and one that left the group
        does not concern it: no failures of theirs demote it.
        """
        effects = self._demote(now, config.group, _send_reason(config), 0)
        return effects + self._demote(now, config.group, _take_reason(config), 0)

    # Packets: checks in BSD's order, one counter each. Ref: spec carp §6

    def _frame_received(self, now: int, event: FrameReceived) -> list[Effect]:
        counters = self.interface_counters.get(event.interface)
        if counters is None:
            return []
        try:
            packet = decode_ip_frame(event.frame)
        except DecodeError:
            counters.hdrops += 1
            return []
        if packet is None or packet.protocol != carp.PROTOCOL:
            return self._of_sharing(now, event, packet)
        if not self._is_for_us(event.interface, packet):
            return []
        _count_received(counters, packet)
        if packet.ttl != carp.TTL:
            counters.badttl += 1
        elif packet.fragment or (len(packet.payload) < carp.SIZE and not carp.is_vrrp(packet.payload)):
            counters.badlen += 1
        elif carp.is_vrrp(packet.payload):
            counters.vrrp += 1
        elif not carp.checksum_ok(packet.payload):
            counters.badsum += 1
        else:
            return self._advertisement_received(now, event.interface, packet, counters)
        return []

    def _advertisement_received(
        self, now: int, interface: str, packet: ReceivedPacket, counters: CarpCounters
    ) -> list[Effect]:
        message = carp.Advertisement.from_bytes(packet.payload)
        host = self._by_vhid.get((interface, message.vhid))
        if message.is_bow_out and not (host and host.is_authentic(message)):
            host = self._leaving_elsewhere(interface, message) or host
        if host is None:
            counters.badvhid += 1
            return self._left_behind(now, interface, packet.source, message)
        _count_received(host.counters, packet)
        if message.version != CARP_VERSION:
            counters.badver += 1
            host.counters.badver += 1
            return []
        refused = host.counters.badauth, host.counters.loops
        effects = host.receive(now, Family(packet.family), packet.source, message)
        counters.badauth += host.counters.badauth - refused[0]
        counters.loops += host.counters.loops - refused[1]
        if host.counters.badauth > refused[0]:
            effects += self._left_behind(now, interface, packet.source, message)
        return self._rearm(host, effects)

    def _left_behind(self, now: int, interface: str, source: bytes, message: carp.Advertisement) -> list[Effect]:
        """A refused advertisement: does it come from somebody who has what we had before the last change?"""
        former, known = self._former.get((interface, message.vhid)), self.interfaces.get(interface)
        if former is None or (known and source in known.addresses):
            return []
        if former.told_ns is not None and now < former.told_ns + LEFT_BEHIND_AGAIN_NS:
            return []
        if not former.authenticator.verify(message.counter, message.digest):
            return []
        former.told_ns = now
        return [PeerLeftBehind(former.host, source)]

    def _leaving_elsewhere(self, interface: str, message: carp.Advertisement) -> VirtualHost | None:
        """The virtual host of another interface whose master, having lost that, says here that it leaves."""
        groups = {host.config.group for host in self._on(interface)}
        for other in self.interface_counters:
            host = self._by_vhid.get((other, message.vhid))
            if host and other != interface and host.config.group in groups and host.is_authentic(message):
                return host
        return None

    def _is_for_us(self, interface: str, packet: ReceivedPacket) -> bool:
        """A packet socket also shows what a switch floods: a unicast advertisement to somebody else."""
        if packet.destination in _GROUPS:
            return True
        known = self.interfaces.get(interface)
        return known is not None and packet.destination in known.addresses

    def _of_sharing(self, now: int, event: FrameReceived, packet: ReceivedPacket | None) -> list[Effect]:
        """What else concerns virtual hosts that share: who asks for their addresses, and how others share."""
        effects: list[Effect] = []
        frame = EthernetFrame.from_bytes(event.frame)
        for sharing in self.sharing.values():
            if sharing.config.interface != event.interface:
                continue
            with suppress(DecodeError):  # not for us, or nonsense: it is not answered
                if frame.ethertype == ETHERTYPE_ARP:
                    effects += sharing.answer_arp(frame)
                elif packet is not None and (packet.family, packet.protocol) == (Family.IPV6, NEXT_HEADER_ICMPV6):
                    effects += sharing.answer_neighbor(packet)
                elif packet is not None or frame.ethertype == sharing_probe.ETHERTYPE:
                    effects += sharing.hear(now, frame, packet)
        return effects

    # Timers

    def _timers_due(self, now: int, event: TimersDue) -> list[Effect]:
        due = []
        while (deadline := self.deadline) is not None and deadline <= now:
            _, name = heapq.heappop(self._timers)
            del self._queued[name]
            due.append(self.hosts[name])
        effects: list[Effect] = []
        for host in due:
            if host.serves:  # and has for an interval, without a failure: they are ours
                effects += self._demote(now, host.config.group, _take_reason(host.config), 0)
            followed = host.handle_timers(now, event.heard_until)
            effects += self._rearm(host, followed)
            if host.config.balancing and any(isinstance(effect, SendAdvertisement) for effect in followed):
                effects += self.sharing[host.config.virtual_host].probe(now, host)
        return effects

    def _rearm(self, host: VirtualHost, effects: list[Effect]) -> list[Effect]:
        """Note when the host wants the clock next. Called after everything that is told to a host."""
        self._queue(host)
        return effects

    def _queue(self, host: VirtualHost) -> None:
        name, deadline = host.config.name, host.deadline
        if deadline is not None and deadline < self._queued.get(name, deadline + 1):
            self._queued[name] = deadline
            heapq.heappush(self._timers, (deadline, name))

    # Outcomes and wishes

    def _advertisement_sent(self, now: int, event: AdvertisementSent) -> list[Effect]:
        host = self.hosts.get(event.host)
        if host is None:  # its bow-out, after it was removed
            return []
        config = host.config
        no_memory = event.errno in (ENOBUFS, ENOMEM)
        demoted = host.advertisement_sent(now, event.family, event.errno, out_of_memory=no_memory)
        amount = config.senderr_demotion_factor if demoted else 0
        return self._demote(now, config.group, _send_reason(config), amount)

    def _take_failed(self, now: int, event: TakeFailed) -> list[Effect]:
        host = self.hosts.get(event.host)
        if host is None:
            return []
        config = host.config
        effects = self._rearm(host, host.take_failed(now))
        return effects + self._demote(now, config.group, _take_reason(config), config.senderr_demotion_factor)

    def _force_state(self, now: int, event: ForceState) -> list[Effect]:
        host = self.hosts.get(event.host)
        return [] if host is None else self._rearm(host, host.force(now, event.state))

    def _set_demotion(self, now: int, event: SetDemotion) -> list[Effect]:
        return self._demote(now, event.group, event.reason, event.amount)

    def _demote(self, now: int, group: str, reason: str, amount: int) -> list[Effect]:
        demotion = self.groups.get(group)
        if demotion is None or demotion.reasons.get(reason, 0) == amount:
            return []
        old = demotion.total
        demotion.set(reason, amount)
        effects: list[Effect] = [DemotionChanged(group, old, demotion.total, reason)]
        for host in self.hosts.values():
            if host.config.group == group:
                effects += self._rearm(host, host.demotion_changed(now))
        return effects

    def _shutdown(self, now: int, event: Shutdown) -> list[Effect]:
        self._leaving = True
        effects: list[Effect] = []
        for host in self.hosts.values():
            host.prepared = False  # nobody begins again
            effects += self._rearm(host, host.leave(now, CarpState.INIT, Reason.SHUTDOWN))
        return effects

    def _on(self, interface: str) -> Iterator[VirtualHost]:
        return (host for host in self.hosts.values() if host.config.interface == interface)


def _proof(config: VirtualHostConfig) -> tuple[object, ...]:
    """What peers must have alike to believe each other."""
    addresses = frozenset((*config.addresses4, *config.addresses6))
    return config.interface, config.vhid, config.key, addresses


def _count_received(counters: CarpCounters, packet: ReceivedPacket) -> None:
    if packet.family == Family.IPV4:
        counters.ipackets += 1
    else:
        counters.ipackets6 += 1


def _send_reason(config: VirtualHostConfig) -> str:
    return f"{config.name}: advertisements can't be sent"


def _take_reason(config: VirtualHostConfig) -> str:
    return f"{config.name}: the addresses can't be taken"
