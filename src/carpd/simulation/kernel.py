"""What a node's kernel has of a virtual host: its addresses, and the lease of design §6.1 in front of them."""

from __future__ import annotations

from collections.abc import Iterable

from carpd.config.model import Address


class Kernel:
    """It outlives the process. Times are nanoseconds on the node's own clock."""

    def __init__(self) -> None:
        self._addresses: dict[str, set[Address]] = {}
        self._leases: dict[str, int] = {}

    def take(self, host: str, addresses: Iterable[Address]) -> None:
        self._addresses.setdefault(host, set()).update(addresses)

    def release(self, host: str, addresses: Iterable[Address]) -> None:
        self._addresses.setdefault(host, set()).difference_update(addresses)

    def advertised(self, host: str, now: int, lease_ns: int) -> None:
        """An advertisement left: it renews the lease by itself."""
        self._leases[host] = now + lease_ns

    def surrender(self, host: str) -> None:
        self._leases.pop(host, None)

    def forget(self, host: str) -> None:
        """The device of the virtual host is gone, or is cleaned up."""
        self._addresses.pop(host, None)
        self._leases.pop(host, None)

    def addresses(self, host: str) -> set[Address]:
        return self._addresses.get(host, set())

    def lease_left_ns(self, host: str, now: int) -> int:
        """How long the lease has still to run; 0 or less: there is none."""
        return self._leases.get(host, now) - now

    def answers(self, host: str, now: int) -> bool:
        """Whether this node is the one that other hosts on the link reach at the addresses."""
        return bool(self.addresses(host)) and self.lease_left_ns(host, now) > 0
