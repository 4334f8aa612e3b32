"""Membership in multicast groups, told to the link by IGMP and MLD.

A packet socket receives without it, but switches that snoop send a group's packets only to ports with a member.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection
from contextlib import suppress

from carpd.linux import bpf
from carpd.wire import carp

_IP_MREQN = struct.Struct("=4s4si")  # group, local address (none: the index says where), interface index
_IPV6_MREQ = struct.Struct("=16si")  # group, interface index
_JOIN = (
    (socket.AF_INET, 4, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP),
    (socket.AF_INET6, 16, socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP),
)
"""Family, size of its addresses, and how a group is joined."""


class GroupMembership:
    """Is a member of groups, packed, on an interface until it is closed.

    The sockets are raw ones of protocol 112 with a filter that drops everything. That they exist keeps the kernel from
    answering a peer's unicast advertisements with "protocol unreachable".
    """

    def __init__(self, index: int, groups: Collection[bytes]) -> None:
        """A host without one of the two families does without its groups."""
        self._members: list[socket.socket] = []
        for family, size, level, option in _JOIN:
            ours = [group for group in groups if len(group) == size]
            if ours:
                with suppress(OSError):
                    self._join(self._open(family), level, option, ours, index)

    def _join(self, member: socket.socket, level: int, option: int, groups: Collection[bytes], index: int) -> None:
        """One that the kernel refuses does not keep us from the others."""
        for group in groups:
            request = _IP_MREQN.pack(group, bytes(4), index) if len(group) == 4 else _IPV6_MREQ.pack(group, index)
            with suppress(OSError):
                member.setsockopt(level, option, request)

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        member = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, carp.PROTOCOL)
        self._members.append(member)
        bpf.attach(member, bpf.NOTHING)
        return member

    def close(self) -> None:
        for member in self._members:
            member.close()
