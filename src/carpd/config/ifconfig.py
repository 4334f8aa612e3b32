"""OpenBSD's words for carp and pfsync interfaces, as changes of our tables.

    carp0 create vhid 1 carpdev eth1 pass xyzzy advskew 100 192.0.2.1/24    [carp.carp0] with these keys
    carp0 carpnodes 1:0,2:100 balancing ip                                 nodes and balancing instead of vhid
    carp0 state backup        -g carp carpdemote 10                        orders, which change no table
    pfsync0 syncdev eth2 syncpeer 10.0.0.2 maxupd 64 up                    [pfsync]

What the words mean is decided here; whether the values are good is for the parser, which reads the tables afterwards as
if they stood in a file. Ref: OpenBSD ifconfig(8), sections CARP, PFSYNC and INET; spec carp §15.1, pfsync §8.
"""

from __future__ import annotations

import copy
import difflib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from carpd.config.keys import CARP_KEYS, PFSYNC_KEYS, Key
from carpd.errors import CarpdError

PFSYNC = "pfsync0"
"""The only interface of pfsync that there is."""

KeyPath = tuple[str, ...]
Tables = Mapping[str, Any]


class IfconfigError(CarpdError):
    """Words that mean nothing, or can't be had: the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A key that is set, with a value of TOML's own types, or deleted (None)."""

    path: KeyPath
    value: Any


@dataclass(frozen=True, slots=True)
class StateOrder:
    """Be "master" or "backup" for a virtual host."""

    virtual_host: str
    state: str


@dataclass(frozen=True, slots=True)
class DemotionOrder:
    """Demote a group by so much more, or less."""

    group: str
    amount: int


@dataclass(slots=True)
class Request:
    """What a line of words asks for."""

    edits: list[Edit] = field(default_factory=list)
    orders: list[StateOrder | DemotionOrder] = field(default_factory=list)
    shown: str | None = None
    """Without any word to obey: the interface, or "-g GROUP", that is to be shown; "" for all."""


def edited(tables: Tables, edits: Sequence[Edit]) -> dict[str, Any]:
    """The tables with these edits; a table that has lost its last key has gone too."""
    result = copy.deepcopy(dict(tables))
    for edit in edits:
        _set(result, edit.path, edit.value)
    return result


def _set(tables: dict[str, Any], path: KeyPath, value: Any) -> None:
    name, *rest = path
    if not rest:
        if value is None:
            tables.pop(name, None)
        else:
            tables[name] = value
        return
    inner = tables.setdefault(name, {})
    _set(inner, tuple(rest), value)
    if not inner:
        del tables[name]


def request(words: Sequence[str], tables: Tables, node: str) -> Request:
    """What the words ask of a host named `node` whose configuration has these tables. Raise IfconfigError."""
    if not words:
        return Request(shown="")
    if words[0] == "-g":
        return _group(words[1:])
    name, rest = words[0], list(words[1:])
    if name.startswith("-"):
        raise IfconfigError(f"unknown option {name}: carpctl ifconfig [INTERFACE | -g GROUP] [WORDS]")
    if not rest:
        return Request(shown=name)
    return (_Pfsync if name == PFSYNC else _Carp)(name, tables, node).obey(rest)


def _group(words: Sequence[str]) -> Request:
    if not words:
        raise IfconfigError("-g wants the name of a group")
    group, rest = words[0], list(words[1:])
    if not rest:
        return Request(shown=f"-g {group}")
    word, *values = rest
    signs = {"carpdemote": 1, "-carpdemote": -1}
    if word not in signs or len(values) > 1:
        raise IfconfigError(f"unknown word {' '.join(rest)!r} of a group: carpdemote [N] or -carpdemote [N]")
    amount = _number(word, values[0]) if values else 1
    if not 0 <= amount <= 128:
        raise IfconfigError(f"{word} {amount}: a demotion is 0 to 128")
    return Request(orders=[DemotionOrder(group, signs[word] * amount)])


