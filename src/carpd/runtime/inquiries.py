"""Questions to the election process, put seldom enough that elections don't feel who asks how often.

An answer about 1000 virtual hosts takes the election process 30 ms, in parts of half a millisecond. Ten such questions
a second would be a third of its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

REST = 20
"""An answer that took a second is good for twenty, if nothing has happened meanwhile."""
REST_AFTER_CHANGE = 3
"""If something has, the next question waits for three."""
LIMIT_S = 2.0
"""Neither is longer than this."""

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


class Inquiries(Generic[Question, Answer]):
    """Who asks what was asked a moment ago, or is being asked, gets that answer. Time is in seconds."""

    def __init__(
        self,
        put: Callable[[Question], Awaitable[Answer]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._put = put
        self._clock = clock
        self._sleep = sleep
        self._asked: dict[Question, asyncio.Task[tuple[Answer, float]]] = {}
        self._to_be_put: set[Question] = set()
        """Questions that wait for their turn."""
        self._turn = asyncio.Lock()
        self._next = 0.0
        """When something may be asked."""

    def forget(self) -> None:
        """Something has happened: older answers count no more, nor those that are under way."""
        self._asked = {question: self._asked[question] for question in self._to_be_put}

    async def ask(self, question: Question) -> Answer:
        """What is true now, but for a little of what changes all the time. Raise what `put` raises."""
        asked = self._asked.get(question)
        if asked is None or self._is_over(asked):
            asked = self._asked[question] = asyncio.create_task(self._take_turn(question))
            self._to_be_put.add(question)
        answer, _ = await asyncio.shield(asked)  # others may wait for it too
        return answer

    async def _take_turn(self, question: Question) -> tuple[Answer, float]:
        """The answer, and until when it is good."""
        async with self._turn:
            await self._sleep(self._next - self._clock())
            began = self._clock()
            self._to_be_put.discard(question)
            answer = await self._put(question)
            ended = self._clock()
            self._next = ended + min(REST_AFTER_CHANGE * (ended - began), LIMIT_S)
            return answer, ended + min(REST * (ended - began), LIMIT_S)

    def _is_over(self, asked: asyncio.Task[tuple[Answer, float]]) -> bool:
        if not asked.done():
            return False
        return asked.cancelled() or asked.exception() is not None or asked.result()[1] <= self._clock()
