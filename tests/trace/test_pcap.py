"""Capture files in every form that we read, whole and damaged."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.trace.pcap import ETHERNET, RAW_IP, CapturedFrame, read_capture, write_pcap
from carpd.units import SECOND

TIME = 1_700_000_000_123_456_000
FRAMES = [
    CapturedFrame(TIME + index * SECOND, ETHERNET, bytes([index] * size), size + 5)
    for index, size in enumerate((14, 0, 61))
]


def pcap(frames: list[CapturedFrame], order: str = "<", *, nanoseconds: bool = False) -> bytes:
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, ETHERNET)
    for frame in frames:
        seconds, fraction = divmod(frame.time_ns, SECOND)
        data += struct.pack(f"{order}IIII", seconds, fraction // unit, len(frame.data), frame.original_length)
        data += frame.data
    return data


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, linktype: int = ETHERNET, snapshot_length: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", linktype, 0, snapshot_length) + options)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(order: str, frame: CapturedFrame, ticks: int, number: int = 0) -> bytes:
    head = struct.pack(f"{order}III", number, ticks >> 32, ticks & 0xFFFFFFFF)
    return block(order, 6, head + struct.pack(f"{order}II", len(frame.data), frame.original_length) + frame.data)


def pcapng(frames: list[CapturedFrame], order: str = "<") -> bytes:
    """With a comment option, a block of an unknown type and one for each frame."""
    data = section(order) + interface(order, options=option(order, 1, b"hello"))
    data += block(order, 0x0BAD, b"what is this")
    return data + b"".join(enhanced(order, frame, frame.time_ns // 1000) for frame in frames)


def read(data: bytes) -> list[CapturedFrame]:
    return list(read_capture(io.BytesIO(data)))


WHOLE = {
    "pcap": pcap(FRAMES),
    "pcap, big-endian": pcap(FRAMES, ">"),
    "pcap, nanoseconds": pcap(FRAMES, nanoseconds=True),
    "pcap, nanoseconds, big-endian": pcap(FRAMES, ">", nanoseconds=True),
    "pcapng": pcapng(FRAMES),
    "pcapng, big-endian": pcapng(FRAMES, ">"),
    "pcapng, sections in both byte orders": pcapng(FRAMES[:1]) + pcapng(FRAMES[1:], ">"),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_whole_files(data: bytes) -> None:
    assert read(data) == FRAMES


def read_to_damage(data: bytes) -> tuple[list[CapturedFrame], str]:
    """What can be read, and what is said of the rest ("": nothing)."""
    frames: list[CapturedFrame] = []
    try:
        for frame in read_capture(io.BytesIO(data)):
            frames.append(frame)
    except DecodeError as error:
        return frames, str(error)
    return frames, ""


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_cut_at_every_byte(data: bytes) -> None:
    """All before the cut is read. A cut between two records or blocks can't be seen."""
    unseen = 0
    for size in range(len(data)):
        frames, complaint = read_to_damage(data[:size])
        assert frames == FRAMES[: len(frames)]
        assert complaint.startswith("offset ") or not complaint
        unseen += not complaint
    assert len(frames) == len(FRAMES) - 1
    assert unseen <= 8


