"""What a value may be: readers, each from one TOML value to the model's.

A reader raises ValueError with what should be written instead.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from carpd.config.model import NODES_LIMIT, Address, Endpoint, Mark, Network
from carpd.config.problems import KeyPath, kind, show

Reader = Callable[[Any], Any]

INTERFACE_NAME_LIMIT = 15
"""Bytes: IFNAMSIZ less the terminating zero."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")

_VHID = re.compile(r"[1-9][0-9]{0,2}")

_MARK = re.compile(r"(0x[0-9a-fA-F]{1,8}|[0-9]{1,10})(?:/(0x[0-9a-fA-F]{1,8}|[0-9]{1,10}))?")

_ENDPOINT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<ipv4>[0-9.]+)):(?P<port>[0-9]{1,5})")

_ACCOUNT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\$?")
"""Ref: systemd, "User/Group Name Syntax"."""

UNIX_PATH_LIMIT = 107
"""Bytes: struct sockaddr_un, less the terminating zero."""

_UINT32_MAX = 0xFFFFFFFF

_PROTOCOLS: Mapping[str, int] = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "sctp": 132,
    "udplite": 136,
}
"""The protocols that pass a firewall, by the names that /etc/protocols and nft have for them. Ref: IANA."""

Refusal = tuple[KeyPath, object, str]
"""What was refused and why: where below the key, the raw value, and what should be written instead."""


class PartsError(ValueError):
    """Parts of a table are not what they should be."""

    def __init__(self, parts: list[Refusal]) -> None:
        super().__init__(parts)
        self.parts = parts


class Node(NamedTuple):
    """One vhid of a virtual host, and what a host has for it."""

    vhid: int
    advskew: int


