"""Hosts that share the traffic of one virtual host: at no moment do two take one share, and somebody soon does."""

from __future__ import annotations

import random
from collections.abc import Callable
from errno import ENOBUFS
from typing import Any

import pytest

from carpd.carp.share import YIELD_LIMIT_NS, BetterMasters, Heard, Share
from carpd.carp.virtual_host import VirtualHost
from carpd.config.model import BalancingMode
from carpd.effects import ReleaseAddresses, SurrenderLease
from carpd.events import CarpState
from carpd.simulation import faults
from carpd.simulation.faults import Fault
from carpd.simulation.invariants import ViolationError
from carpd.simulation.network import Path, Quality
from carpd.simulation.node import Node
from carpd.simulation.scenario import Cluster
from carpd.units import MICROSECOND, MILLISECOND, SECOND, SKEW
from tests.simulation.cluster import DELAY, run_until, sharing_cluster, watch

STEP = DELAY // 10
PLANNED = YIELD_LIMIT_NS + DELAY
"""A bow-out comes, and nobody says anything more."""
YIELDED_NS = DELAY
"""The way of the word."""
TIMED_OUT = 3 * SECOND + 60 * SKEW + DELAY
"""The next best one's patience."""

STORIES: dict[str, tuple[Callable[[Cluster], Fault], int, int]] = {
    # what happens to host 0, master of lan:1 -> how long nobody answers for that: when it begins, when it ends
    "stop and return": (lambda made: faults.stopped(made.nodes[0]), PLANNED, YIELDED_NS),
    "sent away": (lambda made: faults.forced(made.nodes[0], "lan:1", CarpState.BACKUP), PLANNED, 0),
    "told to take another's": (lambda made: faults.forced(made.nodes[0], "lan:2", CarpState.MASTER), 0, 0),
    "another told to take its own": (lambda made: faults.forced(made.nodes[1], "lan:1", CarpState.MASTER), 0, 0),
    "demoted": (lambda made: faults.demoted(made.nodes[0], "edge", 5), 2 * DELAY, YIELDED_NS),
    "power cut and return": (lambda made: faults.powered_off(made.nodes[0]), TIMED_OUT, YIELDED_NS),
    "killed": (lambda made: faults.killed(made.nodes[0]), SECOND, YIELDED_NS),
    "hanging": (lambda made: faults.hanging(made.nodes[0]), SECOND, YIELDED_NS),
    "a lost link": (lambda made: faults.link_lost(made.nodes[0], "eth0"), TIMED_OUT, YIELDED_NS),
    "a removed interface": (lambda made: faults.interface_removed(made.nodes[0], "eth0"), TIMED_OUT, YIELDED_NS),
    "can't send": (lambda made: faults.sends_fail(made.nodes[0], ENOBUFS), SECOND, YIELDED_NS),
    "can't take": (lambda made: faults.takes_fail(made.nodes[0]), 0, 0),
}


def forget_overlaps(made: Cluster) -> None:
    made.invariants.most_answering = dict.fromkeys(made.invariants.hosts, 0)


def assert_one_at_a_time(made: Cluster) -> None:
    most = made.invariants.most_answering
    assert max(most.values()) == 1, made.explain(f"so many answered at one moment: {most}")


@pytest.mark.parametrize("hosts", [2, 3, 4], ids=lambda number: f"{number} hosts")
@pytest.mark.parametrize(("fault", "begin_ns", "end_ns"), STORIES.values(), ids=STORIES)
def test_one_at_a_time_and_soon(fault: Callable[[Cluster], Fault], begin_ns: int, end_ns: int, hosts: int) -> None:
    """Of the other nodes somebody answers all the time."""
    made = sharing_cluster(hosts, min(hosts, 3))
    forget_overlaps(made)
    happening = fault(made)
    made.begin(happening)
    nobody = watch(made, 4 * SECOND)
    assert nobody.pop("lan:1") <= begin_ns
    assert not any(nobody.values())
    made.end(happening)
    nobody = watch(made, 2 * SECOND)
    assert nobody.pop("lan:1") <= end_ns
    assert not any(nobody.values())
    made.settle()
    assert_one_at_a_time(made)
    if happening.text != f"0 can't send (errno {ENOBUFS})":  # who could not send is demoted until it has sent again
        assert made.answering("lan:1") == [0]


