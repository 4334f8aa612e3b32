"""conntrackd.conf: the link between the firewalls, and what is not synchronised. Ref: conntrackd.conf(5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from carpd.migration import blocks
from carpd.migration.blocks import Statement
from carpd.migration.found import Found, Table
from carpd.migration.ifconfig import version

SECRET_FILE = "pfsync.key"

_COMMENT = "#"

_PROTOCOLS = {"IPv6-ICMP": "icmpv6"}
"""By conntrackd's names, where ours are not the same in small letters."""

_CHANNELS = ("UDP", "Multicast", "TCP")

_ADDRESSES = (
    *("IPv4_address", "IPv4_Destination_Address", "IPv4_interface"),
    *("IPv6_address", "IPv6_Destination_Address"),
)
"""What a channel says of the hosts; with Multicast the first of each family is the group."""

_SYNC_LEFT = {
    "Mode": "nodes speak pfsync: losses are told again, and states stand in the standby's kernel at once",
    "Options": "windows are not tracked after a take-over, and expectations always go along",
}
_CHANNEL_LEFT = {
    "Port": "the port is 5240, unless [pfsync] port says otherwise",
    "Group": "the port is 5240, unless [pfsync] port says otherwise",
    "IPv4_interface": "the address is that of the interface",
    "IPv6_interface": "the interface is syncdev",
    "SndSocketBuffer": "the sizes of buffers are not set",
    "RcvSocketBuffer": "the sizes of buffers are not set",
    "Checksum": "every message is sealed",
}
_FILTER_LEFT = {
    ("Protocol", "Accept"): "all protocols are synchronised but those in [pfsync.ignore]",
    ("Address", "Accept"): "all addresses are synchronised but those in [pfsync.ignore]",
    ("State", "Accept"): "every state of a connection is synchronised",
    ("State", "Ignore"): "every state of a connection is synchronised",
}
_ELSE = {
    "General": "a setting of conntrackd itself",
    "Stats": "statistics of flows are not collected: conntrackd can go on doing it",
    "Helper": "helpers in user space are not pfsyncd's: conntrackd can go on doing it",
}


def recognises(_: str, text: str) -> bool:
    return bool(re.search(r"(?m)^\s*(Sync|General|Stats|Helper)\s*\{", text))


def read(file: str, text: str, found: Found) -> None:
    """Raise MigrationError if its braces don't match."""
    ignored: list[Statement] = []
    own: set[str] = set()
    for statement in blocks.parse(file, text, _COMMENT):
        if statement.keyword == "Sync":
            _read_sync(statement, found)
            own |= {*_addresses_of_channels(statement)}
        elif statement.keyword == "General":
            ignored += _read_general(statement, found)
        else:
            found.leave(statement.place, str(statement), _ELSE.get(statement.keyword, "nothing of synchronisation"))
    if found.pfsync is not None:
        _read_ignored(ignored, own, found)


def finish(_: Found) -> None:
    """The file says all there is."""


def _read_sync(sync: Statement, found: Found) -> None:
    table = found.pfsync_table(sync.place)
    found.set(table, "secret_file", SECRET_FILE, sync.place)
    channels = [statement for statement in sync.items if statement.keyword in _CHANNELS]
    used = next((channel for channel in channels if channel.value == "Default"), next(iter(channels), None))
    for statement in sync.items:
        if statement is used:
            _read_channel(statement, table, found)
        elif statement in channels:
            found.leave(statement.place, str(statement), "there is one link: bond two interfaces for two cables")
        else:
            reason = _SYNC_LEFT.get(statement.keyword, "there is no such setting")
            found.leave(statement.place, str(statement), reason)
    if used is None:
        found.leave(sync.place, str(sync), "has neither UDP nor Multicast: set syncdev")


def _addresses_of_channels(sync: Statement) -> Iterator[str]:
    """Those of this host and its peers, also on channels that are not taken over."""
    for channel in sync.items:
        if channel.keyword in _CHANNELS:
            for statement in channel.items:
                group = channel.keyword == "Multicast" and statement.keyword in ("IPv4_address", "IPv6_address")
                if statement.keyword in _ADDRESSES and not group:
                    yield _bare(statement.value)


def _read_channel(channel: Statement, table: Table, found: Found) -> None:
    def peer(statement: Statement) -> None:
        if channel.keyword == "Multicast":
            found.leave(statement.place, str(statement), "the groups are 224.0.0.240 and ff12::f0")
        else:
            found.add(table, "syncpeer", statement.value.partition("%")[0], statement.place)

    known: dict[str, Callable[[Statement], None]] = {
        "Interface": lambda s: found.set(table, "syncdev", found.interface(s.value), s.place),
        "IPv4_address": peer,
        "IPv6_address": peer,
        "IPv4_Destination_Address": peer,
        "IPv6_Destination_Address": peer,
    }
    for statement in channel.items:
        if statement.keyword in known and not statement.behind:
            known[statement.keyword](statement)
        else:
            reason = _CHANNEL_LEFT.get(statement.keyword, "there is no such setting")
            found.leave(statement.place, str(statement), reason)


def _read_general(general: Statement, found: Found) -> list[Statement]:
    """The filters that say what is ignored."""
    ignored = []
    for statement in general.items:
        if statement.keyword == "Filter":
            for item in statement.items:
                if (item.keyword, item.value) in (("Address", "Ignore"), ("Protocol", "Ignore")):
                    ignored.append(item)
                else:
                    reason = _FILTER_LEFT.get((item.keyword, item.value), "there is no such filter")
                    found.leave(item.place, str(item), reason)
        else:
            found.leave(statement.place, str(statement), _ELSE["General"])
    return ignored


def _read_ignored(filters: list[Statement], own: set[str], found: Found) -> None:
    """Only now are the hosts' own addresses known, which need not be listed: what ends there never is synchronised.

    They must not be, either: conntrackd compares the first source and destination, before NAT, and pfsyncd every
    address, with that of the firewall after NAT. Ref: conntrack-tools src/filter.c.
    """
    own = own | {
        _bare(address.partition("/")[0]) for table in found.hosts for address in table.values.get("addresses", [])
    }
    for statement in (item for filter_ in filters for item in filter_.items):
        if statement.keyword in ("IPv4_address", "IPv6_address"):
            address = statement.value
            if _bare(address) in own or _is_loopback(address):
                found.note(statement.place, str(statement), "the firewall's own connections never are synchronised")
            else:
                found.ignore("addresses", address, statement.place)
                reason = "remove it if it is the firewall's own: with NAT it would keep back the connections of others"
                found.note(statement.place, str(statement), reason)
        else:
            for name in statement.words:
                found.ignore("protocols", _PROTOCOLS.get(name, name.lower()), statement.place)


def _bare(address: str) -> str:
    """Of a host, written in the one way, without its zone; anything else as it is."""
    text, _, length = address.partition("/")
    if version(address) and length in ("", "32", "128"):
        return str(ip_address(text.partition("%")[0]))
    return address


def _is_loopback(address: str) -> bool:
    return bool(version(address)) and ip_address(address.partition("/")[0].partition("%")[0]).is_loopback
