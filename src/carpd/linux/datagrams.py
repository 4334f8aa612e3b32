"""Many datagrams in one system call: recvmmsg into slots of one size, which the standard library lacks.

Ref: recvmmsg(2).
"""

from __future__ import annotations

import ctypes
import errno
import socket
from typing import NamedTuple

from carpd.linux import libc

_recvmmsg = libc.function("recvmmsg", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class _Buffer(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("buffers", ctypes.c_void_p),
        ("buffer_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Datagram(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint))


class Datagrams(NamedTuple):
    """What was received: datagrams of these lengths, each at the beginning of its slot in data."""

    data: bytes
    lengths: list[int]
    truncated: bool
    """Whether one was longer than its slot."""


class Slots:
    """A block of memory that datagrams are received into."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self.offsets = range(0, count * size, size)
        """Where the slots are in a block."""
        self._block = (ctypes.c_char * (count * size))()
        self._data = memoryview(self._block)
        start = ctypes.addressof(self._block)
        self._buffers = (_Buffer * count)(*(_Buffer(start + offset, size) for offset in self.offsets))
        buffers = ctypes.addressof(self._buffers)
        self._datagrams = (_Datagram * count)()
        for i, datagram in enumerate(self._datagrams):
            datagram.message = _Message(buffers=buffers + i * ctypes.sizeof(_Buffer), buffer_count=1)
        self._address = ctypes.addressof(self._datagrams)
        words = memoryview(self._datagrams).cast("B").cast("I")
        step = ctypes.sizeof(_Datagram) // words.itemsize
        self._flags = words[_Message.flags.offset // words.itemsize :: step]
        self._lengths = words[_Datagram.length.offset // words.itemsize :: step]

    def receive(self, fd: int) -> Datagrams:
        """The datagrams that wait, as many as there are slots; never wait for one. Raise OSError."""
        try:
            count = _recvmmsg(fd, self._address, self._count, socket.MSG_DONTWAIT, None)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return Datagrams(b"", [], False)
            raise
        # Slices of bytes are cheaper than those of a memoryview, by more than the copy costs.
        return Datagrams(
            bytes(self._data[: count * self._size]),
            self._lengths[:count].tolist(),
            any(self._flags[:count].tolist()),  # MSG_TRUNC, the only one that there can be
        )
