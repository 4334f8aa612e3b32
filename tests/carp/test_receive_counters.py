"""Every way in which a packet can be wrong: the counters it moves, and that nothing else happens. Ref: spec carp §6."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from carpd.events import CarpState, Family, FrameReceived, InterfaceGone
from carpd.stats import CarpCounters
from carpd.wire.arp import gratuitous_arp
from carpd.wire.carp import GROUP4, GROUP6, PROTOCOL, TTL, Advertisement, virtual_mac
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from carpd.wire.frames import arp_frame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from tests.carp.harness import (
    IPV6_ONLY,
    OURS,
    PEER,
    PEER_COUNTER,
    Node,
    address,
    frame,
    host_config,
    sent,
    signed,
)

CONFIG = host_config()
GOOD = signed(CONFIG, advskew=100)
"""As good as we are: it restarts a backup's timer, and it makes a master step down."""

WRONG_SUM = GOOD.to_bytes()[:6] + b"\xde\xad" + GOOD.to_bytes()[8:]
VRRP2 = bytes.fromhex("21 07 64 01 00 01 0000 c000020a") + bytes(8)
VRRP2_LONG = bytes.fromhex("21 07 64 08 00 01 0000") + bytes(4 * 8 + 8)
VRRP3 = bytes.fromhex("31 07 64 01 0064 0000 c000020a")


def packet4(payload: bytes = GOOD.to_bytes(), **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "source": PEER[Family.IPV4],
        "destination": GROUP4,
        "ttl": TTL,
        "protocol": PROTOCOL,
        "payload": payload,
    }
    packet = IPv4Packet(**fields | changes).to_bytes()
    return EthernetFrame(bytes(6), virtual_mac(7), ETHERTYPE_IPV4, packet).to_bytes()


def packet6(payload: bytes = GOOD.to_bytes(), **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "source": PEER[Family.IPV6],
        "destination": GROUP6,
        "hop_limit": TTL,
        "next_header": PROTOCOL,
        "payload": payload,
    }
    packet = IPv6Packet(**fields | changes).to_bytes()
    return EthernetFrame(bytes(6), virtual_mac(7), ETHERTYPE_IPV6, packet).to_bytes()


def edited(message: Advertisement, **changes: Any) -> bytes:
    return dataclasses.replace(message, **changes).to_bytes()


def broken_header(data: bytes) -> bytes:
    """A bit of the IPv4 header is wrong, and so its checksum."""
    return data[:22] + bytes((data[22] ^ 1,)) + data[23:]


IN4, IN6 = {"ipackets": 1}, {"ipackets6": 1}
NOTHING: dict[str, int] = {}

