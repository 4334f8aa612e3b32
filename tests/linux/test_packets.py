"""The packet socket and its filter, on a link with a neighbour that sends."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux.packets import PacketSocket, ReceivedFrame, solicitations
from carpd.units import SECOND
from carpd.wire import frames, sharing_probe
from carpd.wire.arp import REPLY, ArpPacket
from carpd.wire.carp import Advertisement, virtual_mac
from carpd.wire.ethernet import BROADCAST, ETHERTYPE_ARP, EthernetFrame
from carpd.wire.sharing_probe import SharingProbe
from tests.linux.segment import (
    HOST4,
    HOST6,
    HOST_MAC,
    NEIGHBOR4,
    NEIGHBOR6,
    NEIGHBOR_MAC,
    VHID,
    VIRTUAL4,
    VIRTUAL6,
    Neighbor,
    advertisement,
    arp_request,
    echo_request,
    ip,
    is_arp_reply,
    is_from,
    link,
    solicitation,
    wait_until,
)

LAST = advertisement(vhid=255)
"""Sent behind the frames of a test: when it is there, so is all that passed the filter."""


@pytest.fixture
def packets(neighbor: Neighbor) -> Iterator[PacketSocket]:
    opened = PacketSocket(link("eth1").index)
    yield opened
    opened.close()


def received(packets: PacketSocket, last: bytes = LAST) -> list[ReceivedFrame]:
    """All that came before the last one."""
    found: list[ReceivedFrame] = []

    def is_there() -> bool:
        found.extend(packets.receive(64))
        return any(got.frame == last for got in found)

    assert wait_until(is_there)
    return [got for got in found if got.frame != last]


def to_us(frame: bytes) -> bytes:
    return HOST_MAC + frame[6:]


def tagged(tag: int, frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + frame[12:]


PASSED = {
    "ipv4": advertisement(4),
    "ipv6": advertisement(6),
    "unicast": to_us(advertisement(4)),
    "unicast6": to_us(advertisement(6)),
    "broadcast": BROADCAST + advertisement(4)[6:],
    "truncated": advertisement(4)[:40],
}
NOT_PASSED = {
    "arp": arp_request(HOST4),
    "echo": echo_request(HOST4, HOST_MAC),
    "echo6": echo_request(HOST6, HOST_MAC),
    "ns": solicitation(HOST6),
    "to another host": bytes.fromhex("020000000099") + advertisement(4)[6:],
    "vlan": tagged(0xE005, advertisement()),
    "too short to tell": advertisement(4)[:20],
}


@pytest.mark.parametrize("frame", PASSED.values(), ids=PASSED.keys())
def test_passed(neighbor: Neighbor, packets: PacketSocket, frame: bytes) -> None:
    before = time.monotonic_ns()
    neighbor.send(frame)
    neighbor.send(LAST)
    (got,) = received(packets)
    assert got.frame == frame
    assert before <= got.time_ns <= time.monotonic_ns()


@pytest.mark.parametrize("frame", NOT_PASSED.values(), ids=NOT_PASSED.keys())
def test_not_passed(neighbor: Neighbor, packets: PacketSocket, frame: bytes) -> None:
    neighbor.send(frame)
    neighbor.send(LAST)
    assert received(packets) == []


def test_vlan_0_is_only_a_priority(neighbor: Neighbor, packets: PacketSocket) -> None:
    neighbor.send(tagged(0xE000, advertisement()))
    neighbor.send(LAST)
    assert [got.frame for got in received(packets)] == [advertisement()]


# What another socket hears where traffic is shared: who asks for the shared addresses, and sharing probes

SHARED_MAC = bytes.fromhex("01005e000101")
FOREIGN_MAC = bytes.fromhex("020000000099")


def probe(destination: bytes = SHARED_MAC, mode: int = 2) -> bytes:
    payload = SharingProbe(mode, b"\x01\x02").to_bytes(b"secret")
    return EthernetFrame(destination, NEIGHBOR_MAC, sharing_probe.ETHERTYPE, payload).to_bytes()


def packet_probe(family: int, destination: bytes = SHARED_MAC) -> bytes:
    source, target = (NEIGHBOR4, VIRTUAL4) if family == 4 else (NEIGHBOR6, VIRTUAL6)
    return sharing_probe.packet_frame(
        probe()[14:], source_mac=NEIGHBOR_MAC, destination_mac=destination, source=source, destination=target
    )


def changed(frame: bytes, offset: int, value: int) -> bytes:
    return frame[:offset] + bytes((value,)) + frame[offset + 1 :]


LAST_PROBE = probe(mode=255)


def listen(addresses4: Sequence[bytes], addresses6: Sequence[bytes], macs: Sequence[bytes] = ()) -> PacketSocket:
    return PacketSocket(link("eth1").index, solicitations(addresses4, addresses6, macs))


def heard(packets: PacketSocket, neighbor: Neighbor, frames: Sequence[bytes]) -> list[bytes]:
    """Those of the neighbour's frames that came."""
    for frame in frames:
        neighbor.send(frame)
    neighbor.send(LAST_PROBE)
    return [got.frame for got in received(packets, LAST_PROBE)]


