"""Gaps and throughput from records written as text: one character a probe, one probe a millisecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.lab import measure
from carpd.lab.measure import Loss, Outage
from carpd.units import MILLISECOND, SECOND

START = 1000 * SECOND


def record(text: str) -> tuple[list[int], list[int]]:
    """'!' was answered after 20 µs, '.' never, 'l' too late, ' ' was not sent."""
    answers = {"!": 20_000, ".": None, "l": measure.ANSWER_NS + 1}
    sent = [START + i * MILLISECOND for i, mark in enumerate(text) if mark != " "]
    marks = text.replace(" ", "")
    waits = [answers[mark] for mark in marks]
    return sent, [0 if wait is None else when + wait for when, wait in zip(sent, waits, strict=True)]


def loss(text: str) -> Loss:
    sent, received = record(text)
    return Loss.of(sent, received, START, START + len(text) * MILLISECOND)


@pytest.mark.parametrize(
    ("text", "gap_ms", "lost"),
    [
        ("", 0, 0),
        ("!!!!!", 0, 0),
        ("!!.!!", 2, 1),
        ("!!..!!", 3, 2),
        ("!.!!...!!.!", 4, 5),
        ("!!l!!", 2, 1),
        ("!!   !!", 0, 0),  # the prober did not run: nobody knows of an outage
        ("!! . !!", 4, 1),
        ("..!!", 2, 2),  # from the edge of the window
        ("!!..", 3, 2),  # to the edge of the window
        ("....", 4, 4),
    ],
)
def test_loss(text: str, gap_ms: int, lost: int) -> None:
    assert loss(text) == Loss(gap_ns=gap_ms * MILLISECOND, lost=lost, sent=len(text.replace(" ", "")))


def test_outages_come_in_order() -> None:
    sent, received = record("!.!!..!")
    at = [START + i * MILLISECOND for i in range(7)]
    assert list(measure.outages(sent, received, START, at[6])) == [
        Outage(at[0], at[2], lost=1),
        Outage(at[3], at[6], lost=2),
    ]


def test_only_the_window_counts() -> None:
    sent, received = record("..!!.!!..")
    assert Loss.of(sent, received, sent[2], sent[6]) == Loss(gap_ns=2 * MILLISECOND, lost=1, sent=5)


@given(st.text(alphabet="!.l ", max_size=60))
def test_losses_and_gaps_agree(text: str) -> None:
    found = loss(text)
    assert found.lost == text.count(".") + text.count("l")
    assert (found.gap_ns > 0) == (found.lost > 0)
    assert found.gap_ns <= len(text) * MILLISECOND


@pytest.mark.parametrize(("text", "index", "answered"), [("!..", 0, True), ("!..", 1, False), ("!.!", 1, True)])
def test_answered_since(text: str, index: int, answered: bool) -> None:
    sent, received = record(text)
    assert measure.answered_since(sent, received, sent[index]) is answered


def test_share_answered() -> None:
    sent, received = record("!!!!" + "!..." + "    " + "....")
    shares = measure.share_answered(sent, received, START, START + 16 * MILLISECOND, 4)
    assert shares == [1.0, 0.25, None, 0.0]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (START, [16e6, 4e6, 0.0]),
        (START + 20 * MILLISECOND, [0.0, 16e6, 4e6]),  # it began later
        (START - 20 * MILLISECOND, [4e6, 0.0, 0.0]),  # it began before the window
    ],
)
def test_throughput(first: int, expected: list[float]) -> None:
    """In intervals of 10 ms, read in parts of 20 ms: 20000 bytes in 10 ms are 16 Mbit/s, over 20 ms half of that."""
    counts = [20_000, 20_000, 0, 10_000]
    found = measure.throughput(counts, first, 10 * MILLISECOND, START, START + 60 * MILLISECOND, 3)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "begin", "end", "intervals"),
    [
        ("", 0, 0, 0),
        ("+++++", 0, 5, 0),
        ("+.+..+", 0, 6, 2),
        ("..+.++", 0, 6, 2),
        ("+.+", 0, 6, 3),  # nothing came since
        ("+...+", 2, 5, 2),  # only the window counts
        ("+...+", 0, 3, 2),
        ("++", -3, 2, 0),  # there was no connection yet
    ],
)
def test_longest_stall(text: str, begin: int, end: int, intervals: int) -> None:
    """In intervals of 10 ms; '+' has bytes, '.' has none."""
    width = 10 * MILLISECOND
    counts = [1000 * (mark == "+") for mark in text]
    found = measure.longest_stall(counts, START, width, START + begin * width, START + end * width)
    assert found == intervals * width


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5], 50, 5), ([3, 1, 2], 50, 2), ([1, 2, 3, 4], 50, 2), ([1, 2, 3, 4], 95, 4), ([4, 2], 0, 2), ([4, 2], 100, 4)],
)
def test_percentile(values: list[int], percent: float, expected: int) -> None:
    assert measure.percentile(values, percent) == expected


@pytest.mark.parametrize(
    ("several", "joined"),
    [
        ([], []),
        ([(0, 4, 3)], [(0, 4, 3)]),
        ([(5, 9, 1), (0, 4, 3)], [(0, 4, 3), (5, 9, 1)]),
        ([(0, 4, 3), (2, 9, 1)], [(0, 9, 4)]),
        ([(0, 9, 3), (2, 4, 1), (9, 10, 1)], [(0, 10, 5)]),
    ],
)
def test_joined(several: list[tuple[int, int, int]], joined: list[tuple[int, int, int]]) -> None:
    assert measure.joined(Outage(*each) for each in several) == [Outage(*each) for each in joined]
