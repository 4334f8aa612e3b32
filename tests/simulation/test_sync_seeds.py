"""Random scenarios of state synchronisation: the same ones always.

CARPD_SEED=123 pytest tests/simulation/test_sync_seeds.py -k 123    repeats one of benchmarks.simulate --sync
"""

from __future__ import annotations

import os

import pytest

from carpd.simulation.sync import scenario

SEEDS = [*range(30), *([int(os.environ["CARPD_SEED"])] if "CARPD_SEED" in os.environ else [])]


@pytest.mark.parametrize("seed", SEEDS)
def test_it_ends_with_equal_tables(seed: int) -> None:
    scenario.run(seed)


def test_a_seed_repeats_itself() -> None:
    assert scenario.run(4).transcript == scenario.run(4).transcript
    assert scenario.run(4).transcript != scenario.run(5).transcript
