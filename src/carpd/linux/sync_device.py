"""The interface that pfsync speaks on, as it is now: whether it can be spoken on at all, and with whom."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from carpd.errors import SystemCallError
from carpd.linux import links
from carpd.wire import rtnetlink

_UNUSABLE = rtnetlink.TENTATIVE | rtnetlink.DADFAILED


@dataclass(frozen=True, slots=True)
class SyncDevice:
    """An interface with an address of the peers' family. When one is found that differs, the sockets must be new."""

    name: str
    index: int
    mtu: int
    peers: tuple[IPv4Address | IPv6Address, ...]
    """Those to send to, all of one family: other hosts, or a multicast group."""

    @property
    def version(self) -> int:
        """Of IP: 4 or 6."""
        return self.peers[0].version


def find(name: str, peers: Sequence[IPv4Address | IPv6Address]) -> SyncDevice:
    """The interface of this name. Peers, all of one family, may name this host too: it is left out.

    Raise SystemCallError, in words for an operator, if it is not there or can't be used now. That may change whenever
    `links.LinkMonitor` tells of the interface or its addresses.
    """
    link = links.find_link(name)
    if link is None:
        raise SystemCallError(name, errno.ENODEV, "no such interface")
    if not link.enabled:
        raise SystemCallError(name, errno.ENETDOWN, "the interface is down")
    own = links.own_addresses()
    version = peers[0].version
    packed_size = 4 if version == 4 else 16
    if not any(a.index == link.index and len(a.address) == packed_size and not a.flags & _UNUSABLE for a in own):
        reason = f"no IPv{version} address for syncpeer {', '.join(map(str, peers))}"
        raise SystemCallError(name, errno.EADDRNOTAVAIL, reason)
    ours = {address.address for address in own}
    others = tuple(peer for peer in peers if peer.packed not in ours)
    if not others:
        raise SystemCallError(name, errno.EDESTADDRREQ, "syncpeer names no other host")
    return SyncDevice(name, link.index, link.mtu, others)