@pytest.mark.parametrize(("fault", "begin_ns", "end_ns"), STORIES.values(), ids=STORIES)
def test_at_256_advertisements_in_four_seconds(fault: Callable[[Cluster], Fault], begin_ns: int, end_ns: int) -> None:
    """advbase 0, advskew 4: after 47 ms a master is dead. A share waits for some of that."""
    made = sharing_cluster(3, 3, first=4, step=1, advbase=0)
    forget_overlaps(made)
    happening = fault(made)
    made.begin(happening)
    nobody = watch(made, SECOND // 5)
    assert nobody["lan:1"] <= min(begin_ns, 3 * 5 * SKEW + DELAY)
    made.end(happening)
    assert watch(made, SECOND // 5)["lan:1"] <= end_ns
    made.settle()
    assert_one_at_a_time(made)


@pytest.mark.parametrize("mode", BalancingMode, ids=lambda mode: mode.value)
def test_in_every_mode(mode: BalancingMode) -> None:
    made = sharing_cluster(mode=mode)
    forget_overlaps(made)
    stop = faults.stopped(made.nodes[1])
    made.begin(stop)
    run_until(made, "lan:2", [0], PLANNED)
    assert made.answering("lan:1") == [0]
    made.end(stop)
    made.settle()
    assert made.answering("lan:2") == [1]
    assert_one_at_a_time(made)


def test_one_host_has_all_shares_and_the_addresses_until_the_last_one_goes() -> None:
    made = sharing_cluster(2, 3)
    other = faults.powered_off(made.nodes[1])
    made.begin(other)
    made.settle()
    hosts = made.invariants.hosts
    assert [made.answering(host) for host in hosts] == [[0], [0], [0]]
    config = made.nodes[0].configs["lan:1"]
    for host in hosts:
        assert made.nodes[0].kernel.addresses(config) == set(config.addresses)
        made.begin(faults.forced(made.nodes[0], host, CarpState.BACKUP))
    assert made.nodes[0].kernel.addresses(config) == set()
    made.settle()
    assert [made.answering(host) for host in hosts] == [[0], [0], [0]]


def test_a_lost_link_takes_all() -> None:
    made = sharing_cluster()
    lost = faults.link_lost(made.nodes[0], "eth0")
    made.begin(lost)
    assert made.nodes[0].kernel.addresses(made.nodes[0].configs["lan:1"]) == set()
    made.settle()
    assert made.answering("lan:1") == made.answering("lan:2") == [1]
    made.end(lost)
    made.settle()


# The word, and what happens without it


def returning() -> Cluster:
    """Host 0 is back and has just taken over; its advertisement is on its way to host 1."""
    made = sharing_cluster()
    cut = faults.powered_off(made.nodes[0])
    made.begin(cut)
    made.settle()
    forget_overlaps(made)
    made.end(cut)
    while made.masters("lan:1") != [0, 1]:
        made.run(STEP)
    return made


def test_the_word_opens_at_once() -> None:
    made = returning()
    assert run_until(made, "lan:1", [0], 2 * DELAY + STEP) < YIELD_LIMIT_NS
    assert_one_at_a_time(made)


def test_a_lost_word() -> None:
    """The share stays closed for YIELD_LIMIT_NS, and is opened then."""
    made = returning()
    taken_at = made.world.now
    made.network.cuts.append(frozenset({Path("eth0", 1, 0)}))
    run_until(made, "lan:1", [], DELAY + STEP)
    run_until(made, "lan:1", [0], YIELD_LIMIT_NS)
    assert YIELD_LIMIT_NS - STEP <= made.world.now - taken_at <= YIELD_LIMIT_NS + STEP
    assert_one_at_a_time(made)


def test_a_bow_out_calls_all_and_one_opens() -> None:
    """Of three hosts that are left, too: the worse ones yield to the best one, which waits for them."""
    for hosts in (3, 4, 5):
        made = sharing_cluster(hosts, 2, step=50)
        forget_overlaps(made)
        made.begin(faults.stopped(made.nodes[0]))
        made.run(DELAY)
        assert made.masters("lan:1") == list(range(1, hosts)), "all that heard it"
        run_until(made, "lan:1", [hosts - 1], PLANNED)
        made.settle()
        assert_one_at_a_time(made)


@pytest.mark.parametrize("hosts", [3, 4, 5])
def test_a_demotion_calls_all(hosts: int) -> None:
    """In whatever order they hear of each other: who has yielded does not take over again from one that will."""
    for number in range(hosts):
        made = sharing_cluster(hosts, hosts, step=50)
        forget_overlaps(made)
        demotion = faults.demoted(made.nodes[number], "edge", 1)
        made.begin(demotion)
        run_until(made, f"lan:{number + 1}", [(number - 1) % hosts], 2 * YIELD_LIMIT_NS)
        made.run(3 * SECOND)
        made.end(demotion)
        made.settle()
        assert made.answering(f"lan:{number + 1}") == [number]
        assert_one_at_a_time(made)


def test_two_parts_of_a_network_that_find_together_again() -> None:
    """This cannot be helped: each part had a master. One interval, and one has closed."""
    made = sharing_cluster()
    apart = faults.partitioned(made.target, made.nodes[:1], ["eth0"])
    made.begin(apart)
    made.settle()
    assert made.answering("lan:1") == made.answering("lan:2") == [0, 1]
    made.end(apart)
    run_until(made, "lan:1", [0], SECOND + 60 * SKEW + 2 * DELAY)
    run_until(made, "lan:2", [1], SECOND + 60 * SKEW + 2 * DELAY)
    made.settle()


# Late hosts


@pytest.mark.parametrize("hang_ms", [10, 500, 1500, 2900, 2990, 3000, 3100, 3240, 3250, 3500, 20_000])
@pytest.mark.parametrize("hosts", [2, 3])
def test_a_master_that_hangs_for_any_time(hosts: int, hang_ms: int) -> None:
    """What others have taken meanwhile it does not take back before they have closed it."""
    made = sharing_cluster(hosts, 2)
    forget_overlaps(made)
    hang = faults.hanging(made.nodes[0])
    made.begin(hang)
    made.run(hang_ms * MILLISECOND)
    made.end(hang)
    made.settle()
    assert made.answering("lan:1") == [0]
    assert_one_at_a_time(made)


@pytest.mark.parametrize("hang_ms", [*range(100, 2500, 300), 5000])
def test_a_backup_that_hangs_and_then_preempts_by_what_waited(hang_ms: int) -> None:
    """The advertisement is old, the other's share is open."""
    made = sharing_cluster()
    cut = faults.powered_off(made.nodes[0])
    made.begin(cut)
    made.settle()
    made.end(cut)
    hang = faults.hanging(made.nodes[0])
    made.begin(hang)
    forget_overlaps(made)
    made.run(hang_ms * MILLISECOND)
    made.end(hang)
    made.settle()
    assert made.answering("lan:1") == [0]
    assert_one_at_a_time(made)


@pytest.mark.parametrize("late_us", [200, 1100, 2100, 3100, 5000, 7000, 9000])
@pytest.mark.parametrize("late", [1, 2])
@pytest.mark.parametrize("hosts", [3, 4])
def test_one_of_those_that_are_called_is_late(hosts: int, late: int, late_us: int) -> None:
    """It hears the old master yield to another one that has taken over as well, and must not take that for its word."""
    made = sharing_cluster(hosts, 2, step=50)
    forget_overlaps(made)
    demotion, hang = faults.demoted(made.nodes[0], "edge", 1), faults.hanging(made.nodes[late])
    made.begin(demotion)
    made.begin(hang)
    made.run(late_us * MICROSECOND)
    made.end(hang)
    made.run(5 * SECOND)
    made.end(demotion)
    made.settle()
    assert_one_at_a_time(made)


def test_the_same_order_twice_in_an_interval() -> None:
    """The better master answers each time, before the other one opens."""
    made = sharing_cluster()
    forget_overlaps(made)
    for _ in range(5):
        made.begin(faults.forced(made.nodes[1], "lan:1", CarpState.MASTER))
        made.run(50 * MILLISECOND)
        assert_one_at_a_time(made)
        assert made.masters("lan:1") == [0]


@pytest.mark.parametrize("backlog", range(5))
def test_a_backlog_is_read_before_a_dead_master_is_replaced(backlog: int) -> None:
    """While the next best host hung the one after it has taken over: of that it reads last.

    In between are other advertisements, by which it knows that its own master-down time was over.
    """
    made = sharing_cluster(4, 2, step=50)
    forget_overlaps(made)
    made.run(SECOND // 4)
    made.begin(faults.reconfigured(made.nodes[1], "lan:2"))  # it advertises now, and in whole seconds from now
    hang = faults.hanging(made.nodes[3])
    made.begin(hang)
    made.run(backlog * SECOND // 2)
    made.begin(faults.powered_off(made.nodes[0]))
    run_until(made, "lan:1", [2], 5 * SECOND)
    made.run(SECOND // 8)
    made.end(hang)
    made.settle()
    assert made.answering("lan:1") == [3]
    assert_one_at_a_time(made)


# Any order


KINDS: list[Callable[[Node, random.Random], Fault]] = [
    lambda node, rng: faults.killed(node),
    lambda node, rng: faults.powered_off(node),
    lambda node, rng: faults.stopped(node),
    lambda node, rng: faults.hanging(node),
    lambda node, rng: faults.sends_fail(node, ENOBUFS),
    lambda node, rng: faults.takes_fail(node),
    lambda node, rng: faults.link_lost(node, "eth0"),
    lambda node, rng: faults.interface_removed(node, "eth0"),
    lambda node, rng: faults.demoted(node, "edge", rng.choice((1, 32))),
    lambda node, rng: faults.forced(node, "lan:1", CarpState.BACKUP),
    lambda node, rng: faults.reconfigured(node, "lan:2"),
]
"""All but losses and cuts: who does not hear a master is a second one."""


@pytest.mark.parametrize("seed", range(40))
def test_one_thing_after_the_other(seed: int) -> None:
    """A fault every few seconds, and each is over before the next one."""
    rng = random.Random(seed)
    quality = Quality(delay_ns=rng.choice((100, 1000)) * MICROSECOND, jitter_ns=0, duplication=0.0, reordering=False)
    lateness = rng.choice((0, 7 * MILLISECOND))
    made = sharing_cluster(rng.randint(2, 4), 2, quality=quality, seed=seed, lateness_ns=lateness)
    forget_overlaps(made)
    for _ in range(3):
        happening = rng.choice(KINDS)(rng.choice(made.nodes), rng)
        made.begin(happening)
        made.run(int(SECOND * rng.choice((0.001, 0.02, 0.3, 1.1, 3.2, 4, 9))))
        made.end(happening)
        made.run(rng.randint(0, 5 * SECOND))
    made.settle()
    assert_one_at_a_time(made)


# A host that is broken on purpose is found out


def opens_at_once(patch: pytest.MonkeyPatch) -> None:
    """Before its predecessor has closed."""
    patch.setattr(Share, "wait", lambda *_: None)


def opens_by_any_word(patch: pytest.MonkeyPatch) -> None:
    """Even by one that was for somebody else."""
    patch.setattr(Share, "yielded", lambda share, _: share.waits)


def never_opens(patch: pytest.MonkeyPatch) -> None:
    def close(host: VirtualHost) -> list[Any]:
        host._share.end_wait()
        return []

    patch.setattr(VirtualHost, "_open", close)


def keeps_its_share(patch: pytest.MonkeyPatch) -> None:
    """While it bows out or yields: it closes when its predecessor would."""
    original = VirtualHost._step_down

    def step_down(host: VirtualHost, bow_out: bool) -> list[Any]:
        return [effect for effect in original(host, bow_out) if not isinstance(effect, SurrenderLease)]

    patch.setattr(VirtualHost, "_step_down", step_down)


def says_so_before_it_closes(patch: pytest.MonkeyPatch) -> None:
    """And is interrupted in between, for as long as a bow-out takes to be obeyed."""
    original = Node._perform

    def perform(node: Node, effect: Any) -> Any:
        if isinstance(effect, SurrenderLease) and node.engine and not node.engine.stopped:
            node._world.after(YIELD_LIMIT_NS + 2 * DELAY, lambda: node.kernel.surrender(effect.host))
            return None
        return original(node, effect)

    patch.setattr(Node, "_perform", perform)


def releases_the_addresses_of_all(patch: pytest.MonkeyPatch) -> None:
    original = VirtualHost._step_down

    def step_down(host: VirtualHost, bow_out: bool) -> list[Any]:
        effects = [effect for effect in original(host, bow_out) if not isinstance(effect, ReleaseAddresses)]
        return [*effects, ReleaseAddresses(host.config.name, host.config.addresses)] if effects else []

    patch.setattr(VirtualHost, "_step_down", step_down)


def keeps_the_addresses_for_ever(patch: pytest.MonkeyPatch) -> None:
    original = VirtualHost._step_down

    def step_down(host: VirtualHost, bow_out: bool) -> list[Any]:
        return [effect for effect in original(host, bow_out) if not isinstance(effect, ReleaseAddresses)]

    patch.setattr(VirtualHost, "_step_down", step_down)


def believes_that_it_was_never_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualHost, "_close_what_has_lapsed", lambda *_: [])


def counts_from_the_frame(patch: pytest.MonkeyPatch) -> None:
    original = Share.wait

    def wait(share: Share, now: int, last_heard: Heard | None) -> None:
        original(share, now, last_heard)
        share.waits_until, share._clock_was_asked = now + YIELD_LIMIT_NS, True

    patch.setattr(Share, "wait", wait)


def answers_once_an_interval(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("carpd.carp.virtual_host.ANSWER_AGAIN_NS", SECOND)


def takes_over_from_who_is_about_to_yield(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BetterMasters, "outrank", lambda *_: False)


def believes_its_timer_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("carpd.carp.virtual_host.UNREAD_LIMIT_NS", 10**18)


Test = Callable[[], None]
BROKEN: dict[Callable[[pytest.MonkeyPatch], None], tuple[Test, str]] = {
    opens_at_once: (test_the_word_opens_at_once, "so many answered"),
    opens_by_any_word: (lambda: test_one_of_those_that_are_called_is_late(3, 2, 3100), "so many answered"),
    never_opens: (test_a_lost_word, "nobody answers"),
    keeps_its_share: (test_a_lost_word, "would answer"),
    says_so_before_it_closes: (test_a_lost_word, "would answer"),
    releases_the_addresses_of_all: (
        test_one_host_has_all_shares_and_the_addresses_until_the_last_one_goes,
        "MASTER for",
    ),
    keeps_the_addresses_for_ever: (test_a_lost_link_takes_all, "would answer"),
    believes_that_it_was_never_late: (lambda: test_a_master_that_hangs_for_any_time(2, 20_000), "so many answered"),
    counts_from_the_frame: (
        lambda: test_a_backup_that_hangs_and_then_preempts_by_what_waited(1900),
        "so many answered",
    ),
    answers_once_an_interval: (test_the_same_order_twice_in_an_interval, "so many answered"),
    takes_over_from_who_is_about_to_yield: (lambda: test_a_demotion_calls_all(4), "so many answered"),
    believes_its_timer_at_once: (
        lambda: test_a_backlog_is_read_before_a_dead_master_is_replaced(0),
        "so many answered",
    ),
}


@pytest.mark.parametrize(("break_it", "broken"), BROKEN.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_a_broken_host_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None], broken: tuple[Test, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test, found = broken
    test()
    break_it(monkeypatch)
    with pytest.raises((AssertionError, ViolationError), match=found):
        test()