# what is wrong -> the frame, what the interface counts, what the virtual host counts
WRONG: dict[str, tuple[bytes, dict[str, int], dict[str, int]]] = {
    # not IP, or no whole IP header: nothing that could be for CARP
    "empty": (b"", {"hdrops": 1}, NOTHING),
    "half an Ethernet header": (packet4()[:10], {"hdrops": 1}, NOTHING),
    "half an IPv4 header": (packet4()[:20], {"hdrops": 1}, NOTHING),
    "half an IPv6 header": (packet6()[:40], {"hdrops": 1}, NOTHING),
    "IPv4 cut short": (packet4()[:-1], {"hdrops": 1}, NOTHING),
    "IPv6 cut short": (packet6()[:-1], {"hdrops": 1}, NOTHING),
    "IPv4 header checksum": (broken_header(packet4()), {"hdrops": 1}, NOTHING),
    "ARP": (arp_frame(gratuitous_arp(bytes(6), bytes(4))), NOTHING, NOTHING),
    # not for us
    "another protocol": (packet4(protocol=17), NOTHING, NOTHING),
    "another next header": (packet6(next_header=58), NOTHING, NOTHING),
    "unicast to somebody else": (packet4(destination=PEER[Family.IPV4]), NOTHING, NOTHING),
    "IPv6 unicast to somebody else": (packet6(destination=PEER[Family.IPV6]), NOTHING, NOTHING),
    "another group": (packet4(destination=bytes((224, 0, 0, 5))), NOTHING, NOTHING),
    "IPv6 behind a fragment header": (packet6(bytes((PROTOCOL,)) + bytes(7), next_header=44), NOTHING, NOTHING),
    # TTL
    "TTL 254": (packet4(ttl=254), IN4 | {"badttl": 1}, NOTHING),
    "hop limit 1": (packet6(hop_limit=1), IN6 | {"badttl": 1}, NOTHING),
    "TTL 0, unicast to us": (packet4(ttl=0, destination=OURS[Family.IPV4]), IN4 | {"badttl": 1}, NOTHING),
    "TTL before length": (packet4(b"", ttl=1), IN4 | {"badttl": 1}, NOTHING),
    "TTL before VRRP": (packet4(VRRP3, ttl=1), IN4 | {"badttl": 1}, NOTHING),
    # length
    "no payload": (packet4(b""), IN4 | {"badlen": 1}, NOTHING),
    "35 bytes": (packet4(GOOD.to_bytes()[:35]), IN4 | {"badlen": 1}, NOTHING),
    "35 bytes, IPv6": (packet6(GOOD.to_bytes()[:35]), IN6 | {"badlen": 1}, NOTHING),
    "first fragment": (packet4(more_fragments=True), IN4 | {"badlen": 1}, NOTHING),
    "later fragment": (packet4(fragment_offset=2), IN4 | {"badlen": 1}, NOTHING),
    # the other protocol 112
    "VRRPv2": (packet4(VRRP2), IN4 | {"vrrp": 1}, NOTHING),
    "VRRPv2 longer than CARP": (packet4(VRRP2_LONG), IN4 | {"vrrp": 1}, NOTHING),
    "VRRPv3": (packet4(VRRP3), IN4 | {"vrrp": 1}, NOTHING),
    "VRRPv3, IPv6": (packet6(VRRP3), IN6 | {"vrrp": 1}, NOTHING),
    # checksum
    "checksum": (packet4(WRONG_SUM), IN4 | {"badsum": 1}, NOTHING),
    "checksum, IPv6": (packet6(WRONG_SUM), IN6 | {"badsum": 1}, NOTHING),
    "checksum before vhid": (packet4(WRONG_SUM[:1] + b"\x09" + WRONG_SUM[2:]), IN4 | {"badsum": 1}, NOTHING),
    # vhid, then version
    "vhid": (packet4(edited(GOOD, vhid=8)), IN4 | {"badvhid": 1}, NOTHING),
    "vhid 0": (packet6(edited(GOOD, vhid=0)), IN6 | {"badvhid": 1}, NOTHING),
    "vhid before version": (packet4(edited(GOOD, vhid=8, version=1)), IN4 | {"badvhid": 1}, NOTHING),
    "version 1": (packet4(edited(GOOD, version=1)), IN4 | {"badver": 1}, IN4 | {"badver": 1}),
    "version 15, IPv6": (packet6(edited(GOOD, version=15)), IN6 | {"badver": 1}, IN6 | {"badver": 1}),
    "version before digest": (
        packet4(edited(GOOD, version=0, digest=bytes(20))),
        IN4 | {"badver": 1},
        IN4 | {"badver": 1},
    ),
    # digest
    "digest": (packet4(edited(GOOD, digest=bytes(20))), IN4 | {"badauth": 1}, IN4 | {"badauth": 1}),
    "digest, IPv6": (packet6(edited(GOOD, digest=bytes(20))), IN6 | {"badauth": 1}, IN6 | {"badauth": 1}),
    "counter": (packet4(edited(GOOD, counter=PEER_COUNTER + 1)), IN4 | {"badauth": 1}, IN4 | {"badauth": 1}),
    "another key": (
        packet4(signed(host_config(key=b"Secret")).to_bytes()),
        IN4 | {"badauth": 1},
        IN4 | {"badauth": 1},
    ),
    "another set of addresses": (
        packet4(signed(host_config(addresses=IPV6_ONLY)).to_bytes()),
        IN4 | {"badauth": 1},
        IN4 | {"badauth": 1},
    ),
    "a bow-out that is forged": (
        packet4(edited(GOOD, advbase=255, advskew=255, counter=1)),
        IN4 | {"badauth": 1},
        IN4 | {"badauth": 1},
    ),
}

# What no receiver checks (spec carp §2, §6; captures/README.md) must not make a difference.
ACCEPTED: dict[str, tuple[bytes, dict[str, int]]] = {
    "as it should be": (packet4(), IN4),
    "as it should be, IPv6": (packet6(), IN6),
    "type": (packet4(edited(GOOD, type=2)), IN4),
    "authlen": (packet4(edited(GOOD, authlen=0)), IN4),
    "trailing bytes": (packet4(GOOD.to_bytes() + b"trailing"[:5]), IN4),
    "padding": (packet4() + bytes(4), IN4),
    "FreeBSD's TOS": (packet4(tos=0xE0), IN4),
    "traffic class and flow label": (packet6(traffic_class=0xE0, flow_label=0x12345), IN6),
    "source 0.0.0.0": (packet4(source=bytes(4)), IN4),
    "unicast to us": (packet4(destination=OURS[Family.IPV4]), IN4),
    "IPv6 unicast to us": (packet6(destination=OURS[Family.IPV6]), IN6),
    "may be fragmented": (packet4(dont_fragment=False), IN4),
}


def counted(before: CarpCounters, after: CarpCounters) -> dict[str, int]:
    old, new = dataclasses.asdict(before), dataclasses.asdict(after)
    return {name: new[name] - old[name] for name in new if new[name] != old[name]}


