"""When a master advertises, when a backup takes over, and what the clock is asked for. Ref: spec carp §9, §12."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.config.model import DemotionMode, MasterDownRule
from carpd.effects import Announce, Reason
from carpd.events import CarpState, Configure, Event, Family, FrameReceived, SetDemotion, TimersDue
from carpd.units import MICROSECOND, SECOND, SKEW
from tests.carp.harness import IPV4_ONLY, IPV6_ONLY, SEED, START, Node, frame, host_config, interface, sent, signed

CLASSIC, OPENBSD = MasterDownRule.CLASSIC, MasterDownRule.OPENBSD

# advbase, advskew -> seconds between advertisements, master down by OpenBSD 1.370, by the others (0: no such node)
VECTOR_10 = {
    (1, 0): (1.000000, 3.000000, 3.000000),
    (1, 100): (1.390625, 4.171875, 3.390625),
    (1, 254): (1.992187, 5.976561, 3.992187),
    (0, 1): (0.003906, 0.011718, 0.011718),
    (0, 0): (0.003906, 0.011718, 0.011718),
    (0, 100): (0.390625, 1.171875, 1.171875),
    (254, 254): (254.992187, 764.976562, 762.992187),
}


@pytest.mark.parametrize(("settings", "seconds"), VECTOR_10.items(), ids=str)
def test_vector_10(settings: tuple[int, int], seconds: tuple[float, float, float]) -> None:
    """The specification cuts to microseconds, three times where it takes three intervals."""
    advertise, *master_down = (round(s * 1e9) for s in seconds)
    for rule, expected in zip((OPENBSD, CLASSIC), master_down, strict=True):
        config = host_config(advbase=settings[0], advskew=settings[1], master_down=rule)
        assert Node(config).wait == pytest.approx(expected, abs=3 * MICROSECOND)
        assert Node.master(config).wait == pytest.approx(advertise, abs=MICROSECOND)


def test_a_backup_takes_over_exactly_at_its_deadline() -> None:
    for early, state in ((1, CarpState.BACKUP), (0, CarpState.MASTER)):
        node = Node(host_config(advskew=100))
        node.at(3 * SECOND + 100 * SKEW - early)
        node.tell(TimersDue(node.now))
        assert node.state is state


@pytest.mark.parametrize("deaf", Family, ids=lambda family: family.name)
def test_either_familys_timeout_makes_a_master(deaf: Family) -> None:
    """A network that loses only one family's multicast gets two masters: that is how it is on the BSDs."""
    heard = Family.IPV4 if deaf is Family.IPV6 else Family.IPV6
    node = Node(host_config(advskew=0))
    for _ in range(2):
        node.at(SECOND)
        node.hear(heard)
    node.expire()
    assert (node.state, node.now - START) == (CarpState.MASTER, 3 * SECOND)


@pytest.mark.parametrize("addresses", [IPV4_ONLY, IPV6_ONLY], ids=["IPv4", "IPv6"])
def test_a_family_without_addresses_has_no_timer_and_no_advertisement(addresses: Any) -> None:
    node = Node(host_config(advskew=0, addresses=addresses)).at(SECOND)
    node.hear(Family.IPV4)
    node.hear(Family.IPV6)
    assert node.wait == 3 * SECOND
    assert len(sent(node.expire())) == 1


def test_an_advertisement_of_a_family_without_addresses_is_obeyed_all_the_same() -> None:
    node = Node(host_config(addresses=IPV4_ONLY)).at(SECOND)
    node.hear(Family.IPV6, advskew=0)
    assert node.wait == 3 * SECOND + 100 * SKEW - SECOND, "but there is no timer to restart"
    node.hear(Family.IPV6, advbase=255, advskew=255)
    assert node.state is CarpState.MASTER


# heard_until: what waits in the socket may be the advertisement that a backup misses


def test_a_backup_believes_its_timer_only_up_to_what_was_heard() -> None:
    node = Node(host_config(advskew=0, addresses=IPV4_ONLY)).at(10 * SECOND)
    node.tell(TimersDue(heard_until=START + 3 * SECOND - 1))
    assert node.state is CarpState.BACKUP
    assert node.engine.deadline == START + 3 * SECOND, "the deadline stays: the rest of the socket first"
    node.engine.handle(START + 3 * SECOND - 1, FrameReceived("eth0", frame(signed(node.configs[0], advskew=0))))
    for heard_until, effects in ((START + 6 * SECOND - 2, 0), (START + 6 * SECOND - 1, 4)):
        assert len(node.tell(TimersDue(heard_until))) == effects


def test_a_master_advertises_by_the_clock_whatever_waits() -> None:
    node = Node.master().at(10 * SECOND)
    assert len(sent(node.tell(TimersDue(heard_until=START)))) == 2


def test_a_frame_that_is_read_late_never_brings_the_timer_forward() -> None:
    node = Node(host_config(advskew=0, addresses=IPV4_ONLY)).at(2 * SECOND)
    node.hear()
    deadline = node.engine.deadline
    late = FrameReceived("eth0", frame(signed(node.configs[0], advskew=0)))
    node.engine.handle(START + SECOND, late)
    assert node.engine.deadline == deadline


# The beat


def test_lateness_does_not_add_up() -> None:
    node = Node.master(host_config(advskew=0))
    first = node.now
    for beat, late in enumerate((5, 900_000_000, 0, 1), start=1):
        node.now = first + beat * SECOND + late
        assert len(sent(node.tell(TimersDue(node.now)))) == 2
        assert node.engine.deadline == first + (beat + 1) * SECOND


