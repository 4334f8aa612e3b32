"""What is sent to whom, and what the engine is told of it, when sending to some of them fails."""

from __future__ import annotations

from dataclasses import replace
from errno import EHOSTUNREACH, ENETUNREACH, ENOBUFS
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from carpd.config.model import VirtualHostConfig
from carpd.effects import SendAdvertisement
from carpd.events import AdvertisementSent, Family
from carpd.runtime.performer import Performer
from carpd.wire.carp import GROUP4, Advertisement
from carpd.wire.frames import decode_ip_frame

PEERS = ("192.0.2.3", "192.0.2.4")
HOST = VirtualHostConfig(
    name="lan",
    interface="eth1",
    vhid=1,
    addresses=(ip_interface("192.0.2.1/24"),),
    key=b"secret",
    peers=tuple(ip_address(peer) for peer in PEERS),
)


class Port:
    """An interface that notes to whom it was asked to send, and fails as it is told."""

    mac = bytes(6)

    def __init__(self, failures: dict[str, int]) -> None:
        self.asked: list[str] = []
        self.packets = self
        self._failures = failures

    def source(self, family: Family) -> bytes:
        return bytes((192, 0, 2, 2))

    def send(self, frame: bytes) -> int:
        packet = decode_ip_frame(frame)
        assert packet is not None
        assert packet.destination == GROUP4
        return self._send("group")

    def send_unicast(self, family: Family, source: bytes, peer: bytes, payload: bytes) -> int:
        return self._send(str(ip_address(peer)))

    def _send(self, destination: str) -> int:
        self.asked.append(destination)
        return self._failures.get(destination, 0)


@pytest.mark.parametrize(
    ("failures", "errno"),
    [
        ({}, 0),
        ({"group": ENOBUFS}, ENOBUFS),
        ({"192.0.2.3": ENETUNREACH}, ENETUNREACH),
        ({"192.0.2.3": EHOSTUNREACH}, 0),  # a dead peer is not our failure
        ({"192.0.2.3": EHOSTUNREACH, "192.0.2.4": ENOBUFS}, ENOBUFS),
        ({"group": ENOBUFS, "192.0.2.3": ENETUNREACH, "192.0.2.4": ENETUNREACH}, ENOBUFS),
    ],
)
@pytest.mark.parametrize("multicast", [True, False])
def test_everybody_is_sent_to(failures: dict[str, int], errno: int, multicast: bool) -> None:
    """Who is left out because another could not be reached would take over."""
    if not multicast:
        failures = {who: why for who, why in failures.items() if who != "group"}
        errno = next((why for who, why in failures.items() if why != EHOSTUNREACH), 0)
    port: Any = Port(failures)
    performer = Performer(lambda _: port, pytest.fail)
    performer.configure([replace(HOST, multicast=multicast)])
    told = performer.perform(SendAdvertisement("lan", Family.IPV4, Advertisement(vhid=1)))
    assert port.asked == (["group"] if multicast else []) + list(PEERS)
    assert told == AdvertisementSent("lan", Family.IPV4, errno)


def test_who_leaves_an_interface_says_so_there() -> None:
    """During a change a virtual host that is taken anew elsewhere is what it was; any other is what it will be."""
    asked: list[str] = []

    def port(interface: str) -> Any:
        asked.append(interface)
        return Port({})

    stays = replace(HOST, name="wan", vhid=2)
    performer = Performer(port, pytest.fail)
    performer.configure([HOST, stays])
    new = [replace(HOST, interface="eth2"), replace(stays, peers=())]
    performer.expect(new)
    performer.perform(SendAdvertisement("lan", Family.IPV4, Advertisement(vhid=1)))
    assert {config.name: (config.interface, config.peers) for config in performer.configs} == {
        "lan": ("eth1", HOST.peers),
        "wan": ("eth1", ()),
    }
    performer.configure(new)
    performer.perform(SendAdvertisement("lan", Family.IPV4, Advertisement(vhid=1)))
    assert asked == ["eth1", "eth2"]
