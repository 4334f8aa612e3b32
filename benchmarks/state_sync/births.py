"""When the kernel made each entry of its table: it notes this itself with nf_conntrack_timestamp, so that nobody has to
listen, who would compete with what is measured."""

from __future__ import annotations

import struct

from carpd.lab.nodes import Node
from carpd.linux.netlink import NetlinkSocket
from carpd.wire import ctnetlink, netlink
from carpd.wire.conntrack import flow_key

_GENERIC_HEADER = 4  # struct nfgenmsg
_TIMESTAMP, _START = 20, 1
"""CTA_TIMESTAMP, CTA_TIMESTAMP_START. Ref: Linux include/uapi/linux/netfilter/nfnetlink_conntrack.h"""
_NANOSECONDS = struct.Struct("!Q")


def births(firewall: Node) -> dict[bytes, int]:
    """By flow key, in nanoseconds of the system's (real-time) clock. Raise SystemCallError."""
    found = {}
    with firewall.inside(), NetlinkSocket(netlink.NETFILTER) as table:
        for data, spans in table.pieces("read the connections", ctnetlink.dump()):
            for offset, length in spans:
                message = data[offset : offset + length]
                attributes = netlink.attributes(message, netlink.HEADER.size + _GENERIC_HEADER)
                start = netlink.attributes(attributes[_TIMESTAMP])[_START]
                (found[flow_key(ctnetlink.read(message)[1])],) = _NANOSECONDS.unpack(start)
    return found