@given(st.sampled_from(list(WHOLE.values())), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6))
def test_damaged_files_raise_nothing_else(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for offset, value in changes:
        damaged[offset % len(damaged)] = value
    _, complaint = read_to_damage(bytes(damaged))
    assert "\n" not in complaint


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("code", "value", "ticks"),
    [
        pytest.param(9, lambda order: b"\x09", TIME, id="nanoseconds"),
        pytest.param(9, lambda order: b"\x06", TIME // 1000, id="microseconds"),
        pytest.param(9, lambda order: b"\x0a", TIME * 10, id="tenths of nanoseconds"),
        pytest.param(9, lambda order: b"\x94", -(-(TIME << 20) // SECOND), id="1/2**20 s"),
        pytest.param(14, lambda order: struct.pack(f"{order}q", 10), TIME // 1000 - 10_000_000, id="offset 10 s"),
        pytest.param(14, lambda order: struct.pack(f"{order}q", -10), TIME // 1000 + 10_000_000, id="offset -10 s"),
    ],
)
def test_times_of_pcapng(order: str, code: int, value: Callable[[str], bytes], ticks: int) -> None:
    options = option(order, 2, b"eth0") + option(order, code, value(order)) + option(order, 0, b"")
    data = section(order) + interface(order, options=options) + enhanced(order, FRAMES[0], ticks)
    (frame,) = read(data)
    assert 0 <= frame.time_ns - TIME < 1000


def test_interfaces_of_pcapng() -> None:
    data = section("<") + interface("<") + interface("<", linktype=RAW_IP)
    data += enhanced("<", FRAMES[0], 0, number=1) + enhanced("<", FRAMES[0], 0, number=0)
    assert [frame.linktype for frame in read(data)] == [RAW_IP, ETHERNET]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("snapshot_length", "expected"), [(0, b"0123456"), (7, b"0123456"), (5, b"01234")])
def test_simple_packet(order: str, snapshot_length: int, expected: bytes) -> None:
    packet = block(order, 3, struct.pack(f"{order}I", 7) + expected)
    data = section(order) + interface(order, snapshot_length=snapshot_length) + packet
    assert read(data) == [CapturedFrame(0, ETHERNET, expected, 7)]


def with_length(data: bytes, start: int, length: int) -> bytes:
    return data[: start + 4] + struct.pack("<I", length) + data[start + 8 :]


PACKET = len(section("<")) + len(interface("<"))
NO_LINK = struct.pack("<IIIII", 0, 0, 0, 9, 9)
WRONG = {
    "empty": (b"", "offset 0: the file ends before the magic number"),
    "three bytes": (b"abc", "offset 0: the file ends within the magic number: need 4 bytes, got 3"),
    "text": (b"hello world", "not a capture: it begins with 68 65 6c 6c, which is neither pcap nor pcapng"),
    "huge record": (pcap([])[:24] + struct.pack("<IIII", 0, 0, 2**31, 9), "offset 24: a record of 2147483648 bytes"),
    "byte-order magic": (section("<").replace(b"\x4d\x3c", b"\x4d\x3d"), "offset 0: .* byte-order magic 4d 3d 2b 1a"),
    "block of odd length": (with_length(pcapng(FRAMES), 28, 21), "offset 28: a block says that it has 21 bytes"),
    "block of no length": (with_length(pcapng(FRAMES), 28, 0), "offset 28: a block says that it has 0 bytes"),
    "huge block": (with_length(pcapng(FRAMES), 28, 2**31), "offset 28: a block says that it has 2147483648 bytes"),
    "two lengths": (with_length(pcapng(FRAMES), 28, 28), "offset 28: a block says 28 bytes at its start and"),
    "short packet block": (section("<") + interface("<") + block("<", 6, bytes(8)), "type 6 is too short: 20 bytes"),
    "short interface block": (section("<") + block("<", 1, bytes(4)), "type 1 is too short: 16 bytes"),
    "packet longer than its block": (
        section("<") + interface("<") + block("<", 6, NO_LINK),
        f"offset {PACKET}: a packet says 9 bytes, its block has 0",
    ),
    "simple packet longer than its block": (
        section("<") + interface("<") + block("<", 3, struct.pack("<I", 9)),
        f"offset {PACKET}: a packet says 9 bytes, its block has 0",
    ),
    "no interface": (
        section("<") + block("<", 6, NO_LINK),
        "offset 28: a packet of interface 0, which is not described",
    ),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_wrong(data: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read(data)


times = st.integers(0, 2**32 * SECOND - 1)


@given(st.lists(st.builds(CapturedFrame, times, st.just(RAW_IP), st.binary(max_size=80), st.integers(0, 65535))))
def test_written_files_are_read(frames: list[CapturedFrame]) -> None:
    file = io.BytesIO()
    write_pcap(file, frames, RAW_IP)
    assert read(file.getvalue()) == frames


def test_one_link_type_a_file() -> None:
    with pytest.raises(ValueError, match="a frame of link type 101 in a file of link type 1"):
        write_pcap(io.BytesIO(), [CapturedFrame(0, RAW_IP, b"", 0)])
