"""How seldom the election process is asked, whoever asks how often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from carpd.runtime.inquiries import LIMIT_S, REST, REST_AFTER_CHANGE, Inquiries


class Election:
    """Needs `takes` seconds for an answer: the number of questions until then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes = 0.01
        self.fails = False
        self.answers: asyncio.Event | None = None
        self.asked: list[tuple[float, str]] = []
        self.inquiries: Inquiries[str, int] = Inquiries(self._put, clock=lambda: self.now, sleep=self._sleep)

    async def _put(self, question: str) -> int:
        self.asked.append((self.now, question))
        number = len(self.asked)
        await (self.answers.wait() if self.answers else asyncio.sleep(0))  # others go on meanwhile
        self.now += self.takes
        if self.fails:
            raise TimeoutError
        return number

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += max(seconds, 0.0)


def run(scenario: Callable[[Election], Coroutine[Any, Any, None]]) -> Election:
    election = Election()
    asyncio.run(scenario(election))
    return election


def test_who_asks_at_the_same_time_gets_the_same_answer() -> None:
    async def scenario(election: Election) -> None:
        assert await asyncio.gather(*(election.inquiries.ask("all") for _ in range(64))) == [1] * 64

    assert len(run(scenario).asked) == 1


def test_an_answer_is_good_for_a_while() -> None:
    """In proportion to what it took."""

    async def scenario(election: Election) -> None:
        assert await election.inquiries.ask("all") == 1
        answered = election.now
        election.now = answered + REST * 0.01 - 0.001
        assert await election.inquiries.ask("all") == 1
        election.now = answered + REST * 0.01 + 0.001
        assert await election.inquiries.ask("all") == 2
        election.takes = 1000.0
        election.now += 10.0
        await election.inquiries.ask("all")
        election.now += LIMIT_S + 0.001
        assert await election.inquiries.ask("all") == 4

    run(scenario)


def test_when_something_has_happened_it_is_asked_anew_but_not_at_once() -> None:
    async def scenario(election: Election) -> None:
        assert await election.inquiries.ask("all") == 1
        for number in range(2, 10):
            election.inquiries.forget()
            assert await election.inquiries.ask("all") == number

    election = run(scenario)
    between = [b - a for (a, _), (b, _) in pairwise(election.asked)]
    assert between == pytest.approx([(1 + REST_AFTER_CHANGE) * 0.01] * 8)


def test_what_waits_for_its_turn_is_new_enough() -> None:
    """However much happens meanwhile; what is under way is not."""

    async def scenario(election: Election) -> None:
        election.answers = asyncio.Event()
        asked = [asyncio.create_task(election.inquiries.ask("lan"))]
        while not election.asked:
            await asyncio.sleep(0)
        for question in ("all", "all", "lan"):
            election.inquiries.forget()
            asked.append(asyncio.create_task(election.inquiries.ask(question)))
            await asyncio.sleep(0)
        election.answers.set()
        assert await asyncio.gather(*asked) == [1, 2, 2, 3]

    run(scenario)


def test_other_questions_wait_for_their_turn() -> None:
    async def scenario(election: Election) -> None:
        questions = ("lan", "wan", "lan", "all")
        assert await asyncio.gather(*map(election.inquiries.ask, questions)) == [1, 2, 1, 3]

    times = [time for time, _ in run(scenario).asked]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.04, 0.04])


def test_a_failure_is_for_those_who_asked_and_for_nobody_after_them() -> None:
    async def scenario(election: Election) -> None:
        election.fails = True
        failures = await asyncio.gather(*(election.inquiries.ask("all") for _ in range(3)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [TimeoutError] * 3
        election.fails = False
        assert await election.inquiries.ask("all") == 2

    run(scenario)


def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    async def scenario(election: Election) -> None:
        first, second = (asyncio.create_task(election.inquiries.ask("all")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1

    run(scenario)
