"""Sockets of pfsync on one interface: UDP for sealed datagrams, IP protocol 240 for plain ones as the BSDs send them.

Both send every datagram to each peer, or to a multicast group, and receive only from the interface, and only from the
peers unless those are a group. They never block; what the kernel does not take is lost, as on the link, and told.
When the interface changes, `sync_device.find` says whether they must be opened anew.

Measured between two namespaces, µs a datagram of 1400 bytes: sendto 3.6, sendmmsg 3.3, UDP_SEGMENT 0.2 to 0.5; recvfrom
1.0, recvmmsg 0.6, recvmsg with UDP_GRO 1.7 for one alone and 0.2 for each of those that were sent together.
Ref: spec pfsync §1, §7.4; ip(7), ipv6(7), udp(7), raw(7).
"""

from __future__ import annotations

import abc
import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from carpd.errors import SystemCallError
from carpd.linux.sync_device import SyncDevice
from carpd.wire.ipv4 import LOW_DELAY
from carpd.wire.pfsync.header import PROTOCOL, TTL

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23  # linux/in.h, linux/in6.h
_PMTUDISC_PROBE = 3
"""Never fragment, and go by the interface's MTU alone: no forged ICMP message makes it smaller."""
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h
_SEGMENTS = 64
"""UDP_MAX_SEGMENTS, before newer kernels doubled it."""
_SEGMENTED_SIZE = 65_000
"""All segments together: 65 535 with the headers."""

_IP_MREQN = struct.Struct("=4s4si")  # group, local address (none: the index says where), interface index
_IPV6_MREQ = struct.Struct("=16si")  # group, interface index
_INT = struct.Struct("=i")
_SEGMENT_SIZE = struct.Struct("=H")

_RECEIVE_BUFFER = 16 * 1024 * 1024
"""Some 14 000 datagrams of 1400 bytes; the kernel gives twice what is asked for."""
_SEND_BUFFER = 4 * 1024 * 1024
_DATAGRAM_LIMIT = 65_535
_READS_AT_ONCE = 256
DATAGRAMS_AT_ONCE = 256
_ANCILLARY_SIZE = socket.CMSG_SPACE(_INT.size)

_IP_HEADER = {4: 20, 6: 40}
_UDP_HEADER = 8

_Address = tuple[str, int] | tuple[str, int, int, int]


@dataclass(slots=True)
class SyncSocketCounters:
    """In packets; an outgoing one counts for each peer. Ref: spec pfsync §8.1.

    `badpeer` is ours: the source is no syncpeer. There is no badif: from other interfaces nothing is received.
    """

    ipackets: int = 0
    ipackets6: int = 0
    badttl: int = 0
    badpeer: int = 0
    opackets: int = 0
    opackets6: int = 0
    onomem: int = 0
    oerrors: int = 0


class SyncSocket(abc.ABC):
    """What both kinds have in common. They differ in how datagrams go out, and in what was received."""

    def __init__(self, device: SyncDevice, opened: socket.socket, port: int, max_payload: int) -> None:
        self._socket = opened
        self.device = device
        self.max_payload = max_payload
        """The longest datagram that goes out unfragmented, in bytes."""
        self.counters = SyncSocketCounters()
        names = [socket.inet_ntop(opened.family, peer.packed) for peer in device.peers]
        self._accepted = None if any(peer.is_multicast for peer in device.peers) else frozenset(names)
        # The interface index is part of a link-local address; to others it does nothing.
        rest = (port,) if device.version == 4 else (port, 0, device.index)
        self._destinations: dict[str, _Address] = {name: (name, *rest) for name in names}

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, datagrams: Sequence[bytes]) -> dict[str, int]:
        """Send these to every peer, whatever becomes of the others.

        Return the errno for each peer that was not sent all of them. With EAGAIN the socket will become writable.
        """
        counters = self.counters
        failed = {}
        for peer, destination in self._destinations.items():
            sent, error = self._send(datagrams, destination)
            if self.device.version == 4:
                counters.opackets += sent
            else:
                counters.opackets6 += sent
            if error:
                failed[peer] = error
                if error in (errno.ENOBUFS, errno.ENOMEM):
                    counters.onomem += len(datagrams) - sent
                else:
                    counters.oerrors += len(datagrams) - sent
        return failed

    def receive(self) -> list[tuple[str, bytes]]:
        """What waits, each with its source: some 300 at most; none if nothing waits."""
        counters = self.counters
        received: list[tuple[str, bytes]] = []
        for _ in range(_READS_AT_ONCE):
            try:
                data, ancillary, _, address = self._socket.recvmsg(_DATAGRAM_LIMIT, _ANCILLARY_SIZE)
            except OSError:  # nothing waits
                break
            source: str = address[0]
            payloads = self._payloads(data, ancillary[0][2] if ancillary else b"")
            came = len(payloads) or 1  # refused ones came too
            if self.device.version == 4:
                counters.ipackets += came
            else:
                counters.ipackets6 += came
            if self._accepted is not None and source not in self._accepted:
                counters.badpeer += len(payloads)
                continue
            received += [(source, payload) for payload in payloads]
            if len(received) >= DATAGRAMS_AT_ONCE:
                break
        return received

    @abc.abstractmethod
    def _send(self, datagrams: Sequence[bytes], destination: _Address) -> tuple[int, int]:
        """How many went out to one peer, and the errno if those are not all."""

    @abc.abstractmethod
    def _payloads(self, data: bytes, ancillary: bytes) -> list[bytes]:
        """What was received in one read; refused ones are counted and left out."""


