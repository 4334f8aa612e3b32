"""What a node's kernel has of a virtual host: its addresses, and the lease of design §6.1 in front of them.

Where nodes share the addresses each has a lease of its own, and a share that is open or not.
"""

from __future__ import annotations

from collections.abc import Iterable

from carpd.config.model import Address, VirtualHostConfig


class Kernel:
    """It outlives the process. Times are nanoseconds on the node's own clock."""

    def __init__(self) -> None:
        self._addresses: dict[str, set[Address]] = {}
        self._leases: dict[str, int] = {}
        self._open_shares: set[str] = set()

    def take(self, config: VirtualHostConfig, addresses: Iterable[Address]) -> None:
        self._addresses.setdefault(config.virtual_host, set()).update(addresses)

    def release(self, config: VirtualHostConfig, addresses: Iterable[Address]) -> None:
        self._addresses.setdefault(config.virtual_host, set()).difference_update(addresses)

    def open_share(self, host: str) -> None:
        self._open_shares.add(host)

    def advertised(self, host: str, now: int, lease_ns: int) -> None:
        """An advertisement left: it renews the lease by itself."""
        self._leases[host] = now + lease_ns

    def surrender(self, host: str) -> None:
        self._leases.pop(host, None)
        self._open_shares.discard(host)

    def forget(self, config: VirtualHostConfig) -> None:
        """The device of the virtual host is gone, or is cleaned up."""
        self._addresses.pop(config.virtual_host, None)
        self.surrender(config.name)

    def addresses(self, config: VirtualHostConfig) -> set[Address]:
        """Those of a virtual host, which all of its nodes have in common."""
        return self._addresses.get(config.virtual_host, set())

    def lease_left_ns(self, host: str, now: int) -> int:
        """How long the lease has still to run; 0 or less: there is none."""
        return self._leases.get(host, now) - now

    def answers(self, config: VirtualHostConfig, now: int) -> bool:
        """Whether this node is the one that other hosts on the link reach at the addresses, if it is their turn."""
        takes = not config.balancing or config.name in self._open_shares
        return takes and bool(self.addresses(config)) and self.lease_left_ns(config.name, now) > 0
