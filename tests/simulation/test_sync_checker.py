"""The invariants of state synchronisation find engines out that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carpd.pfsync import state_sync
from carpd.pfsync.anti_entropy import AntiEntropy
from carpd.pfsync.engine import SyncEngine
from carpd.pfsync.outbox import Outbox
from carpd.pfsync.state_sync import StateSync
from carpd.pfsync.stream import Received
from carpd.simulation.invariants import ViolationError
from carpd.simulation.sync import scenario

SEEDS = 30
"""A broken engine must be found out within so many scenarios."""


def nothing(*_: object, **__: object) -> Any:
    return None


def raises(patch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise KeyError("broken")

    patch.setattr(StateSync, "update", read)


def never_rests(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SyncEngine, "deadline", property(lambda engine: engine._exchange._answers_from))


def takes_states_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_sync, "merge", lambda old, new: new)


def obeys_every_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_sync, "is_carried", lambda entry: False)


def echoes(patch: pytest.MonkeyPatch) -> None:
    original = StateSync._advance

    def advance(sync: StateSync, key: bytes, record: Any, merged: int, entry: Any) -> None:
        original(sync, key, record, merged, entry)
        sync.outbox.update(record.identity, entry)

    patch.setattr(StateSync, "_advance", advance)


def tells_no_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "delete", nothing)


def repairs_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AntiEntropy, "compare_group", lambda *_: [])
    patch.setattr(Received, "to_ask", lambda *_: [])


def never_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_sync, "HOLD", 86_400)


def babbles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("carpd.pfsync.exchange.REPORT_NS", 10_000_000)


BROKEN: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    raises: "raised KeyError",
    never_rests: "stands still",
    takes_states_back: "goes back",
    obeys_every_end: "which it carries",
    echoes: "of which it only was told",
    tells_no_ends: "differ",
    repairs_nothing: "differ",
    never_holds: "will let it end",
    babbles: "of silence",
}


@pytest.mark.parametrize(("break_it", "found"), BROKEN.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_broken_engine_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    for seed in range(SEEDS):
        try:
            scenario.run(seed)
        except ViolationError as error:
            first = str(error).splitlines()[0]
            assert first.startswith(f"seed {seed}: ")
            if found in first:
                return
    pytest.fail(f"{SEEDS} scenarios, and not once: {found}")
