"""pfsync's sockets, on a link between two hosts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from carpd.errors import SystemCallError
from carpd.linux import namespaces, sync_device
from carpd.linux.sync_sockets import RawSyncSocket, SyncSocket, UdpSyncSocket, _run
from carpd.wire import ethernet
from carpd.wire.checksum import internet_checksum
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from carpd.wire.pfsync.header import GROUP4, GROUP6, PROTOCOL
from tests.linux.segment import (
    ANSWER_LIMIT_S,
    HOST,
    HOST4,
    HOST6,
    HOST_MAC,
    NEIGHBOR,
    NEIGHBOR4,
    NEIGHBOR6,
    NEIGHBOR_MAC,
    Neighbor,
    ip,
    link,
    wait_until,
)

PORT = 5240
MTU = 1500
HOST_LINK_LOCAL, NEIGHBOR_LINK_LOCAL = IPv6Address("fe80::ff:fe00:2"), IPv6Address("fe80::ff:fe00:3")
Peer = IPv4Address | IPv6Address
Open = Callable[..., SyncSocket]


def udp(*peers: Peer, interface: str = "eth1") -> SyncSocket:
    return UdpSyncSocket(sync_device.find(interface, peers), PORT)


def raw(*peers: Peer, interface: str = "eth1") -> SyncSocket:
    return RawSyncSocket(sync_device.find(interface, peers))


KINDS = {"udp": udp, "raw": raw}
GROUPS: dict[str, Peer] = {"4": IPv4Address(GROUP4), "6": IPv6Address(GROUP6)}
WAYS: dict[str, tuple[Peer, Peer]] = {
    "unicast4": (HOST[0].ip, NEIGHBOR[0].ip),
    "unicast6": (HOST[1].ip, NEIGHBOR[1].ip),
    "link-local": (HOST_LINK_LOCAL, NEIGHBOR_LINK_LOCAL),
    "multicast4": (GROUPS["4"], GROUPS["4"]),
    "multicast6": (GROUPS["6"], GROUPS["6"]),
}
every_kind = pytest.mark.parametrize("open_", KINDS.values(), ids=KINDS.keys())


@contextmanager
def pair(neighbor: Neighbor, open_: Open, host: Peer, other: Peer) -> Iterator[tuple[SyncSocket, SyncSocket]]:
    """The sockets of the host under test and of its neighbour."""
    with ExitStack() as stack:
        ours = open_(other)
        stack.callback(ours.close)
        with namespaces.inside(neighbor.namespace):
            theirs = open_(host)
        stack.callback(theirs.close)
        yield ours, theirs


def receive(ours: SyncSocket, count: int) -> list[tuple[str, bytes]]:
    """So many, and no more."""
    found: list[tuple[str, bytes]] = []

    def is_there() -> bool:
        found.extend(ours.receive())
        return len(found) >= count

    assert wait_until(is_there), found
    return found


@every_kind
@pytest.mark.parametrize(("host", "other"), WAYS.values(), ids=WAYS.keys())
def test_both_ways(neighbor: Neighbor, open_: Open, host: Peer, other: Peer) -> None:
    sizes = [1, 700, 700, 0, 1400, 1400, 1400, 20]
    payloads = [os.urandom(size) for size in sizes]
    with pair(neighbor, open_, host, other) as (ours, theirs):
        for sender, receiver, sources in (
            (ours, theirs, {HOST[0].ip, HOST[1].ip, HOST_LINK_LOCAL}),
            (theirs, ours, {NEIGHBOR[0].ip, NEIGHBOR[1].ip, NEIGHBOR_LINK_LOCAL}),
        ):
            assert sender.send(payloads) == {}
            received = receive(receiver, len(payloads))
            assert [payload for _, payload in received] == payloads
            assert {ip_address(source) for source, _ in received} <= sources
            assert sender.receive() == []  # our own multicasts don't come back
        for counters in (ours.counters, theirs.counters):
            counted = (counters.ipackets, counters.opackets), (counters.ipackets6, counters.opackets6)
            assert counted == (((8, 8), (0, 0)) if other.version == 4 else ((0, 0), (8, 8)))


@pytest.mark.parametrize("other", [NEIGHBOR[0].ip, GROUPS["4"]], ids=str)
def test_what_a_bsd_sees4(neighbor: Neighbor, other: IPv4Address) -> None:
    ours = raw(other)
    assert ours.send([b"payload"]) == {}
    frame = neighbor.hear(lambda frame: frame[12:14] == b"\x08\x00" and frame[23] == PROTOCOL)
    ours.close()
    assert frame
    heard = IPv4Packet.from_bytes(frame[ethernet.HEADER.size :])
    assert (heard.source, heard.destination, heard.payload) == (HOST4, other.packed, b"payload")
    assert (heard.ttl, heard.tos, heard.dont_fragment) == (255, 0x10, True)


@pytest.mark.parametrize("other", [NEIGHBOR[1].ip, GROUPS["6"]], ids=str)
def test_what_a_bsd_sees6(neighbor: Neighbor, other: IPv6Address) -> None:
    ours = raw(other)
    assert ours.send([b"payload"]) == {}
    frame = neighbor.hear(lambda frame: frame[12:14] == b"\x86\xdd" and frame[20] == PROTOCOL)
    ours.close()
    assert frame
    heard = IPv6Packet.from_bytes(frame[ethernet.HEADER.size :])
    assert (heard.destination, heard.payload, heard.hop_limit) == (other.packed, b"payload", 255)


def test_switches_that_snoop_hear_of_us(neighbor: Neighbor) -> None:
    """An IGMP and an MLD report of our groups go out."""
    for group, ethertype in ((GROUPS["4"], b"\x08\x00"), (GROUPS["6"], b"\x86\xdd")):
        ours = raw(group)
        assert neighbor.hear(lambda f, g=group.packed, e=ethertype: f[12:14] == e and g in f[34:])  # type: ignore[misc]
        ours.close()


def packet(version: int, ttl: int, source: bytes, payload: bytes) -> bytes:
    """A plain pfsync packet to the host, as a frame."""
    if version == 4:
        body = IPv4Packet(source=source, destination=HOST4, ttl=ttl, protocol=PROTOCOL, payload=payload).to_bytes()
        return EthernetFrame(HOST_MAC, NEIGHBOR_MAC, ETHERTYPE_IPV4, body).to_bytes()
    packet6 = IPv6Packet(source=source, destination=HOST6, hop_limit=ttl, next_header=PROTOCOL, payload=payload)
    return EthernetFrame(HOST_MAC, NEIGHBOR_MAC, ETHERTYPE_IPV6, packet6.to_bytes()).to_bytes()


NOT_NEIGHBOR4, NOT_NEIGHBOR6 = NEIGHBOR4[:3] + b"\x09", NEIGHBOR6[:15] + b"\x09"


@pytest.mark.parametrize(
    ("version", "source", "stranger"), [(4, NEIGHBOR4, NOT_NEIGHBOR4), (6, NEIGHBOR6, NOT_NEIGHBOR6)]
)
def test_what_a_plain_packet_must_be(neighbor: Neighbor, version: int, source: bytes, stranger: bytes) -> None:
    ours = raw(ip_address(source))
    for ttl, sender in ((254, source), (0, source), (1, source), (255, stranger), (254, stranger), (255, source)):
        neighbor.send(packet(version, ttl, sender, bytes([ttl])))
    assert [payload for _, payload in receive(ours, 1)] == [b"\xff"]
    counters = ours.counters
    assert counters.ipackets + counters.ipackets6 in (5, 6)  # the kernel drops a TTL of 0 or does not
    assert counters.badttl == counters.ipackets + counters.ipackets6 - 2
    assert counters.badpeer == 1
    ours.close()


def test_options_of_ipv4_are_skipped(neighbor: Neighbor) -> None:
    ours = raw(NEIGHBOR[0].ip)
    plain = packet(4, 255, NEIGHBOR4, b"payload")[ethernet.HEADER.size :]
    header = bytes([0x46, plain[1], 0, 31]) + plain[4:10] + b"\0\0" + plain[12:20] + bytes([1, 1, 1, 0])
    header = header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:]
    neighbor.send(EthernetFrame(HOST_MAC, NEIGHBOR_MAC, ETHERTYPE_IPV4, header + b"payload").to_bytes())
    assert receive(ours, 1) == [(str(NEIGHBOR[0].ip), b"payload")]
    ours.close()


@every_kind
def test_only_from_the_interface(neighbor: Neighbor, open_: Open) -> None:
    """The peer's address on another link is not the peer."""
    ip(f"link add eth2 type veth peer name eth2 netns /proc/{os.getpid()}/fd/{neighbor.namespace}")
    ip("link set eth2 up")
    neighbor.ip("link set eth2 up")
    neighbor.ip(f"address add {NEIGHBOR[0]} dev eth2")
    assert wait_until(lambda: link("eth2").up)
    kind, protocol = (socket.SOCK_DGRAM, 0) if open_ is udp else (socket.SOCK_RAW, PROTOCOL)
    with socket.socket(socket.AF_INET, kind, protocol) as on_eth2, ExitStack() as stack:
        on_eth2.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth2")
        on_eth2.settimeout(ANSWER_LIMIT_S)
        on_eth2.bind(("", PORT if open_ is udp else 0))
        ours = open_(NEIGHBOR[0].ip)
        stack.callback(ours.close)
        with namespaces.inside(neighbor.namespace):
            theirs = {name: open_(HOST[0].ip, interface=name) for name in ("eth1", "eth2")}
        for opened in theirs.values():
            stack.callback(opened.close)
        assert theirs["eth2"].send([b"wrong"]) == {}
        assert on_eth2.recv(100).endswith(b"wrong")
        assert theirs["eth1"].send([b"right"]) == {}
        assert receive(ours, 1) == [(str(NEIGHBOR[0].ip), b"right")]


