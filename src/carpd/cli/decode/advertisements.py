"""How CARP advertisements are shown, with the verdict over their digest."""

from __future__ import annotations

import json
from ipaddress import ip_address
from itertools import combinations
from typing import NamedTuple

from carpd.cli.decode.packets import SeenPacket
from carpd.errors import DecodeError
from carpd.wire.carp import Advertisement, checksum_ok
from carpd.wire.carp_auth import Authenticator
from carpd.wire.ethernet import format_mac
from carpd.wire.frames import ReceivedPacket

_CARP_VERSION = 2
_SUBSETS_OF = 10
"""Up to so many addresses all their subsets are tried: 1024 digests of a microsecond."""


class _Verdict(NamedTuple):
    """What became of checking a digest; `over` says which addresses it covers if it is not all that were given."""

    digest: str
    over: str = ""


class Digests:
    """Checks digests with one key (None: not at all).

    A capture may show several vhids, and one vhid with changing addresses. So a digest is right if it covers any of the
    given addresses, and the line says which where it is not all of them.
    """

    def __init__(self, key: bytes | None, addresses: list[bytes]) -> None:
        self._key = key
        self._sets = [addresses]
        if len(addresses) <= _SUBSETS_OF:
            for size in range(len(addresses) - 1, -1, -1):
                self._sets += map(list, combinations(addresses, size))
        self._authenticators: dict[tuple[int, int], Authenticator] = {}
        self._last_right: dict[int, int] = {}

    def check(self, message: Advertisement) -> _Verdict:
        if self._key is None:
            return _Verdict("unchecked")
        likely = self._last_right.get(message.vhid, 0)
        for number in (likely, *range(len(self._sets))):
            if self._authenticator(message.vhid, number).verify(message.counter, message.digest):
                self._last_right[message.vhid] = number
                return _Verdict("ok", self._over(number))
        return _Verdict("bad")

    def _authenticator(self, vhid: int, number: int) -> Authenticator:
        known = self._authenticators.get((vhid, number))
        if known is None:
            addresses = self._sets[number]
            known = self._authenticators[vhid, number] = Authenticator(
                self._key or b"", vhid, (a for a in addresses if len(a) == 4), (a for a in addresses if len(a) == 16)
            )
        return known

    def _over(self, number: int) -> str:
        if number == 0:
            return ""
        return " over " + (" ".join(str(ip_address(a)) for a in self._sets[number]) or "no address")


def advertisement_text(seen: SeenPacket, digests: Digests) -> str:
    """Raise DecodeError if the packet is no advertisement."""
    message = _advertisement(seen.packet)
    verdict = digests.check(message)
    return (
        f"{seen.text()} carp vhid {message.vhid:<3} advbase {message.advbase:<3} "
        f"advskew {message.advskew:<3} demotion {message.demotion:<3} counter {message.counter:016x} "
        f"ttl {seen.packet.ttl:<3} checksum {_checksum(seen.packet)} digest {verdict.digest}{verdict.over}"
    )


def advertisement_json(seen: SeenPacket, digests: Digests) -> str:
    """Raise DecodeError if the packet is no advertisement."""
    message = _advertisement(seen.packet)
    fields = {
        **seen.fields(),
        "source_mac": format_mac(seen.packet.source_mac) or None,  # not every link type has one
        "ttl": seen.packet.ttl,
        "vhid": message.vhid,
        "advbase": message.advbase,
        "advskew": message.advskew,
        "demotion": message.demotion,
        "counter": f"{message.counter:016x}",
        "checksum": _checksum(seen.packet),
        "digest": digests.check(message).digest,
    }
    return json.dumps(fields)


def _advertisement(packet: ReceivedPacket) -> Advertisement:
    message = Advertisement.from_bytes(packet.payload)
    if message.version != _CARP_VERSION:
        raise DecodeError(f"carp: need version {_CARP_VERSION}, got {message.version}")
    return message


def _checksum(packet: ReceivedPacket) -> str:
    return "ok" if checksum_ok(packet.payload) else "bad"
