"""What a host says for all nodes that share a set of addresses: who answers whom, with which MAC; and whether the other
hosts share alike. Ref: spec carp §14.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import operator
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.carp.announce import sending_mac
from carpd.carp.balancing import (
    FORGET_NS,
    MISSED_LIMIT,
    PEERS_LIMIT,
    ArpHash,
    mix,
    node_of,
    own_destination,
    shared_mac,
    taken_macs,
)
from carpd.carp.status import host_status
from carpd.config.model import Address, BalancingMode, VirtualHostConfig
from carpd.effects import Answer, Effect, SendProbe, SharingChanged
from carpd.events import CarpState, Configure, ForceState, FrameReceived, HostPrepared
from carpd.units import SECOND
from carpd.wire import arp, sharing_probe
from carpd.wire.arp import ArpPacket
from carpd.wire.carp import YIELDED, virtual_mac
from carpd.wire.checksum import internet_checksum, pseudo_header
from carpd.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    EthernetFrame,
    multicast_mac6,
)
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from carpd.wire.ndp import ALL_NODES, NeighborAdvertisement, NeighborSolicitation, solicited_node
from carpd.wire.sharing_probe import GROUP_MAC, SharingProbe
from tests.carp.harness import (
    BOTH_FAMILIES,
    IPV4_ONLY,
    IPV6_ONLY,
    MAC,
    SEED,
    Node,
    address,
    host_config,
    interface,
    keep_backup,
    node_config,
    sharing,
)

VIRTUAL4, VIRTUAL6 = (a.ip.packed for a in BOTH_FAMILIES)
CLIENT4, CLIENT6 = bytes((192, 0, 2, 77)), bytes.fromhex("20010db8 00000000 00000000 00000077")
CLIENT_MAC, CLIENT_MAC2 = bytes.fromhex("02 00 00 00 00 77"), bytes.fromhex("02 00 00 00 00 78")
SHARED_MAC = bytes.fromhex("01 00 5e 00 01 01")
UNSPECIFIED6 = bytes(16)

modes = pytest.mark.parametrize("mode", BalancingMode, ids=lambda mode: mode.value)


# The hash, once more from the text of spec carp §14.3: words in a dictionary, and the rounds as a list

ROUNDS = ("c>>13", "a<<8", "b>>13", "c>>12", "a<<16", "b>>5", "c>>3", "a<<10", "b>>15")


def mix_as_specified(a: int, b: int, c: int) -> tuple[int, int, int]:
    words = {"a": a, "b": b, "c": c}
    others = {"a": "bc", "b": "ca", "c": "ab"}
    for x, shift in zip("abcabcabc", ROUNDS, strict=True):
        for other in others[x]:
            words[x] = (words[x] - words[other]) % 2**32
        by = int(shift[3:])
        shifted = words[shift[0]] >> by if ">>" in shift else words[shift[0]] * 2**by % 2**32
        words[x] ^= shifted
    return words["a"], words["b"], words["c"]


def hash_as_specified(password: bytes, mac: bytes) -> int:
    key = password + bytes(20 - len(password))
    block = bytearray(b"\x36" * 64)
    for number, byte in enumerate(key):
        block[number] ^= byte
    digest = hashlib.sha1(bytes(block) + bytes((2, 1))).digest()
    words = [int.from_bytes(digest[start : start + 4], "little") for start in (0, 4, 8, 12)]
    a, b, c = 0x9E3779B9, words[0] ^ words[1], words[2] ^ words[3]
    c += int.from_bytes(key[:4], "little")
    b += mac[5] * 256 + mac[4]
    a += int.from_bytes(mac[:4], "little")
    return mix_as_specified(a % 2**32, b % 2**32, c % 2**32)[2]


words32 = st.integers(0, 2**32 - 1)


def test_the_self_test_of_the_specification() -> None:
    assert mix(1, 2, 3) == mix_as_specified(1, 2, 3) == (120349509, 1098030347, 3082062082)


@given(words32, words32, words32)
def test_mix(a: int, b: int, c: int) -> None:
    assert mix(a, b, c) == mix_as_specified(a, b, c)


@given(st.binary(max_size=19), st.binary(min_size=6, max_size=6))
def test_arp_hash(key: bytes, mac: bytes) -> None:
    assert ArpHash(key).of(mac) == hash_as_specified(key, mac)


def test_the_password_ends_with_zeros() -> None:
    assert ArpHash(b"xyzzy").of(CLIENT_MAC) == ArpHash(b"xyzzy" + bytes(15)).of(CLIENT_MAC)
    assert ArpHash(b"").of(CLIENT_MAC) != ArpHash(b"x").of(CLIENT_MAC)


def test_every_byte_of_a_mac_counts_and_the_nodes_get_about_the_same() -> None:
    digest = ArpHash(b"secret")
    changed = {digest.of(CLIENT_MAC[:n] + b"\x55" + CLIENT_MAC[n + 1 :]) for n in range(6)}
    assert len(changed | {digest.of(CLIENT_MAC)}) == 7
    for nodes in (2, 3, 32):
        counts = [0] * nodes
        for number in range(nodes * 200):
            counts[digest.of(b"\x02\x00\x00\x00" + number.to_bytes(2, "big")) % nodes] += 1
        assert 120 < min(counts) <= max(counts) < 280


# MACs

M, R = BalancingMode, MAC
MACS: dict[BalancingMode, tuple[bytes | None, list[bytes], bytes, bytes]] = {
    # what clients are told, what is taken, and where advertisements and answers of the nodes 5 and 9 come from
    M.ARP: (None, [virtual_mac(5), virtual_mac(9)], virtual_mac(5), virtual_mac(9)),
    M.IP: (bytes.fromhex("01005e000105"), [bytes.fromhex("01005e000105")], R, R),
    M.IP_STEALTH: (bytes.fromhex("00005e000105"), [bytes.fromhex("00005e000105")], R, R),
    M.IP_UNICAST: (virtual_mac(5), [virtual_mac(5)], virtual_mac(5), virtual_mac(9)),
}


@modes
def test_macs(mode: BalancingMode) -> None:
    told, taken, *sources = MACS[mode]
    nodes = [node_config(vhid, mode, vhids=(5, 9)) for vhid in (5, 9)]
    assert [shared_mac(node) for node in nodes] == [told, told]
    assert [list(taken_macs(node)) for node in nodes] == [taken, taken]
    assert [sending_mac(node, MAC) for node in nodes] == sources
    if mode in (M.IP, M.IP_STEALTH):
        assert not set(sources) & set(taken), "a switch must not learn where that is"


def test_who_does_not_share_sends_as_ever() -> None:
    assert sending_mac(host_config(vhid=7), MAC) == virtual_mac(7)


# Who answers


def arp_request(
    target: bytes = VIRTUAL4,
    mac: bytes = CLIENT_MAC,
    sender: bytes = CLIENT4,
    *,
    operation: int = arp.REQUEST,
    destination: bytes = BROADCAST,
) -> bytes:
    packet = ArpPacket(operation, mac, sender, bytes(6), target).to_bytes()
    return EthernetFrame(destination, mac, ETHERTYPE_ARP, packet).to_bytes()


def solicitation(
    target: bytes = VIRTUAL6,
    mac: bytes = CLIENT_MAC,
    source: bytes = CLIENT6,
    *,
    option: bytes | None = None,
    destination: bytes | None = None,
    hop_limit: int = 255,
    spoil: Callable[[bytes], bytes] = bytes,
) -> bytes:
    """From a host, with its MAC as an option, unless it is one without an address. `spoil` changes the message."""
    group = destination or solicited_node(target)
    told = (b"" if source == UNSPECIFIED6 else mac) if option is None else option
    body = spoil(NeighborSolicitation(target, told).to_bytes(source, group))
    packet = IPv6Packet(source=source, destination=group, hop_limit=hop_limit, next_header=58, payload=body)
    return EthernetFrame(multicast_mac6(group), mac, ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()


def ask(node: Node, frame: bytes, name: str = "eth0") -> list[Effect]:
    return node.tell(FrameReceived(name, frame))


def expected_arp(vhid: int, told: bytes, asker: bytes = CLIENT_MAC) -> list[Effect]:
    return [Answer(f"lan:{vhid}", ArpPacket(arp.REPLY, told, VIRTUAL4, asker, CLIENT4), asker)]


def expected_neighbor(vhid: int, told: bytes, asker: bytes = CLIENT_MAC) -> list[Effect]:
    answer = NeighborAdvertisement(VIRTUAL6, told, router=False, override=True, solicited=True)
    return [Answer(f"lan:{vhid}", answer, asker, CLIENT6)]


@modes
@pytest.mark.parametrize("masters", [(), (1,), (2,), (1, 2)], ids=str)
def test_who_answers(mode: BalancingMode, masters: tuple[int, ...]) -> None:
    """The leader's master for all; in `arp` balancing the master of the node that the client's MAC falls to."""
    configs = [node_config(vhid, mode) for vhid in (1, 2)]
    node = sharing(*masters, configs=configs)
    for client in (CLIENT_MAC, CLIENT_MAC2, *(bytes((2, 0, 0, 0, 1, n)) for n in range(20))):
        of_client = (1, 2)[hash_as_specified(b"secret", client) % 2]
        vhid = of_client if mode is M.ARP else 1
        told = virtual_mac(vhid) if mode is M.ARP else MACS_OF_1[mode]
        in_charge = vhid in masters
        assert ask(node, arp_request(mac=client)) == (expected_arp(vhid, told, client) if in_charge else [])
        assert ask(node, solicitation(mac=client)) == (expected_neighbor(vhid, told, client) if in_charge else [])


MACS_OF_1 = {M.IP: SHARED_MAC, M.IP_STEALTH: virtual_mac(1), M.IP_UNICAST: virtual_mac(1)}


@pytest.mark.parametrize("number", [2, 3, 7, 32])
def test_each_client_is_answered_by_one_host_of_several(number: int) -> None:
    """Three hosts, with the nodes dealt out among them: whoever asks gets one answer, whose MAC is that node's."""
    vhids = tuple(range(1, number + 1))
    configs = [node_config(vhid, M.ARP, vhids=vhids) for vhid in vhids]
    hosts = [sharing(*vhids[part::3], configs=configs) for part in range(3)]
    seen = set()
    for client in range(60):
        mac = bytes((2, 0, 0, 9, 0, client))
        ((answer,),) = ([a.answer.sender_mac for a in answers] for answers in answers_of(hosts, arp_request(mac=mac)))
        assert answer == virtual_mac(vhids[hash_as_specified(b"secret", mac) % number])
        ((neighbor,),) = ([a.answer.mac for a in answers] for answers in answers_of(hosts, solicitation(mac=mac)))
        assert neighbor == answer, "over IPv4 and IPv6 it is the same node"
        seen.add(answer)
    assert len(seen) > min(number, 32) // 2


