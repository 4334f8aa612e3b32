"""Digests: two tables find out where they differ, and ask for just that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.anti_entropy import BUCKETS_A_ROUND, LISTED_A_ROUND, AntiEntropy
from carpd.pfsync.table import BUCKETS, BUCKETS_A_GROUP, GROUPS, StateTable, bucket_of, pack_record
from carpd.wire.pfsync.batches import AnyBatch, DigestRequests, Digests, Lists
from carpd.wire.pfsync.linux_messages import (
    ALL_GROUPS,
    BUCKET_LEVEL,
    GROUP_LEVEL,
    Digest,
    DigestRequest,
    Listed,
)

OURS, THEIRS = b"\x55" * 4, b"\x0a" * 4


def identity(number: int) -> bytes:
    return (2 * number).to_bytes(8, "big") + OURS


def table_of(states: dict[int, int]) -> StateTable:
    """States by number, and their levels."""
    table = StateTable()
    for number, levels in states.items():
        table.add(b"flow %d" % number, identity(number), pack_record(identity(number), levels, 0, 0, 0))
    return table


class Conversation:
    """We compare what a peer's digest says; every message of both comes at once."""

    def __init__(self, ours: StateTable, theirs: StateTable) -> None:
        self.us, self.peer = AntiEntropy(OURS, ours), AntiEntropy(THEIRS, theirs)
        self.sent = 0
        """Messages of both."""

    def round(self, *, trusted: bool = True) -> set[bytes]:
        """What we ask the peer for, because of one of its digests."""
        wanted: set[bytes] = set()
        (digest,) = self.peer.digest().messages
        groups = self.us.differing_groups(digest)
        self.us.begin_round(THEIRS)
        requests: list[AnyBatch] = [self.us.ask_groups(THEIRS, groups)]
        while requests:
            batch = requests.pop()
            assert isinstance(batch, DigestRequests)
            self.sent += batch.count
            for answer in self.peer.answer(batch.messages):
                self.sent += answer.count
                if isinstance(answer, Digests):
                    requests += [found for digest in answer.messages for found in self.us.compare_group(digest)]
                elif isinstance(answer, Lists):
                    wanted.update(self.us.listed(answer.messages, trusted=trusted))
        return wanted


_STATES = st.dictionaries(st.integers(0, 3 * BUCKETS), st.integers(0, 2), max_size=40)


@given(_STATES, _STATES, st.booleans())
def test_exactly_what_differs_is_asked_for(ours: dict[int, int], theirs: dict[int, int], trusted: bool) -> None:
    conversation = Conversation(table_of(ours), table_of(theirs))
    differ = {number for number in ours.keys() | theirs.keys() if ours.get(number) != theirs.get(number)}
    if not trusted:
        differ -= ours.keys() - theirs.keys()
    assert conversation.round(trusted=trusted) == {identity(number) for number in differ}


def test_equal_tables_say_no_more() -> None:
    states = dict.fromkeys(range(1000), 0x44)
    conversation = Conversation(table_of(states), table_of(states))
    assert conversation.round() == set()
    assert conversation.sent == 0


def test_one_difference_among_many_costs_little() -> None:
    states = dict.fromkeys(range(3 * BUCKETS), 0x44)
    conversation = Conversation(table_of(states), table_of(states | {777: 0x74}))
    assert conversation.round() == {identity(777)}
    assert conversation.sent <= 2 + 2 + 3


def test_a_round_looks_at_so_many_buckets() -> None:
    """The rest waits for the next one."""
    theirs = dict.fromkeys(range(0, BUCKETS, 2), 0x44)
    conversation = Conversation(StateTable(), table_of(theirs))
    assert len(conversation.round()) == BUCKETS_A_ROUND < len(theirs)


def test_whoever_is_asked_lists_so_many() -> None:
    states = table_of(dict.fromkeys(range(2 * LISTED_A_ROUND), 0x44))
    peer = AntiEntropy(THEIRS, states)
    peer.digest()
    requests = [DigestRequest(THEIRS, BUCKET_LEVEL, number) for number in range(BUCKETS)]
    a_bucket = 2 * LISTED_A_ROUND // BUCKETS + 1
    listed = sum(batch.count for _ in range(2) for batch in peer.answer(requests))
    assert 0.9 * LISTED_A_ROUND <= listed <= LISTED_A_ROUND + a_bucket
    assert list(peer.answer(requests)) == []
    peer.digest()
    assert list(peer.answer(requests[:1])), "the next round is another one"


@pytest.mark.parametrize(
    "request_",
    [
        DigestRequest(OURS, GROUP_LEVEL, 0),
        DigestRequest(THEIRS, GROUP_LEVEL, GROUPS),
        DigestRequest(THEIRS, BUCKET_LEVEL, BUCKETS),
        DigestRequest(THEIRS, GROUP_LEVEL, ALL_GROUPS),
        DigestRequest(THEIRS, 2, 0),
    ],
    ids=["another's", "no such group", "no such bucket", "all groups", "no such level"],
)
def test_what_is_not_answered(request_: DigestRequest) -> None:
    peer = AntiEntropy(THEIRS, table_of({1: 0x44}))
    peer.digest()
    assert list(peer.answer([request_])) == []


@pytest.mark.parametrize("group", [GROUPS, ALL_GROUPS - 1])
def test_digests_of_no_group(group: int) -> None:
    us = AntiEntropy(OURS, StateTable())
    us.begin_round(THEIRS)
    assert us.compare_group(Digest(THEIRS, group, (1,) * BUCKETS_A_GROUP)) == []


def test_nobody_compares_what_was_not_announced() -> None:
    """No digest of all groups has come before."""
    us = AntiEntropy(OURS, StateTable())
    assert us.compare_group(Digest(THEIRS, 0, (1,) * BUCKETS_A_GROUP)) == []


def listed(number: int, total: int, checksum: int = 1) -> Listed:
    return Listed(THEIRS, bucket_of(identity(number)), total, identity(number), checksum)


def asked() -> AntiEntropy:
    """It waits for the list of bucket 0."""
    us = AntiEntropy(OURS, StateTable())
    us.begin_round(THEIRS)
    us.compare_group(Digest(THEIRS, 0, (1,) + (0,) * (BUCKETS_A_GROUP - 1)))
    return us


def test_a_list_may_come_in_parts_and_in_any_order() -> None:
    us, parts = asked(), [listed(number, 3) for number in (2 * BUCKETS, 0, BUCKETS)]
    assert us.listed(parts[:1], trusted=True) == []
    assert us.listed(parts[:2], trusted=True) == [], "what comes twice counts once"
    assert set(us.listed(parts[2:], trusted=True)) == {part.identity for part in parts}
    assert us.listed(parts, trusted=True) == [], "it is done"


@pytest.mark.parametrize("over", ["another round", "the peer is lost", "it was never asked for"])
def test_lists_that_nobody_waits_for(over: str) -> None:
    us, number = asked(), 0
    if over == "another round":
        us.begin_round(THEIRS)
    elif over == "the peer is lost":
        us.forget(THEIRS)
    else:
        number = 1
    assert us.listed([listed(number, 1)], trusted=True) == []


def test_an_empty_list() -> None:
    """The peer has nothing where we have something: it has ended, if the peer is one who knows."""
    for trusted in (True, False):
        conversation = Conversation(table_of({5: 0x44}), StateTable())
        assert conversation.round(trusted=trusted) == ({identity(5)} if trusted else set())
