"""One interface of the election process: its sockets, and what it is like now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carpd.carp.balancing import taken_macs
from carpd.config.model import VirtualHostConfig
from carpd.events import Family, InterfaceChanged
from carpd.linux import sysctls
from carpd.linux.links import Link, own_addresses, source_addresses
from carpd.linux.packets import Interest, PacketSocket, solicitations
from carpd.linux.unicast import UnicastSender


class InterfacePort:
    """An interface that exists. It ends with the interface: one that comes back under its name is another one."""

    def __init__(self, link: Link) -> None:
        """Open its sockets. Raise SystemCallError."""
        self.link = link
        self.packets = PacketSocket(link.index)
        self.neighbors: PacketSocket | None = None
        """Where traffic is shared: hears who asks for the shared addresses."""
        self._interest: Interest | None = None
        """What it hears."""
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
        """Learn the host's own addresses on the interface from the kernel. Raise SystemCallError."""
        ipv4, ipv6 = source_addresses(self.link.index)
        self._sources = {Family.IPV4: ipv4, Family.IPV6: ipv6}
        self._own = tuple(own.address for own in own_addresses() if own.index == self.link.index)

    def share(self, configs: Iterable[VirtualHostConfig]) -> None:
        """Hear who asks for the addresses of these nodes, and let their frames in. Raise SystemCallError."""
        interest = _interest([config for config in configs if config.balancing])
        if interest == self._interest:
            return
        old, self.neighbors, self._interest = self.neighbors, None, None
        try:
            if interest is not None:  # while the old one is open: what both let in must not be kept out in between
                self.neighbors, self._interest = PacketSocket(self.link.index, interest), interest
        finally:
            if old is not None:
                old.close()

    def send_unicast(self, family: Family, source: bytes, peer: bytes, payload: bytes) -> int:
        """Send to one peer, unless that is this host: all nodes may have one list. Return an errno, 0 for success."""
        return 0 if peer in self._own else self._unicast.send(family, source, peer, payload)

    def as_event(self) -> InterfaceChanged:
        """What the engine is to know of it."""
        router = sysctls.read("ipv6", "conf", self.link.name, "forwarding") == "1"
        return InterfaceChanged(self.link.name, self.link.up, self.link.mac, self._own, router)

    def close(self) -> None:
        self.packets.close()
        if self.neighbors is not None:
            self.neighbors.close()
        self._unicast.close()


def _interest(shared: Sequence[VirtualHostConfig]) -> Interest | None:
    """In what concerns nodes that share their traffic; None without any."""
    if not shared:
        return None
    addresses4 = dict.fromkeys(address for config in shared for address in config.addresses4)
    addresses6 = dict.fromkeys(address for config in shared for address in config.addresses6)
    macs = dict.fromkeys(mac for config in shared for mac in taken_macs(config))
    return solicitations([*addresses4], [*addresses6], [*macs])