def answers_of(hosts: list[Node], frame: bytes) -> list[list[Any]]:
    return [answers for answers in (ask(host, frame) for host in hosts) if answers]


ARP_UNANSWERED = {
    "gratuitous": arp_request(sender=VIRTUAL4),
    "for the client itself": arp_request(CLIENT4),
    "for another address": arp_request(bytes((192, 0, 2, 11))),
    "a reply": arp_request(operation=arp.REPLY),
    "another operation": arp_request(operation=8),
    "from a multicast MAC": arp_request(mac=bytes.fromhex("010000000077")),
    "from everybody": arp_request(mac=BROADCAST),
    "truncated": arp_request()[:-1],
    "empty": arp_request()[:14],
    "of another kind of link": arp_request()[:14] + b"\x00\x06" + arp_request()[16:],
    "for another protocol": arp_request()[:16] + b"\x86\xdd" + arp_request()[18:],
    "in an IPv4 frame": arp_request()[:12] + b"\x08\x00" + arp_request()[14:],
}
ARP_ANSWERED = {
    "plain": arp_request(),
    "padded": arp_request() + bytes(18),
    "of one MAC, as neighbours are probed": arp_request(destination=SHARED_MAC),
    "looking for a duplicate": arp_request(sender=bytes(4)),
}