@every_kind
def test_every_peer_is_sent_to_whatever_becomes_of_the_others(neighbor: Neighbor, open_: Open) -> None:
    nowhere = IPv4Address("255.255.255.255")  # a broadcast needs permission
    with namespaces.inside(neighbor.namespace):
        theirs = open_(HOST[0].ip)
    ours = open_(nowhere, NEIGHBOR[0].ip, HOST[0].ip)
    assert ours.send([b"one", b"two"]) == {str(nowhere): errno.EACCES}
    assert [payload for _, payload in receive(theirs, 2)] == [b"one", b"two"]
    assert (ours.counters.opackets, ours.counters.oerrors) == (2, 2)
    assert ours.receive() == []  # we are not our own peer
    theirs.close()
    ours.close()


@every_kind
@pytest.mark.parametrize("version", [4, 6])
def test_longest_payload(neighbor: Neighbor, open_: Open, version: int) -> None:
    host, other = (HOST[0].ip, NEIGHBOR[0].ip) if version == 4 else (HOST[1].ip, NEIGHBOR[1].ip)
    with pair(neighbor, open_, host, other) as (ours, theirs):
        assert ours.max_payload == MTU - {4: 20, 6: 40}[version] - (8 if open_ is udp else 0)
        longest = [bytes(ours.max_payload)] * 70
        assert ours.send(longest) == {}
        assert [payload for _, payload in receive(theirs, 70)] == longest
        too_long = bytes(ours.max_payload + 1)
        assert ours.send([b"before", too_long, too_long, b"after"]) == {str(other): errno.EMSGSIZE}
        assert ours.counters.oerrors == 3
        assert [payload for _, payload in receive(theirs, 1)] == [b"before"]


