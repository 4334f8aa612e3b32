"""The share gate, in a real kernel: a host that shares the traffic to a virtual host, and a neighbour that sends it."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import balance, ebpf, lease, namespaces
from carpd.linux.balance import ShareGate
from carpd.linux.ebpf import Assembler, Register
from carpd.linux.lease import Guard
from carpd.linux.netlink import NetlinkSocket
from carpd.linux.packets import ADVERTISEMENT_MARK, PacketSocket
from carpd.units import MILLISECOND, SECOND
from carpd.wire import netlink, tc
from tests.linux.segment import (
    HOST4,
    HOST6,
    HOST_MAC,
    NEIGHBOR,
    NEIGHBOR_MAC,
    Neighbor,
    advertisement,
    echo_request,
    ip,
    is_from,
    link,
    wait_until,
)
from tests.linux.tcx import detach_all

LONG = 3600 * SECOND
SHORT = 60 * MILLISECOND

GROUP_MAC = bytes.fromhex("01005e000107")
OTHER_GROUP_MAC = bytes.fromhex("01005e000207")
MAC7, MAC8, MAC9 = (bytes.fromhex(f"00005e00010{vhid}") for vhid in (7, 8, 9))

both_ways = pytest.mark.parametrize("tcx", [True, False], ids=["tcx", "clsact"])

Advertise = Callable[..., None]


@pytest.fixture
def advertise(neighbor: Neighbor) -> Iterator[Advertise]:
    """Sends an advertisement of ours."""
    packets = PacketSocket(link("eth1").index)

    def send(vhid: int = 7, family: int = 4, **kwargs: bool) -> None:
        assert packets.send(advertisement(family, vhid=vhid, source_mac=HOST_MAC, **kwargs)) == 0

    yield send
    packets.close()


@contextmanager
def gate(
    macs: Sequence[bytes] = (GROUP_MAC,),
    vhids: Sequence[int] = (7, 8),
    leases_ns: Sequence[int] | None = None,
    *,
    addresses: Sequence[str] = (),
    name: str = "web-1",
    tcx: bool = True,
) -> Iterator[ShareGate]:
    packed = [ipaddress.ip_address(address).packed for address in addresses]
    share = ShareGate(link("eth1").index, name, macs, vhids, leases_ns or [LONG] * len(vhids), packed, tcx=tcx)
    yield share
    share.detach()


def open_all(share: ShareGate, advertise: Advertise) -> None:
    for node, vhid in enumerate((7, 8)):
        share.open(node)
        advertise(vhid)


def passes(neighbor: Neighbor, mac: bytes, tag: bytes = b"") -> bool:
    """Whether the host takes a packet to its own address in a frame to this MAC.

    Frames keep their order, so the answer to a second one, to the host's own MAC, says that the first was looked at.
    """
    neighbor.forget()
    frame = echo_request(HOST4, mac)
    neighbor.send(frame[:12] + tag + frame[12:])
    neighbor.send(echo_request(HOST6, HOST_MAC))
    answer = neighbor.hear(lambda heard: is_from(HOST4)(heard) or is_from(HOST6)(heard))
    assert answer, "the host does not even answer for itself"
    return is_from(HOST4)(answer)


@pytest.fixture(autouse=True)
def known_neighbors(neighbor: Neighbor) -> None:
    """Answers need no question for the neighbour's MAC, which would delay some of them."""
    for address in NEIGHBOR:
        ip(f"neighbor replace {address.ip} lladdr {NEIGHBOR_MAC.hex(':')} dev eth1 nud permanent")


def ipv4_frame(source: str, destination: str, mac: bytes = GROUP_MAC) -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    return mac + NEIGHBOR_MAC + bytes.fromhex("0800 4500 0014 0000 0000 40fd 0000") + addresses


def ipv6_frame(source: str, destination: str, mac: bytes = GROUP_MAC) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return mac + NEIGHBOR_MAC + bytes.fromhex("86dd 6000 0000 0000 fd40") + addresses


def frame_of(source: str, destination: str) -> bytes:
    return (ipv6_frame if ":" in source else ipv4_frame)(source, destination)


def count_behind_the_gate() -> None:
    """Count the frames to the group's MAC that come past the share gate."""
    rules = f"""
        table netdev behind {{
            chain ingress {{
                type filter hook ingress device "eth1" priority 0;
                @ll,0,48 0x{GROUP_MAC.hex()} counter
            }}
        }}
    """
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def counted_behind_the_gate() -> int:
    listed = subprocess.run(["nft", "list", "table", "netdev", "behind"], check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"counter packets (\d+)", listed.stdout)
    assert found
    return int(found[1])


# The hash


def fold(source: str, destination: str) -> int:
    packed = b"".join(ipaddress.ip_address(address).packed for address in (source, destination))
    words: tuple[int, ...] = struct.unpack(f"!{len(packed) // 4}I", packed)
    return reduce(xor, words)


EXAMPLES = {
    ("203.0.113.5", "192.0.2.10"): (1, 0, 3),
    ("203.0.113.6", "192.0.2.10"): (0, 0, 0),
    ("2001:db8:5::77", "2001:db8::aa"): (1, 1, 1),
}
"""Ref: spec carp §14.2, for 2, 3 and 4 nodes."""

