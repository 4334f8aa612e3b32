"""Interfaces and their changes, macvlans and addresses, in a real kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from carpd.errors import SystemCallError
from carpd.linux import links
from carpd.linux.addresses import AddressTable, left_behind, local_addresses
from carpd.linux.links import (
    AddressesChanged,
    LinkAppeared,
    LinkChange,
    LinkChanged,
    LinkGone,
    LinkMonitor,
    create_macvlan,
    delete_links,
    find_link,
    own_addresses,
    set_up,
    source_addresses,
)
from carpd.wire.rtnetlink import LOOPBACK, OUR_PROTOCOL
from tests.linux.segment import HOST4, VIRTUAL, VIRTUAL_MAC, Neighbor, ip, link, wait_until


@pytest.fixture
def monitor(neighbor: Neighbor) -> Iterator[LinkMonitor]:
    opened = LinkMonitor()
    yield opened
    opened.close()


def changes_until(monitor: LinkMonitor, wanted: type[LinkChange]) -> list[LinkChange]:
    """What is told up to the first change of this kind."""
    told: list[LinkChange] = []

    def is_there() -> bool:
        told.extend(monitor.changes())
        return any(isinstance(change, wanted) for change in told)

    assert wait_until(is_there), told
    return told


def test_quiet_when_nothing_happens(monitor: LinkMonitor) -> None:
    assert monitor.changes() == []
    assert all(isinstance(change, AddressesChanged) for change in monitor.resync())


def test_carrier(monitor: LinkMonitor, neighbor: Neighbor) -> None:
    """The other end of the cable goes down and up again."""
    before = link("eth1")
    assert before.up
    neighbor.ip("link set eth1 down")
    gone = [c.link for c in changes_until(monitor, LinkChanged) if isinstance(c, LinkChanged)]
    assert [(one.index, one.up) for one in gone] == [(before.index, False)]
    neighbor.ip("link set eth1 up")
    back = [c.link for c in changes_until(monitor, LinkChanged) if isinstance(c, LinkChanged)]
    assert back == [before]


def test_administrative_state(monitor: LinkMonitor) -> None:
    ip("link set eth1 down")
    assert [c.link.up for c in monitor.changes() if isinstance(c, LinkChanged)][-1:] == [False]


def test_new_mac(monitor: LinkMonitor) -> None:
    ip("link set eth1 address 02:00:00:00:00:77")
    assert {c.link.mac.hex() for c in monitor.changes() if isinstance(c, LinkChanged)} == {"020000000077"}


def test_rename_is_another_interface(monitor: LinkMonitor) -> None:
    before = link("eth1")
    ip("link set eth1 down")
    monitor.changes()
    ip("link set eth1 name lan0")
    told = monitor.changes()
    assert told[0] == LinkGone(before.index, "eth1")
    assert isinstance(told[1], LinkAppeared)
    assert (told[1].link.name, told[1].link.index) == ("lan0", before.index)


def test_delete_and_create(monitor: LinkMonitor) -> None:
    before = link("eth1")
    ip("link delete eth1")
    assert LinkGone(before.index, "eth1") in monitor.changes()
    ip("link add eth1 type bridge")
    appeared = [c.link for c in monitor.changes() if isinstance(c, LinkAppeared)]
    assert [(one.name, one.kind) for one in appeared] == [("eth1", "bridge")]
    assert appeared[0].index != before.index


def test_a_bridge_s_port_is_no_new_link(monitor: LinkMonitor) -> None:
    """A bridge tells of its ports by link messages too; "deleted" then means: not a port any more."""
    ip("link add br0 type bridge")
    ip("link set eth1 master br0")
    ip("link set eth1 nomaster")
    assert not [change for change in monitor.changes() if isinstance(change, LinkGone)]
    assert "eth1" in {found.name for found in links.links()}


def test_addresses(monitor: LinkMonitor) -> None:
    ip("address add 192.0.2.99/24 dev eth1")
    ip("address add 2001:db8::99/64 dev eth1 nodad")
    assert monitor.changes() == 2 * [AddressesChanged(link("eth1").index)]


def test_lost_messages_are_made_up_for(monitor: LinkMonitor) -> None:
    """More happens than the socket holds: what is told in the end is how things are."""
    index = link("eth1").index
    table = AddressTable()
    many = [ip_interface(f"10.0.{i // 250}.{i % 250 + 1}") for i in range(1000)]
    for _ in range(3):
        assert table.add(index, many) == 0
        assert table.remove(index, many) == 0
    table.close()
    ip("link set eth1 down")
    told: list[LinkChange] = []
    while batch := monitor.changes():
        told += batch
    states = [c.link.up for c in told if isinstance(c, LinkChanged) and c.link.name == "eth1"]
    assert states[-1:] == [False]


def test_macvlan(neighbor: Neighbor) -> None:
    parent = link("eth1")
    index = create_macvlan("carp-lan", parent.index, VIRTUAL_MAC, "carpd")
    made = link("carp-lan")
    assert (made.index, made.mac, made.kind, made.alias) == (index, VIRTUAL_MAC, "macvlan", "carpd")
    assert (made.parent_index, made.mtu, made.up) == (parent.index, parent.mtu, False)
    set_up(index)
    assert wait_until(lambda: link("carp-lan").up)
    assert [found for found in own_addresses() if found.index == index] == []
    with pytest.raises(SystemCallError, match="create the macvlan carp-lan") as refused:
        create_macvlan("carp-lan", parent.index, VIRTUAL_MAC, "carpd")
    assert refused.value.errno == errno.EEXIST
    kept = create_macvlan("carp-wan", parent.index, VIRTUAL_MAC[:5] + b"\x08", "carpd")
    for _ in range(2):  # what is gone already is no failure
        delete_links([index])
    assert link("carp-wan").index == kept
    assert find_link("carp-lan") is None
    delete_links([index, kept])
    assert find_link("carp-wan") is None


def test_addresses_come_and_go(neighbor: Neighbor) -> None:
    index = link("eth1").index
    table = AddressTable()
    for _ in range(2):
        assert table.add(index, VIRTUAL) == 0
        assert left_behind() == [(index, ip_interface(address.ip)) for address in VIRTUAL]
    for _ in range(2):
        assert table.remove(index, VIRTUAL) == 0
        assert left_behind() == []
    assert table.add(999, VIRTUAL) == errno.ENODEV
    assert table.remove(999, VIRTUAL) == 0
    assert table.add(index, []) == 0
    table.close()


def test_local_addresses(neighbor: Neighbor) -> None:
    """Our own, the virtual ones and the loopback interface's."""
    index = link("eth1").index
    ip("link set lo up")
    before = local_addresses()
    assert {HOST4, bytes([127, 0, 0, 1]), bytes(15) + b"\1"} < before
    table = AddressTable()
    assert table.add(index, VIRTUAL) == 0
    assert local_addresses() - before == {address.ip.packed for address in VIRTUAL}
    assert table.remove(index, VIRTUAL) == 0
    assert local_addresses() == before
    table.close()