@every_kind
def test_the_link_goes_and_comes_back(neighbor: Neighbor, open_: Open) -> None:
    with pair(neighbor, open_, GROUPS["4"], GROUPS["4"]) as (ours, theirs):
        device = ours.device
        ip("link set eth1 down")
        assert ours.send([b"lost"])
        assert ours.receive() == []
        with pytest.raises(SystemCallError, match="eth1: the interface is down"):
            sync_device.find("eth1", (GROUPS["4"],))
        ip("link set eth1 up")
        assert wait_until(lambda: link("eth1").up)
        assert sync_device.find("eth1", (GROUPS["4"],)) == device
        assert ours.send([b"back"]) == {}
        assert [payload for _, payload in receive(theirs, 1)] == [b"back"]
        ip("link set eth1 mtu 1400")
        assert sync_device.find("eth1", (GROUPS["4"],)) != device
        ip("link delete eth1")
        assert ours.send([b"lost"])
        assert ours.receive() == []
        assert ours.counters.oerrors == 2


@every_kind
def test_a_read_is_bounded(neighbor: Neighbor, open_: Open) -> None:
    with pair(neighbor, open_, HOST[0].ip, NEIGHBOR[0].ip) as (ours, theirs):
        for _ in range(10):
            assert theirs.send([bytes(100)] * 100) == {}
        assert 256 <= len(ours.receive()) < 256 + 64
        assert len(receive(ours, 500)) < 1000 - 255


