"""What demotes groups for the operator's and for pfsync's sake, and what the engine is told of it, and when again."""

from __future__ import annotations

import asyncio

from carpd.events import SetDemotion
from carpd.runtime.demotions import Demotion, Demotions, operators_reason


class Daemon:
    """Groups that may change, and what the engine was told since `forget`."""

    def __init__(self) -> None:
        self.groups = {"edge", "dmz"}
        self.told: list[SetDemotion] = []
        self.demotions = Demotions(lambda: self.groups, self.told.append)


def test_a_group_is_demoted_until_that_is_ended() -> None:
    daemon = Daemon()
    daemon.demotions.demote("edge", "operator: a", 1)
    daemon.demotions.demote("edge", "operator: b", 2)
    daemon.demotions.demote("edge", "operator: a", 3)
    assert daemon.told == [SetDemotion("edge", f"operator: {name}", n) for name, n in (("a", 1), ("b", 2), ("a", 3))]
    assert daemon.demotions.of("edge") == [Demotion("operator: a", 3), Demotion("operator: b", 2)]
    assert daemon.demotions.of("dmz") == []
    daemon.demotions.end("edge", "operator: a")
    assert daemon.told[-1] == SetDemotion("edge", "operator: a", 0)
    assert daemon.demotions.reasons("edge") == ["operator: b"]


def test_all_groups_are_demoted_also_one_that_comes_later() -> None:
    daemon = Daemon()
    daemon.demotions.demote_all("pfsync bulk update", 32)
    assert daemon.told == [SetDemotion(group, "pfsync bulk update", 32) for group in ("dmz", "edge")]
    daemon.told.clear()
    daemon.groups = {"new"}
    daemon.demotions.tell_all()
    assert daemon.told == [SetDemotion("new", "pfsync bulk update", 32)]
    daemon.demotions.demote_all("pfsync bulk update", 0)
    assert daemon.told[-1] == SetDemotion("new", "pfsync bulk update", 0)
    assert daemon.demotions.of("new") == []


def test_an_engine_that_begins_is_told_everything_again() -> None:
    daemon = Daemon()
    daemon.demotions.demote("edge", "operator", 1)
    daemon.demotions.demote_all("pfsync bulk update", 32)
    daemon.told.clear()
    daemon.demotions.tell_all()
    assert set(daemon.told) == {
        SetDemotion("dmz", "pfsync bulk update", 32),
        SetDemotion("edge", "pfsync bulk update", 32),
        SetDemotion("edge", "operator", 1),
    }


def test_what_demotes_a_group_that_is_gone_is_over() -> None:
    daemon = Daemon()
    daemon.demotions.demote("edge", "operator", 1)
    daemon.groups = {"dmz"}
    daemon.demotions.tell_all()
    daemon.groups = {"dmz", "edge"}
    daemon.told.clear()
    daemon.demotions.tell_all()
    assert daemon.told == []


def test_a_demotion_for_a_time_ends_by_itself() -> None:
    """The last word counts: with another time, or without."""

    async def scenario() -> Daemon:
        daemon = Daemon()
        daemon.demotions.demote("edge", "operator: a", 1, for_s=0.001)
        daemon.demotions.demote("edge", "operator: b", 2, for_s=0.001)
        daemon.demotions.demote("edge", "operator: b", 3)
        daemon.demotions.demote("edge", "operator: c", 4, for_s=0.001)
        daemon.demotions.demote("edge", "operator: c", 5, for_s=3600)
        assert [demotion.until_s is None for demotion in daemon.demotions.of("edge")] == [False, True, False]
        while SetDemotion("edge", "operator: a", 0) not in daemon.told:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        return daemon

    daemon = asyncio.run(scenario())
    assert [(demotion.reason, demotion.amount) for demotion in daemon.demotions.of("edge")] == [
        ("operator: b", 3),
        ("operator: c", 5),
    ]


def test_an_operators_reason() -> None:
    assert operators_reason("upgrade") == "operator: upgrade"
    assert operators_reason(None) == "operator"
