"""How well placed a host is: one order of pairs instead of the sentences of spec carp §7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.carp.preference import Preference, demoted_advskew, demotion_counter, own_preference
from carpd.config.model import DemotionMode
from carpd.units import SECOND, SKEW
from carpd.wire.carp import Advertisement
from tests.carp.harness import host_config

COUNTER, ADVSKEW, BOTH = DemotionMode.COUNTER, DemotionMode.ADVSKEW, DemotionMode.BOTH

preferences = st.builds(Preference, st.integers(0, 255), st.integers(0, 256 * SECOND))


@given(preferences, preferences)
def test_the_order_of_pairs_is_openbsds_rule(mine: Preference, ad: Preference) -> None:
    master_becomes_backup = (mine.interval_ns >= ad.interval_ns and ad.demotion <= mine.demotion) or (
        ad.demotion < mine.demotion
    )
    assert (ad <= mine) is master_becomes_backup
    backup_preempts = (mine.interval_ns < ad.interval_ns and ad.demotion >= mine.demotion) or (
        ad.demotion > mine.demotion
    )
    assert (mine < ad) is backup_preempts


@given(*[st.integers(0, 255)] * 4)
def test_the_order_of_intervals_is_that_of_advbase_and_advskew(b1: int, k1: int, b2: int, k2: int) -> None:
    """The kernels compare seconds and microseconds, rounded down; nanoseconds give the same order."""
    one = Preference.heard(Advertisement(vhid=1, advbase=b1, advskew=k1), COUNTER)
    two = Preference.heard(Advertisement(vhid=1, advbase=b2, advskew=k2), COUNTER)
    assert (one < two) is ((b1, k1 * 1_000_000 // 256) < (b2, k2 * 1_000_000 // 256))


# mode, advskew, demotion -> the advskew and byte 4 that are sent
SENT = {
    "nothing": (COUNTER, 100, 0, 100, 0),
    "counter": (COUNTER, 100, 32, 100, 32),
    "counter, the largest": (COUNTER, 0, 255, 0, 255),
    "counter, beyond a byte": (COUNTER, 0, 300, 0, 255),
    "advskew": (ADVSKEW, 3, 10, 13, 0),
    "advskew, clamped": (ADVSKEW, 3, 250, 240, 0),
    "advskew, just": (ADVSKEW, 100, 140, 240, 0),
    "advskew, one more": (ADVSKEW, 100, 141, 240, 0),
    "advskew, configured at the clamp": (ADVSKEW, 240, 240, 240, 0),
    "advskew, configured beyond it: not made better by a demotion": (ADVSKEW, 250, 240, 250, 0),
    "advskew, configured beyond it": (ADVSKEW, 254, 0, 254, 0),
    "both": (BOTH, 3, 10, 13, 10),
    "both, clamped": (BOTH, 3, 300, 240, 255),
}


@pytest.mark.parametrize(("mode", "advskew", "demotion", "sent_advskew", "sent_counter"), SENT.values(), ids=SENT)
def test_what_is_sent_is_what_is_compared(
    mode: DemotionMode, advskew: int, demotion: int, sent_advskew: int, sent_counter: int
) -> None:
    config = host_config(demotion=mode, advskew=advskew)
    assert (demoted_advskew(config, demotion), demotion_counter(config, demotion)) == (sent_advskew, sent_counter)
    message = Advertisement(vhid=1, advskew=sent_advskew, demotion=sent_counter)
    assert own_preference(config, demotion) == Preference.heard(message, mode)


@given(st.sampled_from(DemotionMode), st.integers(0, 254), st.integers(0, 1000), st.integers(0, 1000))
def test_a_demotion_never_makes_a_host_better(mode: DemotionMode, advskew: int, less: int, more: int) -> None:
    config = host_config(demotion=mode, advskew=advskew)
    less, more = sorted((less, more))
    assert own_preference(config, less) <= own_preference(config, more)
    assert 0 <= demoted_advskew(config, more) <= max(advskew, 240)


def test_units() -> None:
    assert own_preference(host_config(advbase=2, advskew=3), 0).interval_ns == 2 * SECOND + 3 * SKEW
    assert Preference.heard(Advertisement(vhid=1, advbase=0, advskew=0), COUNTER) == (0, 0)