class _Interface:
    """The words of one interface, obeyed from left to right."""

    keys: Mapping[str, Key]

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        self.name = name
        self.tables = tables
        self.node = node
        self.result = Request()
        self.words: deque[str] = deque()
        self.known: dict[str, Callable[[], None]] = {}

    def obey(self, words: Sequence[str]) -> Request:
        self.words.extend(words)
        while self.words:
            self.word(self.words.popleft())
        return self.result

    def word(self, word: str) -> None:
        handler = self.known.get(word)
        if handler is None:
            near = difflib.get_close_matches(word, self.known, 1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(self.known))}"
            raise IfconfigError(f"{self.name}: unknown word {word!r}: {hint}")
        handler()

    def value(self, word: str) -> str:
        if not self.words:
            raise IfconfigError(f"{self.name}: {word} wants a value")
        return self.words.popleft()

    @property
    def path(self) -> KeyPath:
        """Of the table that all hosts have in common."""
        raise NotImplementedError

    def now(self) -> dict[str, Any]:
        """The tables as edited so far."""
        return edited(self.tables, self.result.edits)

    def table(self, *, override: bool) -> dict[str, Any]:
        tables: Any = self.now()
        for name in ("node", self.node, *self.path) if override else self.path:
            tables = tables.get(name, {})
        return dict(tables)

    def get(self, key: str) -> Any:
        """The key as this host has it; None if it is not set."""
        return self.table(override=True).get(key, self.table(override=False).get(key))

    def set(self, key: str, value: Any) -> None:
        """Set or delete a key for this host; for all, if it must be the same on all, or they differ in nothing here."""
        mine: KeyPath = ("node", self.node, *self.path, key)
        common: KeyPath = (*self.path, key)
        if value is None:
            self.edit(common, None)
            self.edit(mine, None)
            return
        of_hosts = not self.keys[key].shared and self.differs
        self.edit(mine if of_hosts else common, value)

    @property
    def differs(self) -> bool:
        """Whether any host has something of its own for it."""
        of_hosts: Any = self.now().get("node", {}).values()
        for name in self.path:
            of_hosts = [tables.get(name, {}) for tables in of_hosts]
        return any(of_hosts)

    def edit(self, path: KeyPath, value: Any) -> None:
        self.result.edits.append(Edit(path, value))

    def up(self) -> None:
        self.set("up", None)

    def down(self) -> None:
        self.set("up", False)


_BEHIND_ADDRESS = ("netmask", "prefixlen", "broadcast", "alias", "-alias", "delete")


class _Carp(_Interface):
    keys = CARP_KEYS

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        super().__init__(name, tables, node)
        self.known = {
            "create": self.create,
            "destroy": self.destroy,
            "up": self.up,
            "down": self.down,
            "vhid": lambda: self.number("vhid"),
            "advbase": lambda: self.number("advbase"),
            "advskew": lambda: self.number("advskew"),
            "carpdev": lambda: self.set("interface", self.value("carpdev")),
            "pass": self.password,
            "group": lambda: self.set("group", self.value("group")),
            "-group": self.no_group,
            "carppeer": self.peer,
            "-carppeer": self.no_peer,
            "carpnodes": self.nodes,
            "balancing": self.balancing,
            "state": self.state,
            "inet": lambda: self.address(self.value("inet")),
            "inet6": lambda: self.address(self.value("inet6")),
            "delete": self.delete,
            "-alias": self.delete,
        }

    @property
    def path(self) -> KeyPath:
        return "carp", self.name

    @property
    def exists(self) -> bool:
        return self.name in self.now().get("carp", {})

    def obey(self, words: Sequence[str]) -> Request:
        if not self.exists and "create" not in words and "vhid" not in words and "carpnodes" not in words:
            known = [*self.tables.get("carp", {}), PFSYNC]
            near = difflib.get_close_matches(self.name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)};"
            raise IfconfigError(f"{self.name}: no such interface: {hint} a new one begins with create")
        return super().obey(words)

    def word(self, word: str) -> None:
        if word not in self.known and word[:1].isalnum() and ("." in word or ":" in word):
            self.address(word)
        else:
            super().word(word)

    def create(self) -> None:
        if self.exists:
            raise IfconfigError(f"{self.name}: it is there already")

    def destroy(self) -> None:
        self.edit(self.path, None)
        for node, tables in self.tables.get("node", {}).items():
            if self.name in tables.get("carp", {}):
                self.edit(("node", node, *self.path), None)

    def number(self, word: str) -> None:
        self.set(word, _number(f"{self.name}: {word}", self.value(word)))
        self.set("nodes", None)
        self.set("balancing", None)

    def password(self) -> None:
        self.set("password_file", None)
        self.set("password", self.value("pass"))

    def no_group(self) -> None:
        group = self.value("-group")
        if self.get("group") == group:
            self.set("group", None)

    def peer(self) -> None:
        peer = _address(f"{self.name}: carppeer", self.value("carppeer"))
        if ip_address(peer).is_multicast:
            raise IfconfigError(f"{self.name}: carppeer {peer}: another group than 224.0.0.18 is not supported")
        self.set("peers", [peer])
        self.set("multicast", False)

    def no_peer(self) -> None:
        self.set("peers", None)
        self.set("multicast", None)

    def nodes(self) -> None:
        text = self.value("carpnodes")
        pairs = [pair.partition(":") for pair in text.split(",")]
        what = f"{self.name}: carpnodes {text}"
        nodes = {str(_number(what, vhid)): _number(what, advskew) for vhid, colon, advskew in pairs if colon}
        if len(nodes) != len(pairs):
            raise IfconfigError(f"{what}: write VHID:ADVSKEW,VHID:ADVSKEW..., each vhid once")
        for key in ("vhid", "advskew"):
            self.set(key, None)
        if len(nodes) == 1:  # one node shares nothing, as in OpenBSD
            ((vhid, advskew),) = nodes.items()
            for key, value in (("nodes", None), ("balancing", None), ("vhid", int(vhid)), ("advskew", advskew)):
                self.set(key, value)
            return
        self.set("nodes", None)
        self.set("nodes", nodes)

    def balancing(self) -> None:
        mode = self.value("balancing")
        self.set("balancing", None if mode == "none" else mode)

    def state(self) -> None:
        state = self.value("state")
        if state not in ("master", "backup"):
            raise IfconfigError(f"{self.name}: state {state}: must be master or backup")
        self.result.orders.append(StateOrder(self.name, state))

    def address(self, text: str) -> None:
        """ADDRESS[/LENGTH], and what may follow it: netmask, prefixlen, broadcast, alias, -alias, delete."""
        address = text
        alias = remove = False
        while self.words and self.words[0] in _BEHIND_ADDRESS:
            word = self.words.popleft()
            alias, remove = alias or word == "alias", remove or word in ("-alias", "delete")
            if word in ("netmask", "prefixlen"):
                address = f"{text.partition('/')[0]}/{_length(f'{self.name}: {word}', self.value(word))}"
            elif word == "broadcast":
                self.value(word)  # follows from the length
        version = _interface(self.name, address)
        addresses = [a for a in self.get("addresses") or [] if ip_interface(a).ip != ip_interface(address).ip]
        first = next((n for n, a in enumerate(addresses) if ip_interface(a).version == version), None)
        if remove:
            pass
        elif alias or first is None:
            addresses.append(address)
        else:  # without the word alias the first address of the family becomes this one
            addresses[first] = address
        self.set("addresses", addresses)

    def delete(self) -> None:
        address = self.value("delete")
        _interface(self.name, address)
        old = self.get("addresses") or []
        addresses = [a for a in old if ip_interface(a).ip != ip_interface(address).ip]
        if len(addresses) == len(old):
            raise IfconfigError(f"{self.name}: it has no address {address}")
        self.set("addresses", addresses)


