"""Load sharing: the nodes of one virtual host, each an election of its own, and one set of addresses.

Which packets fall to which node is decided in the kernel (`linux.balance`); here is what the host says for all of its
nodes: who answers ARP and neighbour discovery, with which MAC, and whether the other hosts share as this one does.

Ref: spec carp §14; OpenBSD sys/netinet/ip_carp.c, carp_lsdrop and carp_iamatch; `arp`: the same file of 2008 to 2014.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor

from carpd.carp.virtual_host import VirtualHost
from carpd.config.model import NODES_LIMIT, BalancingMode, VirtualHostConfig
from carpd.effects import Answer, Effect, SendProbe, SharingChanged
from carpd.events import CarpState, Family
from carpd.units import SECOND
from carpd.wire import arp, carp, ndp, sharing_probe
from carpd.wire.carp_auth import KEY_SIZE
from carpd.wire.ethernet import EthernetFrame, format_mac, multicast_mac6
from carpd.wire.frames import ReceivedPacket
from carpd.wire.sharing_probe import SharingProbe

MISSED_LIMIT = 3
"""So many probes of a host to the shared MAC get lost in a row before it is said."""
FORGET_NS = 5 * SECOND
"""How long, beyond five intervals, a host that does not probe any more is remembered."""
PEERS_LIMIT = 32
"""Hosts that are remembered: a group has no more nodes that would be master of anything."""

_MODES = {mode: number for number, mode in enumerate(BalancingMode, 1)}
_MODE_NAMES = {number: mode.value for mode, number in _MODES.items()}
_REMEDIES = {
    BalancingMode.IP: "switch IGMP and MLD snooping off on the switches between, or make the hosts' ports router ports",
    BalancingMode.IP_STEALTH: "the switches between must flood frames to this MAC",
    BalancingMode.IP_UNICAST: "what is between must be a hub, or mirror all frames to every host",
}
"""What must be so that all hosts hear all that is shared."""
_UNSPECIFIED6 = bytes(16)
_WORD = 0xFFFFFFFF


def shared_mac(config: VirtualHostConfig) -> bytes | None:
    """The MAC that all frames to the virtual host have; None in `arp` balancing, where each node has its own."""
    assert config.balancing, "an only node shares nothing"
    match config.balancing.mode:
        case BalancingMode.ARP:
            return None
        case BalancingMode.IP:
            return carp.multicast_mac(config.leader_vhid)
        case BalancingMode.IP_STEALTH | BalancingMode.IP_UNICAST:
            return carp.virtual_mac(config.leader_vhid)


def taken_macs(config: VirtualHostConfig) -> tuple[bytes, ...]:
    """The destination MACs of the traffic that is shared: one, or one for each node."""
    assert config.balancing, "an only node shares nothing"
    shared = shared_mac(config)
    return (shared,) if shared else tuple(map(carp.virtual_mac, config.balancing.vhids))


def node_of(one: bytes, other: bytes, nodes: int) -> int:
    """Which of so many nodes, counted from 0, the packets between two addresses fall to. Ref: spec carp §14.2."""
    words: tuple[int, ...] = struct.unpack(f"!{(len(one) + len(other)) // 4}I", one + other)
    return reduce(xor, words) % nodes


def own_destination(config: VirtualHostConfig, source: bytes, shared: bytes) -> bytes:
    """The destination of a packet from `source` that falls to this node itself: the shared address or one beside it.

    The share gates of the other hosts drop such a packet, a BSD's too: it is neither answered nor counted.
    """
    assert config.balancing, "an only node shares nothing"
    nodes, wanted = len(config.balancing.vhids), config.balancing.vhids.index(config.vhid)
    beside = (shared[:-1] + bytes((shared[-1] ^ change,)) for change in range(NODES_LIMIT))
    return next(address for address in beside if node_of(source, address, nodes) == wanted)


class ArpHash:
    """Which node's MAC a client is told in `arp` balancing: a hash of the client's own MAC, keyed by the password.

    Hosts of one byte order agree; ours is the little-endian one. Ref: spec carp §14.3.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key.ljust(KEY_SIZE, b"\0")
        inner = bytes(byte ^ 0x36 for byte in self._key.ljust(64, b"\0"))
        words = struct.unpack_from("<4I", hashlib.sha1(inner + b"\x02\x01").digest())
        self._b, self._c = words[0] ^ words[1], words[2] ^ words[3]

    def of(self, mac: bytes) -> int:
        """The hash of a link-layer address, 32 bits."""
        (key_word,) = struct.unpack_from("<I", self._key)
        (low,) = struct.unpack_from("<I", mac)
        a = (0x9E3779B9 + low) & _WORD
        b = (self._b + (mac[5] << 8) + mac[4]) & _WORD
        c = (self._c + key_word) & _WORD
        return mix(a, b, c)[2]


def mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """The reversible mix of three words that BSD's bridges hash with. Ref: spec carp §14.3; Jenkins, 1996."""
    for first, second, third in ((13, 8, 13), (12, 16, 5), (3, 10, 15)):
        a = (a - b - c & _WORD) ^ c >> first
        b = (b - c - a & _WORD) ^ a << second & _WORD
        c = (c - a - b & _WORD) ^ b >> third
    return a, b, c


@dataclass(slots=True)
class _Peer:
    """Another host that shares, as its probes tell."""

    probe: SharingProbe
    heard_ns: int
    unpaired: dict[Family, int] = field(default_factory=dict)
    """Probes that came to CARP's group since a packet of this family came to the shared MAC; the last one's may yet."""


class Sharing:
    """The nodes of one virtual host on this host. It exists while one of them is configured."""

    def __init__(self, config: VirtualHostConfig) -> None:
        assert config.balancing, "an only node shares nothing"
        self.config = config
        self.nodes: dict[int, VirtualHost] = {}
        """By vhid."""
        self.holders: set[str] = set()
        """The nodes, by name, that hold the addresses: the last one gives them up."""
        self.findings: tuple[str, ...] = ()
        """What is wrong with how traffic is shared, a line each."""
        self._vhids, self._mode = config.balancing.vhids, config.balancing.mode
        self._mac = shared_mac(config)
        self._hash = ArpHash(config.key)
        self._probe = SharingProbe(_MODES[self._mode], bytes(self._vhids))
        self._peers: dict[bytes, _Peer] = {}

    def reconfigure(self, config: VirtualHostConfig) -> None:
        """New settings of the same nodes."""
        self.config = config
        self._hash = ArpHash(config.key)

    # ARP and neighbour discovery

    def answer_arp(self, frame: EthernetFrame) -> list[Effect]:
        """Tell who asks for a shared address, if that falls to a node that is master here. Raise DecodeError."""
        asked = arp.ArpPacket.from_bytes(frame.payload)
        target, asker = asked.target_ip, asked.sender_mac
        if asked.operation != arp.REQUEST or target not in self.config.addresses4 or asked.sender_ip == target:
            return []
        node = self._answering(asker)
        if node is None:
            return []
        reply = arp.ArpPacket(arp.REPLY, self._told(node), target, asker, asked.sender_ip)
        return [Answer(node.config.name, reply, asker)]

    def answer_neighbor(self, packet: ReceivedPacket) -> list[Effect]:
        """The same over IPv6. Raise DecodeError."""
        asked = ndp.NeighborSolicitation.from_bytes(packet.payload, packet.source, packet.destination)
        if packet.ttl != ndp.HOP_LIMIT or packet.source[0] == 0xFF or asked.target not in self.config.addresses6:
            return []
        node = self._answering(asked.mac or packet.source_mac)
        if node is None or node.interface is None:
            return []
        to_all = packet.source == _UNSPECIFIED6  # it wants to know whether the address is free
        answer = ndp.NeighborAdvertisement(
            asked.target,
            self._told(node),
            router=node.interface.router,
            override=self._mac is not None or not to_all,  # one node's MAC is not for all: who knows one keeps it
            solicited=not to_all,
        )
        mac = multicast_mac6(ndp.ALL_NODES) if to_all else asked.mac or packet.source_mac
        return [Answer(node.config.name, answer, mac, ndp.ALL_NODES if to_all else packet.source)]

    def _answering(self, asker: bytes) -> VirtualHost | None:
        """The node that answers this MAC, if it is master here. Nobody is at a multicast one."""
        if asker[0] & 1:
            return None
        leads = self._mac is not None
        vhid = self._vhids[0 if leads else self._hash.of(asker) % len(self._vhids)]
        node = self.nodes.get(vhid)
        return node if node is not None and node.state is CarpState.MASTER else None

    def _told(self, node: VirtualHost) -> bytes:
        return self._mac or carp.virtual_mac(node.config.vhid)

    # Whether the other hosts share alike

    def probe(self, now: int, node: VirtualHost) -> list[Effect]:
        """What goes out beside the node's advertisements: of all that are master here the first one does it."""
        first = next((n for _, n in sorted(self.nodes.items()) if n.config.name in self.holders), None)
        if node is not first:
            return []
        return [SendProbe(node.config.name, self._probe), *self._forget(now)]

    def hear(self, now: int, frame: EthernetFrame, packet: ReceivedPacket | None) -> list[Effect]:
        """A probe of another host, perhaps in an IP packet. Those of virtual hosts with no vhid of ours are another
        group's. Raise DecodeError.

        Without the right digest it is nobody's. A network may send us our own.
        """
        data = sharing_probe.data_of_packet(packet) if packet else frame.payload
        probe = SharingProbe.from_bytes(data)
        if not set(probe.vhids) & set(self._vhids) or not probe.is_authentic(data, self.config.key):
            return []
        if any(node.interface and node.interface.mac == frame.source for node in self.nodes.values()):
            return []
        peer = self._peers.get(frame.source)
        if peer is None:
            if len(self._peers) >= PEERS_LIMIT:
                return self._forget(now)  # some may have gone
            peer = self._peers[frame.source] = _Peer(probe, now)
        peer.probe, peer.heard_ns = probe, now
        if probe != self._probe:  # another way of sharing has another MAC
            peer.unpaired.clear()
        elif packet and frame.destination == self._mac:
            peer.unpaired.pop(Family(packet.family), None)
        elif not packet and frame.destination == sharing_probe.GROUP_MAC:
            peer.unpaired = {family: peer.unpaired.get(family, 0) + 1 for family in self._families}
        return self._forget(now)

    @property
    def _families(self) -> list[Family]:
        """Of the shared addresses."""
        return [Family(version) for version in sorted({address.version for address in self.config.addresses})]

    def end(self) -> list[Effect]:
        """There are no such nodes any more: nothing is wrong with them."""
        self._peers.clear()
        return self._tell_findings()

    def _forget(self, now: int) -> list[Effect]:
        """Forget who is not heard any more; tell what has changed."""
        limit = FORGET_NS + 5 * self.config.advbase * SECOND
        self._peers = {mac: peer for mac, peer in self._peers.items() if now - peer.heard_ns < limit}
        return self._tell_findings()

    def _tell_findings(self) -> list[Effect]:
        old, self.findings = (
            self.findings,
            tuple(finding for mac, peer in sorted(self._peers.items()) for finding in self._findings_of(mac, peer)),
        )
        name = self.config.virtual_host
        gone = [SharingChanged(name, finding, present=False) for finding in old if finding not in self.findings]
        return [*gone, *(SharingChanged(name, new, present=True) for new in self.findings if new not in old)]

    def _findings_of(self, mac: bytes, peer: _Peer) -> list[str]:
        host, probe, ours = format_mac(mac), peer.probe, self._probe
        found = []
        if probe.vhids != ours.vhids:
            theirs, own = _listed(probe.vhids), _listed(self._vhids)
            found.append(f"{host} has the nodes {theirs}, this host {own}: list the same on all hosts")
        if probe.mode != ours.mode:
            theirs = _MODE_NAMES.get(probe.mode, f"mode {probe.mode}")
            found.append(f"{host} has balancing {theirs}, this host {self._mode.value}: set the same on all hosts")
        if self._mac is not None:
            found += [
                f"IPv{family} packets of {host} to {format_mac(self._mac)} do not arrive: {_REMEDIES[self._mode]}"
                for family, unpaired in peer.unpaired.items()
                if unpaired > MISSED_LIMIT
            ]
        return found


def _listed(vhids: Sequence[int]) -> str:
    return ", ".join(map(str, vhids))
