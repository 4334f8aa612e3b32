"""The keys of a virtual host: what each means, what it may be, and how its TOML value becomes the model's.

The table `KEYS` is the reference: the parser reads by it, and the manual page is made from it.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from carpd.config.model import Address, DemotionMode, MacMode, MasterDownRule, VirtualHostConfig
from carpd.config.problems import kind, show

DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(VirtualHostConfig)
    if field.default is not dataclasses.MISSING
}
"""What the model says about a key that nobody sets."""

INTERFACE_NAME_LIMIT = 15
"""Bytes: IFNAMSIZ less the terminating zero."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")

Reader = Callable[[Any], Any]
"""From a TOML value to the model's. Raises ValueError with what should be written instead."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of [carp.NAME]."""

    name: str
    read_one: Reader
    meaning: str
    many: bool = False
    """The value is an array, and `read_one` reads an element."""
    required: bool = False
    shared: bool = False
    """Nodes that differ in it are not one virtual host: it can't be overridden for a node."""
    secret: bool = False
    """Its value is never printed."""

    def read(self, raw: Any) -> tuple[Any, list[tuple[object, str]]]:
        """The model's value (None if refused; of an array the elements that are good), and what was refused and why."""
        if not self.many:
            try:
                return self.read_one(raw), []
            except ValueError as error:
                return None, [(raw, str(error))]
        if not isinstance(raw, list):
            return (), [(raw, f"must be an array, [{show(raw)}], not {kind(raw)}")]
        values, refused = [], []
        for element in raw:
            try:
                values.append(self.read_one(element))
            except ValueError as error:
                refused.append((element, str(error)))
        return tuple(values), refused


def integer(what: str, low: int, high: int) -> Reader:
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


def peer_address(raw: Any) -> IPv4Address | IPv6Address:
    """The address of another node, without a length."""
    _require_no_zone(text(raw))
    try:
        address = ipaddress.ip_address(raw)
    except ValueError:
        raise ValueError('must be the address of a node, such as "192.0.2.2" or "2001:db8::2"') from None
    _require_unicast(address)
    return address


def _require_no_zone(address: str) -> None:
    if "%" in address:
        raise ValueError("write it without % and what follows: the interface is that of the virtual host")


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


KEYS = {
    key.name: key
    for key in (
        Key("interface", interface_name, "the network interface of the link that the addresses are on", required=True),
        Key(
            "vhid",
            integer("a vhid", 1, 255),
            "the number of the virtual host on its link, 1 to 255",
            required=True,
            shared=True,
        ),
        Key(
            "addresses",
            virtual_address,
            "the addresses that the nodes share, IPv4 and IPv6, each as ADDRESS/LENGTH",
            many=True,
            required=True,
            shared=True,
        ),
        Key(
            "password_file",
            file_name,
            "a file that contains the password, 1 to 19 bytes (a newline at its end does not count)",
        ),
        Key("password", text, "the password itself, for a configuration that only carpd can read", secret=True),
        Key("advbase", integer("advbase", 0, 254), "seconds from one advertisement to the next, 0 to 254"),
        Key(
            "advskew",
            integer("advskew", 0, 254),
            "256ths of a second that are added to advbase, 0 to 254; the node with the smallest is preferred as master",
        ),
        Key("preempt", boolean, "whether to take over from a master that advertises more rarely than this node would"),
        Key(
            "group",
            short_name("a group", 15),
            "the redundancy group: virtual hosts of one group share their demotion, and so move together",
            shared=True,
        ),
        Key(
            "mac",
            one_of(MacMode),
            'which link-layer address answers: "virtual" (00:00:5e:00:01:vhid) or "real" (that of the interface)',
        ),
        Key("peers", peer_address, "addresses of nodes that are sent every advertisement by unicast", many=True),
        Key("multicast", boolean, "whether advertisements are sent to 224.0.0.18 and ff02::12"),
        Key(
            "demotion",
            one_of(DemotionMode),
            'how peers are told of a demotion: "counter" (OpenBSD), "advskew" (FreeBSD, NetBSD, ucarp) or "both"',
            shared=True,
        ),
        Key(
            "master_down",
            one_of(MasterDownRule),
            'how long a backup waits: "classic" (3 advbase + advskew/256 s) or "openbsd" (3 (advbase + advskew/256) s)',
        ),
        Key(
            "ifdown_demotion_factor",
            integer("a demotion factor", 0, 255),
            'what a lost link adds to the demotion of the group, 0 to 255; 1 with demotion = "counter", otherwise 240',
        ),
        Key(
            "senderr_demotion_factor",
            integer("a demotion factor", 0, 255),
            "what failing to send adds to it, likewise",
        ),
        Key(
            "digest_link_local",
            boolean,
            "whether link-local addresses are part of the digest, as FreeBSD and NetBSD peers want it",
        ),
    )
}
