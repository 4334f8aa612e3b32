"""Takes the first packets of connections out of interfaces just before they leave, and puts them back later.

An nftables rule marks packets that are forwarded: those that begin a connection, and those that accept one of TCP or
SCTP. At the egress of an interface the connection is in the kernel's table, and translated; there an eBPF program sends
what is marked to a TAP device of ours instead, and takes our mark off everything. It fails open: the device and (with
tcx) the programs go with this process; the programs take nothing later than the time that they were told, and nothing
while too many frames wait to be received. So whoever is killed, hangs or has too much to do does not stop the traffic.

Ref: Linux include/uapi/linux/bpf.h; nft(8).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NamedTuple

from carpd.errors import SystemCallError
from carpd.linux import ebpf, links, nft, tap
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
"""Bits of the packet mark: this packet must be held; this one only if it follows such a one closely. They are there
from the end of postrouting up to our program: only nftables' egress hooks and others' tc programs see them."""
FOLLOWS_NS = 20 * MILLISECOND
"""A resolver asks twice from one port, for IPv4 and IPv6: what follows the first packet so closely must not overtake
it, and its answer would be as early. Whatever comes later passes: flows that nobody answers stay new to the kernel."""
FRAMES_AT_ONCE = 128
WAITING_MAX = 256
"""So many frames may wait to be received, and one more for each CPU: the device drops what is beyond 1000 unseen."""

_FLOWS = 4096
"""Flows are told apart by so many values of their hash. Two that meet cost each other nothing but a detour."""
_FILTER_HANDLE = 0xDEFE
"""Of clsact filters; those of virtual hosts have their vhid."""

_MARK, _INDEX = 8, 40  # offsets in struct __sk_buff
_MARKS = FIRST_MARK | LATER_MARK
_KTIME_GET_NS, _SKB_STORE_BYTES, _REDIRECT, _GET_HASH_RECALC = 5, 9, 23, 34
_CONTINUE = -1
_SOURCE_MAC = 6
_LABEL = struct.Struct("=HI")
"""What is in a frame instead of its source MAC: the low bits of the interface's index, and the packet mark."""
_INDEX_BITS = 0xFFFF
"""Enough to tell a few interfaces apart; of two that have the same bits one is reported as missing."""
_BEHIND_EVERYBODY = 2**31 - 2
"""The last priority in postrouting before connections are confirmed. Ref: Linux, NF_IP_PRI_CONNTRACK_CONFIRM."""
R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

_FRAME_LIMIT = 65_536

_ETHER_MAC = 6
_SO_SNDBUFFORCE, _SO_MARK = 32, 36
_SEND_BUFFER = 4 << 20
"""Bytes, as the kernel counts them: with its own limit 92 long frames that are let go at once would be too many."""


class _Shared(ctypes.Structure):
    """What this process and the programs share. The programs count, and note when flows have begun."""

    deadline_ns: int
    """Nothing is taken later."""
    taken: int
    """Frames, so far."""
    taken_max: int
    """Nothing is taken when they are so many."""
    passed: int
    """Frames that would have been taken if not so many waited."""
    device: int
    """The index of our TAP device."""
    _fields_ = (
        ("deadline_ns", ctypes.c_uint64),
        ("taken", ctypes.c_uint64),
        ("taken_max", ctypes.c_uint64),
        ("passed", ctypes.c_uint64),
        ("device", ctypes.c_uint32),
        ("begun_ns", ctypes.c_uint64 * _FLOWS),
    )


_DEADLINE_NS, _TAKEN, _TAKEN_MAX, _PASSED, _DEVICE, _BEGUN_NS = (
    getattr(_Shared, field).offset for field, _ in _Shared._fields_
)


class Frame(NamedTuple):
    """A frame, the index of the interface by which it leaves, and its packet mark."""

    interface: int
    mark: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DeferCounters:
    """In packets."""

    defer_passed: int = 0
    """Not taken, because too many waited to be received."""
    defer_errors: int = 0
    """Lost, because their interface did not take them back."""


