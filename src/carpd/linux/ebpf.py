"""eBPF programs that judge the frames of an interface: assembled here, loaded by bpf(2), attached by tcx or clsact.

Ref: Linux Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h; bpf-helpers(7), tc-bpf(8).
"""

from __future__ import annotations

import ctypes
import enum
import errno
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from carpd.errors import SystemCallError
from carpd.linux import libc
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import netlink, tc

# Instructions


class Register(enum.IntEnum):
    """R0 is what a call or a program returns, R1 to R5 are arguments, which a call destroys, R10 is the stack's end."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


class Width(enum.IntEnum):
    """How much is loaded or stored: 1, 2, 4 or 8 bytes."""

    BYTE, HALF, WORD, DOUBLE = 0x10, 0x08, 0x00, 0x18


class Operation(enum.IntEnum):
    """Arithmetic, all of it unsigned."""

    ADD, OR, AND, LEFT, RIGHT, MODULO, XOR, MOVE = 0x00, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xB0


class Comparison(enum.IntEnum):
    """Conditions of jumps, all of them unsigned."""

    EQUAL, AT_LEAST, DIFFERENT, BELOW = 0x10, 0x30, 0x50, 0xA0


_LOAD_IMMEDIATE, _LOAD, _STORE, _ATOMIC = 0x18, 0x61, 0x63, 0xC3
_ALU32, _ALU64, _JUMP32, _JUMP64 = 0x04, 0x07, 0x06, 0x05
_BY_REGISTER = 0x08
_ALWAYS, _TO_BIG_ENDIAN, _CALL, _EXIT = 0x05, 0xDC, 0x85, 0x95
_PSEUDO_MAP, _PSEUDO_MAP_VALUE = 1, 2
_INSTRUCTION = struct.Struct("=BBhI")  # opcode, registers, offset, immediate


class _Instruction(NamedTuple):
    opcode: int
    target: int = 0
    source: int = 0
    offset: int = 0
    label: str = ""
    immediate: int = 0


class Assembler:
    """Takes instructions in order; a jump names a label, which may stand anywhere."""

    def __init__(self) -> None:
        self._code: list[_Instruction] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Name the next instruction."""
        assert name not in self._labels, name
        self._labels[name] = len(self._code)

    def alu(self, operation: Operation, target: Register, operand: Register | int, *, wide: bool = True) -> None:
        """target = target operation operand, in 64 bits, or in 32 with the upper ones cleared."""
        self._operate((_ALU64 if wide else _ALU32) | operation, target, operand)

    def move(self, target: Register, operand: Register | int) -> None:
        self.alu(Operation.MOVE, target, operand)

    def load(self, width: Width, target: Register, base: Register, offset: int) -> None:
        """Load from memory, and clear the rest of the register."""
        self._code.append(_Instruction(_LOAD | width, target, base, offset))

    def store(self, width: Width, base: Register, offset: int, source: Register) -> None:
        self._code.append(_Instruction(_STORE | width, base, source, offset))

    def atomic_add(self, base: Register, offset: int, source: Register) -> None:
        """Add to 8 bytes of memory."""
        self._code.append(_Instruction(_ATOMIC | Width.DOUBLE, base, source, offset))

    def big_endian(self, target: Register, bits: int) -> None:
        """Turn the low bits from big-endian into the machine's order, and clear the rest."""
        self._code.append(_Instruction(_TO_BIG_ENDIAN, target, immediate=bits))

    def map(self, target: Register, map_fd: int) -> None:
        """Load what functions of the kernel know a map by."""
        self._load_map(target, _PSEUDO_MAP, map_fd)

    def map_value(self, target: Register, map_fd: int) -> None:
        """Load the address of the value of an array map with one element."""
        self._load_map(target, _PSEUDO_MAP_VALUE, map_fd)

    def _load_map(self, target: Register, what: int, map_fd: int) -> None:
        self._code.append(_Instruction(_LOAD_IMMEDIATE, target, what, immediate=map_fd))
        self._code.append(_Instruction(0))

    def jump(self, label: str) -> None:
        self._code.append(_Instruction(_ALWAYS, label=label))

    def jump_if(
        self, left: Register, comparison: Comparison, right: Register | int, label: str, *, wide: bool = True
    ) -> None:
        """Jump if the comparison holds, of 64 bits or of the low 32. A number is extended by its bit 31 to 64."""
        self._operate((_JUMP64 if wide else _JUMP32) | comparison, left, right, label)

    def call(self, helper: int) -> None:
        """Call a function of the kernel."""
        self._code.append(_Instruction(_CALL, immediate=helper))

    def exit(self) -> None:
        self._code.append(_Instruction(_EXIT))

    def _operate(self, opcode: int, target: Register, operand: Register | int, label: str = "") -> None:
        if isinstance(operand, Register):
            self._code.append(_Instruction(opcode | _BY_REGISTER, target, operand, label=label))
        else:
            self._code.append(_Instruction(opcode, target, immediate=operand, label=label))

    def to_bytes(self) -> bytes:
        """The program. Raise KeyError for a jump to a label that is missing."""
        return b"".join(self._encode(position, each) for position, each in enumerate(self._code))

    def _encode(self, position: int, each: _Instruction) -> bytes:
        # Two bit fields share a byte, and the machine's byte order says which one has the low bits.
        first, second = (each.target, each.source) if sys.byteorder == "little" else (each.source, each.target)
        # A jump counts from the instruction behind it.
        offset = self._labels[each.label] - position - 1 if each.label else each.offset
        return _INSTRUCTION.pack(each.opcode, first | second << 4, offset, each.immediate & 0xFFFFFFFF)


