"""The packets of some protocols in a capture, and what could not be shown of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from carpd.errors import DecodeError
from carpd.trace.linktype import NetworkPacket, UnsupportedLinkTypeError, find_packet
from carpd.trace.pcap import CapturedFrame
from carpd.units import SECOND
from carpd.wire import carp
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from carpd.wire.frames import ReceivedPacket, decode_ip
from carpd.wire.pfsync import header as pfsync

_PROTOCOL_OFFSET = {ETHERTYPE_IPV4: 9, ETHERTYPE_IPV6: 6}


class SeenPacket(NamedTuple):
    """An IP packet, and when it came."""

    time_ns: int
    elapsed_ns: int  # since the first frame of the capture
    packet: ReceivedPacket

    def text(self) -> str:
        """What a line begins with."""
        route = f"{ip_address(self.packet.source)} > {ip_address(self.packet.destination)}"
        return f"{self.elapsed_ns / SECOND:>11.6f} {route:<35}"

    def fields(self) -> dict[str, object]:
        """What an object begins with."""
        return {
            "time": self.time_ns / SECOND,
            "family": self.packet.family,
            "source": str(ip_address(self.packet.source)),
            "destination": str(ip_address(self.packet.destination)),
        }


@dataclass(slots=True)
class Skipped:
    """What could not be shown: packets, `undecodable` by protocol, and the rest of those that are wrong somewhere."""

    vrrp: int = 0
    other_links: int = 0
    undecodable: Counter[int] = field(default_factory=Counter)
    rests: int = 0

    def notes(self, *, vrrp: bool) -> str:
        """One line, empty if there is nothing to say; VRRP packets are told of if wanted."""
        counts = (
            (self.vrrp if vrrp else 0, "VRRP"),
            (self.undecodable[carp.PROTOCOL], f"of protocol {carp.PROTOCOL}, but no whole CARP packet"),
            (self.undecodable[pfsync.PROTOCOL], f"of protocol {pfsync.PROTOCOL}, but no whole pfsync packet"),
            (self.other_links, "of a link type that is not supported"),
        )
        told = [f"{count} {what}" for count, what in counts if count]
        notes = [f"packets skipped: {', '.join(told)}"] if told else []
        if self.rests:
            notes.append(f"pfsync packets shown up to an error in them: {self.rests}")
        return "; ".join(notes)


def ip_packets(frames: Iterable[CapturedFrame], protocols: Collection[int], skipped: Skipped) -> Iterator[SeenPacket]:
    """The whole packets of these protocols; others of them are counted in skipped."""
    start_ns = None
    for frame in frames:
        if start_ns is None:
            start_ns = frame.time_ns
        try:
            found = find_packet(frame)
        except UnsupportedLinkTypeError:
            skipped.other_links += 1
            continue
        # Looked at first, for a capture with a short snapshot length cuts many packets of other protocols.
        protocol = _protocol(frame.data, found)
        if found is None or protocol is None or protocol not in protocols:
            continue
        try:
            packet = decode_ip(found.ethertype, frame.data, found.offset, found.source_mac, found.destination_mac)
        except DecodeError:
            packet = None
        if packet is None or packet.fragment:
            skipped.undecodable[protocol] += 1
        else:
            yield SeenPacket(frame.time_ns, frame.time_ns - start_ns, packet)


def _protocol(data: bytes, found: NetworkPacket | None) -> int | None:
    """The protocol of an IP packet in data, None if there is none or it is cut before that."""
    if found is None or found.ethertype not in _PROTOCOL_OFFSET:
        return None
    offset = found.offset + _PROTOCOL_OFFSET[found.ethertype]
    return data[offset] if offset < len(data) else None