def integer(what: str, low: int, high: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if type(raw) is not int:  # a bool is an int too, but `vhid = true` is a mistake
            raise ValueError(f"{what} is a whole number, not {kind(raw)}")
        if not low <= raw <= high:
            raise ValueError(f"{what} is {low} to {high}")
        return raw

    return read


def one_of(choices: type[enum.Enum]) -> Reader:
    def read(raw: Any) -> enum.Enum:
        for choice in choices:
            if choice.value == raw:
                return choice
        raise ValueError("must be " + " or ".join(show(choice.value) for choice in choices))

    return read


def boolean(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {kind(raw)}")
    return raw


def text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"must be a string, not {kind(raw)}")
    return raw


def file_name(raw: Any) -> str:
    if not text(raw):
        raise ValueError("must be the name of a file")
    return str(raw)


def table(form: str) -> Reader:
    """`form` is its header, as it is to be written."""

    def read(raw: Any) -> dict[str, Any]:
        if not isinstance(raw, dict):
            raise ValueError(f"must be a table, {form}, not {kind(raw)}")
        return raw

    return read


def nodes(raw: Any) -> tuple[Node, ...]:
    """The nodes of a virtual host that shares its traffic, ascending by vhid."""
    if not isinstance(raw, dict):
        raise ValueError(f"must be a table from vhid to advskew, {NODES_FORM}, not {kind(raw)}")
    read_advskew = integer("advskew", 0, 254)
    found: list[Node] = []
    refused: list[Refusal] = []
    for name, advskew in raw.items():
        try:
            found.append(Node(_vhid(name), read_advskew(advskew)))
        except ValueError as error:
            refused.append(((name,), advskew, str(error)))
    if refused:
        raise PartsError(refused)
    if len(found) == 1:
        raise ValueError("one node is no sharing: use vhid and advskew")
    if not 2 <= len(found) <= NODES_LIMIT:
        raise ValueError(f"a virtual host has 2 to {NODES_LIMIT} nodes, not {len(found)}")
    return tuple(sorted(found))


NODES_FORM = "{ 1 = 0, 2 = 100 }"
"""What nodes look like."""


def _vhid(name: str) -> int:
    if not _VHID.fullmatch(name) or int(name) > 255:
        raise ValueError(f"a node is named by its vhid, 1 to 255, as in {NODES_FORM}")
    return int(name)


def interface_name(raw: Any) -> str:
    """Ref: Linux net/core/dev.c, dev_valid_name."""
    name = text(raw)
    if not 0 < len(name.encode()) <= INTERFACE_NAME_LIMIT:
        raise ValueError(f"an interface name has 1 to {INTERFACE_NAME_LIMIT} characters")
    if name in (".", "..") or "/" in name or ":" in name or " " in name or not name.isprintable():
        raise ValueError("an interface name has no slash, colon or space")
    return name


def short_name(what: str, limit: int) -> Reader:
    def read(raw: Any) -> str:
        name = text(raw)
        if len(name) > limit or not _NAME.fullmatch(name):
            raise ValueError(f"{what} has 1 to {limit} of the characters A-Z a-z 0-9 _ -")
        return name

    return read


def account_name(what: str) -> Reader:
    """The name of a Unix user or group. Whether it exists is another question."""

    def read(raw: Any) -> str:
        name = text(raw)
        if not _ACCOUNT.fullmatch(name):
            raise ValueError(f"{what} is given by its name, of the characters A-Z a-z 0-9 _ . -")
        return name

    return read


def argument(raw: Any) -> str:
    """What a program can be given."""
    if "\0" in text(raw):
        raise ValueError("a program can't be given a zero byte")
    return str(raw)


def listen(raw: Any) -> Endpoint | str:
    """Where a server listens: on TCP, or on a Unix socket."""
    place = text(raw)
    if place.startswith("/"):
        if "\0" in place or len(place.encode()) > UNIX_PATH_LIMIT:
            raise ValueError(f"the path of a Unix socket has at most {UNIX_PATH_LIMIT} bytes, none of them zero")
        return place
    form = 'must be "ADDRESS:PORT", such as "127.0.0.1:9120" or "[::1]:9120", or the path of a socket'
    match = _ENDPOINT.fullmatch(place)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(form)
    try:
        address = IPv6Address(match["ipv6"]) if match["ipv6"] else IPv4Address(match["ipv4"])
    except ValueError:
        raise ValueError(form) from None
    return Endpoint(address, int(match["port"]))


def virtual_address(raw: Any) -> Address:
    """An address that hosts may share. Without a length it stands alone: /32 or /128."""
    _require_no_zone(text(raw))
    try:
        address = ipaddress.ip_interface(raw)
    except ValueError:
        raise ValueError('must be an address, such as "192.0.2.1/24" or "2001:db8::1/64"') from None
    _require_unicast(address.ip)
    if address.network.num_addresses > 2:
        if address.ip == address.network.network_address:
            raise ValueError("is the address of the network: write that of a host in it")
        if address.version == 4 and address.ip == address.network.broadcast_address:
            raise ValueError("is the broadcast address of the network: write that of a host in it")
    return address


def node_address(raw: Any) -> IPv4Address | IPv6Address:
    """The address of another node, without a length."""
    _require_no_zone(text(raw))
    try:
        address = ipaddress.ip_address(raw)
    except ValueError:
        raise ValueError('must be the address of a node, such as "192.0.2.2" or "2001:db8::2"') from None
    _require_unicast(address)
    return address


def network(raw: Any) -> Network:
    """A network, or a single address."""
    form = 'must be an address or a network, such as "192.0.2.1" or "2001:db8::/32"'
    if "%" in text(raw):
        raise ValueError(form)
    try:
        interface = ipaddress.ip_interface(raw)
    except ValueError:
        raise ValueError(form) from None
    if interface.ip != interface.network.network_address:
        raise ValueError(f'is an address within a network: write "{interface.network}", or "{interface.ip}" alone')
    return interface.network


def protocol(raw: Any) -> int:
    """The number of an IP protocol."""
    if isinstance(raw, str):
        if raw not in _PROTOCOLS:
            raise ValueError(f"must be a number or one of {', '.join(_PROTOCOLS)}")
        return _PROTOCOLS[raw]
    return integer("a protocol", 0, 255)(raw)


def mark(raw: Any) -> Mark:
    """A conntrack mark: a number, or "VALUE/MASK"."""
    form = 'must be a mark, such as 5, "0x10" or "0x10/0xff"'
    if isinstance(raw, str):
        match = _MARK.fullmatch(raw)
        if match is None:
            raise ValueError(form)
        value, mask = (_UINT32_MAX if part is None else _number(part) for part in match.groups())
    elif type(raw) is int:
        value, mask = raw, _UINT32_MAX
    else:
        raise ValueError(form)
    if not (0 <= value <= _UINT32_MAX and 0 < mask <= _UINT32_MAX):
        raise ValueError(f"a mark is 0 to {_UINT32_MAX:#x}, and its mask 1 to {_UINT32_MAX:#x}")
    if value & ~mask:
        raise ValueError("has bits outside of its mask: nothing would match")
    return Mark(value, mask)


def _number(digits: str) -> int:
    return int(digits, 16 if digits.startswith("0x") else 10)


def _require_no_zone(address: str) -> None:
    if "%" in address:
        raise ValueError("write it without % and what follows: the interface has a key of its own")


def _require_unicast(address: IPv4Address | IPv6Address) -> None:
    for unfit, what in (
        (address.is_multicast, "a multicast address"),
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.version == 4 and address.is_reserved, "a reserved address"),  # 240.0.0.0/4, the broadcast with it
        (isinstance(address, IPv6Address) and address.ipv4_mapped is not None, "an IPv4 address in disguise"),
    ):
        if unfit:
            raise ValueError(f"is {what}: only a unicast address can be a host's")
