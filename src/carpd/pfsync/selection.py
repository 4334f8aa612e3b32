"""Which flows take part in synchronisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from carpd.wire.conntrack import ICMP, ICMPV6, UDP, ConntrackEntry

Network = IPv4Network | IPv6Network

_NEVER = frozenset((112, 240))
"""CARP (and VRRP) and pfsync."""
_LOCAL_NETWORKS = tuple(
    map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::/127", "fe80::/10", "ff00::/8"))
)
"""Flows from or to these are one host's alone: unspecified, loopback, multicast, broadcast, link-local. Not so
169.254.0.0/16: what clouds have there is reached through gateways."""

_QUERIES = (ICMP, ICMPV6)
"""A state has no room for the code of a query: those that have one are no echoes."""

_OWN, _OUT = 1, 2
"""What an address means: it is one of this host's, or flows that have it never take part."""

_ADDRESSES_MAX = 65536


class _Addresses(dict[bytes, int]):
    """What addresses mean: worked out once for each, as long as there are not too many of them."""

    def __init__(self, own: frozenset[bytes], ignored: tuple[Network, ...]) -> None:
        super().__init__()
        self._own = own
        self._ignored: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
        """(mask, value) of networks, by the length of their addresses."""
        for network in (*_LOCAL_NETWORKS, *ignored):
            numbers = int(network.netmask), int(network.network_address)
            self._ignored[network.max_prefixlen // 8].append(numbers)

    def __missing__(self, address: bytes) -> int:
        if len(self) >= _ADDRESSES_MAX:
            self.clear()
        number = int.from_bytes(address)
        meaning = _OWN if address in self._own else 0
        for mask, value in self._ignored[len(address)]:
            if number & mask == value:
                meaning |= _OUT
        self[address] = meaning
        return meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the operator wants to be synchronised."""

    local: bool = False
    """Whether connections that end on this host take part."""
    own: frozenset[bytes] = frozenset()
    """This host's addresses, packed, and the broadcast addresses of its networks."""
    port: int | None = None
    """The UDP port of our sealed transport, whose flows never take part."""
    networks: tuple[Network, ...] = ()
    """Flows from or to these do not take part, before or after translation."""
    protocols: frozenset[int] = frozenset()
    marks: tuple[tuple[int, int], ...] = ()
    """(value, mask): flows that have this value in these bits of their mark."""
    zones: frozenset[int] = frozenset()
    """Flows in these zones, even if only in one direction."""

    _out: frozenset[int] = field(init=False, repr=False, compare=False)
    _addresses: _Addresses = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_out", self.protocols | _NEVER)
        object.__setattr__(self, "_addresses", _Addresses(self.own, self.networks))

    def takes_part(self, entry: ConntrackEntry) -> bool:
        """Whether peers are told of this flow, and whether we obey what they tell of it."""
        addresses, protocol = self._addresses, entry[2]
        ends = addresses[entry[0]] | addresses[entry[5]]
        if (ends | addresses[entry[1]] | addresses[entry[6]]) & _OUT or protocol in self._out:
            return False
        if ends & _OWN and (not self.local or (protocol == UDP and self.port in (entry[3], entry[4]))):
            return False
        if protocol in _QUERIES and entry[4] & 0xFF:
            return False
        return not ((self.marks or self.zones) and self._is_ignored(entry))

    def _is_ignored(self, entry: ConntrackEntry) -> bool:
        zone = entry.zone or entry.original_zone or entry.reply_zone
        return zone in self.zones or any((entry.mark or 0) & mask == value for value, mask in self.marks)
