"""Performs the election engine's actions on the kernel: one call an action, and an event back where it failed.

Ref: design §4, "a packet, socket to effect, in six hops"; §7 for why each is done as it is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from errno import EADDRNOTAVAIL, ECOMM, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENODEV
from functools import singledispatchmethod

from carpd.carp.announce import sending_mac
from carpd.carp.balancing import own_destination, shared_mac, taken_macs
from carpd.config.model import Balancing, VirtualHostConfig
from carpd.effects import (
    Announce,
    Answer,
    OpenShare,
    ReleaseAddresses,
    SendAdvertisement,
    SendProbe,
    SendWithOwnMac,
    SurrenderLease,
    TakeAddresses,
)
from carpd.errors import SystemCallError
from carpd.events import AdvertisementSent, Event, Family, TakeFailed
from carpd.linux.addresses import AddressTable
from carpd.linux.balance import GatePrograms, ShareGate, displaced
from carpd.linux.lease import LeaseKeeper
from carpd.runtime.interface_port import InterfacePort
from carpd.wire import sharing_probe
from carpd.wire.arp import ArpPacket
from carpd.wire.carp import GROUP4, GROUP6, Advertisement
from carpd.wire.frames import advertisement_frame, arp_frame, neighbor_advertisement_frame

GROUPS = {Family.IPV4: GROUP4, Family.IPV6: GROUP6}

PEER_IS_AWAY = (EHOSTDOWN, EHOSTUNREACH)
"""A peer that is down is no failure of ours, and must not demote who is left. Ref: spec carp §11.1, OpenBSD."""

PAST_THE_GATE = ECOMM
"""The errno of an advertisement that has left, but not by its node's share gate: peers believe that its part of the
traffic is taken here, and it is not."""

NO_SOURCE = {Family.IPV4: bytes(4), Family.IPV6: None}
"""The source where the interface has no address of its own: FreeBSD sends from 0.0.0.0; IPv6 has no such form."""


def failure(errno: int) -> str:
    """What is wrong with advertisements of which one could not be sent as it should, in words that follow on them."""
    if errno == PAST_THE_GATE:
        return "leave past the share gate, so that nothing is taken (`bpftool net` tells who accepts them first)"
    return f"can't be sent: {os.strerror(errno)}"


@dataclass(frozen=True, slots=True)
class GateStatus:
    """What the share gate does for a node."""

    live: bool
    """Whether it takes the node's part of the traffic."""
    taken: int | None = None
    """Packets that it took; None if it does not stand."""
    findings: tuple[str, ...] = ()
    """What is wrong, a line each."""


@dataclass(slots=True)
class _Shared:
    """What this process has of a virtual host whose nodes share traffic."""

    gate: ShareGate
    index: int
    """Of the interface that the gate is on."""
    balancing: Balancing
    holders: set[str] = field(default_factory=set)
    """The nodes that have the addresses."""
    bypassed: set[str] = field(default_factory=set)
    """The nodes whose last advertisement left past the gate."""