# bpf(2)

_MAP_CREATE, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _PROG_LOAD, _PROG_TEST_RUN = 0, 2, 3, 5, 10
_OBJ_GET_INFO_BY_FD, _PROG_QUERY, _LINK_CREATE = 15, 16, 28
_MAP_TYPE_HASH, _MAP_TYPE_ARRAY, _NO_PREALLOC, _MMAPABLE = 1, 2, 1 << 0, 1 << 10
_PROG_TYPE_SCHED_CLS = 3
_TCX_INGRESS, _TCX_EGRESS = 46, 47
_BEFORE, _AFTER = 1 << 3, 1 << 4

_MAP = struct.Struct("=IIIIIII16s")  # type, sizes of key and value, entries, flags, inner map, NUMA node, name
_ELEMENT = struct.Struct("=I4xQQQ")  # map, where key and value are, flags
_PROGRAM = struct.Struct("=IIQQIIQII16s")  # type, instructions and where, license, log's level, size and place, ...
_LINK = struct.Struct("=IIIIIIQ")  # program, interface, place, flags, neighbour, padding, expected revision
_INFO = struct.Struct("=IIQ")  # descriptor, size of what is told, and where
_PROGRAM_INFO = struct.Struct("=II")  # type, id, ...
_QUERY = struct.Struct("=IIIIQI4xQQQQ")  # interface, place, flags, their flags, where ids are, how many, links', ...
_QUERY_COUNT = 5
_TEST = struct.Struct("=IIIIQQIIIIQQIIII")  # program, result, sizes in and out, frames in and out, repeat, ns, ...
_TEST_RESULT, _TEST_DURATION = 1, 7

_LICENSE = ctypes.create_string_buffer(b"BSD")  # none of the helpers that we call is for the GPL alone
_LOG_SIZE = 256 * 1024

_syscall = libc.function("syscall", ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)

# The C library has no function for it. Machines whose calls are numbered alike since 2012 have 280.
_NUMBERS_64 = {"x86_64": 321, "ppc64": 361, "ppc64le": 361, "s390x": 351, "mips64": 5315, "sparc64": 349}
_NUMBERS_64 |= dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 280)
_NUMBERS_32 = dict.fromkeys(("i386", "i586", "i686", "x86_64"), 357)
_NUMBERS_32 |= dict.fromkeys(("armv6l", "armv7l", "armv8l", "aarch64"), 386)
_NUMBER = (_NUMBERS_64 if sys.maxsize > 1 << 32 else _NUMBERS_32).get(os.uname().machine)


def create_array(name: str, size: int) -> int:
    """A descriptor of an array map with one value: `size` bytes of zero, which `map_array` shows.

    Raise SystemCallError. `name` is for those who list maps: up to 15 characters of [A-Za-z0-9_.].
    """
    request = _MAP.pack(_MAP_TYPE_ARRAY, 4, size, 1, _MMAPABLE, 0, 0, name.encode())
    return _bpf(_MAP_CREATE, request, "create an eBPF map")[0]


def map_array(map_fd: int, size: int) -> mmap.mmap:
    """The memory of a map's value, shared with the programs. Raise SystemCallError."""
    try:
        return mmap.mmap(map_fd, size)
    except OSError as error:
        raise SystemCallError("map an eBPF map into memory", error.errno or 0, str(error.strerror)) from error


