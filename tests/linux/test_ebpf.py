"""eBPF: the bytes of instructions, what they do in the kernel, and how programs are attached."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from carpd.errors import SystemCallError
from carpd.linux import ebpf
from carpd.linux.ebpf import Assembler, Comparison, Operation, Register, Width
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import netlink, tc
from tests.linux.segment import (
    ANSWER_LIMIT_S,
    HOST4,
    HOST_MAC,
    NEIGHBOR,
    NEIGHBOR_MAC,
    SILENCE_S,
    Neighbor,
    echo_request,
    ip,
    is_from,
    link,
)

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

FRAME = bytes.fromhex("01005e000107 020000000003 88b5") + bytes(46)

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

# The names are the instructions as the kernel's verifier writes them.
INSTRUCTIONS: dict[str, tuple[Callable[[Assembler], None], str]] = {
    "r6 = r1": (lambda to: to.move(R6, R1), "bf16 0000 00000000"),
    "r0 = -1": (lambda to: to.move(R0, -1), "b700 0000 ffffffff"),
    "r4 += 14": (lambda to: to.alu(Operation.ADD, R4, 14), "0704 0000 0e000000"),
    "r1 ^= r2": (lambda to: to.alu(Operation.XOR, R1, R2), "af21 0000 00000000"),
    "r1 >>= r7": (lambda to: to.alu(Operation.RIGHT, R1, R7), "7f71 0000 00000000"),
    "r9 <<= 3": (lambda to: to.alu(Operation.LEFT, R9, 3), "6709 0000 03000000"),
    "r7 &= 31": (lambda to: to.alu(Operation.AND, R7, 31), "5707 0000 1f000000"),
    "r3 |= r4": (lambda to: to.alu(Operation.OR, R3, R4), "4f43 0000 00000000"),
    "w1 %= 3": (lambda to: to.alu(Operation.MODULO, R1, 3, wide=False), "9401 0000 03000000"),
    "r2 = *(u32 *)(r6 + 76)": (lambda to: to.load(Width.WORD, R2, R6, 76), "6162 4c00 00000000"),
    "r3 = *(u16 *)(r2 + 4)": (lambda to: to.load(Width.HALF, R3, R2, 4), "6923 0400 00000000"),
    "r1 = *(u8 *)(r10 - 49)": (lambda to: to.load(Width.BYTE, R1, R10, -49), "71a1 cfff 00000000"),
    "r1 = *(u64 *)(r9 + 264)": (lambda to: to.load(Width.DOUBLE, R1, R9, 264), "7991 0801 00000000"),
    "*(u64 *)(r9 + 264) = r0": (lambda to: to.store(Width.DOUBLE, R9, 264, R0), "7b09 0801 00000000"),
    "lock *(u64 *)(r9 + 8) += r1": (lambda to: to.atomic_add(R9, 8, R1), "db19 0800 00000000"),
    "r1 = be32 r1": (lambda to: to.big_endian(R1, 32), "dc01 0000 20000000"),
    "r1 = map ll": (lambda to: to.map(R1, 5), "1811 0000 05000000 0000 0000 00000000"),
    "r8 = value ll": (lambda to: to.map_value(R8, 5), "1828 0000 05000000 0000 0000 00000000"),
    "call 125": (lambda to: to.call(125), "8500 0000 7d000000"),
    "exit": (lambda to: to.exit(), "9500 0000 00000000"),
}


@little_endian
@pytest.mark.parametrize(("emit", "encoded"), INSTRUCTIONS.values(), ids=INSTRUCTIONS.keys())
def test_encoding(emit: Callable[[Assembler], None], encoded: str) -> None:
    to = Assembler()
    emit(to)
    assert to.to_bytes() == bytes.fromhex(encoded)


@little_endian
def test_jumps() -> None:
    """The load of an address counts as two instructions."""
    to = Assembler()
    to.label("start")
    to.jump("end")
    to.map_value(R1, 3)
    to.jump_if(R1, Comparison.EQUAL, -1, "start")
    to.jump_if(R1, Comparison.AT_LEAST, R2, "end")
    to.jump_if(R1, Comparison.DIFFERENT, 0xCA290, "end", wide=False)
    to.jump_if(R1, Comparison.BELOW, R2, "end")
    to.label("end")
    to.exit()
    assert to.to_bytes() == bytes.fromhex(
        "0500 0600 00000000 1821 0000 03000000 0000 0000 00000000 1501 fcff ffffffff"
        "3d21 0200 00000000 5601 0100 90a20c00 ad21 0000 00000000 9500 0000 00000000"
    )


def test_labels() -> None:
    to = Assembler()
    to.jump("nowhere")
    with pytest.raises(KeyError):
        to.to_bytes()
    to.label("twice")
    with pytest.raises(AssertionError):
        to.label("twice")


# What the instructions do

MASK64 = (1 << 64) - 1
A, B = 0x0123456789ABCDEF, 0xFEDCBA9800000007

SEMANTICS: dict[str, tuple[Callable[[Assembler], None], int]] = {
    "add": (lambda to: to.alu(Operation.ADD, R7, R8), A + B & MASK64),
    "or": (lambda to: to.alu(Operation.OR, R7, R8), A | B),
    "and": (lambda to: to.alu(Operation.AND, R7, R8), A & B),
    "and, 32 bits": (lambda to: to.alu(Operation.AND, R7, R8, wide=False), A & B & 0xFFFFFFFF),
    "left": (lambda to: to.alu(Operation.LEFT, R7, 12), A << 12 & MASK64),
    "right": (lambda to: to.alu(Operation.RIGHT, R7, 12), A >> 12),
    "modulo": (lambda to: to.alu(Operation.MODULO, R7, R8), A % B),
    "modulo, 32 bits": (lambda to: to.alu(Operation.MODULO, R7, 31, wide=False), (A & 0xFFFFFFFF) % 31),
    "xor": (lambda to: to.alu(Operation.XOR, R7, R8), A ^ B),
    "move": (lambda to: to.move(R7, R8), B),
    "move a negative number": (lambda to: to.move(R7, -2), MASK64 - 1),
    "from big-endian": (
        lambda to: to.big_endian(R7, 32),
        int.from_bytes((A & 0xFFFFFFFF).to_bytes(4, sys.byteorder), "big"),
    ),
}


class Shared(ctypes.Structure):
    values: ctypes.Array[ctypes.c_uint64]
    _fields_ = (("values", ctypes.c_uint64 * 4),)


@pytest.fixture
def shared() -> Iterator[tuple[int, Shared]]:
    size = ctypes.sizeof(Shared)
    fd = ebpf.create_array("test", size)
    yield fd, Shared.from_buffer(ebpf.map_array(fd, size))
    os.close(fd)


@pytest.mark.parametrize(("emit", "expected"), SEMANTICS.values(), ids=SEMANTICS.keys())
def test_semantics(shared: tuple[int, Shared], emit: Callable[[Assembler], None], expected: int) -> None:
    fd, memory = shared
    memory.values[0], memory.values[1] = A, B
    to = Assembler()
    to.map_value(R6, fd)
    to.load(Width.DOUBLE, R7, R6, 0)
    to.load(Width.DOUBLE, R8, R6, 8)
    emit(to)
    to.store(Width.DOUBLE, R6, 16, R7)
    to.move(R1, 5)
    to.atomic_add(R6, 24, R1)
    to.move(R0, 3)
    to.exit()
    program = ebpf.load("test", to.to_bytes())
    assert ebpf.test_run(program, FRAME, 2).result == 3
    os.close(program)
    assert memory.values[3] == 10
    assert memory.values[2] == expected


COMPARISONS = {
    (Comparison.EQUAL, 7, 7, True): True,
    (Comparison.EQUAL, 1 << 32, 0, True): False,
    (Comparison.EQUAL, 1 << 32, 0, False): True,
    (Comparison.DIFFERENT, 7, 7, True): False,
    (Comparison.DIFFERENT, 0x8000_0000, 0x8000_0000, False): False,
    (Comparison.AT_LEAST, 7, 7, True): True,
    (Comparison.AT_LEAST, MASK64, 1, True): True,
    (Comparison.AT_LEAST, 6, 7, True): False,
    (Comparison.BELOW, 6, 7, True): True,
    (Comparison.BELOW, MASK64, 7, True): False,
}


@pytest.mark.parametrize(("case", "holds"), COMPARISONS.items(), ids=str)
@pytest.mark.parametrize("by_register", [True, False])
def test_comparisons(
    shared: tuple[int, Shared], case: tuple[Comparison, int, int, bool], holds: bool, by_register: bool
) -> None:
    comparison, left, right, wide = case
    fd, memory = shared
    memory.values[0], memory.values[1] = left, right
    to = Assembler()
    to.map_value(R6, fd)
    to.load(Width.DOUBLE, R7, R6, 0)
    to.load(Width.DOUBLE, R8, R6, 8)
    to.move(R0, 1)
    to.jump_if(R7, comparison, R8 if by_register else right, "holds", wide=wide)
    to.move(R0, 0)
    to.label("holds")
    to.exit()
    program = ebpf.load("test", to.to_bytes())
    assert ebpf.test_run(program, FRAME, 1).result == holds
    os.close(program)


def test_test_run() -> None:
    program = ebpf.load("test", returning(-1))
    ran = ebpf.test_run(program, FRAME, 1000)
    assert ran.result == -1
    assert 0 <= ran.ns < 1_000_000
    with pytest.raises(SystemCallError, match="run an eBPF program: Invalid argument"):
        ebpf.test_run(program, FRAME[:13], 1)
    os.close(program)


def returning(verdict: int) -> bytes:
    to = Assembler()
    to.move(R0, verdict)
    to.exit()
    return to.to_bytes()


# What is refused


def test_the_verifier_says_why() -> None:
    to = Assembler()
    to.exit()
    with pytest.raises(SystemCallError, match=r"^load the eBPF program test: R0 !read_ok$"):
        ebpf.load("test", to.to_bytes())


def test_no_program() -> None:
    """What the kernel refuses before it verifies has its usual text."""
    with pytest.raises(SystemCallError, match=r"^load the eBPF program test: Argument list too long$"):
        ebpf.load("test", b"")


def test_bad_name() -> None:
    with pytest.raises(SystemCallError, match=r"^create an eBPF map: Invalid argument$"):
        ebpf.create_array("a-b", 8)


def test_no_map() -> None:
    reader, writer = os.pipe()
    with pytest.raises(SystemCallError, match="map an eBPF map into memory: "):
        ebpf.map_array(reader, 8)
    os.close(reader)
    os.close(writer)


def test_an_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "_NUMBER", None)
    with pytest.raises(SystemCallError, match=r"^create an eBPF map: the number of bpf\(2\) on .* is not known$"):
        ebpf.create_array("test", 8)


# Attaching


def attached(index: int, place: int) -> list[str]:
    with NetlinkSocket(netlink.ROUTE) as kernel:
        answers = kernel.ask("list the filters", tc.dump_filters(index, place))
    return [found.name for found in map(tc.FilterMessage.from_message, answers) if found.name]


def answers(neighbor: Neighbor, limit_s: float = ANSWER_LIMIT_S) -> bool:
    """Whether a ping comes in and its answer leaves, for which the host needs not ask for the neighbour's MAC."""
    ip(f"neighbor replace {NEIGHBOR[0].ip} lladdr {NEIGHBOR_MAC.hex(':')} dev eth1 nud permanent")
    neighbor.forget()
    neighbor.send(echo_request(HOST4, HOST_MAC))
    return neighbor.hear(is_from(HOST4), limit_s) is not None


