"""Advertisements to single peers: the kernel finds the neighbour, so these leave with the interface's own MAC.

Ref: spec carp §16; FreeBSD sends them so, and receivers look at the TTL alone.
"""

from __future__ import annotations

import errno
import socket
import struct

from carpd.errors import SystemCallError
from carpd.linux import bpf
from carpd.linux.packets import ADVERTISEMENT_MARK
from carpd.wire import carp
from carpd.wire.ipv4 import LOW_DELAY

_SO_MARK = 36
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_PKTINFO = 10, 2, 8  # linux/in.h
_IPV6_PKTINFO = 50  # linux/in6.h
_PKTINFO4 = struct.Struct("=i4s4s")  # interface index, source, and a field for receivers
_PKTINFO6 = struct.Struct("=16si")


class UnicastSender:
    """Sends CARP payloads from one interface to peers of either family."""

    def __init__(self, index: int) -> None:
        """Raise SystemCallError."""
        self._index = index
        self._sockets: dict[int, socket.socket] = {}
        try:
            self._sockets[4] = ipv4 = self._open(socket.AF_INET)
            ipv4.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, carp.TTL)
            ipv4.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, LOW_DELAY)
            ipv4.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            if socket.has_ipv6:
                self._sockets[6] = ipv6 = self._open(socket.AF_INET6)
                ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, carp.TTL)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                tried = f"open a socket for unicast advertisements on interface {index}"
                raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        sender = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, carp.PROTOCOL)
        bpf.attach(sender, bpf.NOTHING)  # what comes is received by the packet socket
        sender.setsockopt(socket.SOL_SOCKET, _SO_MARK, ADVERTISEMENT_MARK)
        return sender

    def send(self, family: int, source: bytes, peer: bytes, payload: bytes) -> int:
        """Send from an address of ours to a peer, both packed; return 0 or the errno."""
        sender = self._sockets.get(family)
        if sender is None:
            return errno.EAFNOSUPPORT
        try:
            if family == 4:
                information = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(self._index, source, bytes(4)))
                sender.sendmsg([payload], [information], 0, (socket.inet_ntop(socket.AF_INET, peer), 0))
            else:
                information = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, _PKTINFO6.pack(source, self._index))
                destination = (socket.inet_ntop(socket.AF_INET6, peer), 0, 0, self._index)
                sender.sendmsg([payload], [information], 0, destination)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def close(self) -> None:
        for sender in self._sockets.values():
            sender.close()
