"""Capture files: reads pcap and pcapng, writes pcap.

Ref: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng (their field names are used here).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from carpd.errors import DecodeError
from carpd.units import MICROSECOND, SECOND

ETHERNET = 1
RAW_IP = 101
LINUX_COOKED = 113
LINUX_COOKED2 = 276

_NANOSECOND_MAGIC = 0xA1B23C4D
_FRACTION_NS = {0xA1B2C3D4: MICROSECOND, _NANOSECOND_MAGIC: 1}
"""Magic number of pcap -> nanoseconds in one unit of the second half of its timestamps."""
_FILE_HEADER = "HHiIII"  # what follows the magic: version (two), zone, accuracy, snapshot length, link type
_RECORD_HEADER = "IIII"  # seconds, fraction, captured length, original length
_LINKTYPE_MASK = 0xFFFF  # the bits above tell of a frame check sequence
_SNAPSHOT_LIMIT = 262_144
"""Bytes of the longest frame that libpcap captures: a longer one means that the file is damaged."""

_SECTION_HEADER = 0x0A0D0D0A  # reads the same in both byte orders
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_BLOCK_LIMIT = 16 * 1024 * 1024
"""Bytes of the longest pcapng block that libpcap reads."""
_OPTION_TSRESOL = 9
_OPTION_TSOFFSET = 14


class CapturedFrame(NamedTuple):
    """One frame of a capture. `time_ns` is since 1970, 0 if the file does not say; `data` may be cut short."""

    time_ns: int
    linktype: int
    data: bytes
    original_length: int


def read_capture(file: BinaryIO) -> Iterator[CapturedFrame]:
    """The frames of a pcap or pcapng file.

    Raise DecodeError, after all frames that could be read, with the offset and what is wrong there.
    """
    source = _Source(file)
    magic = source.read(4, "the magic number")
    if magic == struct.pack("<I", _SECTION_HEADER):
        return _read_pcapng(source)
    for order in "<>":
        fraction_ns = _FRACTION_NS.get(struct.unpack(f"{order}I", magic)[0])
        if fraction_ns is not None:
            return _read_pcap(source, order, fraction_ns)
    raise DecodeError(f"not a capture: it begins with {magic.hex(' ')}, which is neither pcap nor pcapng")


def write_pcap(file: BinaryIO, frames: Iterable[CapturedFrame], linktype: int = ETHERNET) -> None:
    """Write a pcap file with nanosecond timestamps.

    Raise ValueError at a frame of another link type: the format has one for the whole file.
    """
    header = (2, 4, 0, 0, _SNAPSHOT_LIMIT, linktype)
    file.write(struct.pack(f"<I{_FILE_HEADER}", _NANOSECOND_MAGIC, *header))
    for frame in frames:
        if frame.linktype != linktype:
            raise ValueError(f"a frame of link type {frame.linktype} in a file of link type {linktype}")
        record = (*divmod(frame.time_ns, SECOND), len(frame.data), frame.original_length)
        file.write(struct.pack(f"<{_RECORD_HEADER}", *record) + frame.data)


class _Source:
    """A file that knows where it is, and says so when it ends too early."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.offset = 0

    def read(self, size: int, what: str) -> bytes:
        data = self.read_or_end(size, what)
        if len(data) < size:
            raise DecodeError(f"offset {self.offset}: the file ends before {what}")
        return data

    def read_or_end(self, size: int, what: str) -> bytes:
        """Nothing at the end of the file; raise DecodeError if it ends within these bytes."""
        data = self._file.read(size)
        if 0 < len(data) < size:
            raise DecodeError(f"offset {self.offset}: the file ends within {what}: need {size} bytes, got {len(data)}")
        self.offset += len(data)
        return data


def _read_pcap(source: _Source, order: str, fraction_ns: int) -> Iterator[CapturedFrame]:
    header = struct.Struct(order + _FILE_HEADER)
    record = struct.Struct(order + _RECORD_HEADER)
    *_, linktype = header.unpack(source.read(header.size, "the file header"))
    while data := source.read_or_end(record.size, "a record header"):
        seconds, fraction, length, original_length = record.unpack(data)
        if length > _SNAPSHOT_LIMIT:
            start = source.offset - record.size
            raise DecodeError(f"offset {start}: a record of {length} bytes, more than {_SNAPSHOT_LIMIT}")
        frame = source.read(length, "the frame of a record")
        time_ns = seconds * SECOND + fraction * fraction_ns
        yield CapturedFrame(time_ns, linktype & _LINKTYPE_MASK, frame, original_length)


