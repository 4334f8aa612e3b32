"""Receiving many datagrams in one call."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from carpd.linux.datagrams import Datagrams, Slots


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        yield sender, receiver


def contents(slots: Slots, received: Datagrams) -> list[bytes]:
    spans = zip(slots.offsets, received.lengths, strict=False)
    return [received.data[offset : offset + length] for offset, length in spans]


def test_more_than_there_are_slots(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    sent = [bytes([i]) * i for i in range(1, 8)]
    for datagram in sent:
        sender.send(datagram)
    slots = Slots(3, 8)
    for expected in (sent[:3], sent[3:6], sent[6:], []):
        received = slots.receive(receiver.fileno())
        assert contents(slots, received) == expected
        assert not received.truncated


def test_what_is_longer_than_its_slot(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    slots = Slots(4, 8)
    for lengths, truncated in (((8, 9, 1), True), ((8, 1), False)):
        for length in lengths:
            sender.send(bytes(length))
        received = slots.receive(receiver.fileno())
        assert received.truncated is truncated
        assert received.lengths == [min(length, 8) for length in lengths]


def test_failure() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Slots(1, 8).receive(-1)