class KeySet:
    """A set of keys: programs look into it (`Assembler.map`, the kernel's map_lookup_elem), this process changes it.

    `fd` is the map's descriptor.
    """

    def __init__(self, name: str, key_size: int, limit: int) -> None:
        """Of no keys; `name` as of `create_array`. Raise SystemCallError."""
        value_size = 1  # there must be some value
        request = _MAP.pack(_MAP_TYPE_HASH, key_size, value_size, limit, _NO_PREALLOC, 0, 0, name.encode())
        self.fd = _bpf(_MAP_CREATE, request, "create an eBPF map")[0]
        self._keys: frozenset[bytes] = frozenset()

    def close(self) -> None:
        os.close(self.fd)

    def replace(self, keys: Collection[bytes]) -> None:
        """Have these keys, and no others; those that stay are there all the time. Raise SystemCallError."""
        wanted = frozenset(keys)
        # There may be no room for the new ones before the others have gone.
        for command, changed in ((_MAP_DELETE_ELEM, self._keys - wanted), (_MAP_UPDATE_ELEM, wanted - self._keys)):
            for each in changed:
                key, value = ctypes.create_string_buffer(each, len(each)), ctypes.create_string_buffer(1)
                place = ctypes.addressof(value) if command == _MAP_UPDATE_ELEM else 0
                _bpf(command, _ELEMENT.pack(self.fd, ctypes.addressof(key), place, 0), "change an eBPF map")
                self._keys ^= {each}