@pytest.mark.parametrize("frame", ARP_UNANSWERED.values(), ids=ARP_UNANSWERED)
def test_arp_unanswered(frame: bytes) -> None:
    assert ask(sharing(1, 2), frame) == []


@pytest.mark.parametrize("frame", ARP_ANSWERED.values(), ids=ARP_ANSWERED)
def test_arp_answered(frame: bytes) -> None:
    (answer,) = ask(sharing(1), frame)
    asked = ArpPacket.from_bytes(frame[14:])
    reply = ArpPacket(arp.REPLY, SHARED_MAC, VIRTUAL4, CLIENT_MAC, asked.sender_ip)
    assert answer == Answer("lan:1", reply, CLIENT_MAC)


def in_ipv4(source: bytes, destination: bytes) -> bytes:
    """ICMPv6 where it does not belong, with a checksum that would do."""
    body = bytearray(NeighborSolicitation(VIRTUAL6, CLIENT_MAC).to_bytes(CLIENT6, VIRTUAL6))
    body[2:4] = bytes(2)
    checksum = internet_checksum(pseudo_header(source, destination, len(body), 58) + body)
    body[2:4] = checksum.to_bytes(2, "big")
    packet = IPv4Packet(source=source, destination=destination, ttl=255, protocol=58, payload=bytes(body))
    return EthernetFrame(MAC, CLIENT_MAC, ETHERTYPE_IPV4, packet.to_bytes()).to_bytes()