class _Pfsync(_Interface):
    keys = PFSYNC_KEYS

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        super().__init__(name, tables, node)
        self.known = {
            "create": lambda: None,
            "destroy": lambda: self.edit(self.path, None),
            "up": self.up,
            "down": self.down,
            "syncdev": lambda: self.set("syncdev", self.value("syncdev")),
            "-syncdev": lambda: self.set("syncdev", None),
            "syncpeer": lambda: self.set("syncpeer", [_address("pfsync0: syncpeer", self.value("syncpeer"))]),
            "-syncpeer": lambda: self.set("syncpeer", None),
            "maxupd": lambda: self.set("maxupd", _number("pfsync0: maxupd", self.value("maxupd"))),
            "defer": self.defer,
            "-defer": lambda: self.set("defer", None),
        }

    @property
    def path(self) -> KeyPath:
        return ("pfsync",)

    def defer(self) -> None:
        """On the interfaces of all virtual hosts: those that connections leave by."""
        hosts = self.now().get("carp", {})
        interfaces = (_Carp(name, self.now(), self.node).get("interface") for name in hosts)
        self.set("defer", sorted({interface for interface in interfaces if interface}))


def _number(what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise IfconfigError(f"{what} {text}: wants a number") from None


def _address(what: str, text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise IfconfigError(f"{what} {text}: wants an address") from None


def _interface(name: str, text: str) -> int:
    """The IP version of ADDRESS[/LENGTH]."""
    try:
        return ip_interface(text).version
    except ValueError:
        raise IfconfigError(f"{name}: {text}: wants an address, such as 192.0.2.1/24") from None


def _length(what: str, text: str) -> str:
    """A prefix length from itself, or from a netmask: dotted, or as 0xffffff00."""
    try:
        if text.lower().startswith("0x"):
            text = str(ip_address(int(text, 16)))
        return str(ip_interface(f"0.0.0.0/{text}").network.prefixlen) if "." in text else str(int(text))
    except ValueError:
        raise IfconfigError(f"{what} {text}: wants a netmask") from None