CORNERS = [
    ("0.0.0.0", "0.0.0.0"),
    ("255.255.255.255", "0.0.0.0"),
    ("128.0.0.0", "0.0.0.1"),
    ("::", "::"),
    ("ffff:ffff::", "::"),
    ("8000::", "::1"),
]


def test_fold() -> None:
    assert [fold(*pair) for pair in EXAMPLES] == [0x0B00730F, 0x0B00730C, 0x000500DD]


@pytest.fixture
def all_sizes(advertise: Advertise, request: pytest.FixtureRequest) -> Iterator[list[ShareGate]]:
    """Gates of 2 to 32 nodes, all of them open and on the same MAC: a frame passes through each in turn."""
    index = link("eth1").index
    gates = []
    for nodes in range(2, 33):
        vhids = range(nodes, 2 * nodes)  # no two have the same leader
        gates.append(ShareGate(index, f"of{nodes}", [GROUP_MAC], vhids, [LONG] * nodes, tcx=request.param))
        for node in range(nodes):
            gates[-1].open(node)
    for vhid in range(2, 64):
        advertise(vhid, family=4 + 2 * (vhid % 2))
    assert all(each for gate in gates for each in gate.live())
    yield gates
    for each in gates:
        each.detach()


@pytest.mark.parametrize("all_sizes", [True, False], ids=["tcx", "clsact"], indirect=True)
def test_hash(neighbor: Neighbor, all_sizes: list[ShareGate]) -> None:
    seed = random.randrange(1 << 32)
    print(f"{seed=}")
    chance = random.Random(seed)
    pairs = [*EXAMPLES, *CORNERS]
    for _ in range(200):
        pairs.append((str(ipaddress.IPv4Address(chance.getrandbits(32))), "192.0.2.10"))
        pairs.append(("198.51.100.7", str(ipaddress.IPv4Address(chance.randrange(224 << 24)))))
        ours, theirs = (str(ipaddress.IPv6Address(chance.getrandbits(128))) for _ in range(2))
        pairs.append((ours, theirs))
    expected = [[0] * each for each in range(2, 33)]
    for number, pair in enumerate(pairs, 1):
        neighbor.send(frame_of(*pair))
        assert wait_until(lambda number=number: all(sum(each.taken()) == number for each in all_sizes)), pair  # type: ignore[misc]
        for counts in expected:
            counts[fold(*pair) % len(counts)] += 1
        assert [each.taken() for each in all_sizes] == expected, pair


@pytest.mark.parametrize(("pair", "nodes"), EXAMPLES.items(), ids=lambda value: str(value))
def test_examples_of_the_specification(pair: tuple[str, str], nodes: tuple[int, ...], advertise: Advertise) -> None:
    """In the kernel, without a wire: the frame is dropped unless exactly that node is open."""
    for count, node in enumerate(nodes, 2):
        with gate(vhids=range(1, count + 1)) as share:
            for vhid in range(1, count + 1):
                advertise(vhid)
            taken_when_open = []
            for each in range(count):
                share.open(each)
                taken_when_open.append(ebpf.test_run(share.ingress, frame_of(*pair), 1).result == -1)
                share.close(each)
                advertise(each + 1)
            assert taken_when_open == [each == node for each in range(count)]


def test_both_directions_of_a_flow_belong_to_one_node(neighbor: Neighbor, advertise: Advertise) -> None:
    with gate(vhids=range(1, 32)) as share:
        for vhid in range(1, 32):
            advertise(vhid)
            share.open(vhid - 1)
        for pair in EXAMPLES:
            before = share.taken()
            for frame in (frame_of(*pair), frame_of(*reversed(pair))):
                assert ebpf.test_run(share.ingress, frame, 1).result == -1
            assert sorted(after - had for after, had in zip(share.taken(), before, strict=True))[-2:] == [0, 2]


# ICMP errors

VIRTUAL = ("192.0.2.10", "2001:db8::aa")
CLIENTS = {
    4: [f"203.0.113.{number}" for number in range(8)],
    6: [f"2001:db8:5::{number:x}" for number in range(8)],
}
BEHIND = {4: "198.51.100.7", 6: "2001:db8:9::7"}
ROUTER = {4: "203.0.113.254", 6: "2001:db8:5::fe"}
ICMP = {4: 1, 6: 58}


def icmp(family: int, source: str, destination: str, kind: int, about: bytes, **header: int) -> bytes:
    """An ICMP message; with `words` of IPv4 options, `fragment` bits, or another `next_header`."""
    message = bytes([kind, 0, 0, 0]) + bytes(4) + about
    frame = bytearray(frame_of(source, destination))
    if family == 4:
        frame[14] += header.get("words", 0)
        frame[20:22] = header.get("fragment", 0).to_bytes(2, "big")
        frame[23] = header.get("next_header", ICMP[4])
        return bytes(frame) + bytes(4 * header.get("words", 0)) + message
    frame[20] = header.get("next_header", ICMP[6])
    return bytes(frame) + message


