"""Virtual addresses on and off an interface, on one socket that stays open: the hot path of a take-over."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from carpd.errors import SystemCallError
from carpd.linux.links import addresses as all_addresses
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import netlink, rtnetlink
from carpd.wire.netlink import Message


class AddressTable:
    """Adds and removes the addresses of virtual hosts, all of one host in one system call.

    An address is put on alone, as /32 or /128, so that no route comes and goes with it.
    """

    def __init__(self) -> None:
        """Raise SystemCallError."""
        self._kernel = NetlinkSocket(netlink.ROUTE)

    def close(self) -> None:
        self._kernel.close()

    def add(self, index: int, addresses: Sequence[IPv4Interface | IPv6Interface]) -> int:
        """Put addresses on an interface; return the first errno, 0 if all are there now."""
        return self._perform(rtnetlink.add_address, index, addresses, (errno.EEXIST,))

    def remove(self, index: int, addresses: Sequence[IPv4Interface | IPv6Interface]) -> int:
        """Take addresses away; return the first errno, 0 if none is there now."""
        return self._perform(rtnetlink.delete_address, index, addresses, (errno.EADDRNOTAVAIL, errno.ENODEV))

    def _perform(
        self,
        request: Callable[[int, bytes], Message],
        index: int,
        addresses: Sequence[IPv4Interface | IPv6Interface],
        as_wanted: tuple[int, ...],
    ) -> int:
        try:
            refused = self._kernel.perform([request(index, address.ip.packed) for address in addresses])
        except SystemCallError as error:
            return error.errno
        return next((refusal.errno for refusal in refused if refusal.errno not in as_wanted), 0)


def left_behind() -> list[tuple[int, IPv4Interface | IPv6Interface]]:
    """(interface index, address) of every virtual address there is: at the start, those of a daemon that was killed.

    Empty on kernels before 5.18, which forget who put an address there. Raise SystemCallError.
    """
    return [
        (found.index, ip_interface((found.address, found.prefix_length)))
        for found in all_addresses()
        if found.protocol == rtnetlink.OUR_PROTOCOL
    ]
