"""What is sent to whom, and what the engine is told of it, when sending to some of them fails."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from errno import EHOSTUNREACH, ENETUNREACH, ENOBUFS
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from carpd.carp.balancing import shared_mac
from carpd.config.model import Balancing, BalancingMode, VirtualHostConfig
from carpd.effects import SendAdvertisement, SendProbe, SurrenderLease
from carpd.events import AdvertisementSent, Family
from carpd.linux.balance import GatePrograms
from carpd.runtime import performer as performer_module
from carpd.runtime.performer import PAST_THE_GATE, GateStatus, Performer
from carpd.wire.carp import GROUP4, Advertisement
from carpd.wire.frames import decode_ip_frame
from carpd.wire.sharing_probe import GROUP_MAC, SharingProbe, data_of_packet, group_frame
from tests.daemon.sharing import expected_index

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


class Link:
    """An interface that keeps what is sent; it has these addresses of its own."""

    mac = bytes.fromhex("020000000002")

    def __init__(self, *sources: str) -> None:
        self.sent: list[bytes] = []
        self.packets = self
        self._sources = {Family(ip_address(source).version): ip_address(source).packed for source in sources}

    def source(self, family: Family) -> bytes | None:
        return self._sources.get(family)

    def send(self, frame: bytes) -> int:
        self.sent.append(frame)
        return 0


SOURCES = ("192.0.2.2", "fe80::2")
SHARED = ("192.0.2.1/24", "2001:db8::1/64")


@pytest.mark.parametrize("mode", BalancingMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("sources", [SOURCES, SOURCES[:1], SOURCES[1:]], ids=" ".join)
@pytest.mark.parametrize("shared", [SHARED, SHARED[:1], SHARED[1:]], ids=" ".join)
def test_a_probe_goes_to_all_and_like_traffic_to_the_shared_mac(
    mode: BalancingMode, sources: tuple[str, ...], shared: tuple[str, ...]
) -> None:
    """Over each family of the shared addresses, with or without an address to send from; to the sender's own node."""
    vhids = (1, 5, 9)
    addresses = tuple(map(ip_interface, shared))
    for place, vhid in enumerate(vhids):
        balancing = Balancing(virtual_host="lan", mode=mode, vhids=vhids)
        config = replace(HOST, name=f"lan:{vhid}", vhid=vhid, addresses=addresses, peers=(), balancing=balancing)
        link: Any = Link(*sources)
        performer = Performer({"eth1": link}.get, pytest.fail)
        performer.configure([config])
        probe = SharingProbe(2, bytes(vhids))
        assert performer.perform(SendProbe(config.name, probe)) is None
        first, *others = link.sent
        data = probe.to_bytes(HOST.key)
        assert first == group_frame(data, link.mac)
        assert first[:6] == GROUP_MAC
        packets = [packet for packet in map(decode_ip_frame, others) if packet]
        assert [packet.family for packet in packets] == (
            [] if mode is BalancingMode.ARP else [a.version for a in addresses]
        )
        for packet in packets:
            own = link.source(Family(packet.family)) or bytes(len(packet.source))
            assert (packet.source_mac, packet.destination_mac, packet.source) == (link.mac, shared_mac(config), own)
            assert data_of_packet(packet) == data
            one, other = (str(ip_address(address)) for address in (packet.source, packet.destination))
            assert expected_index(one, other, len(vhids)) == place


# The share gate


class Gate:
    """A share gate as its programs are: they renew the lease of a node, or don't, or somebody detached them."""

    def __init__(self, index: int, name: str, macs: object, vhids: Sequence[int], leases: object, addresses: object):
        self.programs = GatePrograms(name, index, 1, 2)
        self.addresses = addresses
        self.deadlines = [0] * len(vhids)
        self.attached = 1

    def leased_until(self, node: int) -> int:
        return self.deadlines[node]

    def take_back(self, node: int, leased_until: int) -> None:
        self.deadlines[node] = leased_until

    def close(self, node: int) -> None:
        self.deadlines[node] = 0

    def live(self) -> list[bool]:
        return [bool(deadline) for deadline in self.deadlines]

    def taken(self) -> list[int]:
        return [5, 7]

    def attach(self) -> None:
        self.attached += 1

    def set_addresses(self, addresses: object) -> None:
        self.addresses = addresses

    def set_lease(self, node: int, lease_ns: int) -> None:
        pass

    def lease_ns(self, node: int) -> int:
        return 1


