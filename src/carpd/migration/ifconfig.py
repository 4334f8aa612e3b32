"""What the BSDs' ifconfig words have in common: those of a virtual host, and addresses."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, ip_address

from carpd.migration.found import Found, Place, Table, number


class Words:
    """The words of a line, taken from left to right."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = deque(words)

    def __bool__(self) -> bool:
        return bool(self._words)

    @property
    def next(self) -> str:
        """The word that comes; empty at the end."""
        return self._words[0] if self._words else ""

    def take(self) -> str:
        """The word that comes, which is then behind us; empty at the end."""
        return self._words.popleft() if self._words else ""


def unknown(word: str, line: Words, known: Collection[str]) -> list[str]:
    """A word that nobody knows, with all that comes before the next that is known: it may belong to it."""
    text = [word]
    while line and line.next not in known:
        text.append(line.take())
    return text


class VirtualHostWords:
    """The words for one virtual host; a word that it does not know is left over."""

    def __init__(self, found: Found, table: Table) -> None:
        self.found = found
        self.table = table
        self.place = table.place
        self.words = Words(())
        self.known: dict[str, Callable[[], None]] = {
            "vhid": lambda: self.number("vhid"),
            "advbase": lambda: self.number("advbase"),
            "advskew": lambda: self.number("advskew"),
            "pass": lambda: found.password(table, self.words.take(), self.place, cut=True),
            "state": self.state,
            "up": lambda: None,
            "inet": self.inet,
            "inet6": self.inet6,
            "alias": lambda: self.address(self.words.take()),
        }

    def read(self, words: Sequence[str], place: Place) -> None:
        self.words, self.place = Words(words), place
        while self.words:
            word = self.words.take()
            if word in self.known:
                self.known[word]()
            elif version(word):
                self.address(word)
            else:
                self.found.leave(place, " ".join(unknown(word, self.words, self.known)), "unknown word")

    def set(self, key: str, value: object) -> None:
        self.found.set(self.table, key, value, self.place)

    def number(self, key: str) -> None:
        self.set(key, number(self.words.take()))

    def state(self) -> None:
        reason = "the election decides; `carpctl state` can change it"
        self.found.leave(self.place, f"state {self.words.take()}", reason)

    def inet(self) -> None:
        if self.words.next == "alias":
            self.words.take()
        if version(self.words.next) == 4:
            self.address(self.words.take())

    def inet6(self) -> None:
        if self.words.next == "alias":
            self.words.take()
        if version(self.words.next) == 6:
            self.address(self.words.take())

    def address(self, text: str) -> None:
        """ADDRESS[/LENGTH] and what follows it."""
        length = ""
        while self.words.next in ("netmask", "prefixlen", "broadcast", "alias", "add"):
            word = self.words.take()
            if word in ("netmask", "prefixlen"):
                length = self.words.take()
            elif word == "broadcast":
                self.words.take()
        text = re.sub("%[^/]*", "", text)  # the interface has a key of its own
        whole = text if "/" in text or not length else f"{text}/{prefix_length(length)}"
        self.found.add(self.table, "addresses", whole, self.place)

    def peer(self, word: str) -> None:
        address = self.words.take()
        if version(address) and ip_address(address.partition("/")[0]).is_multicast:
            self.found.leave(self.place, f"{word} {address}", "advertisements go to 224.0.0.18 and ff02::12")
        else:
            self.found.add(self.table, "peers", address, self.place)


def version(text: str) -> int:
    """Of an address, with or without a length or zone; 0 if it is none."""
    try:
        return ip_address(text.partition("/")[0].partition("%")[0]).version
    except ValueError:
        return 0


def prefix_length(mask: str) -> str:
    """A netmask as a number of bits: 24, 255.255.255.0 or 0xffffff00. What is none stays as it is."""
    try:
        bits = int(mask, 16) if mask.startswith("0x") else int(IPv4Address(mask))
    except ValueError:
        return mask
    ones = f"{bits:032b}"
    return str(ones.count("1")) if len(ones) == 32 and "01" not in ones else mask


def unicast(found: Found) -> None:
    """Where there are peers, advertisements go to them alone, as far as every family has some."""
    for table in found.hosts:
        peers = table.values.get("peers", [])
        if not peers:
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