RUNS = {
    "empty ones": ([0, 0, 3, 0], [1, 1, 1, 1]),
    "one": ([5], [1]),
    "equal": ([5, 5, 5], [3]),
    "a shorter one ends a run": ([5, 5, 3, 5, 5], [3, 2]),
    "a longer one begins a run": ([3, 5, 5], [1, 2]),
    "as many as may be": ([100] * 100, [64, 36]),
    "as much as may be": ([1400] * 100 + [9], [46, 46, 9]),
    "large": ([9000] * 9, [7, 2]),
    "nearly all there is room for": ([65_507] * 2, [1, 1]),
}


@pytest.mark.parametrize(("sizes", "expected"), RUNS.values(), ids=RUNS.keys())
def test_runs(sizes: list[int], expected: list[int]) -> None:
    datagrams = [bytes(size) for size in sizes]
    start = 0
    for length in expected:
        assert len(_run(datagrams, start, 64)) == length
        start += length
    assert start == len(datagrams)


def test_an_interface_that_sums_no_checksums(neighbor: Neighbor) -> None:
    """Older kernels then refuse to send several datagrams at once."""

    class WithoutSegments:
        def __init__(self, opened: Any) -> None:
            self.opened = opened
            self.calls = 0

        def sendmsg(self, run: list[bytes], ancillary: list[Any], flags: int, destination: Any) -> int:
            self.calls += 1
            if ancillary:
                raise OSError(errno.EIO, "")
            return int(self.opened.sendmsg(run, ancillary, flags, destination))

    with pair(neighbor, udp, HOST[0].ip, NEIGHBOR[0].ip) as (ours, theirs):
        opened = ours._socket
        ours._socket = refusing = WithoutSegments(opened)  # type: ignore[assignment]
        assert ours.send([b"one", b"two"]) == {}
        assert ours.send([b"one", b"two"]) == {}
        assert refusing.calls == 1 + 2 + 2
        assert [payload for _, payload in receive(theirs, 4)] == [b"one", b"two"] * 2
        ours._socket = opened


DEVICES: dict[str, tuple[str, list[str], str]] = {
    "no interface": ("eth7", ["192.0.2.3"], "eth7: no such interface"),
    "down": ("idle", ["192.0.2.3"], "idle: the interface is down"),
    "no IPv4": ("bare", ["10.0.0.2", "10.0.0.3"], "bare: no IPv4 address for syncpeer 10.0.0.2, 10.0.0.3"),
    "no IPv6": ("bare", ["ff12::f0"], "bare: no IPv6 address for syncpeer ff12::f0"),
    "alone": ("eth1", ["192.0.2.2"], "eth1: syncpeer names no other host"),
}


@pytest.mark.parametrize(("name", "peers", "message"), DEVICES.values(), ids=DEVICES.keys())
def test_no_device(neighbor: Neighbor, name: str, peers: list[str], message: str) -> None:
    ip("link add idle type veth peer name idle1")
    ip("link add bare type veth peer name bare1")
    ip("link set bare addrgenmode none")
    ip("link set bare up")
    with pytest.raises(SystemCallError) as refused:
        sync_device.find(name, [ip_address(peer) for peer in peers])
    assert str(refused.value) == message


def test_the_port_is_taken(neighbor: Neighbor) -> None:
    ours = udp(NEIGHBOR[0].ip)
    with pytest.raises(SystemCallError, match="eth1: open UDP port 5240: Address already in use"):
        udp(NEIGHBOR[0].ip)
    ours.close()
