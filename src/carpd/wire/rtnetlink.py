"""Routing netlink, as far as we need it: links, macvlans, addresses and neighbours.

Ref: Linux include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h; rtnetlink(7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from carpd.errors import DecodeError
from carpd.wire import netlink
from carpd.wire.netlink import Message

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE = 24, 25
DELNEIGH, GETNEIGH = 29, 30

GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV6_ADDRESS = 1, 5, 9
"""Multicast groups: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR."""

IPV4, IPV6 = 2, 10
"""Address families: AF_INET and AF_INET6 of Linux."""

LOOPBACK = 1
"""The index of `lo`, in every network namespace."""

UP = 0x01
"""Link flag IFF_UP: administratively up."""

OPERSTATE_UNKNOWN, OPERSTATE_UP = 0, 6
"""RFC 2863 states of a link that passes frames; a driver that reports no carrier says "unknown"."""

SCOPE_GLOBAL, SCOPE_LINK = 0, 253

SECONDARY, NODAD, DADFAILED, DEPRECATED, TENTATIVE, NOPREFIXROUTE = 0x01, 0x02, 0x08, 0x20, 0x40, 0x200
"""Address flags IFA_F_..."""

OUR_PROTOCOL = 112
"""IFA_PROTO, who configured an address: ours bear CARP's IP protocol number. Kernels before 5.18 forget it."""

_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, which flags to change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags (8 bits of them), scope, interface index
_NEIGHBOR = struct.Struct("=BxxxiHBB")  # family, interface index, state, flags, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, prefix lengths, TOS, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")
_CACHE_INFO = struct.Struct("=IIII")  # preferred and valid lifetime in seconds, times of creation and change

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_OPERSTATE, _IFLA_LINKINFO = 1, 3, 4, 5, 16, 18
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 20, 26, 27, 29, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 4
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_RTEXT_FILTER_SKIP_STATS = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_RTA_DST, _RTA_OIF, _TABLE_LOCAL, _ROUTE_LOCAL = 1, 4, 255, 2
_NDA_DST = 1
_NUD_UNRESOLVED = 0x01 | 0x20  # NUD_INCOMPLETE, NUD_FAILED
_FOREVER = 0xFFFFFFFF

_NO_STATISTICS = netlink.attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMessage:
    """What the kernel says of one link; `parent` is 0 if it has none in its own namespace."""

    index: int
    name: str
    mac: bytes
    flags: int
    operstate: int
    mtu: int
    kind: str
    alias: str
    parent: int

    @classmethod
    def from_message(cls, message: Message) -> Self | None:
        """Read NEWLINK or DELLINK; None for those that speak of something else: a bridge's port, a wireless event.

        Raise DecodeError if it is malformed.
        """
        if len(message.body) < _LINK.size:
            raise DecodeError(f"rtnetlink: need {_LINK.size} bytes of link, got {len(message.body)}")
        family, _, index, flags, _ = _LINK.unpack_from(message.body)
        found = netlink.attributes(message.body, _LINK.size)
        if family or not {_IFLA_IFNAME, _IFLA_MTU, _IFLA_OPERSTATE} <= found.keys():
            return None
        kind = netlink.attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
        return cls(
            index=index,
            name=netlink.text_value(found[_IFLA_IFNAME]),
            mac=found.get(_IFLA_ADDRESS, b""),
            flags=flags,
            operstate=_u8(found[_IFLA_OPERSTATE]),
            mtu=_u32(found[_IFLA_MTU]),
            kind=netlink.text_value(kind),
            alias=netlink.text_value(found.get(_IFLA_IFALIAS, b"")),
            parent=_u32(found[_IFLA_LINK]) if _IFLA_LINK in found and _IFLA_LINK_NETNSID not in found else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressMessage:
    """What the kernel says of one address, packed."""

    index: int
    address: bytes
    prefix_length: int
    scope: int
    flags: int
    protocol: int

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read NEWADDR or DELADDR. Raise DecodeError if it is malformed."""
        if len(message.body) < _ADDRESS.size:
            raise DecodeError(f"rtnetlink: need {_ADDRESS.size} bytes of address, got {len(message.body)}")
        _, prefix_length, flags, scope, index = _ADDRESS.unpack_from(message.body)
        found = netlink.attributes(message.body, _ADDRESS.size)
        # On a point-to-point link IFA_ADDRESS is the other end's.
        address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
        if len(address) not in (4, 16):
            raise DecodeError(f"rtnetlink: an address of {len(address)} bytes")
        return cls(
            index=index,
            address=address,
            prefix_length=prefix_length,
            scope=scope,
            flags=_u32(found[_IFA_FLAGS]) if _IFA_FLAGS in found else flags,
            protocol=_u8(found[_IFA_PROTO]) if _IFA_PROTO in found else 0,
        )


def dump_links() -> Message:
    """Ask for every link."""
    return Message(GETLINK, netlink.REQUEST | netlink.DUMP, _link() + _NO_STATISTICS)


def get_link(name: str) -> Message:
    """Ask for one link by its name."""
    return Message(GETLINK, netlink.REQUEST, _link() + _name(name) + _NO_STATISTICS)


def new_macvlan(name: str, parent: int, mac: bytes) -> Message:
    """Create a macvlan in bridge mode. The other modes lose frames or take the parent's MAC (docs/architecture.md)."""
    mode = netlink.attribute(_IFLA_MACVLAN_MODE, _U32.pack(_MACVLAN_MODE_BRIDGE))
    body = (
        _link()
        + _name(name)
        + netlink.attribute(_IFLA_LINK, _U32.pack(parent))
        + netlink.attribute(_IFLA_ADDRESS, mac)
        + netlink.nested(
            _IFLA_LINKINFO, netlink.text(_IFLA_INFO_KIND, "macvlan"), netlink.nested(_IFLA_INFO_DATA, mode)
        )
    )
    return Message(NEWLINK, netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE, body)


def mark_link(name: str, alias: str) -> Message:
    """Give a link an alias, and no IPv6 address of its own making when it goes up."""
    no_address = netlink.attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
    body = (
        _link()
        + _name(name)
        + netlink.text(_IFLA_IFALIAS, alias)
        + netlink.nested(_IFLA_AF_SPEC, netlink.nested(IPV6, no_address))
    )
    return Message(SETLINK, netlink.REQUEST, body)


def set_up(index: int, up: bool = True) -> Message:
    """Set a link administratively up, or down."""
    return Message(SETLINK, netlink.REQUEST, _link(index, flags=UP if up else 0, change=UP))


def set_group(index: int, group: int) -> Message:
    """Put a link into a group: a number by which several are meant."""
    return Message(SETLINK, netlink.REQUEST, _link(index) + netlink.attribute(_IFLA_GROUP, _U32.pack(group)))


def delete_group(group: int) -> Message:
    """Delete every link of a group."""
    return Message(DELLINK, netlink.REQUEST, _link() + netlink.attribute(_IFLA_GROUP, _U32.pack(group)))


def dump_addresses() -> Message:
    """Ask for every address of both families."""
    return Message(GETADDR, netlink.REQUEST | netlink.DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))


