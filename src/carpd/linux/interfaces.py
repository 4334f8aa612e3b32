"""A virtual host's device, from nothing to ready, and what a killed daemon left of it.

Ref: docs/architecture.md, "Linux"; Linux Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import errno
from pathlib import Path

from carpd.errors import SystemCallError
from carpd.linux import balance, lease, sysctls
from carpd.linux.addresses import AddressTable, left_behind
from carpd.linux.links import Link, create_macvlan, delete_links, find_link, links, set_up
from carpd.linux.sysctls import SysctlJournal

ALIAS = "carpd"
"""The alias of our macvlans: by it they are recognised."""

_UNICAST_IN_MULTICAST = "drop_unicast_in_l2_multicast"
_FAMILIES = ("ipv4", "ipv6")

JOURNAL = "sysctls.json"
"""The journal of changed settings, in the state directory."""

_SAME_AS_PARENT = (("ipv4", "forwarding"), ("ipv6", "forwarding"), ("ipv6", "disable_ipv6"))
_ON_DEVICE = (
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "arp_announce", "2"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "dad_transmits", "0"),
    # Traffic that is shared beside it comes in multicast frames: the parent gives it copies, which are not for it.
    *((family, _UNICAST_IN_MULTICAST, "1") for family in _FAMILIES),
)


def prepare(device: str, parent: Link, mac: bytes, journal: SysctlJournal) -> int:
    """Make the macvlan of a virtual host, or take over the one that is there, and return its index.

    It is up from now on: the lease gate of the parent must stand already. Raise SystemCallError.
    """
    index = _macvlan(device, parent, mac)
    _quiet_parent(parent.name, journal)
    for family, setting, value in _ON_DEVICE:
        _set(value, family, device, setting)
    for family, setting in _SAME_AS_PARENT:
        _set(sysctls.read(family, "conf", parent.name, setting), family, device, setting)
    _set(_loose(device), "ipv4", device, "rp_filter")
    set_up(index)
    return index


def prepare_sharing(device: str, parent: Link, journal: SysctlJournal) -> int:
    """Make an interface ready for addresses that several hosts answer for, which will be on `device`; return its index.

    Unicast packets in multicast frames are for the share gate to take: without it the kernel would take all of UDP.
    Raise SystemCallError.
    """
    _quiet_parent(parent.name, journal)
    for family in _FAMILIES:
        journal.set("1", family, "conf", parent.name, _UNICAST_IN_MULTICAST)
    link = find_link(device)
    if link is None:
        raise SystemCallError(f"look at interface {device}", errno.ENODEV, "it is not there")
    set_up(link.index)
    return link.index


def end_sharing(parent: str, journal: SysctlJournal) -> None:
    """No traffic of this interface is shared any more, while there are other virtual hosts. Raise SystemCallError."""
    journal.restore(parent, _UNICAST_IN_MULTICAST)


def unprepare() -> list[str]:
    """Delete every macvlan of ours; return their names. Raise SystemCallError."""
    ours = [link for link in links() if link.alias == ALIAS and link.kind == "macvlan"]
    if ours:
        delete_links([link.index for link in ours])
    return [link.name for link in ours]


def clean_left_behind(state_dir: Path) -> list[str]:
    """Take away what a daemon that was killed left on this host, and say what: a line for each.

    Addresses go before the gates that keep them silent. Raise SystemCallError.
    """
    done = []
    names = {link.index: link.name for link in links()}
    table = AddressTable()
    for index, address in left_behind():
        table.remove(index, [address])
        done.append(f"removed address {address.ip} from {names.get(index, index)}")
    table.close()
    done += [f"deleted interface {name}" for name in unprepare()]
    for parent in lease.installed():
        lease.remove(parent)
        done.append(f"removed the lease gate of {parent}")
    done += balance.remove_left_behind()
    for name in SysctlJournal(state_dir / JOURNAL).restore():
        done.append(f"restored net/{'/'.join(name)}")
    return done


def _macvlan(device: str, parent: Link, mac: bytes) -> int:
    link = find_link(device)
    if link:
        if link.alias != ALIAS:
            raise SystemCallError(f"create the macvlan {device}", errno.EEXIST, "another interface has this name")
        if (link.kind, link.mac, link.parent_index) == ("macvlan", mac, parent.index):
            return link.index
        delete_links([link.index])
    return create_macvlan(device, parent.index, mac, ALIAS)


def _quiet_parent(parent: str, journal: SysctlJournal) -> None:
    """Let the parent neither answer ARP for the macvlan's addresses nor ask with them, which would tell its own MAC."""
    for setting, least in (("arp_ignore", 1), ("arp_announce", 2)):
        # The kernel takes the larger one of the interface's value and that for all.
        values = (sysctls.read("ipv4", "conf", where, setting) or "0" for where in (parent, "all"))
        if max(map(int, values)) < least:
            journal.set(str(least), "ipv4", "conf", parent, setting)


def _loose(device: str) -> str | None:
    """What the macvlan's rp_filter must be: replies to what it receives leave through the parent, so 1 drops all of it.

    The kernel takes the larger one of the interface's value and that for all.
    """
    for_all = sysctls.read("ipv4", "conf", "all", "rp_filter")
    return "2" if for_all == "1" else "0"


def _set(value: str | None, family: str, device: str, setting: str) -> None:
    """Change a setting of the macvlan, with which it will vanish; without a value, or IPv6, there is nothing to do."""
    if value is not None and sysctls.read(family, "conf", device, setting) not in (None, value):
        sysctls.write(value, family, "conf", device, setting)
