"""How a new master tells the link where the addresses are: gratuitous ARP, unsolicited neighbour advertisements."""

from __future__ import annotations

from carpd.config.model import BalancingMode, MacMode, VirtualHostConfig
from carpd.effects import Announce
from carpd.wire.arp import gratuitous_arp
from carpd.wire.carp import virtual_mac
from carpd.wire.ndp import NeighborAdvertisement

REPEAT_AFTER = 2
"""The announcement is repeated after this many further advertisements: the first one may have met a switch
that was still learning, or the last frames of the old master. Ref: spec carp §12, step 6."""


def answering_mac(config: VirtualHostConfig, interface_mac: bytes) -> bytes:
    """The link-layer address that answers for the virtual addresses, unless several nodes do."""
    return virtual_mac(config.vhid) if config.mac is MacMode.VIRTUAL else interface_mac


def sending_mac(config: VirtualHostConfig, interface_mac: bytes) -> bytes:
    """The link-layer source of advertisements, and of answers to ARP and neighbour solicitations.

    What all hosts receive, a switch must not learn to be at one of them. Ref: spec carp §1.1; OpenBSD 2015, carp_start.
    """
    floods = config.balancing and config.balancing.mode in (BalancingMode.IP, BalancingMode.IP_STEALTH)
    return interface_mac if floods else answering_mac(config, interface_mac)


def announcement(config: VirtualHostConfig, interface_mac: bytes, router: bool) -> Announce:
    """One message for each address, in configured order. Ref: spec carp §12."""
    mac = answering_mac(config, interface_mac)
    return Announce(
        config.name,
        tuple(gratuitous_arp(mac, address) for address in config.addresses4),
        tuple(NeighborAdvertisement(target=address, mac=mac, router=router) for address in config.addresses6),
    )