def add_address(index: int, address: bytes) -> Message:
    """Put a virtual address on an interface, as one host (/32, /128).

    It must not become the source of connections that this host opens itself: their answers would come to whoever has
    it then. An IPv6 one has preferred lifetime 0; and no duplicate address detection, which would keep it silent for a
    second. IPv4 knows no such preference. On an interface with an address of its own that one comes first; where a
    connection leaves by an interface that has none, the kernel looks for one of global scope on all others, `lo` first
    (inet_select_addr). So on `lo` ours has the scope of a link.
    """
    body = _address(index, address) + netlink.attribute(_IFA_PROTO, bytes([OUR_PROTOCOL]))
    if len(address) == 16:
        body += netlink.attribute(_IFA_FLAGS, _U32.pack(NODAD | NOPREFIXROUTE))
        body += netlink.attribute(_IFA_CACHEINFO, _CACHE_INFO.pack(0, _FOREVER, 0, 0))
    return Message(NEWADDR, netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE, body)


def delete_address(index: int, address: bytes) -> Message:
    """Take a virtual address away."""
    return Message(DELADDR, netlink.REQUEST, _address(index, address))


def add_local_route(index: int, address: bytes) -> Message:
    """Let the host take packets to a virtual IPv6 address for its own."""
    return Message(NEWROUTE, netlink.REQUEST | netlink.CREATE | netlink.EXCLUSIVE, _local_route(index, address))


def delete_local_route(index: int, address: bytes) -> Message:
    """Undo `add_local_route`."""
    return Message(DELROUTE, netlink.REQUEST, _local_route(index, address))


def _local_route(index: int, address: bytes) -> bytes:
    header = _ROUTE.pack(IPV6, 128, 0, 0, _TABLE_LOCAL, OUR_PROTOCOL, SCOPE_GLOBAL, _ROUTE_LOCAL, 0)
    return header + netlink.attribute(_RTA_DST, address) + netlink.attribute(_RTA_OIF, _U32.pack(index))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(0, 0, index, flags, change)


def _name(name: str) -> bytes:
    return netlink.text(_IFLA_IFNAME, name)


def _address(index: int, address: bytes) -> bytes:
    family = IPV4 if len(address) == 4 else IPV6
    scope = SCOPE_LINK if index == LOOPBACK else SCOPE_GLOBAL  # of IPv6 addresses the kernel knows it
    header = _ADDRESS.pack(family, 8 * len(address), 0, scope, index)
    return header + netlink.attribute(_IFA_LOCAL, address) + netlink.attribute(_IFA_ADDRESS, address)


def _u8(value: bytes) -> int:
    if len(value) != 1:
        raise DecodeError(f"rtnetlink: need 1 byte, got {len(value)}")
    return value[0]


def _u32(value: bytes) -> int:
    if len(value) != _U32.size:
        raise DecodeError(f"rtnetlink: need {_U32.size} bytes, got {len(value)}")
    number: int = _U32.unpack(value)[0]
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborMessage:
    """What the kernel knows of one neighbour; its address is packed."""

    family: int
    index: int
    state: int
    address: bytes

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read NEWNEIGH. Raise DecodeError if it is malformed."""
        if len(message.body) < _NEIGHBOR.size:
            raise DecodeError(f"rtnetlink: need {_NEIGHBOR.size} bytes of neighbour, got {len(message.body)}")
        family, index, state, _, _ = _NEIGHBOR.unpack_from(message.body)
        address = netlink.attributes(message.body, _NEIGHBOR.size).get(_NDA_DST, b"")
        return cls(family=family, index=index, state=state, address=address)

    @property
    def unresolved(self) -> bool:
        """It was asked for, and has not answered (yet)."""
        return bool(self.state & _NUD_UNRESOLVED)


def dump_neighbors() -> Message:
    """Ask for every neighbour of both families."""
    return Message(GETNEIGH, netlink.REQUEST | netlink.DUMP, _NEIGHBOR.pack(0, 0, 0, 0, 0))


def delete_neighbor(neighbor: NeighborMessage) -> Message:
    """Forget a neighbour."""
    body = _NEIGHBOR.pack(neighbor.family, neighbor.index, 0, 0, 0) + netlink.attribute(_NDA_DST, neighbor.address)
    return Message(DELNEIGH, netlink.REQUEST, body)
