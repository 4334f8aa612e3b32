"""The BSDs' ifconfig words for carp and pfsync: what belongs to each, and which of our keys it means.

A line makes statements, which `carpctl ifconfig` obeys and `carpctl import` writes down. What ranges values have is for
the keys to say.

Ref: OpenBSD ifconfig(8), sections CARP, PFSYNC and INET, hostname.if(5); FreeBSD ifconfig(8), rc.conf(5); spec carp
§15, pfsync §8.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Any, NamedTuple

from carpd.wire.carp import GROUP4, GROUP6


class SetKeys(NamedTuple):
    """Keys of [carp.NAME] or [pfsync] get these values, of TOML's own types. None: as if it were not in the file."""

    keys: Mapping[str, Any]


class SetAddress(NamedTuple):
    """An address is put on, or taken off."""

    address: str
    """ADDRESS or ADDRESS/LENGTH."""
    alias: bool
    """It comes beside the others; otherwise the first one of its family makes room for it."""
    remove: bool


class Order(NamedTuple):
    """More than a value of a key: `create`, `state backup`."""

    word: str
    value: str = ""


class Refused(NamedTuple):
    """Words that can't be had, and why."""

    said: str
    reason: str


class Unknown(NamedTuple):
    """A word that nobody knows, and those behind it, up to the next that is known: they may belong to it."""

    words: Sequence[str]


Statement = SetKeys | SetAddress | Order | Refused | Unknown

Meaning = Statement | Callable[[str], Statement]
"""Of a word that stands alone; of one that has a value, by that. Raise ValueError with what it wants instead."""


class Vocabulary(NamedTuple):
    """The words of a kind of interface."""

    words: Mapping[str, Meaning]
    has_addresses: bool

    @property
    def known(self) -> Sequence[str]:
        """All that a statement can begin with, but addresses."""
        return (*self.words, *(_ABOUT_ADDRESS if self.has_addresses else ()))


def statements(line: Sequence[str], vocabulary: Vocabulary) -> Iterator[Statement]:
    """What the words of a line say, from left to right."""
    words = deque(line)
    about: list[str] = []
    while words:
        word = words.popleft()
        if word in vocabulary.words:
            yield _statement(word, vocabulary.words[word], words)
        elif word in vocabulary.known:
            about.append(word)
        elif vocabulary.has_addresses and _ADDRESS.fullmatch(word):
            yield _address(about, word, words)
            about = []
        else:
            unknown = [word]
            while words and words[0] not in vocabulary.known:
                unknown.append(words.popleft())
            yield Unknown(unknown)
    if about:
        yield Refused(" ".join(about), _WANTS_ADDRESS)


def _statement(word: str, meaning: Meaning, words: deque[str]) -> Statement:
    if not callable(meaning):
        return meaning
    if not words:
        return Refused(word, "wants a value")
    value = words.popleft()
    try:
        return meaning(value)
    except ValueError as error:
        return Refused(f"{word} {value}", str(error))


# Addresses: [inet | inet6] [alias] ADDRESS[/LENGTH] [NETMASK [BROADCAST]] [netmask NETMASK] [prefixlen LENGTH] [alias]

_ALIAS = ("alias", "add")
_REMOVE = ("-alias", "delete")
_ABOUT_ADDRESS = ("inet", "inet6", *_ALIAS, *_REMOVE)
"""May stand before an address, and between these and it words of another kind: `inet vhid 1 192.0.2.1/24`."""
_LENGTHS = ("netmask", "prefixlen")
BEHIND_ADDRESS = (*_ALIAS, *_REMOVE, *_LENGTHS, "broadcast")
"""May stand directly behind one, and belong to it then."""

_WANTS_ADDRESS = "wants an address, such as 192.0.2.1/24"

_ADDRESS = re.compile("[^-].*[.:].*")
"""What is to be one, right or wrong."""
_DOTTED = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_BARE_LENGTHS = {"inet": re.compile(rf"0x[0-9a-fA-F]+|{_DOTTED}"), "inet6": re.compile("[0-9]+")}
"""By the word for its family: what may stand directly behind an address without a word for it."""
_BROADCAST = re.compile(rf"NONE|{_DOTTED}")


def _address(before: Sequence[str], text: str, words: deque[str]) -> SetAddress | Refused:
    """An address that is spelled so, with the words about it before and behind."""
    said = [*before, text]
    address, _, length = re.sub("%[^/]*", "", text).partition("/")  # the interface has a key of its own
    bare = [form for family, form in _BARE_LENGTHS.items() if family in before and not length]
    if words and any(form.fullmatch(words[0]) for form in bare):
        said.append(length := words.popleft())
        if words and _BROADCAST.fullmatch(words[0]):
            said.append(words.popleft())
    while words and words[0] in BEHIND_ADDRESS:
        said.append(word := words.popleft())
        if word in (*_LENGTHS, "broadcast"):
            if not words:
                return Refused(" ".join(said), "wants a value")
            said.append(value := words.popleft())
            length = value if word in _LENGTHS else length
    try:
        whole = f"{address}/{_prefix_length(length)}" if length else address
    except ValueError:
        return Refused(" ".join(said), "wants a netmask")
    try:
        ip_interface(whole)
    except ValueError:
        return Refused(" ".join(said), _WANTS_ADDRESS)
    return SetAddress(whole, *(any(word in said for word in those) for those in (_ALIAS, _REMOVE)))


