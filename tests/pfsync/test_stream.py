"""Numbered packets: what is missing, what is asked for, what is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.stream import (
    ASK_AGAIN_NS,
    ASKS_AT_ONCE,
    REMEMBERED,
    REORDER_NS,
    TOLD_AGAIN_NS,
    Arrival,
    Received,
    Sent,
)

ONE, OTHER = b"1" * 12, b"2" * 12
IN_ORDER, LATE, DUPLICATE = Arrival


def heard(*numbers: int) -> Received:
    """Everything behind the first number came at the time 0."""
    received = Received(numbers[0])
    for number in numbers[1:]:
        received.note(0, number)
    return received


@pytest.mark.parametrize(
    ("numbers", "arrivals", "contiguous"),
    [
        ([5, 6, 7], [IN_ORDER, IN_ORDER], 7),
        ([5, 8], [IN_ORDER], 5),
        ([5, 8, 7, 6], [IN_ORDER, LATE, LATE], 8),
        ([5, 8, 6], [IN_ORDER, LATE], 6),
        ([5, 6, 6], [IN_ORDER, DUPLICATE], 6),
        ([5, 8, 7, 7], [IN_ORDER, LATE, DUPLICATE], 5),
        ([5, 4], [DUPLICATE], 5),
    ],
    ids=["in order", "a gap", "reordered", "half of it", "twice", "late and twice", "before the first"],
)
def test_arrivals(numbers: list[int], arrivals: list[Arrival], contiguous: int) -> None:
    received = Received(numbers[0])
    assert [received.note(0, number) for number in numbers[1:]] == arrivals
    assert received.contiguous == contiguous
    assert received.complete == (contiguous == received.highest)


@given(st.lists(st.integers(0, 30), max_size=60))
def test_each_packet_counts_once_in_whatever_order(numbers: list[int]) -> None:
    received = Received(0)
    obeyed = [number for number in numbers if received.note(0, number) is not Arrival.DUPLICATE]
    assert sorted(obeyed) == sorted(set(numbers) - {0})
    come = {0, *numbers}
    assert received.contiguous == next(number for number in range(32) if number not in come) - 1
    assert received.complete == (come == set(range(max(come) + 1)))
    assert (received.deadline is None) == received.complete


def test_what_is_missing_is_asked_for_when_it_can_not_just_be_late() -> None:
    received = heard(0, 3, 6)
    assert received.deadline == REORDER_NS
    assert received.to_ask(REORDER_NS - 1) == []
    assert received.to_ask(REORDER_NS) == [(1, 2), (4, 2)]
    again = REORDER_NS + ASK_AGAIN_NS
    assert received.deadline == again
    assert received.to_ask(again - 1) == []
    received.note(again, 1)
    received.made_good(4, 1)
    assert received.to_ask(again) == [(2, 1), (5, 1)]
    assert received.lost == 1, "one came late, one never did"


def test_not_all_is_asked_for_at_once() -> None:
    received = heard(0, *range(2, 4 * ASKS_AT_ONCE, 2))
    first = received.to_ask(REORDER_NS)
    assert first == [(number, 1) for number in range(1, 2 * ASKS_AT_ONCE, 2)]
    assert received.to_ask(REORDER_NS)[0] == (2 * ASKS_AT_ONCE + 1, 1)


@pytest.mark.parametrize("made_good", [(1, 5), (0, 100), (1, 2**32)], ids=["exactly", "more", "much more"])
def test_made_good(made_good: tuple[int, int]) -> None:
    received = heard(0, 6)
    received.made_good(*made_good)
    assert received.complete
    assert received.lost == 5
    assert received.note(0, 3) is DUPLICATE, "what it says has been told anew since"


@pytest.mark.parametrize("jump", [REMEMBERED + 1, REMEMBERED + 10, 2**64 - 1])
def test_what_the_sender_does_not_remember_is_forgotten(jump: int) -> None:
    received = heard(0, jump)
    assert received.forgotten == max(0, jump - 1 - REMEMBERED)
    assert received.contiguous == max(0, jump - REMEMBERED - 1)


def test_gaps_that_add_up_are_forgotten_too() -> None:
    received = Received(0)
    for number in range(2, 3 * REMEMBERED, 2):
        received.note(0, number)
    missing = (3 * REMEMBERED - 1) // 2
    assert received.forgotten == missing - REMEMBERED
    assert received.contiguous == 2 * received.forgotten


def sent(*identities: bytes) -> Sent:
    """Packets with the numbers 1, 2 ..., each sent at the time of its number."""
    numbers = Sent()
    for number, about in enumerate(identities, 1):
        assert numbers.next(number, about) == number
    return numbers


@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        (1, 1, [ONE, OTHER]),
        (1, 3, [ONE, OTHER, OTHER]),
        (2, 1, []),
        (3, 10, [OTHER]),
        (0, 2, [ONE, OTHER]),
        (4, 1, []),
        (2**64 - 1, 2**32 - 1, []),
        (0, 0, []),
    ],
)
def test_what_was_in_packets(first: int, count: int, expected: list[bytes]) -> None:
    packets = sent(ONE + OTHER, b"", OTHER)
    assert list(packets.states(packets.tell_again(0, first, count))) == expected


def test_two_who_miss_the_same_are_told_once() -> None:
    packets = sent(ONE, OTHER, ONE)
    assert list(packets.tell_again(0, 1, 2)) == [1, 2]
    assert list(packets.tell_again(TOLD_AGAIN_NS - 1, 1, 3)) == [3]
    assert list(packets.tell_again(TOLD_AGAIN_NS, 1, 3)) == [1, 2]


def test_only_the_last_packets_are_remembered() -> None:
    packets = sent(*[ONE] * (REMEMBERED + 3))
    assert [packets.remembers(number) for number in (1, 3, 4)] == [False, False, True]
    assert len(packets.tell_again(0, 0, 2**32 - 1)) == REMEMBERED
    assert packets.sent_at(REMEMBERED + 3) == REMEMBERED + 3
    assert packets.sent_at(1) == 4, "at that time or before"
    assert packets.sent_at(REMEMBERED + 4) is None
