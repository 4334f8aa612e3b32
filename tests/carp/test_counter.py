"""The counter in every advertisement. Ref: spec carp §5."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from carpd.carp.counter import CounterSequence
from carpd.events import CarpState, Family
from tests.carp.harness import Node, host_config, sent

counters = st.integers(0, 2**64 - 1)


def test_random_until_a_peer_is_heard_then_the_peers_value_and_one_more_each() -> None:
    sequence = CounterSequence(1)
    random = [sequence.next() for _ in range(100)]
    assert len(set(random)) == 100
    assert all(b != a + 1 for a, b in pairwise(random))
    sequence.heard(41)
    assert [sequence.next() for _ in range(3)] == [42, 43, 44]
    sequence.heard(7)
    assert sequence.next() == 8, "lower than before: growth is never demanded"


def test_splitmix64() -> None:
    """The first values for seed 0, as published with Java's SplittableRandom and xoshiro."""
    sequence = CounterSequence(0)
    assert [sequence.next() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(counters, st.integers())
def test_64_bits(heard: int, seed: int) -> None:
    sequence = CounterSequence(seed)
    assert 0 <= sequence.next() < 2**64
    sequence.heard(heard)
    assert sequence.next() == (heard + 1) % 2**64


@given(counters)
def test_two_seeds_in_a_row_have_nothing_in_common(seed: int) -> None:
    """Virtual hosts of one node are seeded with consecutive numbers."""
    one, two = CounterSequence(seed), CounterSequence(seed + 1)
    assert not {one.next() for _ in range(64)} & {two.next() for _ in range(64)}


def test_ours_are_those_sent_lately() -> None:
    sequence = CounterSequence(1)
    first = sequence.next()
    sequence.heard(1_000)
    assert sequence.is_ours(first)
    assert not sequence.is_ours(1_000)
    for _ in range(64):
        sequence.next()
    assert not sequence.is_ours(first), "memory has a limit"
    assert sequence.is_ours(1_064)


def test_each_family_has_its_own_and_a_peers_value_is_taken_over() -> None:
    node = Node.master()
    first, second = (message.counter for message in sent(node.expire()))
    assert first != second
    node.hear(Family.IPV6, advskew=200, counter=5_000)  # a worse master: answered at once
    assert [effect.message.counter for effect in node.contract.sent[-2:]] == [5_001, 5_002]
    assert [message.counter for message in sent(node.expire())] == [5_003, 5_004]


def test_it_is_taken_over_in_init_too() -> None:
    node = Node(host_config(), prepared=False)
    node.hear(advskew=200, counter=70)
    assert node.state is CarpState.INIT
    assert node.host._sequence.next() == 71


def test_an_unauthentic_one_is_not_taken_over() -> None:
    node = Node.master()
    node.configs = (host_config(key=b"another"),)
    node.hear(advskew=200, counter=70)
    assert 71 not in [message.counter for message in sent(node.expire())]