PLACES = pytest.mark.parametrize("place", [tc.INGRESS, tc.EGRESS], ids=["ingress", "egress"])


@PLACES
@pytest.mark.parametrize("use_tcx", [True, False], ids=["tcx", "clsact"])
def test_attach(neighbor: Neighbor, place: int, use_tcx: bool) -> None:
    index = link("eth1").index
    program = ebpf.load("drop", returning(2))
    undo = ebpf.attach(program, index, place, name="test", handle=1, use_tcx=use_tcx)
    os.close(program)
    assert not answers(neighbor, SILENCE_S)
    assert attached(index, place) == ([] if use_tcx else ["carpd-test"])
    undo()
    assert answers(neighbor)
    assert attached(index, place) == []


@PLACES
def test_clsact_replaces(neighbor: Neighbor, place: int) -> None:
    index = link("eth1").index
    programs = [ebpf.load("test", returning(verdict)) for verdict in (2, -1)]
    undos = [
        ebpf.attach(program, index, place, name=name, handle=7, use_tcx=False)
        for program, name in zip(programs, ("old", "new"), strict=True)
    ]
    assert attached(index, place) == ["carpd-new"]
    assert answers(neighbor)
    for undo in undos:
        undo()  # the second time there is nothing any more
    for program in programs:
        os.close(program)


