"""What demotes redundancy groups beside what the engine finds itself: pfsync's reasons, and the operator's.

It is kept here, as an election process that is started again, or has a new configuration, must be told of it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from carpd.events import SetDemotion

OPERATOR = "operator"
"""An operator's reasons are this, or begin with it: "operator: upgrade"."""


@dataclass(frozen=True, slots=True)
class Demotion:
    """A reason of one group. `until_s` is of the system's clock; None: until somebody ends it."""

    reason: str
    amount: int
    until_s: float | None = None


class Demotions:
    """By group and reason. `groups` are those that there are now; `tell` reaches the engine, if there is one."""

    def __init__(self, groups: Callable[[], Collection[str]], tell: Callable[[SetDemotion], None]) -> None:
        self._groups = groups
        self._tell = tell
        self._everywhere: dict[str, int] = {}
        """What demotes every group: also one that will be configured later."""
        self._of_group: dict[tuple[str, str], Demotion] = {}
        self._ends: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def of(self, group: str) -> list[Demotion]:
        """All that is known here of one group."""
        everywhere = [Demotion(reason, amount) for reason, amount in self._everywhere.items()]
        return everywhere + [demotion for (of, _), demotion in self._of_group.items() if of == group]

    def demote_all(self, reason: str, amount: int) -> None:
        """Demote every group for this reason by this from now on; 0 ends it."""
        if amount:
            self._everywhere[reason] = amount
        else:
            self._everywhere.pop(reason, None)
        for group in sorted(self._groups()):
            self._tell(SetDemotion(group, reason, amount))

    def demote(self, group: str, reason: str, amount: int, for_s: float | None = None) -> None:
        """Demote one group, for a time or until `end`; instead of what it was demoted by for this reason before."""
        self._cancel_end(group, reason)
        until_s = None if for_s is None else time.time() + for_s
        self._of_group[group, reason] = Demotion(reason, amount, until_s)
        if for_s is not None:
            self._ends[group, reason] = asyncio.get_running_loop().call_later(for_s, self.end, group, reason)
        self._tell(SetDemotion(group, reason, amount))

    def end(self, group: str, reason: str) -> None:
        """End what `demote` began."""
        self._forget(group, reason)
        self._tell(SetDemotion(group, reason, 0))

    def reasons(self, group: str) -> list[str]:
        """What one group is demoted for by `demote`."""
        return [reason for of, reason in self._of_group if of == group]

    def tell_all(self) -> None:
        """To an engine that knows nothing of it yet, or has other groups than before. What is of none any more ends."""
        groups = self._groups()
        for group, reason in [key for key in self._of_group if key[0] not in groups]:
            self._forget(group, reason)
        for group in sorted(groups):
            for demotion in self.of(group):
                self._tell(SetDemotion(group, demotion.reason, demotion.amount))

    def _forget(self, group: str, reason: str) -> None:
        self._of_group.pop((group, reason), None)
        self._cancel_end(group, reason)

    def _cancel_end(self, group: str, reason: str) -> None:
        end = self._ends.pop((group, reason), None)
        if end is not None:
            end.cancel()


def operators_reason(text: str | None) -> str:
    """The name of a reason that an operator gives, perhaps without words."""
    return f"{OPERATOR}: {text}" if text else OPERATOR
