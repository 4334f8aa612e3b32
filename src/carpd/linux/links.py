"""Network interfaces: what there is, what changes, and the macvlans that carry virtual MACs."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from carpd.errors import SystemCallError
from carpd.linux.netlink import NetlinkListener, NetlinkSocket
from carpd.wire import netlink, rtnetlink
from carpd.wire.rtnetlink import AddressMessage, LinkMessage

_PASSES_FRAMES = (rtnetlink.OPERSTATE_UNKNOWN, rtnetlink.OPERSTATE_UP)
_DATAGRAMS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as it is now."""

    name: str
    index: int
    mac: bytes
    enabled: bool
    """Administratively up."""
    up: bool
    """Enabled, and with a carrier as far as is known."""
    kind: str
    alias: str
    parent_index: int
    """The interface it stands on, 0 if there is none in this namespace."""
    mtu: int

    @classmethod
    def from_message(cls, heard: LinkMessage) -> Link:
        enabled = bool(heard.flags & rtnetlink.UP)
        up = enabled and heard.operstate in _PASSES_FRAMES
        return cls(heard.name, heard.index, heard.mac, enabled, up, heard.kind, heard.alias, heard.parent, heard.mtu)


@dataclass(frozen=True, slots=True)
class LinkAppeared:
    """An interface is new, or has a new name."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface is different from what was said of it before."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkGone:
    """No interface has this name any more: it was deleted, renamed or moved to another namespace."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """An address came to an interface or went away."""

    index: int


LinkChange = LinkAppeared | LinkChanged | LinkGone | AddressesChanged


def links() -> list[Link]:
    """Every interface of this network namespace. Raise SystemCallError."""
    with NetlinkSocket(netlink.ROUTE) as kernel:
        heard = map(LinkMessage.from_message, kernel.ask("list the interfaces", rtnetlink.dump_links()))
        return [Link.from_message(link) for link in heard if link]


def addresses() -> list[AddressMessage]:
    """Every address of every interface; the `protocol` of virtual ones is OUR_PROTOCOL. Raise SystemCallError."""
    with NetlinkSocket(netlink.ROUTE) as kernel:
        return [*map(AddressMessage.from_message, kernel.ask("list the addresses", rtnetlink.dump_addresses()))]


def own_addresses() -> list[AddressMessage]:
    """The host's own addresses, without the virtual ones. Raise SystemCallError."""
    return [found for found in addresses() if found.protocol != rtnetlink.OUR_PROTOCOL]


def source_addresses(index: int) -> tuple[bytes | None, bytes | None]:
    """The addresses that an interface's advertisements come from: IPv4, and link-local IPv6, packed.

    Never a virtual address, nor one that is not usable yet or not any more. Raise SystemCallError.
    """
    unusable = rtnetlink.TENTATIVE | rtnetlink.DADFAILED | rtnetlink.DEPRECATED
    own = [a for a in own_addresses() if a.index == index]
    ipv4 = [a for a in own if len(a.address) == 4]
    ipv4.sort(key=lambda a: (a.scope, bool(a.flags & rtnetlink.SECONDARY)))
    ipv6 = [a for a in own if len(a.address) == 16 and a.scope == rtnetlink.SCOPE_LINK and not a.flags & unusable]
    return (ipv4[0].address if ipv4 else None), (ipv6[0].address if ipv6 else None)


def create_macvlan(name: str, parent_index: int, mac: bytes, alias: str) -> int:
    """Create a macvlan, down, in bridge mode and without addresses of its own, and return its index.

    The alias, which marks it as ours, comes in the same system call: being killed leaves no unmarked one behind.
    Raise SystemCallError.
    """
    tried = f"create the macvlan {name}"
    with NetlinkSocket(netlink.ROUTE) as kernel:
        kernel.do(tried, rtnetlink.new_macvlan(name, parent_index, mac), rtnetlink.mark_link(name, alias))
    made = find_link(name)
    if made is None:
        raise SystemCallError(tried, errno.ENODEV, "somebody deleted it at once")
    return made.index


