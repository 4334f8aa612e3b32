"""Takes the first packets of connections out of interfaces just before they leave, and puts them back later.

An nftables rule marks packets that are forwarded: those that begin a connection, and those that accept one of TCP or
SCTP. At the egress of an interface the connection is in the kernel's table, and translated; there an eBPF program sends
what is marked to a TAP device of ours instead. The device and (with tcx) the programs go with this process, and the
programs hold nothing later than the time that they were told: whoever is killed or hangs does not stop the traffic.

Ref: Linux Documentation/networking/tuntap.rst; include/uapi/linux/bpf.h; nft(8).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NamedTuple

from carpd.errors import SystemCallError
from carpd.linux import ebpf, links, nft, sysctls
from carpd.linux.ebpf import Assembler, Comparison, Operation, Register, Width
from carpd.linux.links import Link
from carpd.linux.netlink import NetlinkSocket
from carpd.units import MILLISECOND
from carpd.wire import netlink, nftnetlink, tc

DEVICE = "carpd-defer"
"""Our TAP device."""
TABLE = "carpd_defer"
"""Our table of nftables, in the family inet."""

FIRST_MARK, LATER_MARK = 0x40000000, 0x20000000
"""Bits of the packet mark: this packet must be held; this one only if it follows such a one closely."""
FOLLOWS_NS = 20 * MILLISECOND
"""A resolver asks twice from one port, for IPv4 and IPv6: what follows the first packet so closely must not overtake
it, and its answer would be as early. Whatever comes later passes: flows that nobody answers stay new to the kernel."""
FRAMES_AT_ONCE = 128

_FLOWS = 4096
"""Flows are told apart by so many values of their hash. Two that meet cost each other nothing but a detour."""
_FILTER_HANDLE = 0xDEFE
"""Of clsact filters; those of virtual hosts have their vhid."""

_MARK, _INDEX = 8, 40  # offsets in struct __sk_buff
_KTIME_GET_NS, _SKB_STORE_BYTES, _REDIRECT, _GET_HASH_RECALC = 5, 9, 23, 34
_CONTINUE = -1
_SOURCE_MAC, _INDEX_SIZE = 6, 4
R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

_TUN = "/dev/net/tun"
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
# The direction of data is in other bits on some machines.
_TUNSETIFF = 0x800454CA if os.uname().machine.startswith(("mips", "ppc", "sparc")) else 0x400454CA
_SIOCSIFMTU = 0x8922
_INTERFACE_FLAGS = struct.Struct("@16sH22x")  # struct ifreq
_INTERFACE_NUMBER = struct.Struct("@16si20x")
_MTU = 65_521
"""The largest of a TAP device, and no smaller than anybody's."""
_FRAME_LIMIT = 65_536

_ETHER_MAC = 6


class _Shared(ctypes.Structure):
    """What this process and the programs share: nothing is held later than `deadline_ns`; when flows have begun."""

    deadline_ns: int
    _fields_ = (("deadline_ns", ctypes.c_uint64), ("begun_ns", ctypes.c_uint64 * _FLOWS))


_DEADLINE_NS, _BEGUN_NS = _Shared.__dict__["deadline_ns"].offset, _Shared.__dict__["begun_ns"].offset


class Frame(NamedTuple):
    """A frame, and the index of the interface by which it leaves."""

    interface: int
    data: bytes


@dataclass(slots=True)
class _Port:
    """An interface that frames are taken out of."""

    link: Link
    socket: socket.socket
    detach: Callable[[], None]

    def close(self) -> None:
        with suppress(OSError, SystemCallError):  # it may be gone
            self.detach()
        self.socket.close()