NO_ERRORS: dict[str, tuple[int, int, dict[str, int]]] = {
    "echo request": (4, 8, {}),
    "redirect": (4, 5, {}),
    "echo request, IPv6": (6, 128, {}),
    "type 0, IPv6": (6, 0, {}),
    "type 5, IPv6": (6, 5, {}),
    "not ICMP": (4, 3, {"next_header": 17}),
    "ICMP of the other family": (6, 1, {"next_header": 1}),
    "behind another header": (6, 1, {"next_header": 44}),
    "first fragment": (4, 3, {"fragment": 0x2000}),
    "later fragment": (4, 3, {"fragment": 0x0001}),
}
ERRORS: dict[str, tuple[int, int, dict[str, int]]] = {
    **{f"IPv4, type {kind}": (4, kind, {}) for kind in (3, 11, 12)},
    **{f"IPv6, type {kind}": (6, kind, {}) for kind in (1, 2, 3, 4)},
    "that must not be fragmented": (4, 3, {"fragment": 0x4000}),
    "with IPv4 options": (4, 11, {"words": 3}),
    "with as many as fit": (4, 3, {"words": 10}),
}


TakeOf = Callable[[ShareGate, bytes], int]


@pytest.fixture
def take_of(advertise: Advertise) -> TakeOf:
    """Which of three nodes, all of them open, a frame falls to."""

    def judge(share: ShareGate, frame: bytes) -> int:
        for node, vhid in enumerate((7, 8, 9)):
            share.open(node)
            advertise(vhid)
        before = share.taken()
        assert ebpf.test_run(share.ingress, frame, 1).result == -1
        (node,) = (node for node, taken in enumerate(share.taken()) if taken > before[node])
        return node

    return judge