@dataclass(slots=True)
class _Port:
    """An interface that frames are taken out of."""

    link: Link
    socket: socket.socket
    detach: Callable[[], None]

    def send(self, mark: int, data: bytes) -> bool:
        """Whether the interface has taken it."""
        marked = [(socket.SOL_SOCKET, _SO_MARK, struct.pack("=I", mark))] if mark else []
        for _ in range(2):  # that it was down for a while is told once
            try:
                self.socket.sendmsg([data], marked)
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    break
            else:
                return True
        return False

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
        """By what a frame's label has of the interface's index."""
        self._buffer = bytearray(_FRAME_LIMIT)
        self._view = memoryview(self._buffer)
        self._device_index = self._received = 0
        self._ready = False
        """Whether the device takes frames."""
        self._errors = 0
        with ExitStack() as undo:
            self._readable = select.epoll()  # stays, when the device must be replaced
            undo.callback(self._readable.close)
            # When a process is killed, what has the highest descriptor is closed first: programs go before the device.
            self._device = tap.open_tun()
            undo.callback(os.close, self._device)
            size = ctypes.sizeof(_Shared)
            value = ebpf.create_array("carpd_defer", size)
            undo.callback(os.close, value)
            self._shared = _Shared.from_buffer(ebpf.map_array(value, size))
            self._make_device()
            self._program = ebpf.load("carpd_defer", program(value))
            undo.callback(os.close, self._program)
            install_table(names)
            self._undo = undo.pop_all()

    def fileno(self) -> int:
        return self._readable.fileno()

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
        """Take frames until this time of the monotonic clock, if the device is ready."""
        self._shared.deadline_ns = time_ns if self._ready else 0

    @property
    def counters(self) -> DeferCounters:
        return DeferCounters(self._shared.passed, self._errors)

    def mend_device(self) -> str:
        """See to it that the device is there, and up: what was wrong with it, or nothing.

        Call it when an interface has changed. Raise SystemCallError: then nothing is held until it is called again.
        """
        self._ready = False
        device = links.find_link(DEVICE)
        if device is None or device.index != self._device_index:
            # The other one goes, if it is still somewhere. The descriptor stays the same: see __init__.
            fd = tap.open_tun()
            os.dup2(fd, self._device, inheritable=False)
            os.close(fd)
            self._make_device()
            return f"somebody deleted {DEVICE}: made it again"
        if not device.enabled:
            tap.set_up(self._device, DEVICE, device.index)
            self._ready = True
            return f"somebody set {DEVICE} down: set it up again"
        if not device.up:  # a moment from now it is, and that is a change of an interface
            tap.set_up(self._device, DEVICE, device.index)
        self._ready = device.up
        return ""

    def _make_device(self) -> None:
        self._device_index = self._shared.device = tap.make_device(self._device, DEVICE)
        self._readable.register(self._device, select.EPOLLIN)
        self._note_received(self._shared.taken)
        self._ready = True

    def _note_received(self, received: int) -> None:
        """Let so many frames more wait as there may be."""
        self._received = received
        self._shared.taken_max = received + WAITING_MAX

    def refresh(self) -> list[str]:
        """Look at the interfaces again: why frames can't be taken out of some, if that is so. Raise SystemCallError."""
        found = {link.index & _INDEX_BITS: link for link in links.links() if link.name in self._names}
        for key, port in list(self._ports.items()):
            if key not in found or found[key].index != port.link.index:
                self._ports.pop(key).close()
        problems = [f"there is no interface {name}" for name in _missing(self._names, found)]
        for key, link in found.items():
            if key in self._ports:
                self._ports[key].link = link  # its MAC may have changed
                continue
            try:
                self._ports[key] = self._attach(link)
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
        """Frames that were taken: at most FRAMES_AT_ONCE, none if nothing waits.

        Raise SystemCallError if the device is not there any more: then all pass until `mend_device`.
        """
        frames: list[Frame] = []
        # Those that are taken from here on may or may not be there below: at most one on each CPU is counted wrongly.
        taken = self._shared.taken
        for count in range(FRAMES_AT_ONCE):
            try:
                size = os.readv(self._device, [self._buffer])
            except BlockingIOError:
                self._note_received(taken)
                return frames
            except OSError as error:
                if count:
                    break
                self._device_index = 0
                self._ready = False
                self.let_pass()
                with suppress(OSError):  # when it was found before
                    self._readable.unregister(self._device)
                raise SystemCallError(f"receive frames from {DEVICE}", error.errno or 0, str(error.strerror)) from error
            data = bytes(self._view[:size])
            key, mark = _LABEL.unpack_from(data, _SOURCE_MAC)
            if port := self._ports.get(key):
                restored = data[:_SOURCE_MAC] + port.link.mac + data[2 * _ETHER_MAC :]
                frames.append(Frame(port.link.index, mark, restored))
            # else it is of an interface that has gone, or somebody sent something on our device
        self._note_received(min(self._received + FRAMES_AT_ONCE, taken))
        return frames

    def send(self, frames: Iterable[tuple[int, int, bytes]]) -> None:
        """Let frames leave by their interfaces. What an interface does not take is lost, as on it, and counted."""
        for index, mark, data in frames:
            port = self._ports.get(index & _INDEX_BITS)
            if port is None or port.link.index != index or not port.send(mark, data):
                self._errors += 1