def count(node: Node, data: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Tell a frame; what the interface and the virtual host have counted for it."""
    before = dataclasses.replace(node.counters), dataclasses.replace(node.host.counters)
    node.tell(FrameReceived("eth0", data))
    return counted(before[0], node.counters), counted(before[1], node.host.counters)


@pytest.mark.parametrize(
    "make_node", [Node, Node.master, lambda: Node(prepared=False)], ids=["BACKUP", "MASTER", "INIT"]
)
@pytest.mark.parametrize(("data", "interface", "host"), WRONG.values(), ids=WRONG)
def test_wrong(make_node: Any, data: bytes, interface: dict[str, int], host: dict[str, int]) -> None:
    node = make_node()
    before = node.state, node.engine.deadline, node.host.heard, node.host.since
    assert count(node, data) == (interface, host)
    assert node.tell(FrameReceived("eth0", data)) == []
    assert before == (node.state, node.engine.deadline, node.host.heard, node.host.since)
    node.at(1)
    assert count(node, packet4())[0] == IN4, "and the next good one is heard"


@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(data: bytes, expected: dict[str, int]) -> None:
    node = Node.master()
    assert count(node, data) == (expected, expected)
    assert node.state is CarpState.BACKUP, "a tie: the receiver yields"


def test_every_counter_of_a_receiver_is_tested() -> None:
    moved = {name for _, interface, _ in WRONG.values() for name in interface}
    ours = {"opackets", "opackets6", "onomem", "oerrors", "preempt"}  # test_timers, test_demotion
    elsewhere = {"badif", "badaddrs", "loops"}  # never, never, and below
    assert moved | ours | elsewhere == {field.name for field in dataclasses.fields(CarpCounters)}


@pytest.mark.parametrize("family", Family, ids=lambda family: family.name)
def test_a_loop_is_our_own_address_and_our_own_counter(family: Family) -> None:
    node = Node.master()
    own = next(e.message for e in node.contract.sent if e.family is family)
    deadline = node.engine.deadline
    loop = {"loops": 1} | (IN4 if family is Family.IPV4 else IN6)
    assert count(node, frame(own, family, source=OURS[family])) == (loop, loop)
    assert count(node, frame(own, family, source=bytes(len(OURS[family])))) == (loop, loop), "unspecified source"
    assert (node.state, node.engine.deadline, node.host.heard) == (CarpState.MASTER, deadline, None)


@pytest.mark.parametrize("family", Family, ids=lambda family: family.name)
def test_what_comes_from_our_address_is_ours_however_old(family: Family) -> None:
    """Somebody kept one and sends it again: whoever believes it steps down before itself."""
    node = Node.master()
    old = signed(CONFIG, advskew=100, counter=1)
    loop = {"loops": 1} | (IN4 if family is Family.IPV4 else IN6)
    assert count(node, frame(old, family, source=OURS[family])) == (loop, loop)
    assert node.state is CarpState.MASTER


def test_a_peer_may_come_to_our_counter() -> None:
    """Two masters that hear each other count on from the same value: that is no loop."""
    node = Node.master()
    own = node.contract.sent[-1].message
    count(node, frame(own, Family.IPV4, source=PEER[Family.IPV4]))
    assert node.state is CarpState.BACKUP
    assert node.counters.loops == 0


def test_a_loop_after_stepping_down_does_not_restart_the_timer() -> None:
    node = Node.master()
    own = node.contract.sent[-2]
    node.hear(advskew=0)
    deadline = node.engine.deadline
    node.at(1_000_000)
    node.tell(FrameReceived("eth0", frame(own.message, own.family, source=OURS[own.family])))
    assert node.counters.loops == 1
    assert node.engine.deadline == deadline


def test_frames_of_an_unknown_interface_are_nobodys() -> None:
    node = Node()
    assert node.tell(FrameReceived("eth9", packet4())) == []
    assert "eth9" not in node.engine.interface_counters


def test_an_interface_without_its_addresses_hears_the_groups_only() -> None:
    node = Node()
    node.tell(InterfaceGone("eth0"))
    assert count(node, packet4(destination=OURS[Family.IPV4])) == (NOTHING, NOTHING)
    assert count(node, packet4()) == (IN4, IN4)


def test_a_vhid_is_known_by_its_interface() -> None:
    node = Node(host_config(name="lan", vhid=1), host_config(name="wan", vhid=2, interface="eth1"))
    wan = node.configs[1]
    node.tell(FrameReceived("eth0", frame(signed(wan))))
    assert (node.counters.badvhid, node.engine.interface_counters["eth1"].ipackets) == (1, 0)
    node.tell(FrameReceived("eth1", frame(signed(wan))))
    assert node.engine.hosts["wan"].heard is not None
    assert node.engine.hosts["lan"].heard is None


@pytest.mark.parametrize("digest_link_local", [False, True])
def test_digests_with_and_without_link_local_addresses_are_accepted(digest_link_local: bool) -> None:
    """Ref: spec carp §3. One setting says which of them is sent."""
    addresses = (*CONFIG.addresses, address("fe80::1:1/64"))
    ours = host_config(addresses=addresses, digest_link_local=digest_link_local)
    theirs = [host_config(addresses=addresses, digest_link_local=choice) for choice in (False, True)]
    node = Node(ours)
    assert signed(theirs[0]).digest != signed(theirs[1]).digest
    for config in theirs:
        assert count(node, frame(signed(config))) == (IN4, IN4)
    message = sent(node.expire())[0]
    assert message.digest == signed(ours, counter=message.counter).digest
