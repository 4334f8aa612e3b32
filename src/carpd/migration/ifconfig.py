"""The BSDs' ifconfig words, as a table of ours, and what must be told of addresses and interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from carpd.config.ifconfig_words import Order, Refused, SetAddress, SetKeys, Unknown, Vocabulary, statements
from carpd.migration.found import Found, Place, Table

_LEFT = {
    "state": "the election decides; `carpctl state` can change it",
    "destroy": "leave out the lines of what is not to be there",
    "delete": "leave out the lines of addresses that are not to be there",
}

_BY_MULTICAST = {"mcast": 4, "mcast6": 6}
"""Words after which the peers of a family do not count any more."""


class Interface:
    """What the lines about one interface, or one vhid, put into its table."""

    def __init__(self, found: Found, table: Table, vocabulary: Vocabulary) -> None:
        self.found = found
        self.table = table
        self._vocabulary = vocabulary

    def read(self, words: Sequence[str], place: Place) -> None:
        context = ""  # what stands behind a password may belong to it
        for statement in statements(words, self._vocabulary):
            match statement:
                case SetKeys(keys):
                    for key, value in keys.items():
                        self.set(key, value, place)
                case SetAddress(address, remove=True):
                    self.order("delete", address, place)
                case SetAddress(address):
                    self.found.add(self.table, "addresses", address, place)
                case Order(word, value):
                    self.order(word, value, place)
                case Refused(said, reason):
                    known = said.split()[0] in self._vocabulary.known
                    self.found.leave(place, said if known else f"{context}{said}", reason)
                case Unknown(unknown):
                    self.found.leave(place, f"{context}{' '.join(unknown)}", "unknown word")
            context = "pass " if isinstance(statement, SetKeys) and "password" in statement.keys else ""

    def set(self, key: str, value: object, place: Place) -> None:
        if key == "multicast":
            return  # `unicast` decides that, when all addresses are known
        if value is None:
            self.table.values.pop(key, None)
        elif isinstance(value, list):
            for element in value:
                self.found.add(self.table, key, element, place)
        elif key == "password":
            self.found.password(self.table, str(value), place, cut=True)
        elif key in ("interface", "syncdev"):
            self.found.set(self.table, key, self.found.interface(str(value)), place)
        else:
            self.found.set(self.table, key, value, place)

    def order(self, word: str, value: str, place: Place) -> None:
        """An interface is made by being named; of the groups that it leaves, only that which was set counts."""
        values = self.table.values
        if word in _LEFT:
            self.found.leave(place, f"{word} {value}".rstrip(), _LEFT[word])
        elif word == "defer":
            values.setdefault("defer", [])  # it is filled when all virtual hosts are known
        elif word in _BY_MULTICAST:
            values["peers"] = [peer for peer in values.get("peers", []) if version(peer) != _BY_MULTICAST[word]]
        elif word == "-group" and value == values.get("group"):
            del values["group"]


def version(text: str) -> int:
    """Of an address, with or without a length or zone; 0 if it is none."""
    try:
        return ip_address(text.partition("/")[0].partition("%")[0]).version
    except ValueError:
        return 0


def unicast(found: Found) -> None:
    """Where there are peers, advertisements go to them alone, as far as every family has some."""
    for table in found.hosts:
        peers = table.values.get("peers", [])
        if not peers:
            table.values.pop("peers", None)
            continue
        missing = {version(address) for address in table.values.get("addresses", [])} - {*map(version, peers)}
        for peer in [peer for peer in peers if version(peer) not in {*map(version, table.values.get("addresses", []))}]:
            peers.remove(peer)
            found.leave(table.place, f"peer {peer}", "there is no address of its family")
        if not peers:
            del table.values["peers"]
        elif missing:
            families = " and ".join(f"IPv{family}" for family in sorted(missing))
            reason = f"there is none for {families}, so multicast stays on beside it"
            found.note(table.place, f"peers {' '.join(peers)}", reason)
        else:
            found.set(table, "multicast", False, table.place)


def tell_of_interfaces(found: Found) -> None:
    """Interfaces have other names on Linux."""
    names: dict[str, Place] = {}
    for table in found.tables:
        for key in ("interface", "syncdev"):
            if key in table.values and table.values[key] not in found.interfaces.values():
                names.setdefault(table.values[key], table.place)
    for name, place in names.items():
        found.note(place, f"interface {name}", f"Linux has another name for it: --interface-map {name}=eth1")