def set_up(index: int) -> None:
    """Set an interface administratively up. Raise SystemCallError."""
    with NetlinkSocket(netlink.ROUTE) as kernel:
        kernel.do(f"set interface {index} up", rtnetlink.set_up(index))


def delete_links(indexes: Sequence[int]) -> None:
    """Delete interfaces, as far as they are there, in one go: alone, each takes the kernel 28 ms.

    Raise SystemCallError.
    """
    group = 1 << 30 | int.from_bytes(os.urandom(3))  # for a moment, and nobody else's
    tried = f"delete {len(indexes)} interfaces"
    with NetlinkSocket(netlink.ROUTE) as kernel:
        refused = kernel.perform([rtnetlink.set_group(index, group) for index in indexes])
        for refusal in refused:
            if refusal.errno != errno.ENODEV:
                raise SystemCallError(tried, refusal.errno, refusal.reason)
        if len(refused) < len(indexes):
            kernel.do(tried, rtnetlink.delete_group(group))


def find_link(name: str) -> Link | None:
    """The interface of this name. Raise SystemCallError."""
    with NetlinkSocket(netlink.ROUTE) as kernel:
        try:
            (answer,) = kernel.ask(f"look at interface {name}", rtnetlink.get_link(name))
        except SystemCallError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    link = LinkMessage.from_message(answer)
    return Link.from_message(link) if link else None


class LinkMonitor:
    """Knows the interfaces, and tells how they and their addresses change after it was made.

    A rename is told as gone and appeared: the configuration knows interfaces by their names.
    """

    def __init__(self) -> None:
        """Raise SystemCallError."""
        groups = (rtnetlink.GROUP_LINK, rtnetlink.GROUP_IPV4_ADDRESS, rtnetlink.GROUP_IPV6_ADDRESS)
        self._listener = NetlinkListener(netlink.ROUTE, groups)
        self._known = {link.index: link for link in links()}

    def fileno(self) -> int:
        return self._listener.fileno()

    def close(self) -> None:
        self._listener.close()

    def changes(self) -> list[LinkChange]:
        """What the kernel told since the last call, a limited number at once. Raise SystemCallError."""
        changes: list[LinkChange] = []
        for _ in range(_DATAGRAMS_AT_ONCE):
            heard = self._listener.receive()
            if heard is None:
                return changes + self.resync()
            if not heard:
                break
            for message in heard:
                changes += self._hear(message)
        return changes

    def resync(self) -> list[LinkChange]:
        """Ask for everything, and return what differs from what is known. `changes` does it when messages were lost.

        Raise SystemCallError.
        """
        now = {link.index: link for link in links()}
        changes: list[LinkChange] = [LinkGone(i, self._known.pop(i).name) for i in self._known.keys() - now.keys()]
        for link in now.values():
            changes += self._see(link)
        return changes + [AddressesChanged(index) for index in now]

    def _see(self, link: Link) -> list[LinkChange]:
        before = self._known.get(link.index)
        self._known[link.index] = link
        if before == link:
            return []
        if before is None:
            return [LinkAppeared(link)]
        if before.name != link.name:
            return [LinkGone(link.index, before.name), LinkAppeared(link)]
        return [LinkChanged(link)]

    def _hear(self, message: netlink.Message) -> list[LinkChange]:
        if message.kind in (rtnetlink.NEWADDR, rtnetlink.DELADDR):
            return [AddressesChanged(AddressMessage.from_message(message).index)]
        heard = LinkMessage.from_message(message)
        if heard is None:
            return []
        if message.kind == rtnetlink.NEWLINK:
            return self._see(Link.from_message(heard))
        before = self._known.pop(heard.index, None)
        return [LinkGone(before.index, before.name)] if before else []
