"""Advertisements to and from one interface: a packet socket, which the host's own firewall does not reach.

It sees VLANs that stand on the interface, foreign destination MACs and fragments. The filter in the kernel leaves out
the first two, the engine checks all the rest. Where traffic is shared, another socket hears who asks for the addresses.
Ref: packet(7).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from carpd.errors import SystemCallError
from carpd.linux import bpf, libc
from carpd.linux.groups import GroupMembership
from carpd.units import SECOND
from carpd.wire import carp, ethernet, ndp

ADVERTISEMENT_MARK = 0xCA290
"""The firewall mark of all that is sent here: by it the lease gate knows this host's own advertisements."""

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_IGNORE_OUTGOING = 1, 23
_PACKET_MR_MULTICAST, _PACKET_MR_UNICAST = 0, 3
_SO_RCVBUFFORCE, _SO_MARK, _SO_TIMESTAMPNS_NEW = 33, 36, 64

_ADDRESS = struct.Struct("=HHiHBB8s")  # sockaddr_ll: family, protocol, index, device and packet type, MAC length, MAC
_GROUP = struct.Struct("=iHH8s")  # packet_mreq: index, type, MAC length, MAC
_STAMP = struct.Struct("=qq")  # seconds and nanoseconds, 64 bits each on every machine
_ANCILLARY_SIZE = socket.CMSG_SPACE(_STAMP.size)

_FRAME_LIMIT = 2048
"""Longer frames are cut; their IP header then promises more than there is, and they are refused."""
_RECEIVE_BUFFER = 4 * 1024 * 1024
"""Room for some 5000 frames, 768 bytes each with the kernel's own: five seconds of 1000 virtual hosts."""
_PRIORITY_CONTROL = 7
"""TC_PRIO_CONTROL: past the bulk traffic, in queueing disciplines that look at it."""

_bind = libc.function("bind", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class ReceivedFrame(NamedTuple):
    """A frame from its Ethernet header on, and when it reached the kernel: nanoseconds of CLOCK_MONOTONIC."""

    frame: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Interest:
    """What a packet socket receives."""

    program: tuple[bpf.Instruction, ...]
    groups: tuple[bytes, ...]
    """Multicast groups, packed, that are joined."""
    macs: tuple[bytes, ...] = ()
    """Further destination MACs that the interface must let in."""

    @property
    def all_macs(self) -> set[bytes]:
        of_group = {4: ethernet.multicast_mac4, 16: ethernet.multicast_mac6}
        return {*self.macs, *(of_group[len(group)](group) for group in self.groups)}


ADVERTISEMENTS = Interest(bpf.ADVERTISEMENTS, (carp.GROUP4, carp.GROUP6))
"""Those of all virtual hosts on the interface."""


def solicitations(addresses4: Sequence[bytes], addresses6: Sequence[bytes], macs: Sequence[bytes]) -> Interest:
    """Who asks for these addresses, and sharing probes; and the frames to the MACs, which are not for this socket but
    which the interface must let in.
    """
    groups = tuple(dict.fromkeys(map(ndp.solicited_node, addresses6)))
    return Interest(bpf.solicitations(addresses4, addresses6), groups, tuple(macs))


class PacketSocket:
    """Sends any frames on one interface, and receives those that are of interest. It never blocks."""

    def __init__(self, index: int, interest: Interest = ADVERTISEMENTS) -> None:
        """Raise SystemCallError."""
        try:
            # Protocol 0 receives nothing: no frame comes in before the filter stands.
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
            )
            self._configure(index, interest)
            self._groups = GroupMembership(index, interest.groups)
        except OSError as error:
            tried = f"open a packet socket on interface {index}"
            raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
        self._empty_ns = time.monotonic_ns()

    def _configure(self, index: int, interest: Interest) -> None:
        bpf.attach(self._socket, interest.program)
        option = self._socket.setsockopt
        option(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        for mac in interest.all_macs:
            kind = _PACKET_MR_MULTICAST if mac[0] & 1 else _PACKET_MR_UNICAST
            option(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _GROUP.pack(index, kind, len(mac), mac))
        option(socket.SOL_SOCKET, _SO_TIMESTAMPNS_NEW, 1)
        option(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        with suppress(PermissionError):  # root of a user namespace has to live with the system's limit
            option(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        option(socket.SOL_SOCKET, _SO_MARK, ADVERTISEMENT_MARK)
        option(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY_CONTROL)
        address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(_ETH_P_ALL), index, 0, 0, 0, b"")
        _bind(self._socket.fileno(), address, len(address))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._groups.close()

    def send(self, frame: bytes) -> int:
        """Send a frame; return 0 or the errno."""
        try:
            self._socket.send(frame)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def receive(self, limit: int) -> list[ReceivedFrame]:
        """At most `limit` of the frames that wait, in order; fewer mean that no more wait.

        The kernel stamps by the wall clock, which may be set at any time. So a stamp is believed only between the last
        time that nothing waited and now.
        """
        # In this order an interruption between the two makes frames seem younger: no master seems silent for it.
        wall_ns = time.time_ns()
        called_ns = time.monotonic_ns()
        received = self._read(limit)
        now_ns = time.monotonic_ns()
        oldest_ns, offset_ns = self._empty_ns, called_ns - wall_ns
        if len(received) < limit:
            self._empty_ns = called_ns
        return [ReceivedFrame(frame, min(max(stamp_ns + offset_ns, oldest_ns), now_ns)) for frame, stamp_ns in received]

    def _read(self, limit: int) -> list[tuple[bytes, int]]:
        """Frames, and their stamps by the wall clock."""
        received: list[tuple[bytes, int]] = []
        while len(received) < limit:
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(_FRAME_LIMIT, _ANCILLARY_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # told once, when the interface goes down; frames may wait behind it
                    continue
                break
            seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
            received.append((frame, seconds * SECOND + nanoseconds))
        return received
