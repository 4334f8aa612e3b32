"""The invariants are no check that always says yes: nodes that are broken on purpose are found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carpd.carp.demotion import Demotion
from carpd.carp.virtual_host import VirtualHost
from carpd.config.model import VirtualHostConfig
from carpd.effects import Reason
from carpd.events import CarpState
from carpd.simulation import scenario
from carpd.simulation.invariants import ViolationError
from carpd.simulation.kernel import Kernel

SEEDS = 100
"""A broken node must be found out within so many scenarios; most are in the first ten."""


def nothing(*_: object, **__: object) -> list[Any]:
    return []


def ignores_bow_outs(patch: pytest.MonkeyPatch) -> None:
    original = VirtualHost._reason_to_take_over

    def reason(host: VirtualHost, *args: Any) -> Reason | None:
        found = original(host, *args)
        return None if args[-1] else found

    patch.setattr(VirtualHost, "_reason_to_take_over", reason)


def keeps_its_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Kernel, "surrender", nothing)


def keeps_its_addresses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Kernel, "release", nothing)


def answers_for_twice_as_long(patch: pytest.MonkeyPatch) -> None:
    lease = VirtualHostConfig.lease_ns.fget  # type: ignore[attr-defined]
    patch.setattr(VirtualHostConfig, "lease_ns", property(lambda config: 2 * lease(config)))


def answers_a_little_too_long(patch: pytest.MonkeyPatch) -> None:
    """As long as a slower BACKUP waits."""
    patch.setattr(VirtualHostConfig, "lease_ns", property(lambda config: config.master_down_ns + 100_000_000))


def is_impatient(patch: pytest.MonkeyPatch) -> None:
    wait = VirtualHostConfig.master_down_ns.fget  # type: ignore[attr-defined]
    original = VirtualHost._arm_master_down

    def arm(host: VirtualHost, now: int) -> None:
        original(host, now - wait(host.config) // 2)

    patch.setattr(VirtualHost, "_arm_master_down", arm)
    patch.setattr(VirtualHost, "_receive_as_backup", nothing)


def never_yields(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualHost, "_receive_as_master", nothing)


def advertises_as_a_backup(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualHost, "demotion_changed", VirtualHost._advertise)


def never_takes_over_by_timer(patch: pytest.MonkeyPatch) -> None:
    original = VirtualHost.handle_timers

    def handle(host: VirtualHost, now: int, heard_until: int) -> list[Any]:
        if host.state is CarpState.BACKUP:
            host._arm_master_down(now)
            return []
        return original(host, now, heard_until)

    patch.setattr(VirtualHost, "handle_timers", handle)


def never_preempts(patch: pytest.MonkeyPatch) -> None:
    original = VirtualHost._reason_to_take_over

    def reason(host: VirtualHost, *args: Any) -> Reason | None:
        found = original(host, *args)
        return None if found in (Reason.PREEMPT, Reason.DEMOTED_MASTER) else found

    patch.setattr(VirtualHost, "_reason_to_take_over", reason)


def never_forgives(patch: pytest.MonkeyPatch) -> None:
    """FreeBSD 13's stuck demotion, in general."""
    original = Demotion.set

    def keep(demotion: Demotion, reason: str, amount: int) -> None:
        if amount:
            original(demotion, reason, amount)

    patch.setattr(Demotion, "set", keep)


def takes_its_time(patch: pytest.MonkeyPatch) -> None:
    """Waits three times as long as it should."""
    wait = VirtualHostConfig.master_down_ns.fget  # type: ignore[attr-defined]

    def arm(host: VirtualHost, now: int) -> None:
        host._master_down = dict.fromkeys(host.families, now + 3 * wait(host.config))

    patch.setattr(VirtualHost, "_arm_master_down", arm)


BROKEN: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    ignores_bow_outs: "after the bow-out",
    keeps_its_lease: "would answer",
    keeps_its_addresses: "would answer",
    answers_for_twice_as_long: "answers by what",
    answers_a_little_too_long: "answers by what",
    is_impatient: "too early",
    never_yields: "both answer",
    advertises_as_a_backup: "would answer",
    never_takes_over_by_timer: "nobody answers",
    never_preempts: "and waits",
    never_forgives: "is demoted by",
    takes_its_time: "nobody answers",
}


@pytest.mark.parametrize(("break_it", "found"), BROKEN.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_broken_node_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    for seed in range(SEEDS):
        try:
            scenario.run(seed)
        except ViolationError as error:
            first, *transcript = str(error).splitlines()
            assert first.startswith(f"seed {seed}: ")
            assert any("lan" in line for line in transcript)
            if found in first:
                return
    pytest.fail(f"{SEEDS} scenarios, and not once: {found}")
