"""Which flows take part."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from carpd.pfsync import selection
from carpd.pfsync.selection import Selection
from carpd.wire.conntrack import TCP, UDP, ConntrackEntry

CLIENT, SERVER, WAN, LAN, PEER = "192.0.2.10", "198.51.100.10", "198.51.100.1", "192.0.2.1", "10.0.0.2"
SYNC, BROADCAST = "10.0.0.1", "192.0.2.255"


def flow(
    source: str, destination: str, protocol: int = TCP, ports: tuple[int, int] = (40000, 80), *,
    seen_as: str | None = None, served_by: str | None = None, **fields: Any,
) -> ConntrackEntry:  # fmt: skip
    """With source NAT to `seen_as` and destination NAT to `served_by`."""
    ends = (source, destination, served_by or destination, seen_as or source)
    source_, destination_, reply_source, reply_destination = (ip_address(end).packed for end in ends)
    entry = ConntrackEntry(
        source_, destination_, protocol, *ports, reply_source, reply_destination, ports[1], ports[0]
    )  # fmt: skip
    return entry._replace(**fields)


OWN = frozenset(ip_address(text).packed for text in (WAN, LAN, SYNC, BROADCAST, "2001:db8::1"))
SELECTION = Selection(own=OWN, port=5240)
LOCAL = Selection(own=OWN, port=5240, local=True)

ROWS = {
    "forwarded": (SELECTION, flow(CLIENT, SERVER), True),
    "forwarded, IPv6": (SELECTION, flow("2001:db8::10", "2001:db8:1::10"), True),
    "our address before the client's": (SELECTION, flow(CLIENT, SERVER, seen_as=WAN), True),
    "our address before the server's": (SELECTION, flow(SERVER, WAN, served_by=CLIENT), True),
    "both": (SELECTION, flow(CLIENT, LAN, served_by=SERVER, seen_as=WAN), True),
    "to us": (SELECTION, flow(CLIENT, LAN), False),
    "to us by destination NAT": (SELECTION, flow(CLIENT, SERVER, served_by=LAN), False),
    "from us": (SELECTION, flow(WAN, SERVER), False),
    "from us, IPv6": (SELECTION, flow("2001:db8::1", "2001:db8:1::10"), False),
    "a broadcast": (SELECTION, flow(CLIENT, BROADCAST, UDP), False),
    "to us, local": (LOCAL, flow(CLIENT, LAN), True),
    "from us, local": (LOCAL, flow(WAN, SERVER), True),
    "our sealed transport": (LOCAL, flow(SYNC, PEER, UDP, (5240, 5240)), False),
    "our peer's sealed transport": (LOCAL, flow(PEER, SYNC, UDP, (5240, 5240)), False),
    "our peer's sealed transport, from a changed port": (LOCAL, flow(PEER, SYNC, UDP, (1025, 5240)), False),
    "somebody else's sealed transport": (LOCAL, flow(CLIENT, SERVER, UDP, (5240, 5240)), True),
    "another UDP flow of ours": (LOCAL, flow(SYNC, PEER, UDP, (5241, 5241)), True),
    "TCP of that port": (LOCAL, flow(SYNC, PEER, TCP, (5240, 5240)), True),
    "CARP": (LOCAL, flow(LAN, CLIENT, 112), False),
    "pfsync": (LOCAL, flow(SYNC, PEER, 240), False),
    "CARP of others": (SELECTION, flow(CLIENT, SERVER, 112), False),
    "loopback": (LOCAL, flow("127.0.0.1", "127.0.0.1"), False),
    "loopback, IPv6": (LOCAL, flow("::1", "::1"), False),
    "loopback behind destination NAT": (LOCAL, flow(CLIENT, LAN, served_by="127.0.0.1"), False),
    "to a group": (LOCAL, flow(CLIENT, "224.0.0.251", UDP), False),
    "to a group, IPv6": (LOCAL, flow("2001:db8::10", "ff02::fb", UDP), False),
    "to everybody": (LOCAL, flow("0.0.0.0", "255.255.255.255", UDP, (68, 67)), False),
    "from nobody, IPv6": (LOCAL, flow("::", "2001:db8::10"), False),
    "link-local": (LOCAL, flow("fe80::1", "fe80::2"), False),
    "link-local, IPv4": (SELECTION, flow(CLIENT, "169.254.169.254"), True),
    "ignored protocol": (Selection(protocols=frozenset((UDP,))), flow(CLIENT, SERVER, UDP), False),
    "another protocol": (Selection(protocols=frozenset((UDP,))), flow(CLIENT, SERVER), True),
    "ignored mark": (Selection(marks=((0x10, 0xF0),)), flow(CLIENT, SERVER, mark=0x11), False),
    "other bits of a mark": (Selection(marks=((0x10, 0xF0),)), flow(CLIENT, SERVER, mark=0x01), True),
    "no mark is ignored": (Selection(marks=((0, 0xFFFFFFFF),)), flow(CLIENT, SERVER), False),
    "ignored zone": (Selection(zones=frozenset((7,))), flow(CLIENT, SERVER, zone=7), False),
    "ignored original zone": (Selection(zones=frozenset((7,))), flow(CLIENT, SERVER, original_zone=7), False),
    "ignored reply zone": (Selection(zones=frozenset((7,))), flow(CLIENT, SERVER, reply_zone=7), False),
    "another zone": (Selection(zones=frozenset((7,))), flow(CLIENT, SERVER, zone=8), True),
    "outside of zones": (Selection(zones=frozenset((0,))), flow(CLIENT, SERVER), False),
}


@pytest.mark.parametrize(("which", "entry", "wanted"), ROWS.values(), ids=ROWS)
def test_takes_part(which: Selection, entry: ConntrackEntry, wanted: bool) -> None:
    assert which.takes_part(entry) is wanted
    assert which.takes_part(entry) is wanted, "nor does it change its mind"


IGNORED = Selection(networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8:9::/48")))
ENDS = {
    "source": flow("203.0.113.9", SERVER),
    "destination": flow(CLIENT, "203.0.113.9"),
    "translated source": flow(CLIENT, SERVER, seen_as="203.0.113.9"),
    "translated destination": flow(CLIENT, SERVER, served_by="203.0.113.9"),
    "source, IPv6": flow("2001:db8:9::1", "2001:db8:1::10"),
}


@pytest.mark.parametrize("entry", ENDS.values(), ids=ENDS)
def test_ignored_networks(entry: ConntrackEntry) -> None:
    assert not IGNORED.takes_part(entry)
    assert Selection().takes_part(entry)


def test_ignored_networks_are_no_others() -> None:
    assert IGNORED.takes_part(flow(CLIENT, SERVER))
    assert IGNORED.takes_part(flow("2001:db8::10", "2001:db8:1::10"))


def test_any_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of them is bounded."""
    monkeypatch.setattr(selection, "_ADDRESSES_MAX", 10)
    which = Selection(own=OWN)
    for number in range(100):
        assert which.takes_part(flow(f"192.0.2.{number + 50}", SERVER))
        assert not which.takes_part(flow(f"192.0.2.{number + 50}", LAN))
        assert len(which._addresses) <= 10