def _prefix_length(mask: str) -> int:
    """From itself, or from a netmask: 24, 255.255.255.0 or 0xffffff00. Raise ValueError if it is neither."""
    if mask.isascii() and mask.isdigit():
        return int(mask)
    bits = int(mask, 16) if mask.startswith("0x") else int(IPv4Address(mask))
    length = bits.bit_count()
    if bits != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError(f"{mask} is no netmask")
    return length


# Values


def number(text: str) -> int:
    """A whole number. Raise ValueError."""
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise ValueError("wants a number")
    return int(text)


def _node_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("wants an address, such as 192.0.2.2") from None


def _peer(text: str) -> SetKeys:
    address = _node_address(text)
    if ip_address(address).packed in (GROUP4, GROUP6):
        return _TO_ALL
    if ip_address(address).is_multicast:
        raise ValueError("another group than 224.0.0.18 and ff02::12 is not supported")
    return SetKeys({"peers": [address], "multicast": False})


def _nodes(text: str) -> SetKeys:
    pairs = [re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", pair) for pair in text.split(",")]
    nodes = {str(int(pair[1])): int(pair[2]) for pair in pairs if pair}
    if len(nodes) != len(pairs):
        raise ValueError("write VHID:ADVSKEW,VHID:ADVSKEW..., each vhid once")
    if len(nodes) > 1:
        return SetKeys({"vhid": None, "advskew": None, "nodes": nodes})
    ((vhid, advskew),) = nodes.items()
    return SetKeys({**_ONE_NODE, "vhid": int(vhid), "advskew": advskew})


# Words

_ONE_NODE = {"nodes": None, "balancing": None}
"""Which shares nothing."""
_TO_ALL = SetKeys({"peers": None, "multicast": None})

_INTERFACE: Mapping[str, Meaning] = {
    "create": Order("create"),
    "destroy": Order("destroy"),
    "up": SetKeys({"up": None}),
    "down": SetKeys({"up": False}),
    "description": lambda text: Refused(f"description {text}", "there is none here: write a comment into the file"),
}
"""Of any that is made for carp or pfsync alone."""

_ELECTION: Mapping[str, Meaning] = {
    "vhid": lambda text: SetKeys({**_ONE_NODE, "vhid": number(text)}),
    "advbase": lambda text: SetKeys({"advbase": number(text)}),
    "advskew": lambda text: SetKeys({"advskew": number(text)}),
    "pass": lambda text: SetKeys({"password_file": None, "password": text}),
    "state": partial(Order, "state"),
}
"""Of a virtual host, wherever it is said."""

OPENBSD_CARP = Vocabulary(
    {
        **_INTERFACE,
        **_ELECTION,
        "carpdev": lambda text: SetKeys({"interface": text}),
        "carpnodes": _nodes,
        "balancing": lambda text: SetKeys({"balancing": None if text == "none" else text}),
        "carppeer": _peer,
        "-carppeer": _TO_ALL,
        "group": lambda text: SetKeys({"group": text}),
        "-group": partial(Order, "-group"),
    },
    has_addresses=True,
)
"""Of a carp interface."""

FREEBSD_CARP = Vocabulary(
    {
        **_ELECTION,
        "up": SetKeys({}),
        "peer": _peer,
        "peer6": _peer,
        "mcast": Order("mcast"),
        "mcast6": Order("mcast6"),
    },
    has_addresses=True,
)
"""Of an address with a vhid, on any interface: `up` is that of the interface."""

OPENBSD_PFSYNC = Vocabulary(
    {
        **_INTERFACE,
        "syncdev": lambda text: SetKeys({"syncdev": text}),
        "syncif": lambda text: SetKeys({"syncdev": text}),
        "-syncdev": SetKeys({"syncdev": None}),
        "syncpeer": lambda text: SetKeys({"syncpeer": [_node_address(text)]}),
        "-syncpeer": SetKeys({"syncpeer": None}),
        "maxupd": lambda text: SetKeys({"maxupd": number(text)}),
        "defer": Order("defer"),
        "-defer": SetKeys({"defer": None}),
    },
    has_addresses=False,
)

FREEBSD_PFSYNC = Vocabulary(
    {**OPENBSD_PFSYNC.words, "version": lambda text: SetKeys({"version": text})}, has_addresses=False
)
