"""The stories that an operator asks for, one by one. The invariants watch all of them."""

from __future__ import annotations

from errno import ENOBUFS

import pytest

from carpd.config.model import DemotionMode
from carpd.events import CarpState
from carpd.simulation import faults
from carpd.simulation.network import Quality
from carpd.units import MILLISECOND, SECOND, SKEW
from tests.simulation.cluster import DELAY, LAN, WAN, cluster, run_until

MASTER_DOWN_OF_1 = 3 * SECOND + 100 * SKEW


def test_power_cut() -> None:
    """Nobody answers for one master-down time at the most, counted from the last advertisement."""
    made = cluster()
    made.begin(faults.powered_off(made.nodes[0]))
    assert made.answering("lan") == []
    assert run_until(made, "lan", [1], MASTER_DOWN_OF_1 + DELAY) > 2 * SECOND
    made.settle()


def test_the_killed_master_is_silent_before_the_backup_speaks() -> None:
    """Its kernel goes on answering, as long as its last advertisement lets it."""
    made = cluster()
    made.begin(faults.killed(made.nodes[0]))
    assert made.answering("lan") == [0]
    run_until(made, "lan", [], 3 * SECOND)
    assert run_until(made, "lan", [1], MASTER_DOWN_OF_1) > 300 * MILLISECOND, "3 s of lease, 3.39 s of patience"
    made.settle()


def test_the_hung_master_too_and_it_comes_back_as_it_was_told() -> None:
    made = cluster(preempt=True)
    hang = faults.hanging(made.nodes[0])
    made.begin(hang)
    run_until(made, "lan", [], 3 * SECOND)
    run_until(made, "lan", [1], MASTER_DOWN_OF_1)
    made.run(20 * SECOND)
    assert made.masters("lan") == [0, 1], "it does not know yet"
    assert made.answering("lan") == [1]
    made.end(hang)
    run_until(made, "lan", [0], 3 * DELAY)
    made.settle()


def test_a_hung_backup_does_not_take_over_for_what_waits_in_its_socket() -> None:
    made = cluster()
    hang = faults.hanging(made.nodes[1])
    made.begin(hang)
    made.run(60 * SECOND)
    made.end(hang)
    assert made.masters("lan") == [0]
    made.run(60 * SECOND)
    assert not any("1: lan BACKUP -> MASTER" in line for line in made.transcript)
    made.settle()


def test_a_hung_backup_takes_over_at_once_if_the_master_has_gone_meanwhile() -> None:
    made = cluster()
    hang = faults.hanging(made.nodes[1])
    made.begin(hang)
    made.run(10 * SECOND)
    made.begin(faults.powered_off(made.nodes[0]))
    made.run(10 * SECOND)
    made.end(hang)
    assert made.answering("lan") == [1]
    made.settle()