def neighbor_advertisement() -> bytes:
    group = solicited_node(VIRTUAL6)
    body = NeighborAdvertisement(VIRTUAL6, CLIENT_MAC, router=False).to_bytes(CLIENT6, group)
    packet = IPv6Packet(source=CLIENT6, destination=group, hop_limit=255, next_header=58, payload=body)
    return EthernetFrame(multicast_mac6(group), CLIENT_MAC, ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()


NEIGHBORS_UNANSWERED = {
    "for the client itself": solicitation(CLIENT6),
    "for another address with the same group": solicitation(bytes.fromhex("fe80" + "00" * 10) + VIRTUAL6[12:]),
    "hop limit 254": solicitation(hop_limit=254),
    "hop limit 0": solicitation(hop_limit=0),
    "a wrong checksum": solicitation(spoil=lambda body: body[:3] + bytes((body[3] ^ 1,)) + body[4:]),
    "no checksum": solicitation(spoil=lambda body: body[:2] + bytes(2) + body[4:]),
    "another target than was summed": solicitation(spoil=lambda body: body[:23] + b"\x99" + body[24:]),
    "truncated": solicitation(spoil=lambda body: body[:-1]),
    "without a target": solicitation(spoil=lambda body: body[:8]),
    "empty": solicitation(spoil=lambda body: b""),
    "cut by the link": solicitation()[:-1],
    "an advertisement": neighbor_advertisement(),
    "from a multicast address": solicitation(source=ALL_NODES),
    "from a multicast MAC": solicitation(option=BROADCAST),
    "in IPv4": in_ipv4(CLIENT4, VIRTUAL4),
}


@pytest.mark.parametrize("frame", NEIGHBORS_UNANSWERED.values(), ids=NEIGHBORS_UNANSWERED)
def test_neighbors_unanswered(frame: bytes) -> None:
    assert ask(sharing(1, 2), frame) == []


def answer(mac: bytes, destination: bytes, *, solicited: bool = True) -> Answer:
    told = NeighborAdvertisement(VIRTUAL6, SHARED_MAC, router=False, override=True, solicited=solicited)
    return Answer("lan:1", told, mac, destination)


NEIGHBORS_ANSWERED = {
    "plain": (solicitation(), answer(CLIENT_MAC, CLIENT6)),
    "of the address itself": (solicitation(destination=VIRTUAL6), answer(CLIENT_MAC, CLIENT6)),
    "padded": (solicitation() + bytes(10), answer(CLIENT_MAC, CLIENT6)),
    "without its MAC": (solicitation(option=b""), answer(CLIENT_MAC, CLIENT6)),
    "with another MAC": (solicitation(option=CLIENT_MAC2), answer(CLIENT_MAC2, CLIENT6)),
    "looking for a duplicate": (
        solicitation(source=UNSPECIFIED6),
        answer(bytes.fromhex("333300000001"), ALL_NODES, solicited=False),
    ),
}


@pytest.mark.parametrize(("frame", "expected"), NEIGHBORS_ANSWERED.values(), ids=NEIGHBORS_ANSWERED)
def test_neighbors_answered(frame: bytes, expected: Answer) -> None:
    assert ask(sharing(1), frame) == [expected]


@modes
def test_who_looks_for_a_duplicate_moves_no_other_client(mode: BalancingMode) -> None:
    """All on the link are told that the address is taken: in `arp` balancing with the MAC of one node, for which nobody
    shall give up another one's.
    """
    (told,) = ask(
        sharing(1, 2, configs=[node_config(vhid, mode) for vhid in (1, 2)]), solicitation(source=UNSPECIFIED6)
    )
    assert isinstance(told, Answer)
    assert isinstance(told.answer, NeighborAdvertisement)
    assert (told.destination, told.answer.solicited) == (ALL_NODES, False)
    assert told.answer.override is (mode is not M.ARP)


def test_a_client_without_a_mac_in_its_message_is_told_by_that_of_the_frame() -> None:
    node = sharing(1, 2, configs=[node_config(vhid, M.ARP) for vhid in (1, 2)])
    for client in (CLIENT_MAC, CLIENT_MAC2):
        vhid = (1, 2)[hash_as_specified(b"secret", client) % 2]
        assert ask(node, solicitation(mac=client, option=b"")) == expected_neighbor(vhid, virtual_mac(vhid), client)


def test_a_router_says_that_it_is_one() -> None:
    node = sharing(1)
    node.tell(interface(router=True))
    (told,) = ask(node, solicitation())
    assert isinstance(told, Answer)
    assert isinstance(told.answer, NeighborAdvertisement)
    assert told.answer.router


@pytest.mark.parametrize(
    ("addresses", "frame"), [(IPV6_ONLY, arp_request()), (IPV4_ONLY, solicitation())], ids=["IPv6", "IPv4"]
)
def test_of_one_family(addresses: tuple[Address, ...], frame: bytes) -> None:
    configs = [node_config(vhid, addresses=addresses) for vhid in (1, 2)]
    assert ask(sharing(1, 2, configs=configs), frame) == []


def test_on_its_own_interface_and_for_its_own_addresses() -> None:
    """Two virtual hosts that share, on two interfaces: the one is not asked for the other's."""
    other = (address("198.51.100.1/24"),)
    lan = [node_config(vhid) for vhid in (1, 2)]
    wan = [node_config(vhid, addresses=other, interface="eth1") for vhid in (1, 2)]
    node = Node.master(*lan, *(renamed(config, "wan") for config in wan))
    assert len(ask(node, arp_request())) == 1
    assert ask(node, arp_request(), "eth1") == []
    (told,) = ask(node, arp_request(other[0].ip.packed), "eth1")
    assert isinstance(told, Answer)
    assert told.host == "wan:1"
    assert ask(node, arp_request(other[0].ip.packed)) == []
    assert ask(node, arp_request(), "eth9") == []


def renamed(config: VirtualHostConfig, name: str) -> VirtualHostConfig:
    assert config.balancing
    balancing = dataclasses.replace(config.balancing, virtual_host=name)
    return dataclasses.replace(config, name=f"{name}:{config.vhid}", balancing=balancing)


def test_a_host_that_does_not_share_leaves_it_to_the_kernel() -> None:
    node = Node.master(host_config())
    for frame in (arp_request(), solicitation(), probe_frame()):
        assert ask(node, frame) == []
    assert node.counters.hdrops == 0


def test_whoever_is_master_at_the_time() -> None:
    """Who took over answers before its share is open; who leaves, loses its link or its configuration does not."""
    node = sharing(2)
    assert ask(node, arp_request()) == []
    node.hear(demotion=1)
    assert not node.engine.hosts["lan:1"].serves
    assert ask(node, arp_request()) == expected_arp(1, SHARED_MAC)
    node.hear(type=YIELDED)
    assert ask(node, arp_request()) == expected_arp(1, SHARED_MAC)
    node.tell(ForceState("lan:1", CarpState.BACKUP))
    assert ask(node, arp_request()) == []
    node = sharing(1)
    node.tell(interface(up=False))
    assert ask(node, arp_request()) == []
    node = sharing(1)
    node.tell(Configure((), SEED))
    assert node.engine.sharing == {}
    assert ask(node, arp_request()) == []


def test_new_addresses_and_a_new_password_count_at_once() -> None:
    addresses = (address("192.0.2.99/24"), BOTH_FAMILIES[1])
    configs = [node_config(vhid, M.ARP, addresses=addresses, key=b"other") for vhid in (1, 2)]
    node = sharing(1, 2, configs=[node_config(vhid, M.ARP) for vhid in (1, 2)])
    node.tell(Configure(tuple(configs), SEED))
    assert ask(node, arp_request()) == []
    for client in range(10):
        mac = bytes((2, 0, 0, 0, 0, client))
        (told,) = ask(node, arp_request(bytes((192, 0, 2, 99)), mac=mac))
        assert isinstance(told, Answer)
        assert told.host == f"lan:{(1, 2)[hash_as_specified(b'other', mac) % 2]}"


# Probes

NUMBERS = {M.ARP: 1, M.IP: 2, M.IP_STEALTH: 3, M.IP_UNICAST: 4}
"""On the wire: these stay."""
OURS = SharingProbe(2, b"\x01\x02")
PEER_MAC, PEER_MAC2 = bytes.fromhex("02 00 00 00 00 02"), bytes.fromhex("02 00 00 00 00 03")
KEY = b"secret"


def probe_frame(
    probe: SharingProbe = OURS, source: bytes = PEER_MAC, destination: bytes = GROUP_MAC, key: bytes = KEY
) -> bytes:
    return EthernetFrame(destination, source, sharing_probe.ETHERTYPE, probe.to_bytes(key)).to_bytes()


def shared_frame(
    family: int = 4, probe: SharingProbe = OURS, source: bytes = PEER_MAC, destination: bytes = SHARED_MAC
) -> bytes:
    """The same to the shared MAC, in a packet."""
    addresses = {4: (CLIENT4, VIRTUAL4), 6: (CLIENT6, VIRTUAL6)}[family]
    return sharing_probe.packet_frame(
        probe.to_bytes(KEY),
        source_mac=source,
        destination_mac=destination,
        source=addresses[0],
        destination=addresses[1],
    )


def hear_whole(node: Node, source: bytes = PEER_MAC) -> list[Effect]:
    """All that a host sends once an interval."""
    frames = (probe_frame(source=source), shared_frame(4, source=source), shared_frame(6, source=source))
    return [effect for frame in frames for effect in ask(node, frame)]


def findings(effects: list[Effect]) -> list[tuple[bool, str]]:
    assert all(isinstance(effect, SharingChanged) and effect.virtual_host == "lan" for effect in effects)
    return [(effect.present, effect.finding) for effect in effects if isinstance(effect, SharingChanged)]


@modes
def test_of_the_masters_the_first_one_probes(mode: BalancingMode) -> None:
    configs = [node_config(vhid, mode, vhids=(1, 2, 3)) for vhid in (1, 2, 3)]
    probe = SharingProbe(NUMBERS[mode], b"\x01\x02\x03")
    for masters in itertools.chain(*(itertools.combinations((1, 2, 3), n) for n in range(4))):
        node = sharing(*masters, configs=configs)
        probes = []
        for _ in range(6 if masters else 0):
            keep_backup(node, *(number for number in range(3) if number + 1 not in masters))
            probes += [effect for effect in node.expire() if isinstance(effect, SendProbe)]
        assert probes == [SendProbe(f"lan:{vhid}", probe) for vhid in masters[:1]] * len(probes)
        assert bool(probes) is bool(masters)


def test_a_probe_an_interval() -> None:
    """Not for each family, not for each node, not when a worse master is answered or a demotion told."""
    node = sharing(1, 2)
    for _ in range(3):
        effects = node.expire()
        assert sum(isinstance(effect, SendProbe) for effect in effects) == 1
        assert not any(isinstance(effect, SendProbe) for effect in node.hear(advskew=200))


def test_when_the_first_one_goes_the_next_one_probes() -> None:
    node = sharing(1, 2)
    node.hear(host=0, advskew=0)
    assert [effect.host for effect in node.expire() if isinstance(effect, SendProbe)] == ["lan:2"]


FINDINGS = {
    "the same": (OURS, []),
    "another node": (
        SharingProbe(2, b"\x01\x03"),
        ["02:00:00:00:00:02 has the nodes 1, 3, this host 1, 2: list the same on all hosts"],
    ),
    "one node more": (
        SharingProbe(2, b"\x01\x02\x03"),
        ["02:00:00:00:00:02 has the nodes 1, 2, 3, this host 1, 2: list the same on all hosts"],
    ),
    "not in order": (
        SharingProbe(2, b"\x02\x01"),
        ["02:00:00:00:00:02 has the nodes 2, 1, this host 1, 2: list the same on all hosts"],
    ),
    "another mode": (
        SharingProbe(1, b"\x01\x02"),
        ["02:00:00:00:00:02 has balancing arp, this host ip: set the same on all hosts"],
    ),
    "an unknown mode": (
        SharingProbe(9, b"\x01\x02"),
        ["02:00:00:00:00:02 has balancing mode 9, this host ip: set the same on all hosts"],
    ),
    "both": (
        SharingProbe(4, b"\x02\x07"),
        [
            "02:00:00:00:00:02 has the nodes 2, 7, this host 1, 2: list the same on all hosts",
            "02:00:00:00:00:02 has balancing ip-unicast, this host ip: set the same on all hosts",
        ],
    ),
    "another group": (SharingProbe(1, b"\x07\x08"), []),
    "no nodes": (SharingProbe(2, b""), []),
}


@pytest.mark.parametrize(("probe", "expected"), FINDINGS.values(), ids=FINDINGS)
@pytest.mark.parametrize("masters", [(), (1,)], ids=["BACKUP", "MASTER"])
def test_findings(probe: SharingProbe, expected: list[str], masters: tuple[int, ...]) -> None:
    """Said once, however often it is heard, by masters and backups."""
    node = sharing(*masters)
    assert findings(ask(node, probe_frame(probe))) == [(True, finding) for finding in expected]
    assert ask(node, probe_frame(probe)) == []
    assert ask(node, shared_frame(4, probe)) == ask(node, shared_frame(6, probe)) == []
    for name in ("lan:1", "lan:2"):
        assert host_status(node.engine, name).findings == tuple(expected)
    assert findings(ask(node, probe_frame())) == [(False, finding) for finding in expected]
    assert host_status(node.engine, "lan:1").findings == ()


@pytest.mark.parametrize("key", [b"", b"other", b"secret\1"])
def test_without_the_password_it_is_nobody_s(key: bytes) -> None:
    node = sharing(1)
    assert ask(node, probe_frame(SharingProbe(1, b"\x01"), key=key)) == []
    assert node.engine.sharing["lan"]._peers == {}


LOST = [
    f"IPv{family} packets of 02:00:00:00:00:02 to 01:00:5e:00:01:01 do not arrive: switch IGMP and MLD snooping off on "
    "the switches between, or make the hosts' ports router ports"
    for family in (4, 6)
]


@pytest.mark.parametrize("lost", [{4}, {6}, {4, 6}], ids=str)
def test_packets_to_the_shared_mac_get_lost(lost: set[int]) -> None:
    """Of one family or both; each is said once, and one that arrives ends it."""
    node = sharing(1)

    def interval() -> list[tuple[bool, str]]:
        frames = [probe_frame(), *(shared_frame(family) for family in (4, 6) if family not in lost)]
        return findings([effect for frame in frames for effect in ask(node, frame)])

    named = [LOST[family == 6] for family in sorted(lost)]
    for _ in range(3):
        for _ in range(MISSED_LIMIT):
            assert interval() == []
        assert interval() == [(True, finding) for finding in named]
        assert interval() == []
        assert host_status(node.engine, "lan:1").findings == tuple(named)
        found = [findings(ask(node, shared_frame(family))) for family in sorted(lost)]
        assert found == [[(False, finding)] for finding in named]


def test_of_addresses_of_one_family_the_other_is_not_missed() -> None:
    node = sharing(1, configs=[node_config(vhid, addresses=IPV6_ONLY) for vhid in (1, 2)])
    for _ in range(2 * MISSED_LIMIT):
        ask(node, probe_frame())
    assert host_status(node.engine, "lan:1").findings == (LOST[1],)
    node.tell(Configure(tuple(node_config(vhid, addresses=IPV4_ONLY) for vhid in (1, 2)), SEED))
    for _ in range(MISSED_LIMIT + 1):
        ask(node, probe_frame())
    assert host_status(node.engine, "lan:1").findings == (LOST[0],)


@pytest.mark.parametrize("mode", [M.IP, M.IP_STEALTH, M.IP_UNICAST], ids=lambda mode: mode.value)
def test_what_must_be_done_depends_on_the_mode(mode: BalancingMode) -> None:
    remedy = {M.IP: "snooping", M.IP_STEALTH: "must flood", M.IP_UNICAST: "must be a hub, or mirror"}[mode]
    node = sharing(1, configs=[node_config(vhid, mode) for vhid in (1, 2)])
    for _ in range(MISSED_LIMIT + 1):
        ask(node, probe_frame(SharingProbe(NUMBERS[mode], b"\x01\x02")))
    found = host_status(node.engine, "lan:1").findings
    assert len(found) == 2
    for finding in found:
        assert remedy in finding
        assert MACS_OF_1[mode].hex(":") in finding


def test_now_and_then_one_gets_lost() -> None:
    node = sharing(1)
    for _ in range(20):
        for _ in range(MISSED_LIMIT):
            assert ask(node, probe_frame()) == []
        for family in (4, 6):
            assert ask(node, shared_frame(family)) == []
        assert hear_whole(node) == []


@pytest.mark.parametrize(
    "frame",
    [
        shared_frame(destination=virtual_mac(1)),  # of another way of sharing
        shared_frame(destination=GROUP_MAC),
        probe_frame(destination=SHARED_MAC),  # what is no IP a switch may treat otherwise
        shared_frame()[:22] + b"\xfe" + shared_frame()[23:],  # TTL 254, and a wrong checksum for it
    ],
    ids=["virtual MAC", "group", "no IP", "TTL"],
)
def test_only_packets_to_the_shared_mac_show_that_such_arrive(frame: bytes) -> None:
    node = sharing(1)
    for _ in range(MISSED_LIMIT + 1):
        assert ask(node, frame) == []
        ask(node, probe_frame())
    assert host_status(node.engine, "lan:1").findings == tuple(LOST)


def test_only_what_comes_to_the_group_shows_that_the_other_is_missing() -> None:
    node = sharing(1)
    for destination in (BROADCAST, MAC, virtual_mac(1), bytes(6)):
        for _ in range(2 * MISSED_LIMIT):
            assert ask(node, probe_frame(destination=destination)) == []


def test_in_arp_balancing_nothing_is_shared_that_could_be_missing() -> None:
    node = sharing(1, configs=[node_config(vhid, M.ARP) for vhid in (1, 2)])
    for _ in range(2 * MISSED_LIMIT):
        assert ask(node, probe_frame(SharingProbe(1, b"\x01\x02"))) == []


@pytest.mark.parametrize("other", [SharingProbe(1, b"\x01\x02"), SharingProbe(2, b"\x02\x03")], ids=["mode", "nodes"])
def test_what_was_missed_of_another_way_of_sharing_does_not_count(other: SharingProbe) -> None:
    node = sharing(1)
    for _ in range(2 * MISSED_LIMIT):
        ask(node, probe_frame(other))
    ((present, _),) = findings(ask(node, probe_frame()))
    assert not present, "all is well now, and nothing is said to be lost"
    for _ in range(MISSED_LIMIT - 1):
        assert ask(node, probe_frame()) == []
    assert findings(ask(node, probe_frame())) == [(True, finding) for finding in LOST]


def test_each_host_for_itself() -> None:
    node = sharing(1)
    for _ in range(MISSED_LIMIT + 1):
        ask(node, probe_frame())
        hear_whole(node, PEER_MAC2)
    assert host_status(node.engine, "lan:1").findings == tuple(LOST)
    ask(node, probe_frame(SharingProbe(1, b"\x01\x02"), PEER_MAC2))
    assert [finding.split()[-1] for finding in host_status(node.engine, "lan:1").findings] == [
        "ports",
        "ports",
        "hosts",
    ]


def test_our_own_that_come_back_are_no_other_host() -> None:
    """A mirror port brings them, perhaps not all."""
    node = sharing(1)
    for _ in range(2 * MISSED_LIMIT):
        assert ask(node, probe_frame(source=MAC)) == []
    assert node.engine.sharing["lan"]._peers == {}


@pytest.mark.parametrize("advbase", [0, 1, 10])
def test_who_is_not_heard_any_more_is_forgotten(advbase: int) -> None:
    configs = [node_config(vhid, advbase=advbase) for vhid in (1, 2)]
    node = sharing(configs=configs)
    ((_, finding),) = findings(ask(node, probe_frame(SharingProbe(1, b"\x01\x02"))))
    node.at(FORGET_NS + 5 * advbase * SECOND - 1)
    assert ask(node, probe_frame(source=PEER_MAC2)) == []
    node.at(1)
    assert findings(ask(node, probe_frame(source=PEER_MAC2))) == [(False, finding)]


def test_a_master_that_hears_nobody_forgets_all() -> None:
    node = sharing(1)
    ((_, finding),) = findings(ask(node, probe_frame(SharingProbe(1, b"\x01\x02"))))
    told: list[Effect] = []
    begin = node.now
    while node.now < begin + FORGET_NS + 10 * SECOND:
        told += [effect for effect in node.expire() if isinstance(effect, SharingChanged)]
    assert findings(told) == [(False, finding)]


def test_so_many_hosts_are_remembered() -> None:
    """A group has no more; and old probes that come from ever new MACs fill no memory, and shut nobody out for long."""
    node = sharing()
    for number in range(2 * PEERS_LIMIT):
        ask(node, probe_frame(source=bytes((2, 0, 0, 0, 9, number))))
    assert len(node.engine.sharing["lan"]._peers) == PEERS_LIMIT
    wrong = SharingProbe(1, b"\x01\x02")
    assert ask(node, probe_frame(wrong)) == []
    node.at(FORGET_NS + 5 * SECOND)
    ask(node, probe_frame(wrong))
    assert len(findings(ask(node, probe_frame(wrong)))) == 1


def test_nodes_that_are_removed_are_not_complained_about_any_more() -> None:
    node = sharing(1)
    ((_, finding),) = findings(ask(node, probe_frame(SharingProbe(1, b"\x01\x02"))))
    effects = node.tell(Configure(tuple(node_config(vhid, M.ARP) for vhid in (1, 2)), SEED))
    assert findings([e for e in effects if isinstance(e, SharingChanged)]) == [(False, finding)]
    for vhid in (1, 2):
        node.tell(HostPrepared(f"lan:{vhid}"))
    assert ask(node, probe_frame(SharingProbe(1, b"\x01\x02"))) == []


def test_with_a_new_password_the_old_one_is_worth_nothing() -> None:
    node = sharing(1)
    node.tell(Configure(tuple(node_config(vhid, key=b"other") for vhid in (1, 2)), SEED))
    wrong = SharingProbe(1, b"\x01\x02")
    assert ask(node, probe_frame(wrong)) == []
    assert len(findings(ask(node, probe_frame(wrong, key=b"other")))) == 1


@given(
    number=st.integers(2, 32),
    data=st.data(),
    version=st.sampled_from((4, 6)),
)
def test_a_probe_in_a_packet_falls_to_who_sends_it(number: int, data: st.DataObject, version: int) -> None:
    """So that no other host takes it; its destination is a shared address, or one beside it."""
    size = 4 if version == 4 else 16
    source, shared = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    vhids = tuple(sorted(data.draw(st.sets(st.integers(1, 255), min_size=number, max_size=number))))
    place = data.draw(st.integers(0, number - 1))
    config = node_config(vhids[place], vhids=vhids)
    destination = own_destination(config, source, shared)
    words = struct.unpack(f"!{size // 2}I", source + destination)
    assert functools.reduce(operator.xor, words) % number == node_of(source, destination, number) == place
    assert destination[:-1] == shared[:-1]
    assert destination[-1] ^ shared[-1] < 32


def test_two_hosts_understand_each_other() -> None:
    """What one sends the other reads, in each mode, and finds nothing wrong."""
    for mode in BalancingMode:
        configs = [node_config(vhid, mode) for vhid in (1, 2)]
        one, two = sharing(1, configs=configs), sharing(2, configs=configs)
        (probe,) = [effect.probe for effect in one.expire() if isinstance(effect, SendProbe)]
        mac = shared_mac(configs[0])
        for _ in range(2 * MISSED_LIMIT):
            assert ask(two, probe_frame(probe)) == []
            if mac is not None:
                assert [ask(two, shared_frame(family, probe, destination=mac)) for family in (4, 6)] == [[], []]
        assert len(two.engine.sharing["lan"]._peers) == 1


# Whatever comes

VALID = [
    arp_request(),
    solicitation(),
    solicitation(source=UNSPECIFIED6),
    probe_frame(),
    probe_frame(SharingProbe(3, bytes(range(1, 33)))),
    shared_frame(4),
    shared_frame(6),
]


@pytest.fixture(scope="module")
def host() -> Node:
    return sharing(1, 2)


@given(
    data=st.binary(max_size=120),
    ethertype=st.sampled_from((ETHERTYPE_ARP, ETHERTYPE_IPV6, ETHERTYPE_IPV4, sharing_probe.ETHERTYPE)),
)
def test_nonsense(host: Node, data: bytes, ethertype: int) -> None:
    assert ask(host, EthernetFrame(BROADCAST, CLIENT_MAC, ethertype, data).to_bytes()) == []


@given(data=st.binary(max_size=60))
def test_nonsense_behind_a_good_beginning(host: Node, data: bytes) -> None:
    frame = probe_frame()[:20] + data
    assert ask(host, frame) == []
    assert ask(host, arp_request()[:20] + data) == [] or len(data) >= 22


@given(
    frame=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.integers(0, 85), st.integers(0, 255)), max_size=4),
    length=st.one_of(st.none(), st.integers(0, 100)),
)
def test_mutated(host: Node, frame: bytes, edits: list[tuple[int, int]], length: int | None) -> None:
    """Nothing raises; whatever is answered is answered for our addresses, to a MAC that somebody can have."""
    mutated = bytearray(frame)
    for offset, value in edits:
        mutated[offset % len(mutated)] = value
    cut = bytes(mutated) if length is None else bytes(mutated[:length])
    for effect in ask(host, cut):
        if isinstance(effect, Answer):
            told = effect.answer
            ours = told.sender_ip == VIRTUAL4 if isinstance(told, ArpPacket) else told.target == VIRTUAL6
            assert ours
            assert not effect.mac[0] & 1 or effect.destination == ALL_NODES
            assert len(effect.destination) == (0 if isinstance(told, ArpPacket) else 16)


@given(source=st.binary(min_size=6, max_size=6), mode=st.integers(0, 255), vhids=st.binary(max_size=255))
def test_any_probe_that_is_signed(source: bytes, mode: int, vhids: bytes) -> None:
    """Who has the password may say what he wants: the findings are about him, and end with his next right probe."""
    node = sharing(1)
    probe = SharingProbe(mode, vhids)
    found = findings(ask(node, probe_frame(probe, source)))
    assert all(present for present, _ in found)
    assert len(found) == ((vhids != OURS.vhids) + (mode != OURS.mode)) * bool({1, 2} & set(vhids) and source != MAC)
    assert [finding for present, finding in findings(ask(node, probe_frame(OURS, source))) if present] == []
    assert host_status(node.engine, "lan:1").findings == ()


def test_nodes_that_are_not_prepared_answer_nobody() -> None:
    node = Node(node_config(1), node_config(2), prepared=False)
    for frame in VALID[:4]:
        assert ask(node, frame) == []