class Performer:
    """The virtual hosts' hands. `port` finds the interface of a virtual host, or None while there is none; `complain`
    is told of failures that the engine can do nothing about.
    """

    def __init__(self, port: Callable[[str], InterfacePort | None], complain: Callable[[str], None]) -> None:
        self._port = port
        self._complain = complain
        self._addresses = AddressTable()
        self._leases = LeaseKeeper()
        self._configs: dict[str, VirtualHostConfig] = {}
        self._device_index: dict[str, int] = {}
        self._shared: dict[str, _Shared] = {}
        """By the name of the virtual host."""

    def expect(self, configs: Iterable[VirtualHostConfig]) -> None:
        """Be ready for a change to these: who leaves is known as he was until it is done, and no lease gets shorter."""
        new = {config.name: config for config in configs}
        leaving = {
            name: old for name, old in self._configs.items() if name not in new or new[name].is_another_than(old)
        }
        self._configs = new | leaving
        self._follow_leases(max)

    def configure(self, configs: Iterable[VirtualHostConfig]) -> None:
        """Know these virtual hosts, and no others."""
        self._configs = {config.name: config for config in configs}
        self._device_index = {name: index for name, index in self._device_index.items() if name in self._configs}
        balancings = {config.balancing for config in self._configs.values()}
        for name, shared in list(self._shared.items()):
            if shared.balancing not in balancings:
                self._shared.pop(name).gate.detach()
        self._follow_leases(lambda _, wanted: wanted)
        self._follow_addresses()

    def _follow_leases(self, choose: Callable[[int, int], int]) -> None:
        """Let the share gates have the leases of the configuration, or what is chosen of those and the present ones."""
        for config in self._configs.values():
            shared = self._shared.get(config.virtual_host)
            if shared is not None and shared.balancing == config.balancing:
                node = shared.balancing.vhids.index(config.vhid)
                shared.gate.set_lease(node, choose(shared.gate.lease_ns(node), config.lease_ns))

    def _follow_addresses(self) -> None:
        """Let the share gates know the addresses of the configuration."""
        for config in self._configs.values():
            shared = self._shared.get(config.virtual_host)
            if shared is not None and shared.balancing == config.balancing:
                try:
                    shared.gate.set_addresses((*config.addresses4, *config.addresses6))
                except SystemCallError as error:
                    self._complain(f"{config.name}: the share gate does not know all addresses: {error}")

    def close(self) -> None:
        """Detach what takes shared traffic: nobody decides about it any more."""
        self.configure(())

    @property
    def configs(self) -> Iterable[VirtualHostConfig]:
        return self._configs.values()

    def prepared(self, host: str) -> None:
        """The device of a virtual host is there, perhaps another one than before.

        Raise OSError if it is not; SystemCallError if the kernel does not let traffic be shared.
        """
        config = self._configs[host]
        self._device_index[host] = socket.if_nametoindex(config.device)
        if config.balancing:
            self._prepare_gate(config, config.balancing, socket.if_nametoindex(config.interface))

    def _prepare_gate(self, config: VirtualHostConfig, balancing: Balancing, index: int) -> None:
        """One gate serves all nodes of a virtual host, while the interface and the nodes are the same."""
        known = self._shared.get(config.virtual_host)
        if known is not None and (known.index, known.balancing) == (index, balancing):
            if known.gate.programs in displaced(self.gates):
                known.gate.attach()
            return
        if known is not None:
            self._shared.pop(config.virtual_host).gate.detach()
        leases = {c.vhid: c.lease_ns for c in self._configs.values() if c.virtual_host == config.virtual_host}
        gate = ShareGate(
            index,
            config.virtual_host,
            taken_macs(config),
            balancing.vhids,
            [leases[vhid] for vhid in balancing.vhids],
            (*config.addresses4, *config.addresses6),
        )
        self._shared[config.virtual_host] = _Shared(gate, index, balancing)

    @property
    def gates(self) -> tuple[GatePrograms, ...]:
        """The share gates that there are."""
        return tuple(shared.gate.programs for shared in self._shared.values())

    def gate_status(self, host: str) -> GateStatus | None:
        """What the share gate does for a node; None if the virtual host does not share."""
        config = self._configs.get(host)
        if config is None or config.balancing is None:
            return None
        shared = self._shared.get(config.virtual_host)
        if shared is None:
            return GateStatus(live=False)
        node = shared.balancing.vhids.index(config.vhid)
        bypassed = f"the advertisements of {host} {failure(PAST_THE_GATE)}"
        findings = (bypassed,) if host in shared.bypassed else ()
        return GateStatus(shared.gate.live()[node], shared.gate.taken()[node], findings)

    @singledispatchmethod
    def perform(self, action: object) -> Event | None:
        """Do it; return the event that tells the engine of the outcome, if that matters."""
        raise AssertionError(f"no action: {action!r}")

    @perform.register
    def _send(self, action: SendAdvertisement) -> Event:
        config = self._configs[action.host]
        port = self._port(config.interface)
        error = ENETDOWN if port is None else self._advertise(config, port, action.family, action.message)
        return AdvertisementSent(action.host, action.family, error)

    def _advertise(self, config: VirtualHostConfig, port: InterfacePort, family: Family, message: Advertisement) -> int:
        """To the group and every peer, whatever becomes of the others; return the first errno, 0 if all were sent."""
        source = port.source(family) or NO_SOURCE[family]
        if source is None:
            return EADDRNOTAVAIL
        errors = []
        if config.multicast:
            mac = sending_mac(config, port.mac)
            frame = advertisement_frame(message, source_mac=mac, source=source, destination=GROUPS[family])
            errors.append(self._send_to_group(config, port, frame, renews=not message.is_bow_out))
        for peer in config.peers:
            if peer.version == family:
                error = port.send_unicast(family, source, peer.packed, message.to_bytes())
                errors.append(0 if error in PEER_IS_AWAY else error)
        return next(filter(None, errors), 0)

    def _send_to_group(self, config: VirtualHostConfig, port: InterfacePort, frame: bytes, *, renews: bool) -> int:
        """An advertisement that leaves by the node's share gate has renewed its lease before the send returns."""
        shared = self._shared.get(config.virtual_host)
        if shared is None or not renews:
            return port.packets.send(frame)
        node = shared.balancing.vhids.index(config.vhid)
        before = shared.gate.leased_until(node)
        error = port.packets.send(frame)
        if error:
            shared.gate.take_back(node, before)  # somebody may have dropped it behind the gate
            return error
        if shared.gate.leased_until(node) == before:
            shared.bypassed.add(config.name)
            return PAST_THE_GATE
        shared.bypassed.discard(config.name)
        return 0

    @perform.register
    def _send_with_own_mac(self, action: SendWithOwnMac) -> None:
        port = self._port(action.interface)
        source = port.source(action.family) or NO_SOURCE[action.family] if port else None
        if port and source:
            group = GROUPS[action.family]
            port.packets.send(
                advertisement_frame(action.message, source_mac=port.mac, source=source, destination=group)
            )

    @perform.register
    def _take(self, action: TakeAddresses) -> Event | None:
        index = self._device_index.get(action.host)
        error = ENODEV if index is None else self._addresses.add(index, action.addresses)
        shared = self._shared.get(self._configs[action.host].virtual_host)
        if shared is not None:
            shared.holders.add(action.host)
        return TakeFailed(action.host, error) if error else None

    @perform.register
    def _open(self, action: OpenShare) -> None:
        config = self._configs[action.host]
        shared = self._shared.get(config.virtual_host)
        if shared is not None:
            shared.gate.open(shared.balancing.vhids.index(config.vhid))

    @perform.register
    def _surrender(self, action: SurrenderLease) -> None:
        config = self._configs[action.host]
        shared = self._shared.get(config.virtual_host)
        if shared is not None:
            shared.gate.close(shared.balancing.vhids.index(config.vhid))
            shared.holders.discard(action.host)
            shared.bypassed.discard(action.host)
            if shared.holders:  # another node of the virtual host still answers here
                return
        error = self._leases.surrender(config.interface, config.leader_vhid)
        if error:
            self._complain(f"{config.name}: the lease gate can't be closed, it closes by itself: {os.strerror(error)}")

    @perform.register
    def _release(self, action: ReleaseAddresses) -> None:
        index = self._device_index.get(action.host)
        error = self._addresses.remove(index, action.addresses) if index is not None else 0
        if error:
            self._complain(f"{action.host}: the addresses can't be taken away: {os.strerror(error)}")

    @perform.register
    def _announce(self, action: Announce) -> None:
        """Best effort: the announcement is repeated, and the next advertisement tells whether sending works."""
        port = self._port(self._configs[action.host].interface)
        if port is None:
            return
        for arp in action.arps:
            port.packets.send(arp_frame(arp, arp.sender_mac))
        for neighbor in action.neighbors:
            port.packets.send(neighbor_advertisement_frame(neighbor))

    @perform.register
    def _answer(self, action: Answer) -> None:
        config = self._configs[action.host]
        port = self._port(config.interface)
        if port is None:
            return
        source = sending_mac(config, port.mac)
        if isinstance(action.answer, ArpPacket):
            port.packets.send(arp_frame(action.answer, source, action.mac))
        else:
            port.packets.send(neighbor_advertisement_frame(action.answer, source, action.destination, action.mac))

    @perform.register
    def _probe(self, action: SendProbe) -> None:
        config = self._configs[action.host]
        port = self._port(config.interface)
        if port is None:
            return
        data = action.probe.to_bytes(config.key)
        port.packets.send(sharing_probe.group_frame(data, port.mac))
        mac = shared_mac(config)
        if mac is None:
            return
        for shared in (*config.addresses4[:1], *config.addresses6[:1]):
            source = port.source(Family.IPV4 if len(shared) == 4 else Family.IPV6) or bytes(len(shared))
            port.packets.send(
                sharing_probe.packet_frame(
                    data,
                    source_mac=port.mac,
                    destination_mac=mac,
                    source=source,
                    destination=own_destination(config, source, shared),
                )
            )