class UdpSyncSocket(SyncSocket):
    """Datagrams in UDP, from and to one port. They are not authenticated: that is `carpd.pfsync.sealed`."""

    def __init__(self, device: SyncDevice, port: int) -> None:
        """Raise SystemCallError."""
        opened = _open(device, socket.SOCK_DGRAM, socket.IPPROTO_UDP, f"UDP port {port}", port)
        opened.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        max_payload = min(device.mtu, _DATAGRAM_LIMIT) - _IP_HEADER[device.version] - _UDP_HEADER
        super().__init__(device, opened, port, max_payload)
        self._segments = _SEGMENTS

    def _send(self, datagrams: Sequence[bytes], destination: _Address) -> tuple[int, int]:
        sent = 0
        while sent < len(datagrams):
            run = _run(datagrams, sent, self._segments)
            ancillary = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(len(run[0])))] if len(run) > 1 else []
            try:
                self._socket.sendmsg(run, ancillary, 0, destination)
            except OSError as error:
                if error.errno == errno.EIO and len(run) > 1:  # an interface that sums no checksums, or IPsec
                    self._segments = 1
                    continue
                return sent, error.errno or errno.EIO
            sent += len(run)
        return sent, 0

    def _payloads(self, data: bytes, ancillary: bytes) -> list[bytes]:
        if not ancillary:
            return [data]
        (size,) = _INT.unpack(ancillary)
        return [data[start : start + size] for start in range(0, len(data), size)]


class RawSyncSocket(SyncSocket):
    """Packets of IP protocol 240 as the BSDs send them. A TTL that no router has lowered is all their proof."""

    def __init__(self, device: SyncDevice) -> None:
        """Raise SystemCallError."""
        opened = _open(device, socket.SOCK_RAW, PROTOCOL, f"IP protocol {PROTOCOL}", 0)
        super().__init__(device, opened, 0, min(device.mtu, _DATAGRAM_LIMIT) - _IP_HEADER[device.version])

    def _send(self, datagrams: Sequence[bytes], destination: _Address) -> tuple[int, int]:
        for sent, datagram in enumerate(datagrams):
            try:
                self._socket.sendto(datagram, destination)
            except OSError as error:
                return sent, error.errno or errno.EIO
        return len(datagrams), 0

    def _payloads(self, data: bytes, ancillary: bytes) -> list[bytes]:
        if self.device.version == 4:  # it comes with its header, which the kernel has checked
            ttl, data = data[8], data[(data[0] & 0x0F) * 4 :]
        else:
            (ttl,) = _INT.unpack(ancillary)
        if ttl != TTL:
            self.counters.badttl += 1
            return []
        return [data]


def _open(device: SyncDevice, kind: socket.SocketKind, protocol: int, what: str, port: int) -> socket.socket:
    """Raise SystemCallError."""
    family = socket.AF_INET if device.version == 4 else socket.AF_INET6
    try:
        opened = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        try:
            _configure(opened, device)
            opened.bind(("", port))
        except OSError:
            opened.close()
            raise
    except OSError as error:
        tried = f"{device.name}: open {what}"
        raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
    return opened


def _configure(opened: socket.socket, device: SyncDevice) -> None:
    option = opened.setsockopt
    option(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.name.encode())
    option(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    option(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    with suppress(PermissionError):  # root of a user namespace has to live with the system's limit
        option(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        option(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    groups = [peer.packed for peer in device.peers if peer.is_multicast]
    if device.version == 4:
        level = socket.IPPROTO_IP
        option(level, socket.IP_TTL, TTL)
        option(level, socket.IP_TOS, LOW_DELAY)
        option(level, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        option(level, socket.IP_MULTICAST_TTL, TTL)
        option(level, socket.IP_MULTICAST_LOOP, 0)
        for group in groups:
            option(level, socket.IP_ADD_MEMBERSHIP, _IP_MREQN.pack(group, bytes(4), device.index))
    else:
        level = socket.IPPROTO_IPV6
        option(level, socket.IPV6_UNICAST_HOPS, TTL)
        option(level, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        option(level, socket.IPV6_MULTICAST_HOPS, TTL)
        option(level, socket.IPV6_MULTICAST_LOOP, 0)
        if opened.type == socket.SOCK_RAW:
            option(level, socket.IPV6_RECVHOPLIMIT, 1)
        else:
            option(level, socket.IPV6_V6ONLY, 1)
        for group in groups:
            option(level, socket.IPV6_JOIN_GROUP, _IPV6_MREQ.pack(group, device.index))


def _run(datagrams: Sequence[bytes], start: int, limit: int) -> Sequence[bytes]:
    """The datagrams from `start` on that can go out in one call: of one size, but for a shorter last one."""
    size = len(datagrams[start])
    end = start + 1
    if size == 0:
        return datagrams[start:end]
    limit = min(len(datagrams), start + min(limit, max(_SEGMENTED_SIZE // size, 1)))
    while end < limit and len(datagrams[end]) == size:
        end += 1
    if end < limit and 0 < len(datagrams[end]) < size:
        end += 1
    return datagrams[start:end]