class _Interface(NamedTuple):
    """What an interface description block says about the packets that name it."""

    linktype: int
    snapshot_length: int  # 0: no limit
    ticks: int  # in a second
    offset_s: int  # added to every time

    def time_ns(self, timestamp: int) -> int:
        return self.offset_s * SECOND + timestamp * SECOND // self.ticks


def _read_pcapng(source: _Source) -> Iterator[CapturedFrame]:
    """`source` stands behind the type of the first block, a section header."""
    order, interfaces = _read_section_header(source), list[_Interface]()
    while data := source.read_or_end(4, "a block type"):
        (kind,) = struct.unpack(f"{order}I", data)
        if kind == _SECTION_HEADER:
            order, interfaces = _read_section_header(source), []
            continue
        start = source.offset - 4
        (length,) = struct.unpack(f"{order}I", source.read(4, "a block length"))
        body = _read_block_rest(source, order, start, length, already=8)
        try:
            if kind == _INTERFACE_DESCRIPTION:
                interfaces.append(_interface(order, body))
            elif kind == _ENHANCED_PACKET:
                yield _enhanced_packet(order, body, interfaces)
            elif kind == _SIMPLE_PACKET:
                yield _simple_packet(order, body, interfaces)
        except struct.error:
            raise DecodeError(f"offset {start}: a block of type {kind} is too short: {length} bytes") from None
        except DecodeError as error:
            raise DecodeError(f"offset {start}: {error}") from None


def _read_section_header(source: _Source) -> str:
    """The byte order of a section, whose block type has been read."""
    start = source.offset - 4
    head = source.read(8, "a section header")
    for order in "<>":
        length, magic = struct.unpack(f"{order}II", head)
        if magic == _BYTE_ORDER_MAGIC:
            _read_block_rest(source, order, start, length, already=12)
            return order
    raise DecodeError(f"offset {start}: a section header with the byte-order magic {head[4:].hex(' ')}")


def _read_block_rest(source: _Source, order: str, start: int, length: int, already: int) -> bytes:
    """What is left of the body of a block after `already` bytes of it; its two lengths must agree."""
    if length % 4 or not already + 4 <= length <= _BLOCK_LIMIT:
        raise DecodeError(f"offset {start}: a block says that it has {length} bytes")
    body = source.read(length - already - 4, "the end of a block")
    (again,) = struct.unpack(f"{order}I", source.read(4, "the end of a block"))
    if again != length:
        raise DecodeError(f"offset {start}: a block says {length} bytes at its start and {again} at its end")
    return body


def _interface(order: str, body: bytes) -> _Interface:
    linktype, snapshot_length = struct.unpack_from(f"{order}HxxI", body)
    ticks, offset_s = 1_000_000, 0
    options = body[8:]
    while len(options) >= 4:
        code, size = struct.unpack_from(f"{order}HH", options)
        if code == _OPTION_TSRESOL and size == 1:
            (resolution,) = struct.unpack_from("B", options, 4)
            ticks = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        elif code == _OPTION_TSOFFSET and size == 8:
            (offset_s,) = struct.unpack_from(f"{order}q", options, 4)
        options = options[4 + (size + 3) // 4 * 4 :]
    return _Interface(linktype, snapshot_length, ticks, offset_s)


def _enhanced_packet(order: str, body: bytes, interfaces: list[_Interface]) -> CapturedFrame:
    number, high, low, length, original_length = struct.unpack_from(f"{order}IIIII", body)
    interface = _interface_of(interfaces, number)
    if 20 + length > len(body):
        raise DecodeError(f"a packet says {length} bytes, its block has {len(body) - 20}")
    return CapturedFrame(
        interface.time_ns(high << 32 | low), interface.linktype, body[20 : 20 + length], original_length
    )


def _simple_packet(order: str, body: bytes, interfaces: list[_Interface]) -> CapturedFrame:
    """It has no time and no captured length: the block ends with padding."""
    (original_length,) = struct.unpack_from(f"{order}I", body)
    interface = _interface_of(interfaces, 0)
    length = min(original_length, interface.snapshot_length or original_length)
    if 4 + length > len(body):
        raise DecodeError(f"a packet says {length} bytes, its block has {len(body) - 4}")
    return CapturedFrame(0, interface.linktype, body[4 : 4 + length], original_length)


def _interface_of(interfaces: list[_Interface], number: int) -> _Interface:
    if number >= len(interfaces):
        raise DecodeError(f"a packet of interface {number}, which is not described")
    return interfaces[number]