def program(value: int) -> bytes:
    """What judges the frames that leave: `value` is the descriptor of what is shared.

    R6 is the frame, R7 our bits of its mark, R8 what is shared, R9 the time.
    """
    to = Assembler()
    to.move(R6, R1)
    to.load(Width.WORD, R1, R6, _MARK)
    to.move(R7, R1)
    to.alu(Operation.AND, R7, _MARKS)
    to.jump_if(R7, Comparison.EQUAL, 0, "continue")
    # Those who come behind us compare the whole mark, as a rule. A held frame gets it back.
    to.alu(Operation.AND, R1, ~_MARKS)
    to.store(Width.WORD, R6, _MARK, R1)
    to.store(Width.WORD, R10, -4, R1)
    to.map_value(R8, value)
    to.call(_KTIME_GET_NS)
    to.move(R9, R0)
    to.load(Width.DOUBLE, R1, R8, _DEADLINE_NS)
    to.jump_if(R9, Comparison.AT_LEAST, R1, "continue")

    to.move(R1, R6)
    to.call(_GET_HASH_RECALC)
    to.alu(Operation.AND, R0, _FLOWS - 1)
    to.alu(Operation.LEFT, R0, 3)
    to.alu(Operation.ADD, R0, R8)
    to.alu(Operation.AND, R7, FIRST_MARK)
    to.jump_if(R7, Comparison.DIFFERENT, 0, "first")
    to.load(Width.DOUBLE, R1, R0, _BEGUN_NS)
    to.alu(Operation.ADD, R1, FOLLOWS_NS)
    to.jump_if(R9, Comparison.AT_LEAST, R1, "continue")
    to.jump("take")
    to.label("first")
    to.store(Width.DOUBLE, R0, _BEGUN_NS, R9)

    to.label("take")
    to.load(Width.DOUBLE, R1, R8, _TAKEN)
    to.load(Width.DOUBLE, R2, R8, _TAKEN_MAX)
    to.jump_if(R1, Comparison.AT_LEAST, R2, "pass")
    # Its source is the interface's own MAC, which we can write again: there the reader finds its label.
    to.load(Width.WORD, R1, R6, _INDEX)
    to.store(Width.HALF, R10, -_LABEL.size, R1)
    to.move(R1, R6)
    to.move(R2, _SOURCE_MAC)
    to.move(R3, R10)
    to.alu(Operation.ADD, R3, -_LABEL.size)
    to.move(R4, _LABEL.size)
    to.move(R5, 0)
    to.call(_SKB_STORE_BYTES)
    to.jump_if(R0, Comparison.DIFFERENT, 0, "continue")
    to.move(R1, 1)
    to.atomic_add(R8, _TAKEN, R1)
    to.load(Width.WORD, R1, R8, _DEVICE)
    to.move(R2, 0)
    to.call(_REDIRECT)
    to.exit()

    to.label("pass")
    to.move(R1, 1)
    to.atomic_add(R8, _PASSED, R1)
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
    chain postrouting {{
        type filter hook postrouting priority {_BEHIND_EVERYBODY}; policy accept;
        oifname != {{ {quoted} }} return
        iif 0 return comment "sent by this host itself"
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
    if error not in (0, errno.ENOENT, errno.EOPNOTSUPP):  # the last one: of a kernel without nftables
        raise SystemCallError(f"remove the nftables table {TABLE}", error, os.strerror(error))


def _missing(names: Iterable[str], found: Mapping[int, Link]) -> list[str]:
    there = {link.name for link in found.values()}
    return [name for name in names if name not in there]


def _open_sender(link: Link) -> socket.socket:
    try:
        # Protocol 0 receives nothing.
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        sender.bind((link.name, 0))
        sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
    except OSError as error:
        tried = f"open a packet socket on {link.name}"
        raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
    return sender
