"""A virtual host's device from nothing to ready, what becomes of the parent, and cleaning up after a killed daemon."""

from __future__ import annotations

import dataclasses
import socket
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
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from tests.linux.segment import (
    HOST_MAC,
    NEIGHBOR4,
    NEIGHBOR6,
    NEIGHBOR_MAC,
    SILENCE_S,
    VHID,
    VIRTUAL,
    VIRTUAL4,
    VIRTUAL6,
    VIRTUAL_MAC,
    Neighbor,
    advertisement,
    arp_request,
    echo_request,
    ip,
    is_arp_reply,
    is_from,
    link,
    solicitation,
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


# Shared addresses, on the loopback interface

LO, SHARED_MAC = 1, bytes.fromhex("01005e000101")
UDP_PORT = 9999


def answered_from_lo(journal: SysctlJournal) -> None:
    """The host has the addresses, and nothing but the settings keeps it silent."""
    assert interfaces.prepare_sharing("lo", link("eth1"), journal) == LO
    table = AddressTable()
    assert table.add(LO, VIRTUAL) == 0
    table.close()


def test_settings_for_sharing(neighbor: Neighbor, journal: SysctlJournal) -> None:
    ip("link set lo down")
    ours = [("ipv4", "drop_unicast_in_l2_multicast"), ("ipv6", "drop_unicast_in_l2_multicast"), ("ipv4", "arp_ignore")]
    assert [conf(family, "eth1", setting) for family, setting in ours] == ["0", "0", "0"]
    assert interfaces.prepare_sharing("lo", link("eth1"), journal) == LO
    assert [conf(family, "eth1", setting) for family, setting in ours] == ["1", "1", "1"]
    assert conf("ipv4", "eth1", "arp_announce") == "2"
    assert link("lo").up
    assert interfaces.prepare_sharing("lo", link("eth1"), journal) == LO, "again is harmless"
    assert {found.name for found in links.links()} == {"lo", "eth1"}
    journal.restore()
    assert [conf(family, "eth1", setting) for family, setting in ours] == ["0", "0", "0"]


def test_no_interface_to_have_the_addresses(neighbor: Neighbor, journal: SysctlJournal) -> None:
    with pytest.raises(SystemCallError, match="look at interface lo9: it is not there"):
        interfaces.prepare_sharing("lo9", link("eth1"), journal)


def test_the_kernel_does_not_say_where_shared_addresses_are(neighbor: Neighbor, journal: SysctlJournal) -> None:
    """Neither by ARP nor by neighbour discovery: that is the leader's to say, with another MAC."""
    answered_from_lo(journal)
    neighbor.forget()
    for question in (arp_request(VIRTUAL4), solicitation(VIRTUAL6)):
        neighbor.send(question)
    assert neighbor.hear(lambda frame: is_arp_reply(VIRTUAL4)(frame) or is_from(VIRTUAL6)(frame), SILENCE_S) is None
    neighbor.send(echo_request(VIRTUAL4, HOST_MAC))
    assert neighbor.hear(is_from(VIRTUAL4)), "it has them, though"


def datagram(target: bytes) -> bytes:
    """UDP, in a frame to the shared multicast MAC."""
    size = 8 + len(b"taken")
    head = pseudo_header(NEIGHBOR6, target, size, 17) if len(target) == 16 else b""
    body = UDP_PORT.to_bytes(2, "big") * 2 + size.to_bytes(2, "big")
    checksum = internet_checksum(head + body + bytes(2) + b"taken") if head else 0
    body += checksum.to_bytes(2, "big") + b"taken"
    if len(target) == 4:
        packet = IPv4Packet(source=NEIGHBOR4, destination=target, ttl=64, protocol=17, payload=body).to_bytes()
        return EthernetFrame(SHARED_MAC, NEIGHBOR_MAC, ETHERTYPE_IPV4, packet).to_bytes()
    packet = IPv6Packet(source=NEIGHBOR6, destination=target, hop_limit=64, next_header=17, payload=body).to_bytes()
    return EthernetFrame(SHARED_MAC, NEIGHBOR_MAC, ETHERTYPE_IPV6, packet).to_bytes()


@pytest.mark.parametrize("target", [VIRTUAL4, VIRTUAL6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "as Linux is"])
def test_what_comes_in_a_multicast_frame_is_not_taken_by_the_kernel_itself(
    neighbor: Neighbor, journal: SysctlJournal, target: bytes, prepared: bool
) -> None:
    """Every host gets it; without the share gate nobody has chosen who takes it."""
    answered_from_lo(journal)
    if not prepared:
        for name in ("ipv4", "ipv6"):
            sysctls.write("0", name, "conf", "eth1", "drop_unicast_in_l2_multicast")
    family = socket.AF_INET if len(target) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((socket.inet_ntop(family, target), UDP_PORT))
        receiver.settimeout(SILENCE_S if prepared else 5)
        neighbor.send(datagram(target))
        if prepared:
            with pytest.raises(TimeoutError):
                receiver.recv(100)
        else:
            assert receiver.recv(100) == b"taken"


def test_what_a_killed_daemon_that_shared_left_is_cleaned(
    neighbor: Neighbor, journal: SysctlJournal, tmp_path: Path
) -> None:
    answered_from_lo(journal)
    assert sorted(interfaces.clean_left_behind(tmp_path)) == [
        "removed address 192.0.2.1 from lo",
        "removed address 2001:db8::1 from lo",
        "restored net/ipv4/conf/eth1/arp_announce",
        "restored net/ipv4/conf/eth1/arp_ignore",
        "restored net/ipv4/conf/eth1/drop_unicast_in_l2_multicast",
        "restored net/ipv6/conf/eth1/drop_unicast_in_l2_multicast",
    ]
    assert left_behind() == []
    assert link("lo").up
    assert interfaces.clean_left_behind(tmp_path) == []


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