def test_missed_beats_are_not_made_up_for() -> None:
    node = Node.master(host_config(advskew=0)).at(10 * SECOND)
    assert len(sent(node.tell(TimersDue(node.now)))) == 2
    assert node.wait == SECOND
    assert node.tell(TimersDue(node.now)) == []


@given(st.integers(0, 255), st.integers(0, 254), st.integers(0, 10 * SECOND))
def test_no_deadline_lies_in_the_past_after_timers_due(advbase: int, advskew: int, late: int) -> None:
    node = Node(host_config(advbase=advbase, advskew=advskew))
    for _ in range(3):
        node.now = (node.engine.deadline or 0) + late
        node.tell(TimersDue(node.now))
        assert node.engine.deadline is not None
        assert node.engine.deadline > node.now


def test_the_demoted_advskew_is_the_interval_at_once() -> None:
    """Ref: spec carp §9, FB: k' when re-armed; and the master-down time is not demoted."""
    config = host_config(advskew=0, demotion=DemotionMode.ADVSKEW)
    node = Node.master(config)
    node.tell(SetDemotion("carp", "test", 128))
    assert node.wait == SECOND + 128 * SKEW
    backup = Node(config)
    backup.tell(SetDemotion("carp", "test", 128))
    backup.hear(advskew=0)
    backup.hear(Family.IPV6, advskew=0)
    assert backup.wait == 3 * SECOND


# The announcement, and its repeat


def announces(node: Node, beats: int) -> list[bool]:
    return [any(isinstance(e, Announce) for e in node.expire()) for _ in range(beats)]


def test_the_announcement_is_repeated_after_the_second_following_advertisement() -> None:
    node = Node()
    effects = node.expire()
    assert [type(e).__name__ for e in effects][3] == "Announce", "take, send, send, announce"
    assert announces(node, 5) == [False, True, False, False, False]


def test_becoming_backup_cancels_the_repeat() -> None:
    node = Node.master()
    node.hear(advskew=0)
    node.hear(advbase=255, advskew=255)
    assert node.state is CarpState.MASTER
    assert announces(node, 4) == [False, True, False, False]


def test_it_comes_after_the_advertisement() -> None:
    node = Node.master()
    node.expire()
    assert [type(e).__name__ for e in node.expire()] == ["SendAdvertisement", "SendAdvertisement", "Announce"]


# A worse master


def test_a_worse_master_is_answered_at_once_and_once_an_interval() -> None:
    node = Node.master(host_config(advskew=0))
    announces(node, 3)
    for _ in range(3):
        node.at(SECOND // 10)
        effects = node.hear(advskew=200)
        assert [type(e).__name__ for e in effects] == ["SendAdvertisement", "SendAdvertisement", "Announce"]
        assert node.wait == SECOND
        for family in Family:
            assert node.at(1).hear(family, advskew=200) == []
        assert announces(node, 1) == [False]
    assert announces(node, 2) == [True, False], "the answer's announcement is repeated too"


def test_nobody_can_make_us_send_more_than_twice_our_rate() -> None:
    node = Node.master(host_config(advskew=0))
    before = len(node.contract.sent)
    end = node.now + 10 * SECOND
    while node.now < end:
        node.at(10_000_000)
        node.hear(advskew=200)
        node.tell(TimersDue(node.now))
    assert len(node.contract.sent) - before <= 2 * 2 * 10


# What the clock is asked for


def test_without_a_host_that_runs_there_is_no_deadline() -> None:
    assert Node(prepared=False).engine.deadline is None
    node = Node.master()
    node.tell(interface(up=False))
    assert node.engine.deadline is None
    node.tell(Configure((), SEED))
    assert node.engine.deadline is None


def test_the_deadline_is_the_earliest_of_all_hosts() -> None:
    node = Node(
        host_config(name="slow", vhid=1, advskew=200),
        host_config(name="fast", vhid=2, advskew=0),
    )
    assert node.wait == 3 * SECOND
    node.hear(host=1, advskew=0)
    node.hear(Family.IPV6, host=1, advskew=0)
    node.at(SECOND)
    node.hear(host=1, advskew=0)
    node.hear(Family.IPV6, host=1, advskew=0)
    assert node.wait == 2 * SECOND + 200 * SKEW, "fast has heard its master: now it is slow's turn"


EARLY: dict[str, Event] = {"now": TimersDue(START), "long ago": TimersDue(0)}


@pytest.mark.parametrize("event", EARLY.values(), ids=EARLY)
def test_early_is_harmless(event: Event) -> None:
    for node in (Node(), Node.master(), Node(prepared=False)):
        before = node.state, node.engine.deadline
        assert node.tell(event) == []
        assert before == (node.state, node.engine.deadline)


def test_a_replayed_advertisement_does_not_fill_the_memory() -> None:
    """Every one that is heard moves the deadline of this host, while another's stays the earliest."""
    node = Node(
        host_config(name="fast", vhid=1, addresses=IPV4_ONLY),
        host_config(name="slow", vhid=2, addresses=IPV4_ONLY, advbase=10),
    )
    for _ in range(1_000):
        node.at(1)
        node.hear(host=1)
        assert node.engine.deadline is not None
    assert len(node.engine._timers) < 10


def test_since_and_why() -> None:
    node = Node()
    assert (node.host.since, node.host.reason) == (START, Reason.READY)
    node.expire()
    assert (node.host.since, node.host.reason) == (node.now, Reason.MASTER_DOWN)
    assert node.host.counters.preempt == 1