def load(name: str, code: bytes) -> int:
    """A descriptor of a program for frames (SCHED_CLS). Raise SystemCallError, with what the verifier says of it.

    `name` is for those who list programs: up to 15 characters of [A-Za-z0-9_.].
    """
    tried = f"load the eBPF program {name}"
    buffer = ctypes.create_string_buffer(code, len(code))

    def request(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        where = ctypes.addressof(log) if log else 0
        count = len(code) // _INSTRUCTION.size
        place, license_ = ctypes.addressof(buffer), ctypes.addressof(_LICENSE)
        log_level, log_size = (1, _LOG_SIZE) if log else (0, 0)
        return _PROGRAM.pack(
            _PROG_TYPE_SCHED_CLS, count, place, license_, log_level, log_size, where, 0, 0, name.encode()
        )

    try:
        return _bpf(_PROG_LOAD, request(None), tried)[0]
    except SystemCallError as refused:
        # Only now a log is asked for: it takes longer than all the rest.
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _bpf(_PROG_LOAD, request(log), tried)[0]
        except SystemCallError:
            raise SystemCallError(tried, refused.errno, _reason(log.value) or os.strerror(refused.errno)) from None


def _reason(log: bytes) -> str:
    """The last line of a verifier's log that is no statistics."""
    lines = (line.strip() for line in log.decode(errors="replace").splitlines())
    return next((line for line in reversed(list(lines)) if line and not line.startswith("processed ")), "")


def program_id(program: int) -> int:
    """The number by which the kernel lists a program. Raise SystemCallError."""
    info = ctypes.create_string_buffer(_PROGRAM_INFO.size)
    request = _INFO.pack(program, len(info), ctypes.addressof(info))
    _bpf(_OBJ_GET_INFO_BY_FD, request, "ask for the id of an eBPF program")
    _, number = _PROGRAM_INFO.unpack(info.raw)
    return int(number)


class TestRun(NamedTuple):
    """What a program returned, as a signed number, and how many nanoseconds it took on the average."""

    result: int
    ns: int


def test_run(program: int, frame: bytes, repeat: int) -> TestRun:
    """Let a program judge a frame that is on no interface. Raise SystemCallError.

    The kernel refuses frames shorter than an Ethernet header.
    """
    buffer = ctypes.create_string_buffer(frame, len(frame))
    place = ctypes.addressof(buffer)
    request = _TEST.pack(program, 0, len(frame), 0, place, 0, repeat, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    answer = _TEST.unpack(_bpf(_PROG_TEST_RUN, request, "run an eBPF program")[1])
    return TestRun(ctypes.c_int32(answer[_TEST_RESULT]).value, answer[_TEST_DURATION])


def _bpf(command: int, request: bytes, tried: str) -> tuple[int, bytes]:
    """What bpf(2) returns, and what it has made of the request."""
    if _NUMBER is None:
        raise SystemCallError(tried, errno.ENOSYS, f"the number of bpf(2) on {os.uname().machine} is not known")
    buffer = ctypes.create_string_buffer(request, len(request))
    try:
        return _syscall(_NUMBER, command, buffer, len(request)), buffer.raw
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EPERM:
            reason += " (needs CAP_BPF and CAP_NET_ADMIN)"
        raise SystemCallError(tried, error.errno or 0, reason) from error


# Attaching

_NAME_PREFIX = "carpd-"
_TCX_LIMIT = 64  # BPF_MPROG_MAX, for each place of an interface


def attach(
    program: int, index: int, place: int, *, name: str, handle: int, use_tcx: bool, first: bool = False
) -> Callable[[], None]:
    """Let a program judge the frames of an interface at `place`, tc.INGRESS or tc.EGRESS; return how to undo it.

    With tcx it judges before all others that are there, or after them, and goes with this process: a program that
    accepts a frame keeps it from the next ones. A kernel without (before 6.6) has clsact: there it stays, found by
    `remove_left_behind`, until one with the same handle replaces it. Raise SystemCallError.
    """
    if use_tcx:
        try:
            link = _attach_by_tcx(program, index, place, _BEFORE if first else _AFTER)
        except SystemCallError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return lambda: os.close(link)
    return _attach_by_clsact(program, index, place, name, handle)


def _attach_by_tcx(program: int, index: int, place: int, flags: int) -> int:
    request = _LINK.pack(program, index, _tcx_place(place), flags, 0, 0, 0)
    return _bpf(_LINK_CREATE, request, f"attach to {_interface(index)}")[0]


def _tcx_place(place: int) -> int:
    return _TCX_INGRESS if place == tc.INGRESS else _TCX_EGRESS


def _attach_by_clsact(program: int, index: int, place: int, name: str, handle: int) -> Callable[[], None]:
    tried = f"attach {_NAME_PREFIX}{name} to {_interface(index)}"
    with NetlinkSocket(netlink.ROUTE) as kernel:
        for refusal in kernel.perform([tc.add_clsact(index)]):
            if refusal.errno != errno.EEXIST:
                raise SystemCallError(tried, refusal.errno, refusal.reason or os.strerror(refusal.errno))
            # It may also be the older `ingress`, which takes filters for egress, too, and puts them at ingress.
            if not any(qdisc.index == index and qdisc.is_clsact for qdisc in _qdiscs(kernel)):
                raise SystemCallError(tried, refusal.errno, "clsact is needed, and there is the qdisc ingress")
        kernel.do(tried, tc.set_filter(index, place, handle, _NAME_PREFIX + name, program))

    def undo() -> None:
        # It is refused when somebody else has removed it, or the interface. The empty clsact stays: others may be
        # about to use it.
        with NetlinkSocket(netlink.ROUTE) as kernel:
            kernel.perform([tc.delete_filter(index, place, handle)])

    return undo


class Attached(NamedTuple):
    """The programs at one place of an interface, by their ids."""

    tcx: list[int]
    """In the order in which they judge."""
    clsact: list[int]
    """In theirs, after those."""


def attached(index: int, place: int) -> Attached | None:
    """Who judges the frames of an interface at `place`; None if there is no such interface. Raise SystemCallError.

    The kernel may let us wait for others that change interfaces.
    """
    try:
        tried = f"list the programs at the {_WORDS[place]} of {socket.if_indextoname(index)}"
    except OSError:
        return None
    ids = (ctypes.c_uint32 * _TCX_LIMIT)()
    query = _QUERY.pack(index, _tcx_place(place), 0, 0, ctypes.addressof(ids), _TCX_LIMIT, 0, 0, 0, 0)
    try:
        count = _QUERY.unpack(_bpf(_PROG_QUERY, query, tried)[1])[_QUERY_COUNT]
    except SystemCallError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):  # there are none; the kernel does not know tcx
            raise
        count = 0
    with NetlinkSocket(netlink.ROUTE) as kernel:
        if not any(qdisc.index == index and qdisc.is_clsact for qdisc in _qdiscs(kernel)):
            return Attached(ids[:count], [])
        filters = map(tc.FilterMessage.from_message, kernel.ask(tried, tc.dump_filters(index, place)))
        return Attached(ids[:count], [found.program for found in filters if found.program])


def remove_left_behind() -> list[str]:
    """Remove the clsact filters of a daemon that was killed, from all interfaces: a line for each.

    Raise SystemCallError.
    """
    removed = []
    with NetlinkSocket(netlink.ROUTE) as kernel:
        for index in [qdisc.index for qdisc in _qdiscs(kernel) if qdisc.is_clsact]:
            for place in (tc.INGRESS, tc.EGRESS):
                answers = kernel.ask(f"list the filters of {_interface(index)}", tc.dump_filters(index, place))
                for found in map(tc.FilterMessage.from_message, answers):
                    if found.name.startswith(_NAME_PREFIX):
                        filter_ = f"the filter {found.name} at the {_WORDS[place]} of {_interface(index)}"
                        kernel.do(f"remove {filter_}", tc.delete_filter(index, place, found.handle, found.info))
                        removed.append(filter_)
    return removed


def _qdiscs(kernel: NetlinkSocket) -> list[tc.QdiscMessage]:
    answers = kernel.ask("list the queueing disciplines", tc.dump_qdiscs())
    return [tc.QdiscMessage.from_message(answer) for answer in answers]


_WORDS = {tc.INGRESS: "ingress", tc.EGRESS: "egress"}


def _interface(index: int) -> str:
    """An interface for the eyes of an operator."""
    with suppress(OSError):
        return socket.if_indextoname(index)
    return f"interface {index}"
