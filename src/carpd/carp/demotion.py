"""Demotion: named reasons for which a redundancy group should not be master here, and their sum."""

from __future__ import annotations

from collections.abc import Mapping


class Demotion:
    """The reasons of one group. The sum is computed, never kept: nothing can be added once and removed twice.

    Ref: design §6 rule 5; FreeBSD 13 leaks its send-error demotion for want of this (spec carp §11.1).
    """

    def __init__(self) -> None:
        self._reasons: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self._reasons.values())

    @property
    def reasons(self) -> Mapping[str, int]:
        return self._reasons

    def set(self, reason: str, amount: int) -> None:
        """Demote by `amount` for this reason from now on; 0 ends it."""
        if amount > 0:
            self._reasons[reason] = amount
        else:
            self._reasons.pop(reason, None)
