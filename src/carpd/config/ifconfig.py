"""OpenBSD's words for carp and pfsync interfaces, as changes of our tables.

    carp0 create vhid 1 carpdev eth1 pass xyzzy advskew 100 192.0.2.1/24    [carp.carp0] with these keys
    carp0 carpnodes 1:0,2:100 balancing ip                                 nodes and balancing instead of vhid
    carp0 state backup        -g carp carpdemote 10                        orders, which change no table
    pfsync0 syncdev eth2 syncpeer 10.0.0.2 maxupd 64 up                    [pfsync]

What the words mean is told in `ifconfig_words`; whether the values are good is for the parser, which reads the tables
afterwards as if they stood in a file. Ref: OpenBSD ifconfig(8); spec carp §15.1, pfsync §8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

from carpd.config import ifconfig_words
from carpd.config.edits import Edit, Tables, edited
from carpd.config.ifconfig_words import (
    OPENBSD_CARP,
    OPENBSD_PFSYNC,
    Order,
    Refused,
    SetAddress,
    SetKeys,
    Unknown,
    Vocabulary,
    statements,
)
from carpd.config.keys import CARP_KEYS, PFSYNC_KEYS, Key
from carpd.config.problems import KeyPath
from carpd.errors import CarpdError
from carpd.nearest import hint

PFSYNC = "pfsync0"
"""The only interface of pfsync that there is."""


class IfconfigError(CarpdError):
    """Words that mean nothing, or can't be had: the message is one line for the user."""


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
    try:
        amount = ifconfig_words.number(values[0]) if values else 1
    except ValueError as error:
        raise IfconfigError(f"{' '.join(rest)}: {error}") from None
    if not 0 <= amount <= 128:
        raise IfconfigError(f"{word} {amount}: a demotion is 0 to 128")
    return Request(orders=[DemotionOrder(group, signs[word] * amount)])


class _Interface:
    """The words of one interface, obeyed from left to right."""

    keys: Mapping[str, Key]
    vocabulary: Vocabulary

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        self.name = name
        self.tables = tables
        self.node = node
        self.result = Request()
        self.orders: dict[str, Callable[[str], None]] = {}
        """What is to be done by those of the vocabulary, with the value of each."""

    def obey(self, words: Sequence[str]) -> Request:
        for statement in statements(words, self.vocabulary):
            match statement:
                case SetKeys(keys):
                    for key, value in keys.items():
                        self.set(key, value)
                case SetAddress():
                    self.address(statement)
                case Order(word, value):
                    self.orders[word](value)
                case Refused(said, reason):
                    raise IfconfigError(f"{self.name}: {said}: {reason}")
                case Unknown((word, *_)):
                    near = hint(word, self.vocabulary.known)
                    raise IfconfigError(f"{self.name}: unknown word {word!r}: {near}")
        return self.result

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
        """What was said of it before does not count any more."""
        self.result.edits = [edit for edit in self.result.edits if edit.path[: len(path)] != path]
        self.result.edits.append(Edit(path, value))

    def destroy(self) -> None:
        """With what single hosts have of it."""
        *above, name = self.path
        self.edit(self.path, None)
        for node, tables in self.tables.get("node", {}).items():
            for table in above:
                tables = tables.get(table, {})
            if name in tables:
                self.edit(("node", node, *self.path), None)

    def address(self, wanted: SetAddress) -> None:
        new, old = ip_interface(wanted.address), self.get("addresses") or []
        addresses = [address for address in old if ip_interface(address).ip != new.ip]
        first = next((address for address in old if ip_interface(address).version == new.version), None)
        if wanted.remove:
            if addresses == old:
                raise IfconfigError(f"{self.name}: it has no address {wanted.address}")
        elif wanted.alias or first is None:
            addresses.append(wanted.address)
        elif first in addresses:
            addresses[addresses.index(first)] = wanted.address
        else:  # it is the first one, with another length
            addresses.insert(old.index(first), wanted.address)
        self.set("addresses", addresses)


def _secret(key: str) -> Callable[[str], SetKeys]:
    """What begins with a slash is a file that has it: what stands in a command other users can see."""

    def meaning(text: str) -> SetKeys:
        return SetKeys({key: None, f"{key}_file": text} if text.startswith("/") else {f"{key}_file": None, key: text})

    return meaning


class _Carp(_Interface):
    keys = CARP_KEYS
    vocabulary = Vocabulary({**OPENBSD_CARP.words, "pass": _secret("password")}, has_addresses=True)

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        super().__init__(name, tables, node)
        self.orders = {
            "create": lambda _: self.create(),
            "destroy": lambda _: self.destroy(),
            "state": self.state,
            "-group": self.no_group,
        }

    @property
    def path(self) -> KeyPath:
        return "carp", self.name

    @property
    def exists(self) -> bool:
        return self.name in self.now().get("carp", {})

    def obey(self, words: Sequence[str]) -> Request:
        if not self.exists and not any(word in words for word in ("create", "vhid", "carpnodes")):
            known = [*self.tables.get("carp", {}), PFSYNC]
            what = f"{self.name}: no such interface (a new one begins with create)"
            raise IfconfigError(f"{what}: {hint(self.name, known)}")
        super().obey(words)
        if self.result.edits and self.get("multicast") is False and self.families("addresses") - self.families("peers"):
            self.set("multicast", None)  # it stays on for the family that has no peer
        return self.result

    def families(self, key: str) -> set[int]:
        return {ip_interface(address).version for address in self.get(key) or ()}

    def create(self) -> None:
        if self.exists:
            raise IfconfigError(f"{self.name}: it is there already")

    def no_group(self, group: str) -> None:
        if self.get("group") == group:
            self.set("group", None)

    def state(self, state: str) -> None:
        if state not in ("master", "backup"):
            raise IfconfigError(f"{self.name}: state {state}: must be master or backup")
        self.result.orders.append(StateOrder(self.name, state))


class _Pfsync(_Interface):
    keys = PFSYNC_KEYS
    vocabulary = Vocabulary({**OPENBSD_PFSYNC.words, "secret": _secret("secret")}, has_addresses=False)

    def __init__(self, name: str, tables: Tables, node: str) -> None:
        super().__init__(name, tables, node)
        self.orders = {
            "create": lambda _: None,
            "destroy": lambda _: self.destroy(),
            "defer": lambda _: self.defer(),
        }

    @property
    def path(self) -> KeyPath:
        return ("pfsync",)

    def obey(self, words: Sequence[str]) -> Request:
        result = super().obey(words)
        begins = "pfsync" not in self.tables and "pfsync" in self.now()
        if begins and not self.get("secret") and not self.get("secret_file"):
            how = "secret /etc/carpd/pfsync.key, with the same file on all hosts (head -c 32 /dev/urandom | base64)"
            raise IfconfigError(f"{self.name}: a new one wants a secret: {how}")
        return result

    def defer(self) -> None:
        """On the interfaces of all virtual hosts: those that connections leave by."""
        hosts = self.now().get("carp", {})
        interfaces = (_Carp(name, self.now(), self.node).get("interface") for name in hosts)
        self.set("defer", sorted({interface for interface in interfaces if interface}))
