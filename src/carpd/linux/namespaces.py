"""Network namespaces, held by a file descriptor alone: nothing is mounted, so nothing is left behind.

`os.setns` and `os.unshare` came with Python 3.12.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from carpd.linux import libc

CLONE_NEWNET = 0x40000000
"""Ref: Linux include/uapi/linux/sched.h"""

_OURS = "/proc/thread-self/ns/net"

_setns = libc.function("setns", ctypes.c_int, ctypes.c_int)
_unshare = libc.function("unshare", ctypes.c_int)


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace behind fd; kind 0 takes any kind of namespace. Raise OSError."""
    _setns(fd, kind)


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces of the kinds in flags (CLONE_NEW...). Raise OSError."""
    _unshare(flags)


def enter(fd: int) -> None:
    """Move the calling thread into the network namespace behind fd. Raise OSError."""
    setns(fd, CLONE_NEWNET)


def current() -> int:
    """A new descriptor of the calling thread's network namespace: the caller closes it."""
    return os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)


def new_network_namespace() -> int:
    """Make a network namespace and return its only descriptor: it ends with its last process, socket and descriptor.

    The calling thread stays where it is. Raise OSError.
    """
    home = current()
    try:
        unshare(CLONE_NEWNET)
        try:
            return current()
        finally:
            enter(home)
    finally:
        os.close(home)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """Run a block in the network namespace behind fd: sockets opened there stay there."""
    home = current()
    try:
        enter(fd)
        yield
    finally:
        enter(home)
        os.close(home)