class DeferredPackets:
    """Of the interfaces with these names. Nothing is held before `hold_until` was called. It never blocks.

    Close it, or let the process end. On kernels before 6.6, which have no tcx, the programs of a process that is
    killed go on until that time, and then do nothing.
    """

    def __init__(self, names: Sequence[str], *, tcx: bool = True) -> None:
        """Raise SystemCallError."""
        self._names, self._tcx = names, tcx
        self._ports: dict[int, _Port] = {}
        self._buffer = bytearray(_FRAME_LIMIT)
        self._view = memoryview(self._buffer)
        with ExitStack() as undo:
            # When a process is killed, what it opened last is closed first: programs go before the device.
            self._device = _open_device()
            undo.callback(os.close, self._device)
            device = _set_up_device()
            size = ctypes.sizeof(_Shared)
            value = ebpf.create_array("carpd_defer", size)
            undo.callback(os.close, value)
            self._shared = _Shared.from_buffer(ebpf.map_array(value, size))
            self._program = ebpf.load("carpd_defer", program(value, device))
            undo.callback(os.close, self._program)
            install_table(names)
            self._undo = undo.pop_all()

    def fileno(self) -> int:
        return self._device

    def close(self) -> None:
        """Let everything pass. What was not received is lost. Raise SystemCallError."""
        self.let_pass()
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        self._undo.close()
        remove_table()

    def let_pass(self) -> None:
        """Take no more frames: what was taken so far can be received, and sent."""
        self._shared.deadline_ns = 0

    def hold_until(self, time_ns: int) -> None:
        """Take frames until this time of the monotonic clock."""
        self._shared.deadline_ns = time_ns

    def refresh(self) -> list[str]:
        """Look at the interfaces again: why frames can't be taken out of some, if that is so. Raise SystemCallError."""
        found = {link.index: link for link in links.links() if link.name in self._names}
        for index in self._ports.keys() - found.keys():
            self._ports.pop(index).close()
        problems = [f"there is no interface {name}" for name in _missing(self._names, found)]
        for index, link in found.items():
            if index in self._ports:
                self._ports[index].link = link  # its MAC may have changed
                continue
            try:
                self._ports[index] = self._attach(link)
            except SystemCallError as error:
                problems.append(str(error))
        return problems

    def _attach(self, link: Link) -> _Port:
        if len(link.mac) != _ETHER_MAC:
            raise SystemCallError(f"defer packets on {link.name}", errno.EINVAL, "it is no Ethernet interface")
        sender = _open_sender(link)
        try:
            detach = ebpf.attach(
                self._program, link.index, tc.EGRESS, name="defer", handle=_FILTER_HANDLE, use_tcx=self._tcx
            )
        except SystemCallError:
            sender.close()
            raise
        return _Port(link, sender, detach)

    def receive(self) -> list[Frame]:
        """Frames that were taken: at most FRAMES_AT_ONCE, none if nothing waits."""
        frames: list[Frame] = []
        while len(frames) < FRAMES_AT_ONCE:
            try:
                size = os.readv(self._device, [self._buffer])
            except BlockingIOError:
                break
            data = bytes(self._view[:size])
            port = self._ports.get(int.from_bytes(data[_SOURCE_MAC : _SOURCE_MAC + _INDEX_SIZE], sys.byteorder))
            if port:  # else it is of an interface that has gone, or somebody sent something on our device
                restored = data[:_SOURCE_MAC] + port.link.mac + data[2 * _ETHER_MAC :]
                frames.append(Frame(port.link.index, restored))
        return frames

    def send(self, frames: Iterable[tuple[int, bytes]]) -> None:
        """Let frames leave by their interfaces. What an interface does not take is lost, as on it."""
        for index, data in frames:
            if port := self._ports.get(index):
                try:
                    port.socket.send(data)
                except OSError as error:
                    if error.errno == errno.ENETDOWN:  # told once, when it was down for a while
                        with suppress(OSError):
                            port.socket.send(data)


def program(value: int, device: int) -> bytes:
    """What judges the frames that leave: `value` is the descriptor of what is shared, `device` the TAP's index.

    R6 is the frame, R7 its mark, R8 what is shared, R9 the time.
    """
    to = Assembler()
    to.move(R6, R1)
    to.load(Width.WORD, R7, R6, _MARK)
    to.alu(Operation.AND, R7, FIRST_MARK | LATER_MARK)
    to.jump_if(R7, Comparison.EQUAL, 0, "continue")
    to.map_value(R8, value)
    to.call(_KTIME_GET_NS)
    to.move(R9, R0)
    to.load(Width.DOUBLE, R1, R8, _DEADLINE_NS)
    to.jump_if(R9, Comparison.AT_LEAST, R1, "continue")

    to.move(R1, R6)
    to.call(_GET_HASH_RECALC)
    to.alu(Operation.AND, R0, _FLOWS - 1)
    to.alu(Operation.LEFT, R0, 3)
    to.alu(Operation.ADD, R8, R0)
    to.alu(Operation.AND, R7, FIRST_MARK)
    to.jump_if(R7, Comparison.DIFFERENT, 0, "first")
    to.load(Width.DOUBLE, R1, R8, _BEGUN_NS)
    to.alu(Operation.ADD, R1, FOLLOWS_NS)
    to.jump_if(R9, Comparison.AT_LEAST, R1, "continue")
    to.jump("take")
    to.label("first")
    to.store(Width.DOUBLE, R8, _BEGUN_NS, R9)

    to.label("take")
    # Its source is the interface's own MAC, which we can write again: there the reader learns where it was leaving.
    to.load(Width.WORD, R1, R6, _INDEX)
    to.store(Width.WORD, R10, -_INDEX_SIZE, R1)
    to.move(R1, R6)
    to.move(R2, _SOURCE_MAC)
    to.move(R3, R10)
    to.alu(Operation.ADD, R3, -_INDEX_SIZE)
    to.move(R4, _INDEX_SIZE)
    to.move(R5, 0)
    to.call(_SKB_STORE_BYTES)
    to.jump_if(R0, Comparison.DIFFERENT, 0, "continue")
    to.move(R1, device)
    to.move(R2, 0)
    to.call(_REDIRECT)
    to.exit()
    to.label("continue")
    to.move(R0, _CONTINUE)
    to.exit()
    return to.to_bytes()


