"""The table of spec carp §7: every way two intervals and two demotions compare, in both states, preempting or not.

The rules are written out twice, neither time in the engine's terms: as the specification's sentences, and as a table.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

from carpd.config.model import DemotionMode
from carpd.effects import Reason, StateChanged
from carpd.events import CarpState, Family, SetDemotion
from carpd.units import SECOND
from tests.carp.harness import Node, host_config

MASTER, BACKUP = CarpState.MASTER, CarpState.BACKUP

MY_ADVSKEW, MY_DEMOTION = 100, 10


class Case(NamedTuple):
    interval: str
    """How our own interval compares with the received one: <, = or >. Smaller is better."""
    demotion: str
    """How our own demotion compares with the received one."""
    state: CarpState
    preempt: bool

    def __str__(self) -> str:
        preempt = "preempt" if self.preempt else "no preempt"
        return f"{self.state.value}, {preempt}, interval {self.interval}, demotion {self.demotion}"


CASES = [Case(*case) for case in product("<=>", "<=>", (MASTER, BACKUP), (False, True))]

OPENBSD_TABLE = """
    interval demotion | MASTER  MASTER+preempt  BACKUP  BACKUP+preempt
    <        <        | MASTER  MASTER          MASTER  MASTER
    <        =        | MASTER  MASTER          BACKUP  MASTER
    <        >        | BACKUP  BACKUP          BACKUP  BACKUP
    =        <        | MASTER  MASTER          MASTER  MASTER
    =        =        | BACKUP  BACKUP          BACKUP  BACKUP
    =        >        | BACKUP  BACKUP          BACKUP  BACKUP
    >        <        | MASTER  MASTER          MASTER  MASTER
    >        =        | BACKUP  BACKUP          BACKUP  BACKUP
    >        >        | BACKUP  BACKUP          BACKUP  BACKUP
"""

FREEBSD_TABLE = """
    interval demotion | MASTER  MASTER+preempt  BACKUP  BACKUP+preempt
    <        <        | MASTER  MASTER          BACKUP  MASTER
    <        =        | MASTER  MASTER          BACKUP  MASTER
    <        >        | MASTER  MASTER          BACKUP  MASTER
    =        <        | BACKUP  BACKUP          BACKUP  BACKUP
    =        =        | BACKUP  BACKUP          BACKUP  BACKUP
    =        >        | BACKUP  BACKUP          BACKUP  BACKUP
    >        <        | BACKUP  BACKUP          BACKUP  BACKUP
    >        =        | BACKUP  BACKUP          BACKUP  BACKUP
    >        >        | BACKUP  BACKUP          BACKUP  BACKUP
"""


def read_table(text: str) -> dict[Case, CarpState]:
    table = {}
    for line in text.strip().splitlines()[1:]:
        compared, results = line.split("|")
        for (state, preempt), result in zip(product((MASTER, BACKUP), (False, True)), results.split(), strict=True):
            interval, demotion = compared.split()
            table[Case(interval, demotion, state, preempt)] = CarpState[result]
    return table


def openbsd(case: Case) -> CarpState:
    """§7.1 and §7.2, column OB. Rule 3 is not in it: no interval here is that long."""
    own_less, own_at_least = case.interval == "<", case.interval in "=>"
    ad_demote_at_most_mine, ad_demote_less = case.demotion in "=>", case.demotion == ">"
    ad_demote_at_least_mine, ad_demote_more = case.demotion in "<=", case.demotion == "<"
    if case.state is MASTER:
        # becomes BACKUP if (own >= ad and ad.demote <= my demote) or ad.demote < my demote
        return BACKUP if (own_at_least and ad_demote_at_most_mine) or ad_demote_less else MASTER
    # 1: preempt on, own < ad, ad.demote >= mine -> master; 2: ad.demote > mine -> master, whatever preempt says
    return MASTER if (case.preempt and own_less and ad_demote_at_least_mine) or ad_demote_more else BACKUP


def freebsd(case: Case) -> CarpState:
    """§7.1 and §7.2, columns FB and NB: byte 4 of the peer means nothing."""
    if case.state is MASTER:
        return BACKUP if case.interval in "=>" else MASTER  # becomes BACKUP if own >= ad
    return MASTER if case.preempt and case.interval == "<" else BACKUP  # preempt on and own < ad -> master


@pytest.mark.parametrize(("text", "rules"), [(OPENBSD_TABLE, openbsd), (FREEBSD_TABLE, freebsd)])
def test_the_tables_say_what_the_sentences_say(text: str, rules: object) -> None:
    assert callable(rules)
    assert read_table(text) == {case: rules(case) for case in CASES}
    assert len(CASES) == 36


def decide(case: Case, mode: DemotionMode) -> CarpState:
    """What the engine makes of it: the peer's fields are chosen around our own."""
    config = host_config(demotion=mode, preempt=case.preempt, advskew=MY_ADVSKEW)
    node = Node.master(config) if case.state is MASTER else Node(config)
    node.tell(SetDemotion(config.group, "test", MY_DEMOTION))
    assert node.state is case.state
    raised = MY_DEMOTION if mode.in_advskew else 0
    advskew = MY_ADVSKEW + raised + {"<": 1, "=": 0, ">": -1}[case.interval]
    demotion = MY_DEMOTION + {"<": 1, "=": 0, ">": -1}[case.demotion]
    effects = node.hear(advskew=advskew, demotion=demotion)
    assert any(isinstance(e, StateChanged) for e in effects) is (node.state is not case.state)
    return node.state


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("mode", [DemotionMode.COUNTER, DemotionMode.BOTH], ids=lambda mode: mode.value)
def test_openbsd(case: Case, mode: DemotionMode) -> None:
    assert decide(case, mode) is read_table(OPENBSD_TABLE)[case]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_freebsd(case: Case) -> None:
    assert decide(case, DemotionMode.ADVSKEW) is read_table(FREEBSD_TABLE)[case]


