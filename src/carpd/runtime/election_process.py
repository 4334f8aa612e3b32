"""The supervisor's view of the election process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TextIO

from carpd.runtime.child_process import ChildProcess
from carpd.runtime.messages import RECORD, Recorded, StatusReport, StatusWanted

MODULE = "carpd.runtime.election"

CHUNK = 16
"""Virtual hosts asked about at a time: about a millisecond of the election process's time."""


class ElectionProcess(ChildProcess):
    """One run of the election process. What it is told is written to `recording`."""

    def __init__(
        self, on_fact: Callable[[object], None], on_end: Callable[[int], None], recording: TextIO | None
    ) -> None:
        """Start it. Raise OSError."""

        def fact(message: object) -> None:
            if isinstance(message, Recorded):
                print(message.line, file=recording)
            else:
                on_fact(message)

        super().__init__("election", MODULE, [RECORD] if recording else [], fact, on_end)

    async def status(self, hosts: Sequence[str], interfaces: Sequence[str]) -> list[StatusReport]:
        """Ask about all of these, a few at a time. What it does not know is missing. Raise TimeoutError."""
        reports = [await self.ask(partial(StatusWanted, hosts=(), interfaces=tuple(interfaces)))]
        for first in range(0, len(hosts), CHUNK):
            reports.append(await self.ask(partial(StatusWanted, hosts=tuple(hosts[first : first + CHUNK]))))
        return reports