class GatedLink(Link):
    """What leaves renews the lease of the second node, as the gate is `attached`, and then fails with `error`."""

    def __init__(self) -> None:
        super().__init__(*SOURCES)
        self.gate: Any = None
        self.attached = True
        self.error = 0

    def send(self, frame: bytes) -> int:
        if self.attached:
            self.gate.deadlines[1] += 10
        return self.error


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Performer, list[str]]:
    """The link, the performer, and the names of virtual hosts whose gate somebody undid; lan:5 is the second node."""
    link, lost = GatedLink(), list[str]()
    balancing = Balancing(virtual_host="lan", mode=BalancingMode.IP, vhids=(1, 5))
    nodes = [
        replace(
            HOST, name=f"lan:{vhid}", vhid=vhid, peers=(), balancing=balancing, addresses=(ip_interface(SHARED[0]),)
        )
        for vhid in balancing.vhids
    ]
    monkeypatch.setattr(performer_module, "ShareGate", Gate)
    monkeypatch.setattr(performer_module, "displaced", lambda gates: [g for g in gates if g.virtual_host in lost])
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: 3)
    performer = Performer(lambda _: link, pytest.fail)  # type: ignore[arg-type, return-value]
    performer.configure(nodes)
    for node in nodes:
        performer.prepared(node.name)
    link.gate = performer._shared["lan"].gate
    return link, performer, lost


def test_an_advertisement_past_the_share_gate_has_failed(sharing: tuple[Any, Performer, list[str]]) -> None:
    """Peers hear it, and nothing is taken: whoever is asked says so, until the gate sees one, or another is master."""
    link, performer, _ = sharing
    advertisement = SendAdvertisement("lan:5", Family.IPV4, Advertisement(vhid=5))

    def sent() -> int:
        told = performer.perform(advertisement)
        assert isinstance(told, AdvertisementSent)
        return told.errno

    well = GateStatus(live=True, taken=7)
    assert sent() == 0
    assert performer.gate_status("lan:5") == well
    for _ in range(2):
        link.attached = False
        assert sent() == PAST_THE_GATE
        status = performer.gate_status("lan:5")
        assert status is not None
        (finding,) = status.findings
        assert finding.startswith("the advertisements of lan:5 leave past the share gate, so that nothing is taken")
        bow_out = replace(advertisement, message=Advertisement(vhid=5, advbase=255, advskew=255))
        assert performer.perform(bow_out) == AdvertisementSent("lan:5", Family.IPV4, 0)
        link.attached = True
        assert sent() == 0
        assert performer.gate_status("lan:5") == well
    link.attached = False
    assert sent() == PAST_THE_GATE
    performer.perform(SurrenderLease("lan:5"))
    assert performer.gate_status("lan:5") == GateStatus(live=False, taken=7)
    assert performer.gate_status("lan:1") == GateStatus(live=False, taken=5)


def test_what_is_dropped_behind_the_share_gate_renews_nothing(sharing: tuple[Any, Performer, list[str]]) -> None:
    link, performer, _ = sharing
    link.error = ENOBUFS
    told = performer.perform(SendAdvertisement("lan:5", Family.IPV4, Advertisement(vhid=5)))
    assert told == AdvertisementSent("lan:5", Family.IPV4, ENOBUFS)
    assert performer.gate_status("lan:5") == GateStatus(live=False, taken=7)


def test_a_share_gate_is_attached_again_only_if_it_is_not(sharing: tuple[Any, Performer, list[str]]) -> None:
    link, performer, lost = sharing
    assert performer.gates == (GatePrograms("lan", 3, 1, 2),)
    performer.prepared("lan:1")
    assert link.gate.attached == 1
    lost.append("lan")
    performer.prepared("lan:1")
    assert link.gate.attached == 2


def test_the_share_gate_knows_the_addresses(sharing: tuple[Any, Performer, list[str]]) -> None:
    link, performer, _ = sharing
    assert link.gate.addresses == (ip_address("192.0.2.1").packed,)
    performer.configure([replace(config, addresses=tuple(map(ip_interface, SHARED))) for config in performer.configs])
    assert link.gate.addresses == (ip_address("192.0.2.1").packed, ip_address("2001:db8::1").packed)
