"""Advertisements to a list of peers, beside the groups or instead of them."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from carpd.lab.topology import Lab
from carpd.wire import carp
from carpd.wire.frames import decode_ip_frame
from tests.daemon.carpd import FAST, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Segment

GROUPS = {carp.GROUP4, carp.GROUP6}


@pytest.mark.parametrize("multicast", [False, True], ids=["alone", "beside multicast"])
@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)], ids=["IPv4", "IPv6", "both"])
def test_peers(lab: Lab, families: tuple[int, ...], multicast: bool) -> None:
    """Every node has the same list, with its own address in it. Three hosts elect, and a take-over works twice."""
    segment = Segment(lab, "a", "b", "c")
    hosts = [segment[name] for name in "abc"]
    peers = [host.ipv4 for host in hosts if 4 in families] + [host.ipv6 for host in hosts if 6 in families]
    addresses = [address for address in ADDRESSES if ip_interface(address).version in families]
    table: dict[str, Any] = {"addresses": addresses, "peers": peers, "multicast": multicast, "preempt": True}
    heard_by_c = segment["c"].node.capture("eth1")
    a = Carpd(hosts[0].node, virtual_host(**table, **FAST))
    a.becomes("MASTER")
    b, c = (
        Carpd(host.node, virtual_host(**table, advbase=0, advskew=advskew))
        for host, advskew in zip(hosts[1:], (15, 18), strict=True)
    )
    for backup in (b, c):
        backup.becomes("BACKUP")
        backup.hears_a_master()

    hosts[0].port.drop_everything()
    b.becomes("MASTER")
    c.becomes("BACKUP")
    b.stop()
    c.becomes("MASTER")
    hosts[0].port.restore()
    c.becomes("BACKUP")
    assert a.states() == {"lan": "MASTER"}

    destinations = {
        packet.destination
        for frame in heard_by_c.frames()
        if (packet := decode_ip_frame(frame.frame)) and packet.protocol == carp.PROTOCOL and not frame.outgoing
    }
    own = {ip_address(address).packed for address in (hosts[2].ipv4, hosts[2].ipv6)}
    groups = {carp.GROUP4 if family == 4 else carp.GROUP6 for family in families}
    assert destinations & GROUPS == (groups if multicast else set())
    assert len(destinations & own) == len(families)
    for daemon in (a, c):
        counters = daemon.counters()
        assert counters["badauth"] == counters["badttl"] == counters["badsum"] == 0
        assert daemon.host()["demotion"] == 0
        assert daemon.host()["counters"]["oerrors"] == 0