@pytest.mark.parametrize(("family", "kind", "header"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_comes_to_the_host_that_has_the_flow(
    take_of: TakeOf, family: int, kind: int, header: dict[str, int]
) -> None:
    """A path MTU, say, that a router tells us of a connection with a client."""
    virtual, router = VIRTUAL[family == 6], ROUTER[family]
    with gate(vhids=(7, 8, 9), addresses=VIRTUAL) as share:
        for client in CLIENTS[family]:
            flow = take_of(share, frame_of(client, virtual))
            assert flow == fold(client, virtual) % 3
            about = frame_of(virtual, client)[14:]
            assert take_of(share, icmp(family, router, virtual, kind, about, **header)) == flow
            # To somebody behind us it is forwarded, and OpenBSD looks at what it is in, not at what it is about.
            outer = icmp(family, router, BEHIND[family], kind, frame_of(BEHIND[family], client)[14:], **header)
            assert take_of(share, outer) == fold(router, BEHIND[family]) % 3
            # Without the packet that it is about it is no error.
            assert (
                take_of(share, icmp(family, router, virtual, kind, about[:-1], **header)) == fold(router, virtual) % 3
            )


@pytest.mark.parametrize(("family", "kind", "header"), NO_ERRORS.values(), ids=NO_ERRORS.keys())
def test_what_is_no_error_is_dealt_out_as_it_is(
    take_of: TakeOf, family: int, kind: int, header: dict[str, int]
) -> None:
    virtual, router = VIRTUAL[family == 6], ROUTER[family]
    with gate(vhids=(7, 8, 9), addresses=VIRTUAL) as share:
        for client in CLIENTS[family]:
            frame = icmp(family, router, virtual, kind, frame_of(virtual, client)[14:], **header)
            assert take_of(share, frame) == fold(router, virtual) % 3


def test_addresses_change(take_of: TakeOf) -> None:
    def looks_inside(share: ShareGate, virtual: str, family: int) -> bool:
        router = ROUTER[family]
        client = next(each for each in CLIENTS[family] if fold(each, virtual) % 3 != fold(router, virtual) % 3)
        frame = icmp(family, router, virtual, 3, frame_of(virtual, client)[14:])
        return take_of(share, frame) == fold(client, virtual) % 3

    def inside(share: ShareGate) -> list[bool]:
        return [looks_inside(share, virtual, family) for virtual, family in ((VIRTUAL[0], 4), (VIRTUAL[1], 6))]

    packed4, packed6 = (ipaddress.ip_address(address).packed for address in VIRTUAL)
    with gate(vhids=(7, 8, 9)) as share:
        for addresses in ((), (packed4,), (packed4, packed6), (packed6,), (bytes(12) + packed4,), ()):
            share.set_addresses(addresses)
            assert inside(share) == [packed4 in addresses, packed6 in addresses]


# Open and closed


@both_ways
def test_open_from_the_next_advertisement_until_closed(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    with gate(tcx=tcx) as share:
        # The echo request belongs to node 1.
        assert (share.share, share.live()) == (0, [False, False])
        advertise(8)
        assert not passes(neighbor, GROUP_MAC)
        share.close(1)
        share.open(1)
        assert (share.share, share.live()) == (2, [False, False])
        assert not passes(neighbor, GROUP_MAC)
        advertise(8)
        assert share.live() == [False, True]
        assert passes(neighbor, GROUP_MAC)
        share.open(0)
        advertise(7)
        assert (share.share, share.live()) == (3, [True, True])
        share.close(1)
        assert (share.share, share.live()) == (1, [True, False])
        assert not passes(neighbor, GROUP_MAC)
        advertise(8)
        assert not passes(neighbor, GROUP_MAC)
        assert share.taken() == [0, 1]
    share.detach()
    assert share.live() == [False, False]
    assert passes(neighbor, GROUP_MAC)


@both_ways
def test_a_lease_runs_out(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    """Each node has its own, and the longer one does not keep up the other."""
    with gate(leases_ns=[LONG, SHORT], tcx=tcx) as share:
        share.open(0)
        share.open(1)
        advertise(7)
        sent = time.monotonic_ns()
        advertise(8)
        assert wait_until(lambda: not share.live()[1])
        assert time.monotonic_ns() - sent >= SHORT
        assert not passes(neighbor, GROUP_MAC)
        assert share.live() == [True, False]
        assert share.taken() == [0, 0]


def marked(frame: bytes, mark: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.setsockopt(socket.SOL_SOCKET, 36, struct.pack("=I", mark))  # SO_MARK
        sender.bind(("eth1", 0))
        sender.send(frame)


def changed(family: int, offset: int, value: int) -> bytes:
    frame = bytearray(advertisement(family, vhid=8))
    frame[offset] = value
    return bytes(frame)


CARP4, CARP6 = 34, 54

NOT_RENEWING = {
    "bow-out": advertisement(4, vhid=8, bow_out=True),
    "bow-out, IPv6": advertisement(6, vhid=8, bow_out=True),
    "another vhid": advertisement(4, vhid=9),
    "another vhid, IPv6": advertisement(6, vhid=9),
    "vrrp": changed(4, CARP4 + 3, 1),
    "version 3": changed(4, CARP4, 0x31),
    "type 2": changed(6, CARP6, 0x22),
    "authlen, IPv6": changed(6, CARP6 + 3, 8),
    "options": changed(4, 14, 0x46),
    "another protocol": changed(4, 23, 17),
    "another next header": changed(6, 20, 0),
    "another ethertype": changed(4, 13, 6),
    "another ethertype, IPv6": changed(6, 13, 0xDE),
    "IPv4 by ethertype, IPv6 inside": changed(6, 12, 8)[:13] + b"\x00" + changed(6, 12, 8)[14:],
    "in-band tag": advertisement(4, vhid=8)[:12] + bytes.fromhex("8100 0005") + advertisement(4, vhid=8)[12:],
    "cut short": advertisement(4, vhid=8)[:69],
}


@pytest.mark.parametrize("frame", NOT_RENEWING.values(), ids=NOT_RENEWING.keys())
def test_does_not_renew(neighbor: Neighbor, frame: bytes) -> None:
    with gate(vhids=[5, 8]) as share:
        share.open(0)
        share.open(1)
        marked(frame, ADVERTISEMENT_MARK)
        assert share.live() == [False, False]


@both_ways
@pytest.mark.parametrize("family", [4, 6])
def test_only_what_bears_our_mark_renews(neighbor: Neighbor, family: int, tcx: bool) -> None:
    """Not what this host forwards, nor a virtual machine's, nor what comes in."""
    frame = advertisement(family, vhid=8)
    with gate(tcx=tcx) as share:
        share.open(1)
        for mark in (0, 1, ADVERTISEMENT_MARK ^ 1 << 31, ADVERTISEMENT_MARK + 1):
            marked(frame, mark)
        neighbor.send(frame)
        assert not passes(neighbor, GROUP_MAC)
        assert share.live() == [False, False]
        marked(frame, ADVERTISEMENT_MARK)
        assert share.live() == [False, True]


def test_an_advertisement_that_the_lease_gate_drops_does_not_renew(neighbor: Neighbor, advertise: Advertise) -> None:
    subprocess.run(
        ["nft", "-f", "-"],
        input="add table netdev t; add chain netdev t c "
        '{ type filter hook egress device "eth1" priority 0; policy drop; }',
        text=True,
        check=True,
    )
    with gate() as share:
        share.open(1)
        with suppress(AssertionError):  # what is dropped there is refused
            advertise(8)
        assert share.live() == [False, False]


def test_beside_the_lease_gate(neighbor: Neighbor, advertise: Advertise) -> None:
    """The share gate looks first at what comes in, the lease gate first at what leaves."""
    lease.install("eth1", [Guard(vhid=8, mac=GROUP_MAC, addresses=(), lease_ns=LONG)])
    with gate() as share:
        share.open(1)
        assert not passes(neighbor, GROUP_MAC)
        advertise(8)
        assert passes(neighbor, GROUP_MAC)
        share.close(1)
        assert not passes(neighbor, GROUP_MAC)


# Other programs

ACCEPT, DROP, NEXT = 0, 2, -1


@contextmanager
def somebody(place: int, verdict: int, *, tcx: bool = True, first: bool = False) -> Iterator[None]:
    """Another program on the interface."""
    to = Assembler()
    to.move(Register.R0, verdict)
    to.exit()
    program = ebpf.load("theirs", to.to_bytes())
    undo = ebpf.attach(program, link("eth1").index, place, name="theirs", handle=99, use_tcx=tcx, first=first)
    os.close(program)
    yield
    undo()


def test_who_accepts_everything_keeps_nothing_from_us(neighbor: Neighbor, advertise: Advertise) -> None:
    """Most programs do; ours come first, whether those were there before or come later."""
    with (
        somebody(tc.INGRESS, ACCEPT),
        somebody(tc.EGRESS, ACCEPT),
        gate() as share,
        somebody(tc.INGRESS, ACCEPT),
        somebody(tc.EGRESS, ACCEPT, tcx=False),
    ):
        share.open(1)
        assert not passes(neighbor, GROUP_MAC)
        advertise(8)
        assert share.live() == [False, True]
        assert passes(neighbor, GROUP_MAC)


def test_what_somebody_drops_behind_us_is_told(neighbor: Neighbor) -> None:
    """So that the lease can be taken back."""
    packets = PacketSocket(link("eth1").index)
    for tcx in (True, False):
        with gate() as share, somebody(tc.EGRESS, DROP, tcx=tcx):
            share.open(1)
            before = share.leased_until(1)
            assert packets.send(advertisement(4, vhid=8, source_mac=HOST_MAC)) == errno.ENOBUFS
            assert share.live() == [False, True]
            share.take_back(1, before)
            assert share.live() == [False, False]
    packets.close()


@both_ways
def test_displaced(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    """Detached by somebody, in part or wholly; attached again it goes on as before. Two gates are in nobody's way."""
    index = link("eth1").index
    with gate(tcx=tcx) as first, gate([MAC9, OTHER_GROUP_MAC], [9, 10], name="x", tcx=tcx) as second:
        gates = [first.programs, second.programs]
        first.open(1)
        advertise(8)
        assert balance.displaced(gates) == []
        if tcx:
            for place in (tc.INGRESS, tc.EGRESS):
                with somebody(place, NEXT, first=True):
                    assert balance.displaced(gates) == gates
                    second.attach()
                    assert balance.displaced(gates) == [first.programs]
                    first.attach()
                    assert balance.displaced(gates) == []
            detach_all(index)
        else:
            with somebody(tc.INGRESS, ACCEPT):
                assert balance.displaced(gates) == []
            with NetlinkSocket(netlink.ROUTE) as kernel:
                kernel.do("remove a filter", tc.delete_filter(index, tc.EGRESS, 7))
            assert balance.displaced(gates) == [first.programs]
            subprocess.run(["tc", "qdisc", "delete", "dev", "eth1", "clsact"], check=True)
        assert balance.displaced(gates) == gates
        until = first.leased_until(1)
        advertise(8)
        assert first.leased_until(1) == until
        for each in (first, second):
            each.attach()
            each.attach()
        assert balance.displaced(gates) == []
        assert passes(neighbor, GROUP_MAC)
        advertise(8)
        assert first.leased_until(1) > until
        ip("link delete eth1")
        assert balance.displaced(gates) == []


# Which frames


@both_ways
def test_other_frames_pass(neighbor: Neighbor, tcx: bool) -> None:
    with gate(tcx=tcx) as share:
        assert not passes(neighbor, GROUP_MAC)
        for mac in (OTHER_GROUP_MAC, HOST_MAC, b"\xff" * 6, GROUP_MAC[:5] + b"\x08", b"\x33" + GROUP_MAC[1:]):
            assert ebpf.test_run(share.ingress, ipv4_frame("192.0.2.3", "192.0.2.2", mac), 1).result == -1
        assert passes(neighbor, OTHER_GROUP_MAC)
        assert share.taken() == [0, 0]


@pytest.mark.parametrize("destination", ["224.0.1.7", "239.128.1.7", "255.255.255.255"])
def test_multicast_to_the_same_mac_passes(neighbor: Neighbor, destination: str) -> None:
    """A multicast MAC belongs to 32 groups of IPv4, too: their packets are no host's share."""
    with gate() as share:
        assert ebpf.test_run(share.ingress, ipv4_frame("192.0.2.3", destination), 1).result == -1
        assert ebpf.test_run(share.ingress, ipv4_frame("192.0.2.3", "223.255.255.1"), 1).result == 2
        assert share.taken() == [0, 0]


def test_what_passes_keeps_its_kind(neighbor: Neighbor) -> None:
    """A packet in a frame to a foreign MAC that is not ours is still a foreign one, and the kernel drops it."""
    with gate([MAC7, MAC8]):
        assert not passes(neighbor, MAC9)


NO_PACKETS = {
    "arp": GROUP_MAC + NEIGHBOR_MAC + b"\x08\x06" + bytes(46),
    "length instead of ethertype": GROUP_MAC + NEIGHBOR_MAC + b"\x00\x08" + bytes(46),
    "another": GROUP_MAC + NEIGHBOR_MAC + b"\x88\xb5" + bytes(46),
    "no byte of IPv4": ipv4_frame("192.0.2.3", "192.0.2.2")[:14],
    "one byte of IPv4": ipv4_frame("192.0.2.3", "192.0.2.2")[:15],
    "IPv4 cut short": ipv4_frame("192.0.2.3", "192.0.2.2")[:33],
    "IPv6 cut short": ipv6_frame("2001:db8::3", "2001:db8::2")[:53],
    "IPv6 as long as IPv4": ipv6_frame("2001:db8::3", "2001:db8::2")[:34],
}


@pytest.mark.parametrize("frame", NO_PACKETS.values(), ids=NO_PACKETS.keys())
@pytest.mark.parametrize("macs", [[GROUP_MAC], [GROUP_MAC, MAC8]], ids=["hash", "mac"])
def test_no_packets_are_dropped(neighbor: Neighbor, advertise: Advertise, frame: bytes, macs: list[bytes]) -> None:
    count_behind_the_gate()
    with gate(macs) as share:
        open_all(share, advertise)
        neighbor.send(frame)
        assert passes(neighbor, HOST_MAC)
        assert share.taken() == [0, 0]
        assert counted_behind_the_gate() == 0
    neighbor.send(frame)
    assert passes(neighbor, HOST_MAC)
    assert counted_behind_the_gate() == 1


def test_a_tag_in_the_frame_is_no_packet(advertise: Advertise) -> None:
    """Of two tags the kernel takes off one. It does so before the gate, but not in a test run."""
    with gate() as share:
        open_all(share, advertise)
        frame = ipv4_frame("192.0.2.3", "192.0.2.2")
        assert ebpf.test_run(share.ingress, frame, 1).result == -1
        assert ebpf.test_run(share.ingress, frame[:12] + b"\x81\x00\x00\x00" + frame[12:], 1).result == 2


def test_whole_headers_are_enough(advertise: Advertise) -> None:
    for macs in ([GROUP_MAC], [GROUP_MAC, MAC8]):
        with gate(macs) as share:
            open_all(share, advertise)
            for frame in (ipv4_frame("192.0.2.3", "192.0.2.2"), ipv6_frame("2001:db8::3", "2001:db8::2")):
                assert ebpf.test_run(share.ingress, frame, 1).result == -1
            assert sum(share.taken()) == 2


@both_ways
def test_vlans_are_another_link(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    """Theirs is not ours to drop. VLAN 0 is only a priority."""
    count_behind_the_gate()
    with gate(tcx=tcx) as share:
        share.open(1)
        for number, tag in enumerate((b"\x81\x00\x00\x05", b"\x81\x00\xe0\x05", b"\x88\xa8\x0f\xff"), 1):
            assert not passes(neighbor, GROUP_MAC, tag)
            assert counted_behind_the_gate() == number
        for tag in (b"\x81\x00\x00\x00", b"\x81\x00\xe0\x00"):
            assert not passes(neighbor, GROUP_MAC, tag)
        assert counted_behind_the_gate() == 3
        assert share.taken() == [0, 0]
        advertise(8)
        assert passes(neighbor, GROUP_MAC, b"\x81\x00\xe0\x00")
        assert share.taken() == [0, 1]


@pytest.mark.parametrize(("tag", "renewed"), [(0, True), (0xE000, True), (5, False), (0xEFFF, False)])
@both_ways
def test_advertisements_in_a_vlan(neighbor: Neighbor, advertise: Advertise, tag: int, renewed: bool, tcx: bool) -> None:
    """They leave through its parent, too, with the tag beside the frame: here another program puts it there."""
    push = Assembler()
    push.move(Register.R2, socket.htons(0x8100))
    push.move(Register.R3, tag)
    push.call(18)  # skb_vlan_push
    push.move(Register.R0, -1)
    push.exit()
    program = ebpf.load("push", push.to_bytes())
    with gate(tcx=tcx) as share:
        undo = ebpf.attach(program, link("eth1").index, tc.EGRESS, name="push", handle=1, use_tcx=True, first=True)
        share.open(0)
        advertise(7)
        assert share.live() == [renewed, False]
    undo()
    os.close(program)


@both_ways
def test_by_mac(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    with gate([MAC7, MAC8, MAC9], [7, 8, 9], tcx=tcx) as share:
        share.open(0)
        share.open(1)
        advertise(8)
        advertise(9)
        assert [passes(neighbor, mac) for mac in (MAC7, MAC8, MAC9)] == [False, True, False]
        advertise(7)
        assert [passes(neighbor, mac) for mac in (MAC7, MAC8, MAC9)] == [True, True, False]
        assert share.taken() == [1, 2, 0]


def test_by_32_macs_of_any_form(neighbor: Neighbor, advertise: Advertise) -> None:
    seed = random.randrange(1 << 32)
    print(f"{seed=}")
    macs = [random.Random(seed + node).randbytes(6) for node in range(16)]
    macs += [bytes.fromhex("00005e0001") + bytes([vhid]) for vhid in range(240, 256)]
    vhids = [*range(1, 17), *range(240, 256)]
    with gate(macs, vhids) as share:
        for node, vhid in enumerate(vhids):
            share.open(node)
            advertise(vhid)
        for node, mac in enumerate(macs):
            for _ in range(node + 1):
                neighbor.send(ipv4_frame("192.0.2.3", "192.0.2.2", mac))
        assert wait_until(lambda: share.taken() == list(range(1, 33))), share.taken()


def test_several_virtual_hosts(neighbor: Neighbor, advertise: Advertise) -> None:
    """Each lets through what is another's."""
    for tcx in (True, False):
        with gate(tcx=tcx) as first, gate([MAC9, OTHER_GROUP_MAC], [9, 10], name="x", tcx=tcx) as second:
            first.open(1)
            second.open(0)
            advertise(8)
            advertise(9)
            assert [passes(neighbor, mac) for mac in (GROUP_MAC, MAC9, OTHER_GROUP_MAC)] == [True, True, False]
            assert (first.taken(), second.taken()) == ([0, 1], [1, 0])


# What is behind it: services and forwarding

SERVICES = ("198.51.100.1", "2001:db8:ffff::1")


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, neighbor: Neighbor) -> str:
    """An address on `lo` that the neighbour reaches through the group's MAC; without us the kernel keeps that out."""
    address: str = request.param
    length = 128 if ":" in address else 32
    Path("/proc/sys/net/ipv4/conf/eth1/drop_unicast_in_l2_multicast").write_text("1")
    Path("/proc/sys/net/ipv6/conf/eth1/drop_unicast_in_l2_multicast").write_text("1")
    ip(f"address add {address}/{length} dev lo")
    neighbor.ip(f"route add {address}/{length} dev eth1")
    neighbor.ip(f"neighbor replace {address} lladdr {GROUP_MAC.hex(':')} dev eth1 nud permanent")
    return address


def udp_answers(neighbor: Neighbor, server: socket.socket, address: str, limit_s: float) -> bool:
    with namespaces.inside(neighbor.namespace):
        client = socket.socket(server.family, socket.SOCK_DGRAM)
    with client, suppress(TimeoutError):
        client.settimeout(limit_s)
        server.settimeout(limit_s)
        client.sendto(b"ask", (address, 7777))
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
        return client.recv(100) == b"ask"
    return False


def tcp_answers(neighbor: Neighbor, address: str, limit_s: float) -> bool:
    with namespaces.inside(neighbor.namespace):
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    with client, suppress(TimeoutError):
        client.settimeout(limit_s)
        client.connect((address, 7777))
        client.sendall(b"ask")
        return client.recv(100) == b"ask"
    return False


@contextmanager
def tcp_echo(address: str) -> Iterator[None]:
    with socket.create_server((address, 7777), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(connection.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


SILENT_S = 0.1
"""How long we listen where none may answer."""


@both_ways
def test_udp(neighbor: Neighbor, advertise: Advertise, service: str, tcx: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in service else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((service, 7777))
        with gate(tcx=tcx) as share:
            assert not udp_answers(neighbor, server, service, SILENT_S)
            open_all(share, advertise)
            assert udp_answers(neighbor, server, service, 5)
            share.close(0)
            share.close(1)
            assert not udp_answers(neighbor, server, service, SILENT_S)
        # Without the gate it is the kernel that takes no packets in frames to a multicast MAC.
        assert not udp_answers(neighbor, server, service, SILENT_S)


@both_ways
def test_tcp(neighbor: Neighbor, advertise: Advertise, service: str, tcx: bool) -> None:
    with tcp_echo(service):
        with gate(tcx=tcx) as share:
            assert not tcp_answers(neighbor, service, SILENT_S)
            open_all(share, advertise)
            assert tcp_answers(neighbor, service, 5)
            share.close(0)
            share.close(1)
            assert not tcp_answers(neighbor, service, SILENT_S)
        assert not tcp_answers(neighbor, service, SILENT_S)


@both_ways
def test_forwarding(neighbor: Neighbor, advertise: Advertise, tcx: bool) -> None:
    """To a host behind this one, which is its router."""
    inner = namespaces.new_network_namespace()
    try:
        ip(f"link add eth2 type veth peer name eth2 netns /proc/{os.getpid()}/fd/{inner}")
        ip("address add 203.0.113.1/24 dev eth2")
        ip("link set eth2 up")
        Path("/proc/sys/net/ipv4/conf/eth1/forwarding").write_text("1")
        Path("/proc/sys/net/ipv4/conf/eth2/forwarding").write_text("1")
        neighbor.ip("route add 203.0.113.0/24 via 192.0.2.99 dev eth1")
        neighbor.ip(f"neighbor replace 192.0.2.99 lladdr {GROUP_MAC.hex(':')} dev eth1 nud permanent")
        with namespaces.inside(inner):
            ip("address add 203.0.113.9/24 dev eth2")
            ip("link set eth2 up")
            ip("route add default via 203.0.113.1")
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, gate(tcx=tcx) as share:
            server.bind(("203.0.113.9", 7777))
            assert not udp_answers(neighbor, server, "203.0.113.9", SILENT_S)
            open_all(share, advertise)
            assert udp_answers(neighbor, server, "203.0.113.9", 5)
            assert sum(share.taken()) == 1
    finally:
        os.close(inner)


# A daemon that is killed


@contextmanager
def killed_daemon(leases_ns: Sequence[int], *, tcx: bool) -> Iterator[None]:
    """Runs the block while another process has an open gate, and then kills that."""
    index = link("eth1").index
    packets = PacketSocket(index)
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            share = ShareGate(index, "web-1", [GROUP_MAC], [7, 8], leases_ns, tcx=tcx)
            share.open(1)
            packets.send(advertisement(4, vhid=8, source_mac=HOST_MAC))
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        yield
    finally:
        os.kill(daemon, signal.SIGKILL)
        os.waitpid(daemon, 0)
        os.close(reader)
        packets.close()


def filters() -> list[str]:
    lines = (shown("ingress") + shown("egress")).splitlines()
    return [line for line in lines if "carpd-" in line]


def shown(place: str) -> str:
    return subprocess.run(
        ["tc", "filter", "show", "dev", "eth1", place], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_tcx_goes_with_its_process(neighbor: Neighbor) -> None:
    with killed_daemon([LONG, 1], tcx=True):
        assert not passes(neighbor, GROUP_MAC)
    assert wait_until(lambda: passes(neighbor, GROUP_MAC))
    assert balance.remove_left_behind() == []


def test_clsact_stays_and_falls_silent(neighbor: Neighbor, advertise: Advertise) -> None:
    with killed_daemon([LONG, SECOND], tcx=False):
        assert passes(neighbor, GROUP_MAC)
    assert len(filters()) == 2
    assert wait_until(lambda: not passes(neighbor, GROUP_MAC))
    # A new one takes its place, and begins closed.
    with gate(tcx=False) as share:
        assert len(filters()) == 2
        assert not passes(neighbor, GROUP_MAC)
        open_all(share, advertise)
        assert passes(neighbor, GROUP_MAC)
    assert filters() == []
    assert passes(neighbor, GROUP_MAC)


def test_removes_what_is_left_behind(neighbor: Neighbor) -> None:
    with killed_daemon([LONG, LONG], tcx=False):
        pass
    accept = Assembler()
    accept.move(Register.R0, 0)
    accept.exit()
    program = ebpf.load("accept", accept.to_bytes())
    with NetlinkSocket(netlink.ROUTE) as kernel:
        kernel.do("attach", tc.set_filter(link("eth1").index, tc.INGRESS, 99, "theirs", program))
    os.close(program)
    assert balance.remove_left_behind() == [
        "the filter carpd-web-1 at the ingress of eth1",
        "the filter carpd-web-1 at the egress of eth1",
    ]
    assert balance.remove_left_behind() == []
    assert filters() == []
    assert "theirs" in shown("ingress")
    assert passes(neighbor, GROUP_MAC)


@both_ways
def test_an_interface_that_goes(neighbor: Neighbor, tcx: bool) -> None:
    share = ShareGate(link("eth1").index, "web", [GROUP_MAC], [7, 8], [LONG, LONG], tcx=tcx)
    ip("link delete eth1")
    share.open(0)
    assert share.live() == [False, False]
    share.detach()
    share.detach()


# Refused


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@both_ways
def test_no_such_interface(neighbor: Neighbor, tcx: bool) -> None:
    before = descriptors()
    with pytest.raises(SystemCallError, match="interface 4711: "):
        ShareGate(4711, "web", [GROUP_MAC], [7, 8], [LONG, LONG], tcx=tcx)
    assert descriptors() == before


def test_half_attached_is_undone(neighbor: Neighbor) -> None:
    """The older qdisc `ingress` has no egress."""
    subprocess.run(["tc", "qdisc", "add", "dev", "eth1", "ingress"], check=True)
    before = descriptors()
    with pytest.raises(SystemCallError, match="attach carpd-web to eth1: clsact is needed"):
        ShareGate(link("eth1").index, "web", [GROUP_MAC], [7, 8], [LONG, LONG], tcx=False)
    assert descriptors() == before
    assert passes(neighbor, GROUP_MAC)


_capset = ctypes.CDLL(None).capset
NET_ADMIN, NET_RAW, BPF = 12, 13, 39


@both_ways
@pytest.mark.parametrize(("capabilities", "enough"), [((NET_ADMIN, BPF), True), ((NET_ADMIN, NET_RAW), False)])
def test_needs_two_capabilities(neighbor: Neighbor, capabilities: Sequence[int], enough: bool, tcx: bool) -> None:
    """Not CAP_PERFMON: without that the verifier is stricter."""
    bits = sum(1 << number for number in capabilities)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", low, low, 0, high, high, 0))
            for macs in ([GROUP_MAC], [GROUP_MAC[:5] + bytes([number]) for number in range(32)]):
                with gate(macs, range(1, 33), tcx=tcx):
                    pass
            code = 0
        except SystemCallError as error:
            code = 2 if str(error).endswith("(needs CAP_BPF and CAP_NET_ADMIN)") else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if enough else 2)