def shared4(number: int) -> list[bytes]:
    """Addresses that differ in one bit or more; each test is a word wide."""
    return [bytes((10, 1 + n % 2, n // 2 % 3, n)) for n in range(number)]


def shared6(number: int) -> list[bytes]:
    return [bytes.fromhex(f"20010db8 {n % 3:08x} {n % 5:08x} {n:08x}") for n in range(number)]


def near(address: bytes) -> list[bytes]:
    """Addresses that differ from this one in one bit, each word of it."""
    return [
        address[:offset] + bytes((address[offset] ^ 0x80,)) + address[offset + 1 :]
        for offset in range(0, len(address), 4)
    ]


@pytest.mark.parametrize("number", [1, 2, 3, 200])
@pytest.mark.parametrize("families", ["IPv4", "IPv6", "both"])
def test_who_asks_for_one_of_many_addresses(neighbor: Neighbor, number: int, families: str) -> None:
    ours4 = shared4(number) if families != "IPv6" else []
    ours6 = shared6(number) if families != "IPv4" else []
    packets = listen(ours4, ours6)
    wanted = [*map(arp_request, ours4), *map(solicitation, ours6)]
    others4 = {other for address in shared4(3) for other in near(address)} - set(ours4)
    others6 = {other for address in shared6(3) for other in near(address)} - set(ours6)
    unwanted = [*map(arp_request, [*others4, HOST4]), *map(solicitation, [*others6, HOST6])]
    assert heard(packets, neighbor, [*unwanted, *wanted, *unwanted]) == wanted
    packets.close()


def test_of_no_addresses_only_probes_are_heard(neighbor: Neighbor) -> None:
    packets = listen([], [])
    probes = [probe(), packet_probe(4), packet_probe(6)]
    frames = [arp_request(HOST4), solicitation(HOST6), arp_request(bytes(4)), solicitation(bytes(16)), *probes]
    assert heard(packets, neighbor, frames) == probes
    packets.close()


def arp_reply(target: bytes) -> bytes:
    reply = ArpPacket(REPLY, NEIGHBOR_MAC, NEIGHBOR4, HOST_MAC, target)
    return EthernetFrame(HOST_MAC, NEIGHBOR_MAC, ETHERTYPE_ARP, reply.to_bytes()).to_bytes()


def icmp6(kind: int) -> bytes:
    """A solicitation that says that it is something else."""
    frame = solicitation(VIRTUAL6)
    return frame[:54] + bytes((kind,)) + frame[55:]


OF_INTEREST = {
    "arp": arp_request(VIRTUAL4),
    "arp, unicast": to_us(arp_request(VIRTUAL4)),
    "arp, unicast to a foreign MAC": FOREIGN_MAC + arp_request(VIRTUAL4)[6:],
    "arp, to the shared MAC": SHARED_MAC + arp_request(VIRTUAL4)[6:],
    "arp, padded": arp_request(VIRTUAL4) + bytes(18),
    "arp, of who looks for a duplicate": arp_request(VIRTUAL4, sender=bytes(4)),
    "arp, gratuitous": arp_request(VIRTUAL4, sender=VIRTUAL4),  # the engine's to see
    "arp, in no VLAN, with a priority": tagged(0xE000, arp_request(VIRTUAL4)),
    "ns": solicitation(VIRTUAL6),
    "ns, unicast": to_us(solicitation(VIRTUAL6)),
    "ns, unicast to a foreign MAC": FOREIGN_MAC + solicitation(VIRTUAL6)[6:],
    "ns, hop limit 1": solicitation(VIRTUAL6)[:21] + b"\x01" + solicitation(VIRTUAL6)[22:],
    "ns, cut behind the target": solicitation(VIRTUAL6)[:78],
    "probe": probe(),
    "probe, to CARP's group": probe(bytes.fromhex("01005e000012")),
    "probe, unicast to a foreign MAC": probe(FOREIGN_MAC),
    "probe, cut": probe()[:20],
    "probe in IPv4": packet_probe(4),
    "probe in IPv6": packet_probe(6),
    "probe in IPv4, to a foreign MAC": packet_probe(4, FOREIGN_MAC),
    "probe in IPv6, to a foreign MAC": packet_probe(6, FOREIGN_MAC),
}
OF_NONE = {
    "arp reply": arp_reply(VIRTUAL4),
    "arp from the address": arp_request(HOST4, sender=VIRTUAL4),
    "arp in a VLAN": tagged(0xE005, arp_request(VIRTUAL4)),
    "arp, too short to tell": arp_request(VIRTUAL4)[:40],
    "ns in a VLAN": tagged(0x0005, solicitation(VIRTUAL6)),
    "ns, too short to tell": solicitation(VIRTUAL6)[:70],
    "router solicitation": icmp6(133),
    "neighbour advertisement": icmp6(136),
    "udp": solicitation(VIRTUAL6)[:20] + b"\x11" + solicitation(VIRTUAL6)[21:],
    "echo": echo_request(VIRTUAL4, HOST_MAC),
    "echo6": echo_request(VIRTUAL6, HOST_MAC),
    "advertisement": advertisement(4),
    "advertisement6": advertisement(6),
    "probe in a VLAN": tagged(0xE005, probe()),
    "probe's neighbour": probe()[:12] + b"\x88\xb6" + probe()[14:],
    "probe in IPv4 from afar": changed(packet_probe(4), 22, 254),
    "probe in IPv6 from afar": changed(packet_probe(6), 21, 254),
    "probe in IPv4, no UDP": changed(packet_probe(4), 23, 6),
    "probe in IPv6, no UDP": changed(packet_probe(6), 20, 6),
    "probe in IPv4, to another port": changed(packet_probe(4), 37, 53),
    "probe in IPv6, to another port": changed(packet_probe(6), 57, 53),
    "probe in IPv4, in a VLAN": tagged(0xE005, packet_probe(4)),
    "probe in IPv4, too short to tell": packet_probe(4)[:37],
    "probe in IPv6, too short to tell": packet_probe(6)[:57],
    "an Ethernet header alone": arp_request(VIRTUAL4)[:14],
}


def untagged(frame: bytes) -> bytes:
    """As the kernel hands it over: a tag is taken off."""
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame


@pytest.mark.parametrize("frame", OF_INTEREST.values(), ids=OF_INTEREST)
def test_of_interest(neighbor: Neighbor, frame: bytes) -> None:
    packets = listen([VIRTUAL4], [VIRTUAL6])
    assert heard(packets, neighbor, [frame]) == [untagged(frame)]
    packets.close()


@pytest.mark.parametrize("frame", OF_NONE.values(), ids=OF_NONE)
def test_of_no_interest(neighbor: Neighbor, frame: bytes) -> None:
    packets = listen([VIRTUAL4], [VIRTUAL6])
    assert heard(packets, neighbor, [frame]) == []
    packets.close()


def test_own_questions_and_probes_are_not_heard(neighbor: Neighbor) -> None:
    packets = listen([VIRTUAL4], [VIRTUAL6])
    for frame in (arp_request(VIRTUAL4), solicitation(VIRTUAL6), probe()):
        assert packets.send(frame) == 0
        assert neighbor.hear(lambda got, sent=frame: got == sent)  # type: ignore[misc]
    assert heard(packets, neighbor, []) == []
    packets.close()


def joined() -> set[bytes]:
    """The IPv6 groups that the kernel is a member of on eth1."""
    lines = Path("/proc/net/igmp6").read_text().splitlines()
    return {bytes.fromhex(line.split()[2]) for line in lines if line.split()[1] == "eth1"}


@pytest.mark.parametrize("number", [1, 200])
def test_solicited_node_groups_are_joined(neighbor: Neighbor, number: int) -> None:
    """Switches that snoop bring only these. Of addresses with one group it is joined once; all go with the socket."""
    before = joined()
    addresses = [*shared6(number), bytes.fromhex("20010db9") + shared6(1)[0][4:]]
    groups = {bytes.fromhex("ff0200000000000000000001ff") + address[13:] for address in addresses}
    assert len(groups) == number
    packets = listen([], addresses)
    assert joined() - before == groups - before
    for group in list(groups)[:2]:
        assert neighbor.hear(lambda frame, group=group: group in frame[54:]), "an MLD report"  # type: ignore[misc]
    packets.close()
    assert joined() == before


def filtered_macs() -> set[str]:
    """The destination MACs that the interface lets in besides its own."""
    lines = subprocess.run(["bridge", "fdb", "show", "dev", "eth1"], check=True, capture_output=True, text=True).stdout
    return {line.split()[0] for line in lines.splitlines()}


@pytest.mark.parametrize(
    "macs",
    [
        pytest.param([SHARED_MAC], id="ip"),
        pytest.param([virtual_mac(1)], id="ip-stealth"),
        pytest.param([virtual_mac(1), virtual_mac(2)], id="arp"),
    ],
)
def test_the_interface_lets_in_what_is_shared(neighbor: Neighbor, macs: list[bytes]) -> None:
    """The multicast or unicast MACs, and those of the groups: a network card would leave them out."""
    before = filtered_macs()
    packets = listen([VIRTUAL4], [VIRTUAL6], macs)
    expected = {*(mac.hex(":") for mac in macs), "33:33:ff:00:00:01"}
    assert filtered_macs() - before == expected - before
    packets.close()
    assert filtered_macs() == before


def test_advertisements_are_still_another_socket_s(neighbor: Neighbor, packets: PacketSocket) -> None:
    beside = listen([VIRTUAL4], [VIRTUAL6])
    frames = [arp_request(VIRTUAL4), advertisement(), probe()]
    assert heard(beside, neighbor, frames) == [frames[0], frames[2]]
    neighbor.send(LAST)
    assert [got.frame for got in received(packets)] == [frames[1]]
    beside.close()


def test_own_frames_are_not_received(neighbor: Neighbor, packets: PacketSocket) -> None:
    assert packets.send(advertisement()) == 0
    assert neighbor.hear(lambda frame: frame == advertisement())
    neighbor.send(LAST)
    assert received(packets) == []


def test_limit(neighbor: Neighbor, packets: PacketSocket) -> None:
    """A batch has no more than the limit, the rest comes with the next one, in order."""
    sent = [*(advertisement(vhid=vhid) for vhid in range(1, 6)), LAST]
    for frame in sent:
        neighbor.send(frame)
    batches: list[list[bytes]] = []

    def is_there() -> bool:
        batches.append([got.frame for got in packets.receive(2)])
        return LAST in batches[-1]

    assert wait_until(is_there)
    assert max(map(len, batches)) <= 2
    assert [frame for batch in batches for frame in batch] == sent


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_step_of_the_wall_clock_moves_no_stamp(
    neighbor: Neighbor, packets: PacketSocket, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    assert packets.receive(1) == []
    before = time.monotonic_ns()
    neighbor.send(advertisement())
    neighbor.send(LAST)
    real = time.time_ns
    monkeypatch.setattr("carpd.linux.packets.time.time_ns", lambda: real() + step_s * SECOND)
    (got,) = received(packets)
    # The lower limit is the moment when the socket was last seen empty, just before.
    assert before - SECOND <= got.time_ns <= time.monotonic_ns()


def test_an_interface_goes_down_comes_back_and_is_deleted(neighbor: Neighbor, packets: PacketSocket) -> None:
    neighbor.send(LAST)
    assert received(packets) == []
    ip("link set eth1 down")
    assert packets.send(advertisement()) == errno.ENETDOWN
    assert packets.receive(5) == []
    ip("link set eth1 up")
    assert wait_until(lambda: link("eth1").up)
    assert packets.send(advertisement()) == 0
    neighbor.send(LAST)
    assert received(packets) == []
    ip("link delete eth1")
    assert packets.send(advertisement()) in (errno.ENXIO, errno.ENODEV)
    assert packets.receive(5) == []


def test_no_such_interface(namespace: None) -> None:
    with pytest.raises(SystemCallError, match="interface 999"):
        PacketSocket(999)


def test_switches_that_snoop_hear_of_us(neighbor: Neighbor) -> None:
    """An IGMP and an MLD report of our groups go out."""
    with_group = {bytes([224, 0, 0, 18]), bytes.fromhex("ff02" + 13 * "00" + "12")}
    opened = PacketSocket(link("eth1").index)
    for group in with_group:
        assert neighbor.hear(lambda frame, group=group: group in frame[34:])  # type: ignore[misc]
    opened.close()


def test_peers_are_not_told_that_the_protocol_is_unreachable(neighbor: Neighbor, packets: PacketSocket) -> None:
    """The kernel has nobody to give a unicast advertisement to, but our raw sockets, which drop it."""
    message = Advertisement(vhid=VHID, demotion=0, counter=1, digest=bytes(20), advbase=1, advskew=0)
    neighbor.send(
        frames.advertisement_frame(
            message, source_mac=NEIGHBOR_MAC, source=NEIGHBOR4, destination=HOST4, destination_mac=HOST_MAC
        )
    )
    neighbor.send(arp_request(HOST4))
    answer = neighbor.hear(lambda frame: is_arp_reply(HOST4)(frame) or is_from(HOST4)(frame))
    assert answer
    assert is_arp_reply(HOST4)(answer)