def test_a_kernel_without_tcx(neighbor: Neighbor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "_TCX_INGRESS", 0xFFFF)
    index = link("eth1").index
    program = ebpf.load("drop", returning(2))
    undo = ebpf.attach(program, index, tc.INGRESS, name="test", handle=1, use_tcx=True)
    assert attached(index, tc.INGRESS) == ["carpd-test"]
    assert not answers(neighbor, SILENCE_S)
    undo()
    os.close(program)


@PLACES
@pytest.mark.parametrize("first", [True, False])
def test_before_or_behind_the_others(neighbor: Neighbor, place: int, first: bool) -> None:
    """A program that accepts ends the chain."""
    index = link("eth1").index
    accept, drop = (ebpf.load("test", returning(verdict)) for verdict in (0, 2))
    undo_theirs = ebpf.attach(accept, index, place, name="theirs", handle=1, use_tcx=True)
    undo_ours = ebpf.attach(drop, index, place, name="ours", handle=1, use_tcx=True, first=first)
    assert answers(neighbor, SILENCE_S if first else ANSWER_LIMIT_S) is not first
    theirs, ours = map(ebpf.program_id, (accept, drop))
    assert ebpf.attached(index, place) == ([ours, theirs] if first else [theirs, ours], [])
    undo_ours()
    undo_theirs()
    os.close(accept)
    os.close(drop)


