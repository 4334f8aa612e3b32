"""Gratuitous ARP and unsolicited neighbour advertisements. Ref: spec carp §12."""

from __future__ import annotations

import pytest

from carpd.carp.announce import announcement
from carpd.config.model import MacMode
from carpd.effects import Announce
from carpd.wire.frames import arp_frame, neighbor_advertisement_frame
from tests.carp.harness import MAC, Node, address, host_config, interface


def test_gratuitous_arp_of_the_bsds() -> None:
    """The 42 bytes of spec carp §12, for vhid 7 and 192.0.2.10."""
    (arp,) = announcement(host_config(), MAC, router=False).arps
    assert arp_frame(arp) == bytes.fromhex(
        "ffffffffffff 00005e000107 0806 0001 0800 06 04 0001 00005e000107 c000020a 000000000000 c000020a"
    )


def test_unsolicited_neighbor_advertisement() -> None:
    """From the virtual address to ff02::1; Override, and a target link-layer address option."""
    (neighbor,) = announcement(host_config(), MAC, router=False).neighbors
    virtual = "20010db800000000000000000000000a"
    assert neighbor_advertisement_frame(neighbor) == bytes.fromhex(
        f"333300000001 00005e000107 86dd 60000000 0020 3a ff {virtual} ff020000000000000000000000000001"
        f"88 00 9c12 20000000 {virtual} 02 01 00005e000107"
    )


@pytest.mark.parametrize("router", [False, True])
def test_router_flag(router: bool) -> None:
    (neighbor,) = announcement(host_config(), MAC, router=router).neighbors
    assert (neighbor.router, neighbor.override, neighbor.solicited) == (router, True, False)


@pytest.mark.parametrize(("mode", "mac"), [(MacMode.VIRTUAL, bytes.fromhex("00005e000107")), (MacMode.REAL, MAC)])
def test_one_for_each_address_in_configured_order(mode: MacMode, mac: bytes) -> None:
    texts = ("192.0.2.20/24", "2001:db8::b/64", "192.0.2.3/24", "2001:db8::a/64")
    announce = announcement(host_config(addresses=tuple(map(address, texts)), mac=mode), MAC, router=False)
    assert [arp.sender_ip[-1] for arp in announce.arps] == [20, 3]
    assert [neighbor.target[-1] for neighbor in announce.neighbors] == [11, 10]
    assert {arp.sender_mac for arp in announce.arps} | {n.mac for n in announce.neighbors} == {mac}
    assert all(arp.target_mac == bytes(6) and arp.target_ip == arp.sender_ip for arp in announce.arps)


def test_with_what_the_interface_is_at_the_time() -> None:
    node = Node.master(host_config(mac=MacMode.REAL))
    effects = node.tell(interface(mac=bytes(6), router=True))
    (announce,) = [e for e in effects if isinstance(e, Announce)]
    assert announce.arps[0].sender_mac == bytes(6)
    assert announce.neighbors[0].router
