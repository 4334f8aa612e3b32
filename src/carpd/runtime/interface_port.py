"""One interface of the election process: its sockets, and what it is like now."""

from __future__ import annotations

from carpd.events import Family, InterfaceChanged
from carpd.linux.links import Link, own_addresses, source_addresses
from carpd.linux.packets import PacketSocket, UnicastSender
from carpd.linux.sysctls import forwards_ipv6


class InterfacePort:
    """An interface that exists. It ends with the interface: one that comes back under its name is another one."""

    def __init__(self, link: Link) -> None:
        """Open its sockets. Raise OSError."""
        self.link = link
        self.packets = PacketSocket(link.index)
        self._unicast = UnicastSender(link.index)
        self._sources: dict[Family, bytes | None] = {}
        self._own: tuple[bytes, ...] = ()
        self.read_addresses()

    @property
    def mac(self) -> bytes:
        return self.link.mac

    def source(self, family: Family) -> bytes | None:
        """The address that advertisements of this family come from, packed."""
        return self._sources[family]

    def read_addresses(self) -> None:
        """Learn the host's own addresses on the interface from the kernel."""
        ipv4, ipv6 = source_addresses(self.link.index)
        self._sources = {Family.IPV4: ipv4, Family.IPV6: ipv6}
        self._own = tuple(address.packed for address in own_addresses(self.link.index))

    def send_unicast(self, family: Family, source: bytes, peer: bytes, payload: bytes) -> int:
        """Send to one peer: the kernel finds the way and the neighbour. Return an errno, 0 for success."""
        return self._unicast.send(family, source, peer, payload)

    def as_event(self) -> InterfaceChanged:
        """What the engine is to know of it."""
        return InterfaceChanged(self.link.name, self.link.up, self.link.mac, self._own, forwards_ipv6(self.link.name))

    def close(self) -> None:
        self.packets.close()
        self._unicast.close()