def install_table(names: Sequence[str]) -> None:
    """Mark what is to be held. It takes some 20 ms. Raise SystemCallError."""
    tried = "mark the packets that are deferred"
    for name in names:
        if not name.isprintable() or set(name) & set('"\\*'):
            raise SystemCallError(tried, errno.EINVAL, f"nft cannot write the name of interface {name!r}")
    nft.run(tried, render(names))


def render(names: Sequence[str]) -> str:
    """The nftables transaction that marks what is to be held on the interfaces with these names."""
    quoted = ", ".join(f'"{name}"' for name in names)
    first, later = (f"meta mark set meta mark | {mark:#x}" for mark in (FIRST_MARK, LATER_MARK))
    return f"""\
add table inet {TABLE}
flush table inet {TABLE}
table inet {TABLE} {{
    chain forward {{
        type filter hook forward priority 200; policy accept;
        oifname != {{ {quoted} }} return
        ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} return
        ip6 daddr ff00::/8 return
        ct state new ct status & confirmed == 0 {first} return
        ct state new {later} return
        ct direction reply tcp flags & (fin | syn | rst | ack) == syn | ack {first}
        ct direction reply meta l4proto sctp @th,96,8 2 {first} comment "INIT ACK"
    }}
}}
"""


def is_table_installed() -> bool:
    """Raise SystemCallError."""
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        answers = kernel.ask("list the nftables tables", nftnetlink.dump_tables(nftnetlink.INET))
    return TABLE in map(nftnetlink.table_name, answers)


def remove_table() -> None:
    """Mark nothing any more, if anything is marked. Raise SystemCallError."""
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        error = kernel.commit(nftnetlink.delete_table(TABLE, nftnetlink.INET))
    if error not in (0, errno.ENOENT):
        raise SystemCallError(f"remove the nftables table {TABLE}", error, os.strerror(error))


def _missing(names: Iterable[str], found: Mapping[int, Link]) -> list[str]:
    there = {link.name for link in found.values()}
    return [name for name in names if name not in there]


def _open_device() -> int:
    """Make the TAP device: its descriptor. It has no offloads, so that frames come whole, with their checksums."""
    tried = f"create the TAP device {DEVICE}"
    with ExitStack() as undo:
        try:
            fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            fcntl.ioctl(fd, _TUNSETIFF, _INTERFACE_FLAGS.pack(DEVICE.encode(), _IFF_TAP | _IFF_NO_PI))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFMTU, _INTERFACE_NUMBER.pack(DEVICE.encode(), _MTU))
        except OSError as error:
            raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
        undo.pop_all()
    return fd


def _set_up_device() -> int:
    """Set it up, without any traffic of its own; its index."""
    if sysctls.read("ipv6", "conf", DEVICE, "disable_ipv6") == "0":
        sysctls.write("1", "ipv6", "conf", DEVICE, "disable_ipv6")
    link = links.find_link(DEVICE)
    if link is None:
        raise SystemCallError(f"set {DEVICE} up", errno.ENODEV, "somebody deleted it at once")
    links.set_up(link.index)
    return link.index


def _open_sender(link: Link) -> socket.socket:
    try:
        # Protocol 0 receives nothing.
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        sender.bind((link.name, 0))
    except OSError as error:
        tried = f"open a packet socket on {link.name}"
        raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
    return sender
