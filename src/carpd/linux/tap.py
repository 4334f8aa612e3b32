"""TAP devices: interfaces whose other end is a descriptor of this process, which reads and writes whole frames.

Ref: Linux Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from carpd.errors import SystemCallError
from carpd.linux import links, sysctls

_TUN = "/dev/net/tun"
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
# The direction of data is in other bits on some machines.
_WRITE = 0x80040000 if os.uname().machine.startswith(("mips", "ppc", "sparc")) else 0x40040000
_TUNSETIFF, _TUNSETCARRIER = _WRITE | 0x54CA, _WRITE | 0x54E2
_SIOCSIFMTU = 0x8922
_INTERFACE_FLAGS = struct.Struct("@16sH22x")  # struct ifreq
_INTERFACE_NUMBER = struct.Struct("@16si20x")
_MTU = 65_521
"""The largest of a TAP device, and no smaller than anybody's."""


def open_tun() -> int:
    """A descriptor that is no device yet. Raise SystemCallError."""
    try:
        return os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SystemCallError(f"open {_TUN}", error.errno or 0, str(error.strerror)) from error


def make_device(fd: int, name: str) -> int:
    """Make it a TAP device of this name, up and without any traffic of its own: its index. Raise SystemCallError.

    It has no offloads, so that frames come whole, with their checksums.
    """
    tried = f"create the TAP device {name}"
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _INTERFACE_FLAGS.pack(name.encode(), _IFF_TAP | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFMTU, _INTERFACE_NUMBER.pack(name.encode(), _MTU))
    except OSError as error:
        raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error
    if sysctls.read("ipv6", "conf", name, "disable_ipv6") == "0":
        sysctls.write("1", "ipv6", "conf", name, "disable_ipv6")
    link = links.find_link(name)
    if link is None:
        raise SystemCallError(tried, errno.ENODEV, "somebody deleted it at once")
    set_up(fd, name, link.index)
    return link.index


def set_up(fd: int, name: str, index: int) -> None:
    """Set the device up, with its carrier, which can be taken, too. Raise SystemCallError."""
    links.set_up(index)
    try:
        fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", 1))
    except OSError as error:
        raise SystemCallError(f"set {name} up", error.errno or 0, str(error.strerror)) from error
