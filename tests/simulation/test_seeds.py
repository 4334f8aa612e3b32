"""Random scenarios: the same ones always, and others every time.

CARPD_SEED=123 pytest tests/simulation/test_seeds.py    repeats the one that failed
"""

from __future__ import annotations

import os
import random

import pytest

from carpd.simulation import scenario

FIXED = range(60)
RANDOM = (
    [int(os.environ["CARPD_SEED"])]
    if "CARPD_SEED" in os.environ
    else [random.SystemRandom().randrange(10**9) for _ in range(20)]
)


@pytest.mark.parametrize("seed", FIXED)
def test_fixed(seed: int) -> None:
    scenario.run(seed)


@pytest.mark.parametrize("number", range(len(RANDOM)))
def test_random(number: int) -> None:
    """The failure shows the seed and what happened; the name of the test is the same every time."""
    scenario.run(RANDOM[number])


def test_a_seed_repeats_itself() -> None:
    assert scenario.run(7).transcript == scenario.run(7).transcript
    assert scenario.run(7).transcript != scenario.run(8).transcript
