"""How the packets of pfsync travel: sealed between Linux nodes, or plain as the BSDs send them.

A `RawSyncSocket` is the plain transport as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from carpd.linux.sync_device import SyncDevice
from carpd.linux.sync_sockets import SyncSocketCounters, UdpSyncSocket
from carpd.pfsync.sealed import OVERHEAD, SealedLink


class SyncTransport(Protocol):
    """Packets to all peers, and from them. It never blocks, and never raises for what the link or a peer does."""

    @property
    def device(self) -> SyncDevice: ...

    @property
    def max_payload(self) -> int:
        """The longest packet, in bytes."""

    @property
    def counters(self) -> SyncSocketCounters: ...

    def fileno(self) -> int: ...

    def send(self, packets: Sequence[bytes], /) -> dict[str, int]:
        """Send these to every peer; return the errno for each peer that was not sent all of them."""

    def receive(self) -> list[tuple[str, bytes]]:
        """Packets that wait, with the address each came from: a bounded number, none if nothing waits."""

    def close(self) -> None: ...


class SealedTransport:
    """Sealed packets in UDP datagrams.

    Measured, µs a packet of 1400 bytes: of many, 1.4 to send and 1.9 to receive; a single one 7.3 and 6.6.

    The link, which knows the peers and is known to them, outlives the socket: when the interface has changed, a new
    transport goes on with it. Something must be sent about every second: what is due of the handshake goes with it.
    """

    def __init__(self, udp: UdpSyncSocket, link: SealedLink, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._udp, self._link, self._clock = udp, link, clock
        self.max_payload = udp.max_payload - OVERHEAD
        self.send([])  # presents us, or challenges

    @property
    def device(self) -> SyncDevice:
        return self._udp.device

    @property
    def counters(self) -> SyncSocketCounters:
        return self._udp.counters

    def fileno(self) -> int:
        return self._udp.fileno()

    def close(self) -> None:
        self._udp.close()

    def send(self, packets: Sequence[bytes], /) -> dict[str, int]:
        return self._udp.send(self._link.seal(self._clock(), _evened(packets)))

    def receive(self) -> list[tuple[str, bytes]]:
        datagrams = self._udp.receive()
        if not datagrams:
            return []
        opened = self._link.open(self._clock(), datagrams)
        if opened.answers:
            self._udp.send(opened.answers)
        return opened.payloads


def _evened(packets: Sequence[bytes]) -> Sequence[bytes]:
    """Packets with zeros behind them, where that makes them all but the last one equally long.

    Those the kernel takes and hands over in one piece, for a sixth of the time; and a packet says how long it is.
    """
    if len(packets) < 2:
        return packets
    longest = max(map(len, packets))
    return [packet.ljust(longest, b"\0") if 4 * len(packet) >= 3 * longest else packet for packet in packets]
