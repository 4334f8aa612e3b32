"""The packet socket and its filter, on a link with a neighbour that sends."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import pytest

from carpd.errors import SystemCallError
from carpd.linux.packets import PacketSocket, ReceivedFrame
from carpd.units import SECOND
from carpd.wire import frames
from carpd.wire.carp import Advertisement
from carpd.wire.ethernet import BROADCAST
from tests.linux.segment import (
    HOST4,
    HOST6,
    HOST_MAC,
    NEIGHBOR4,
    NEIGHBOR_MAC,
    VHID,
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


def received(packets: PacketSocket) -> list[ReceivedFrame]:
    """All that came before LAST."""
    found: list[ReceivedFrame] = []

    def is_there() -> bool:
        found.extend(packets.receive(64))
        return any(got.frame == LAST for got in found)

    assert wait_until(is_there)
    return [got for got in found if got.frame != LAST]


def to_us(frame: bytes) -> bytes:
    return HOST_MAC + frame[6:]


def tagged(tag: int) -> bytes:
    frame = advertisement()
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
    "vlan": tagged(0xE005),
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
    neighbor.send(tagged(0xE000))
    neighbor.send(LAST)
    assert [got.frame for got in received(packets)] == [advertisement()]


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