@PLACES
def test_who_is_attached(neighbor: Neighbor, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index = link("eth1").index
    assert ebpf.attached(index, place) == ([], [])
    programs = [ebpf.load("test", returning(-1)) for _ in range(3)]
    for handle, program in enumerate(programs, 1):
        ebpf.attach(program, index, place, name="test", handle=handle, use_tcx=handle == 1)
    first, *others = map(ebpf.program_id, programs)
    assert ebpf.attached(index, place) == ([first], [*reversed(others)])
    for program in programs:
        os.close(program)
    monkeypatch.setattr(ebpf, "_tcx_place", lambda _: 0xFFFF)  # as a kernel without tcx sees it
    assert ebpf.attached(index, place) == ([], [*reversed(others)])
    assert ebpf.attached(4711, place) is None


def test_key_set(neighbor: Neighbor) -> None:
    """What a program finds in it, and what does not fit."""
    keys = ebpf.KeySet("test", 4, 3)
    to = Assembler()
    to.move(R2, R10)
    to.alu(Operation.ADD, R2, -4)
    to.move(R3, 0x01010101)
    to.store(Width.WORD, R2, 0, R3)
    to.map(R1, keys.fd)
    to.call(1)  # map_lookup_elem
    to.jump_if(R0, Comparison.EQUAL, 0, "end")
    to.move(R0, 1)
    to.label("end")
    to.exit()
    program = ebpf.load("test", to.to_bytes())
    ours, others = b"\1\1\1\1", [b"\1\1\1\2", b"\2\1\1\1"]
    for content in ([], [ours], others, [ours, others[0]], [others[0]], []):
        keys.replace(content)
        assert ebpf.test_run(program, FRAME, 1).result == (ours in content)
    with pytest.raises(SystemCallError, match="change an eBPF map: Argument list too long"):
        keys.replace([ours, *others, b"\3\1\1\1"])
    keys.replace([ours])  # it knows what is there
    assert ebpf.test_run(program, FRAME, 1).result == 1
    os.close(program)
    keys.close()


def test_remove_left_behind_on_all_interfaces(neighbor: Neighbor) -> None:
    program = ebpf.load("drop", returning(2))
    for name, index in (("eth1", link("eth1").index), ("lo", 1)):
        for handle in (1, 2):
            ebpf.attach(program, index, tc.INGRESS, name=f"{name}-{handle}", handle=handle, use_tcx=False)
    os.close(program)
    assert sorted(ebpf.remove_left_behind()) == [
        f"the filter carpd-{name}-{handle} at the ingress of {name}" for name in ("eth1", "lo") for handle in (1, 2)
    ]
    assert answers(neighbor)


def test_layout_of_the_requests() -> None:
    """Their sizes, as far as the kernel's union has them."""
    requests = {ebpf._MAP: 44, ebpf._ELEMENT: 32, ebpf._PROGRAM: 64, ebpf._LINK: 32, ebpf._INFO: 16, ebpf._QUERY: 64}
    assert {each.format: each.size for each in requests} == {each.format: size for each, size in requests.items()}
    assert ebpf._TEST.size == 80