@pytest.mark.parametrize("advbase", [0, 1])
@pytest.mark.parametrize("preempt", [False, True])
def test_stop_and_return_lose_nothing(preempt: bool, advbase: int) -> None:
    """Somebody answers all the time: who leaves waits for its successor, who returns speaks before the other yields."""
    made = cluster(advbase=advbase, step=100 if advbase else 1, preempt=preempt)
    stop = faults.stopped(made.nodes[0])
    made.begin(stop)
    while made.answering("lan") != [1]:
        assert made.answering("lan")
        made.run(DELAY // 10)
    made.run(SECOND)
    made.end(stop)
    for _ in range(5_000):
        made.run(DELAY)
        assert made.answering("lan")
    assert made.masters("lan") == ([0] if preempt else [1])
    made.settle()


def test_forced_to_backup_without_a_successor() -> None:
    """A tenth of a second it waits to hear one, then a master-down time."""
    made = cluster(nodes=1)
    made.begin(faults.forced(made.nodes[0], "lan", CarpState.BACKUP))
    run_until(made, "lan", [], SECOND // 10 + DELAY)
    run_until(made, "lan", [0], 3 * SECOND + DELAY)
    made.settle()


@pytest.mark.parametrize("better", [0, 1])
def test_a_partition_heals(better: int) -> None:
    """A master on each side; the better one is left, an interval after they hear each other again."""
    made = cluster(preempt=better == 0)
    apart = faults.partitioned(made.target, made.nodes[:1], ["eth0"])
    made.begin(apart)
    run_until(made, "lan", [0, 1], 5 * SECOND)
    made.run(10 * SECOND)
    assert made.masters("lan") == [0, 1]
    made.end(apart)
    run_until(made, "lan", [0], SECOND + 100 * SKEW + 2 * DELAY)
    made.settle()


def test_who_hears_nobody_is_a_second_master_until_it_hears() -> None:
    """So it is with CARP: the BSDs do the same. No invariant is about nodes that do not hear each other."""
    made = cluster()
    deaf = faults.deaf(made.target, made.nodes[1], "eth0")
    made.begin(deaf)
    run_until(made, "lan", [0, 1], 5 * SECOND)
    made.run(5 * SECOND)
    made.end(deaf)
    run_until(made, "lan", [0], SECOND + 2 * DELAY)
    made.settle()


@pytest.mark.parametrize("mode", DemotionMode, ids=lambda mode: mode.value)
def test_one_lost_link_moves_the_group(mode: DemotionMode) -> None:
    """The counter does it without preemption, advskew needs it; and back again the same way."""
    factor = 240 if mode.in_advskew else 1
    made = cluster(LAN, WAN, demotion=mode, preempt=not mode.in_counter, ifdown_demotion_factor=factor)
    lost = faults.link_lost(made.nodes[0], "eth0")
    made.begin(lost)
    run_until(made, "wan", [1], 3 * DELAY)
    run_until(made, "lan", [1], 3 * DELAY)  # told over the other interface
    made.settle()
    made.end(lost)
    made.settle()
    assert made.masters("lan") == made.masters("wan") == ([1] if mode.in_counter else [0])


def test_a_removed_interface_comes_back() -> None:
    made = cluster(LAN, WAN, preempt=True)
    removed = faults.interface_removed(made.nodes[0], "eth1")
    made.begin(removed)
    made.settle()
    assert made.masters("wan") == made.masters("lan") == [1]
    made.end(removed)
    made.settle()
    assert made.masters("wan") == made.masters("lan") == [0]


def test_who_cannot_send_is_replaced() -> None:
    made = cluster()
    mute = faults.sends_fail(made.nodes[0], ENOBUFS)
    made.begin(mute)
    run_until(made, "lan", [], 3 * SECOND)
    run_until(made, "lan", [1], SECOND)
    made.run(5 * SECOND)
    assert made.masters("lan") == [1]
    made.end(mute)
    made.settle()


def test_nobody_can_take_the_addresses_and_then_somebody_can() -> None:
    """Their bow-outs do not chase each other as fast as the network carries them."""
    made = cluster()
    unable = [faults.takes_fail(node) for node in made.nodes]
    for fault in unable:
        made.begin(fault)
    made.begin(faults.forced(made.nodes[0], "lan", CarpState.BACKUP))
    before = len(made.transcript)
    made.run(60 * SECOND)
    assert made.answering("lan") == []
    assert len(made.transcript) - before < 60 / 3 * 2 * 8
    made.end(unable[1])
    run_until(made, "lan", [1], 10 * SECOND)
    made.settle()


@pytest.mark.parametrize("seed", range(5))
def test_a_network_that_loses_30_percent(seed: int) -> None:
    """Three in a row are lost now and then: a false take-over, that ends when the network is well."""
    quality = Quality(delay_ns=DELAY, jitter_ns=5 * DELAY, duplication=0.1, reordering=True)
    made = cluster(nodes=3, seed=seed, quality=quality)
    loss = faults.lossy(made.network, 0.3)
    made.begin(loss)
    answered = 0
    for _ in range(600):
        made.run(SECOND // 10)
        answered += bool(made.answering("lan"))
    assert answered == 600, "somebody answers nevertheless"
    made.end(loss)
    made.settle()


def test_the_next_best_one_takes_over() -> None:
    """One after the other loses its power."""
    made = cluster(nodes=3)
    for number in (0, 1):
        made.begin(faults.powered_off(made.nodes[number]))
        run_until(made, "lan", [number + 1], 3 * SECOND + (number + 1) * 100 * SKEW + DELAY)
    made.settle()
