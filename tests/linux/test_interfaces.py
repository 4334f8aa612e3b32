"""A virtual host's device from nothing to ready, what becomes of the parent, and cleaning up after a killed daemon."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import interfaces, lease, links, sysctls
from carpd.linux.addresses import AddressTable, left_behind
from carpd.linux.lease import Guard
from carpd.linux.links import create_macvlan
from carpd.linux.packets import PacketSocket
from carpd.linux.sysctls import SysctlJournal
from carpd.units import SECOND
from tests.linux.segment import (
    VHID,
    VIRTUAL,
    VIRTUAL4,
    VIRTUAL_MAC,
    Neighbor,
    advertisement,
    arp_request,
    echo_request,
    ip,
    is_arp_reply,
    is_from,
    link,
)


@pytest.fixture
def journal(tmp_path: Path) -> SysctlJournal:
    return SysctlJournal(tmp_path / interfaces.JOURNAL)


def prepare(journal: SysctlJournal) -> int:
    lease.install("eth1", [Guard(vhid=VHID, mac=VIRTUAL_MAC, addresses=VIRTUAL, lease_ns=3600 * SECOND)])
    return interfaces.prepare("carp-lan", link("eth1"), VIRTUAL_MAC, journal)


def conf(family: str, interface: str, setting: str) -> str | None:
    return sysctls.read(family, "conf", interface, setting)


def test_settings(neighbor: Neighbor, journal: SysctlJournal) -> None:
    sysctls.write("1", "ipv4", "conf", "eth1", "forwarding")
    sysctls.write("1", "ipv6", "conf", "eth1", "forwarding")
    prepare(journal)
    device = link("carp-lan")
    assert (device.up, device.mac, device.kind, device.alias) == (True, VIRTUAL_MAC, "macvlan", "carpd")
    assert conf("ipv4", "carp-lan", "arp_ignore") == "1"
    assert conf("ipv4", "carp-lan", "arp_announce") == "2"
    assert conf("ipv4", "carp-lan", "forwarding") == "1"
    assert conf("ipv6", "carp-lan", "forwarding") == "1"
    assert conf("ipv6", "carp-lan", "accept_ra") == "0"
    assert (conf("ipv4", "eth1", "arp_ignore"), conf("ipv4", "eth1", "arp_announce")) == ("1", "2")
    interfaces.unprepare()
    interfaces.unprepare()
    assert "carp-lan" not in {found.name for found in links.links()}
    journal.restore()
    assert (conf("ipv4", "eth1", "arp_ignore"), conf("ipv4", "eth1", "arp_announce")) == ("0", "0")


@pytest.mark.parametrize("for_all", ["0", "1", "2"])
@pytest.mark.parametrize("for_new", ["0", "1", "2"])
def test_reachable_whatever_rp_filter_is(
    neighbor: Neighbor, journal: SysctlJournal, for_all: str, for_new: str
) -> None:
    """A reply to what came through the macvlan leaves through the parent: strict filtering would drop the question."""
    sysctls.write(for_all, "ipv4", "conf", "all", "rp_filter")
    sysctls.write(for_new, "ipv4", "conf", "default", "rp_filter")
    sysctls.write("1", "ipv4", "conf", "eth1", "rp_filter")
    index = prepare(journal)
    assert conf("ipv4", "eth1", "rp_filter") == "1"
    table = AddressTable()
    assert table.add(index, VIRTUAL) == 0
    table.close()
    packets = PacketSocket(link("eth1").index)
    packets.send(advertisement())
    packets.close()
    neighbor.send(echo_request(VIRTUAL4, VIRTUAL_MAC))
    assert neighbor.hear(is_from(VIRTUAL4))


def test_only_the_virtual_mac_answers(neighbor: Neighbor, journal: SysctlJournal) -> None:
    """The parent hears the question too, and Linux would answer on any interface for any address."""
    index = prepare(journal)
    table = AddressTable()
    assert table.add(index, VIRTUAL) == 0
    table.close()
    packets = PacketSocket(link("eth1").index)
    packets.send(advertisement())
    packets.close()
    neighbor.send(arp_request(VIRTUAL4))
    answer = neighbor.hear(is_arp_reply(VIRTUAL4))
    assert answer
    assert answer[6:12] == answer[22:28] == VIRTUAL_MAC
    assert neighbor.hear(is_arp_reply(VIRTUAL4), 0.1) is None


def test_one_left_behind_is_taken_over(neighbor: Neighbor, journal: SysctlJournal) -> None:
    index = create_macvlan("carp-lan", link("eth1").index, VIRTUAL_MAC, interfaces.ALIAS)
    assert prepare(journal) == index


def test_one_left_behind_with_another_mac_is_replaced(neighbor: Neighbor, journal: SysctlJournal) -> None:
    index = create_macvlan("carp-lan", link("eth1").index, VIRTUAL_MAC[:5] + b"\x08", interfaces.ALIAS)
    assert prepare(journal) != index
    assert link("carp-lan").mac == VIRTUAL_MAC


def test_somebody_else_s_is_left_alone(neighbor: Neighbor, journal: SysctlJournal) -> None:
    ip("link add carp-lan type bridge")
    with pytest.raises(SystemCallError, match="another interface has this name"):
        prepare(journal)
    interfaces.unprepare()
    assert link("carp-lan").kind == "bridge"


def test_the_parent_has_gone(neighbor: Neighbor, journal: SysctlJournal) -> None:
    with pytest.raises(SystemCallError, match="create the macvlan carp-lan"):
        interfaces.prepare("carp-lan", dataclasses.replace(link("eth1"), index=999), VIRTUAL_MAC, journal)


def test_what_a_killed_daemon_left_is_cleaned(neighbor: Neighbor, journal: SysctlJournal, tmp_path: Path) -> None:
    prepare(journal)
    table = AddressTable()
    assert table.add(link("carp-lan").index, VIRTUAL[:1]) == 0
    assert table.add(link("eth1").index, VIRTUAL[1:]) == 0
    table.close()
    ip("link add br0 type bridge")

    done = interfaces.clean_left_behind(tmp_path)

    assert done == [
        "removed address 192.0.2.1 from carp-lan",
        "removed address 2001:db8::1 from eth1",
        "deleted interface carp-lan",
        "removed the lease gate of eth1",
        "restored net/ipv4/conf/eth1/arp_announce",
        "restored net/ipv4/conf/eth1/arp_ignore",
    ]
    assert left_behind() == []
    assert {found.name for found in links.links()} == {"lo", "eth1", "br0"}
    assert interfaces.clean_left_behind(tmp_path) == []