@pytest.mark.parametrize("advbases", [(1, 2), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("advskews", [(0, 254), (254, 0), (7, 7)], ids=str)
def test_advbase_weighs_more_than_any_advskew(advbases: tuple[int, int], advskews: tuple[int, int]) -> None:
    node = Node.master(host_config(advbase=advbases[0], advskew=advskews[0]))
    node.hear(advbase=advbases[1], advskew=advskews[1])
    ours_is_smaller = (advbases[0], advskews[0]) < (advbases[1], advskews[1])
    assert node.state is (MASTER if ours_is_smaller else BACKUP)


RULE_3 = {
    # a bow-out: 3 x advbase + own skew against 255 s and 255/256
    "advbase 1": ({"advbase": 1}, {"advbase": 255, "advskew": 255}, MASTER),
    "advbase 84": ({"advbase": 84}, {"advbase": 255, "advskew": 255}, MASTER),
    "advbase 85, advskew 254": ({"advbase": 85, "advskew": 254}, {"advbase": 255, "advskew": 255}, MASTER),
    "advbase 85, advskew 255": ({"advbase": 85, "advskew": 255}, {"advbase": 255, "advskew": 255}, BACKUP),
    "advbase 86": ({"advbase": 86, "advskew": 0}, {"advbase": 255, "advskew": 255}, BACKUP),
    "advbase 0: OpenBSD would not react": ({"advbase": 0, "advskew": 1}, {"advbase": 255, "advskew": 255}, MASTER),
    # any interval that is longer than we would wait
    "exactly as long": ({"advskew": 100}, {"advbase": 3, "advskew": 100}, BACKUP),
    "1/256 s longer": ({"advskew": 100}, {"advbase": 3, "advskew": 101}, MASTER),
    "never with advbase 0": ({"advbase": 0, "advskew": 1}, {"advbase": 1, "advskew": 0}, BACKUP),
}


@pytest.mark.parametrize(("ours", "ad", "expected"), RULE_3.values(), ids=RULE_3)
@pytest.mark.parametrize("mode", DemotionMode, ids=lambda mode: mode.value)
def test_rule_3_a_master_that_would_time_out_anyway(
    ours: dict[str, int], ad: dict[str, int], expected: CarpState, mode: DemotionMode
) -> None:
    node = Node(host_config(demotion=mode, **ours))
    node.hear(Family.IPV4, **ad)
    assert node.state is expected
    taken_over = Reason.MASTER_LEFT if ad["advbase"] == 255 else Reason.WILL_TIME_OUT
    assert node.host.reason is (taken_over if expected is MASTER else Reason.READY)


def test_rule_3_compares_with_the_demoted_advskew() -> None:
    """FreeBSD's `own` is the demoted one: 3 s + (100 + 50)/256 s here."""
    for advskew, expected in ((150, BACKUP), (151, MASTER)):
        node = Node(host_config(demotion=DemotionMode.ADVSKEW))
        node.tell(SetDemotion("carp", "test", 50))
        node.hear(advbase=3, advskew=advskew)
        assert node.state is expected


def test_rule_4_restarts_only_the_timer_of_that_family() -> None:
    for family in Family:
        node = Node(host_config(advskew=0)).at(SECOND)
        node.hear(family)
        assert node.wait == 2 * SECOND, "the other family's timer runs on"
        node.hear(Family.IPV4 if family is Family.IPV6 else Family.IPV6)
        assert node.wait == 3 * SECOND


@pytest.mark.parametrize("families", [(Family.IPV4, Family.IPV6), (Family.IPV6, Family.IPV4)], ids=str)
def test_the_second_bow_out_does_not_depose_whom_the_first_one_called(families: tuple[Family, Family]) -> None:
    """One a family is sent. By the demotion rule alone the second would make a demoted successor step down."""
    node = Node()
    node.tell(SetDemotion("carp", "test", 5))
    node.hear(families[0], advbase=255, advskew=255, demotion=0)
    assert node.state is MASTER
    assert node.hear(families[1], advbase=255, advskew=255, demotion=0) == []
    assert node.state is MASTER