def test_the_first_refused_address_does_not_stop_the_others(neighbor: Neighbor) -> None:
    index = link("eth1").index
    table = AddressTable()
    refused = ip_interface("::1/128")
    multicast = ip_interface("ff02::1/128")
    assert table.add(index, [multicast, VIRTUAL[0], refused]) == errno.EADDRNOTAVAIL
    assert left_behind()[0] == (index, ip_interface(VIRTUAL[0].ip))
    table.close()


def test_more_addresses_than_one_send_takes(neighbor: Neighbor) -> None:
    index = link("eth1").index
    many = [ip_interface(f"10.0.{i // 250}.{i % 250 + 1}") for i in range(500)]
    table = AddressTable()
    for _ in range(2):
        assert table.add(index, many) == 0
    assert len(left_behind()) == 500
    for _ in range(2):
        assert table.remove(index, many) == 0
    assert left_behind() == []
    table.close()


def test_source_addresses(neighbor: Neighbor) -> None:
    """The interface's own first address, and its link-local one; never a virtual one, tentative or deprecated."""
    index = link("eth1").index
    link_local = bytes.fromhex("fe80 0000 0000 0000 0000 00ff fe00 0002")
    assert wait_until(lambda: source_addresses(index) == (HOST4, link_local))
    table = AddressTable()
    assert table.add(index, [*VIRTUAL, ip_interface("fe80::1/64")]) == 0
    assert source_addresses(index) == (HOST4, link_local)
    assert {found.protocol for found in links.addresses() if found.index == index} >= {OUR_PROTOCOL}
    ip("address flush dev eth1 scope link")
    ip("address delete 192.0.2.2/24 dev eth1")
    assert source_addresses(index) == (None, None)
    ip("address add fe80::2/64 dev eth1 preferred_lft 0 nodad")
    assert source_addresses(index) == (None, None)
    table.close()


def test_virtual_addresses_are_no_sources(neighbor: Neighbor) -> None:
    """For no destination the kernel chooses one as source, even if they were there first."""
    index = link("eth1").index
    ip("address flush dev eth1")
    table = AddressTable()
    assert table.add(index, VIRTUAL) == 0
    for address in ("192.0.2.2/24", "2001:db8::2/64"):
        ip(f"address add {address} dev eth1" + " nodad" * (":" in address))
    ip("route add default via 192.0.2.254")
    sources = {"192.0.2.9": "192.0.2.2", "198.51.100.1": "192.0.2.2", "2001:db8::9": "2001:db8::2"}
    for destination, source in sources.items():
        assert f"src {source} " in ip(f"route get {destination}")

    assert table.remove(index, VIRTUAL) == 0
    ip("link set lo up")
    assert table.add(LOOPBACK, VIRTUAL) == 0
    ip("link add wan type bridge")  # a tunnel, say, that has no address of its own
    ip("link set wan up")
    ip("route add 203.0.113.0/24 dev wan")
    ip("route add 2001:db8:99::/64 dev wan")
    sources |= {"203.0.113.9": "192.0.2.2", "2001:db8:99::9": "2001:db8::2"}
    for destination, source in sources.items():
        assert f"src {source} " in ip(f"route get {destination}")
    for virtual in VIRTUAL:
        assert "local" in ip(f"route get {virtual.ip}")
    assert left_behind() == [(LOOPBACK, ip_interface(address.ip)) for address in VIRTUAL]
    assert table.remove(LOOPBACK, VIRTUAL) == 0
    assert left_behind() == []
    table.close()
