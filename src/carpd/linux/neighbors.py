"""Neighbours that an interface could not find while it had no link.

The kernel asks for a neighbour again only after a second, even if the link has come back: a firewall that is master
again would hold back traffic for that long.
"""

from __future__ import annotations

import errno

from carpd.errors import SystemCallError
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import netlink, rtnetlink
from carpd.wire.rtnetlink import NeighborMessage


def forget_unresolved(index: int) -> None:
    """Forget the neighbours of an interface that were asked for and have not answered. Raise SystemCallError."""
    with NetlinkSocket(netlink.ROUTE) as kernel:
        known = map(NeighborMessage.from_message, kernel.ask("list the neighbours", rtnetlink.dump_neighbors()))
        unresolved = [neighbor for neighbor in known if neighbor.index == index and neighbor.unresolved]
        for refusal in kernel.perform([rtnetlink.delete_neighbor(neighbor) for neighbor in unresolved]):
            if refusal.errno != errno.ENOENT:
                raise SystemCallError("forget a neighbour", refusal.errno, refusal.reason)
