"""Virtual addresses on and off an interface, on one socket that stays open: the hot path of a take-over."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_interface

from carpd.config.model import Address
from carpd.errors import SystemCallError
from carpd.linux.links import addresses as all_addresses
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import netlink, rtnetlink
from carpd.wire.netlink import Message


class AddressTable:
    """Adds and removes the addresses of virtual hosts, all of one host in one system call.

    An address is put on alone, as /32 or /128, so that no route to its network comes and goes with it.
    """

    def __init__(self) -> None:
        """Raise SystemCallError."""
        self._kernel = NetlinkSocket(netlink.ROUTE)

    def close(self) -> None:
        self._kernel.close()

    def add(self, index: int, addresses: Sequence[Address]) -> int:
        """Put addresses on an interface; return the first errno, 0 if all are there now.

        The kernel makes the local route of an IPv6 address a little later, in a worker: two milliseconds in which it
        would not take packets to the address for its own. So it is told the route as well.
        """
        requests = []
        for address in (each.ip.packed for each in addresses):
            requests.append(rtnetlink.add_address(index, address))
            if len(address) == 16:
                requests.append(rtnetlink.add_local_route(index, address))
        return self._perform(requests, (errno.EEXIST,))

    def remove(self, index: int, addresses: Sequence[Address]) -> int:
        """Take addresses away; return the first errno, 0 if none is there now."""
        requests = []
        for address in (each.ip.packed for each in addresses):
            if len(address) == 16:
                requests.append(rtnetlink.delete_local_route(index, address))
            requests.append(rtnetlink.delete_address(index, address))
        return self._perform(requests, (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ESRCH))

    def _perform(self, requests: Sequence[Message], as_wanted: tuple[int, ...]) -> int:
        try:
            refused = self._kernel.perform(requests)
        except SystemCallError as error:
            return error.errno
        return next((refusal.errno for refusal in refused if refusal.errno not in as_wanted), 0)


def local_addresses() -> frozenset[bytes]:
    """Every address of this host, packed: its own, the virtual ones, and those of the loopback interface.

    Of 127.0.0.0/8, all of which is the host itself, it has the one that is assigned. `LinkMonitor` tells when there are
    others. Raise SystemCallError.
    """
    return frozenset(found.address for found in all_addresses())


def left_behind() -> list[tuple[int, Address]]:
    """(interface index, address) of every virtual address there is: at the start, those of a daemon that was killed.

    Empty on kernels before 5.18, which forget who put an address there. Raise SystemCallError.
    """
    return [
        (found.index, ip_interface((found.address, found.prefix_length)))
        for found in all_addresses()
        if found.protocol == rtnetlink.OUR_PROTOCOL
    ]
