"""Finds out by digests where two tables differ, so that whatever was missed heals by itself.

A digest is sent in a numbered packet, behind every change that it covers: a peer that has all packets so far compares
what its table is at that very point. What differs is looked at more closely, down to single states, and those are
asked for; a few that are just changing are asked for in vain, which does no harm. All is bounded a round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from carpd.pfsync.table import BUCKETS, BUCKETS_A_GROUP, GROUPS, StateTable
from carpd.wire.pfsync.batches import AnyBatch, DigestRequests, Digests, Lists
from carpd.wire.pfsync.linux_messages import (
    ALL_GROUPS,
    BUCKET_LEVEL,
    GROUP_LEVEL,
    Digest,
    DigestRequest,
    Listed,
)
from carpd.wire.pfsync.messages import IDENTITY_SIZE

BUCKETS_A_ROUND = 1024
"""Buckets of a peer that are looked at for one of its digests."""
LISTED_A_ROUND = 40_000
"""States that we list for the peers between two of our digests: some 700 packets."""

_NONE = bytes(IDENTITY_SIZE)


class AntiEntropy:
    """One node's side of it."""

    def __init__(self, creator_id: bytes, table: StateTable) -> None:
        self._creator_id = creator_id
        self._table = table
        self._lists: dict[tuple[bytes, int], dict[bytes, int]] = {}
        """Lists that are coming in, by peer and bucket."""
        self._buckets_left: dict[bytes, int] = {}
        """How many more buckets of each peer may be looked at in this round."""
        self._listed_left = 0

    def digest(self) -> Digests:
        """What is sent to all, once a round."""
        self._listed_left = LISTED_A_ROUND
        return Digests([Digest(self._creator_id, ALL_GROUPS, self._table.group_sums())])

    def differing_groups(self, digest: Digest) -> list[int]:
        """The groups in which a peer's table differs from ours."""
        return _differing(self._table.group_sums(), digest.sums)

    def begin_round(self, peer: bytes) -> None:
        """Whatever was not finished in the last round is given up."""
        self._buckets_left[peer] = BUCKETS_A_ROUND
        for listed in [place for place in self._lists if place[0] == peer]:
            del self._lists[listed]

    def forget(self, peer: bytes) -> None:
        self.begin_round(peer)
        del self._buckets_left[peer]

    def ask_groups(self, peer: bytes, groups: Iterable[int]) -> DigestRequests:
        return DigestRequests([DigestRequest(peer, GROUP_LEVEL, group) for group in groups])

    def compare_group(self, digest: Digest) -> list[AnyBatch]:
        """The digest of a group has come: ask for the lists of the buckets that differ."""
        if digest.group >= GROUPS:
            return []
        left = self._buckets_left.get(digest.creator_id, 0)
        different = _differing(self._table.bucket_sums(digest.group), digest.sums)[:left]
        if not different:
            return []
        self._buckets_left[digest.creator_id] = left - len(different)
        first = digest.group * BUCKETS_A_GROUP
        for bucket in different:
            self._lists[digest.creator_id, first + bucket] = {}
        return [
            DigestRequests([DigestRequest(digest.creator_id, BUCKET_LEVEL, first + bucket) for bucket in different])
        ]

    def answer(self, requests: Sequence[DigestRequest]) -> Iterator[AnyBatch]:
        """Digests and lists that a peer asks us for."""
        for request in requests:
            if request.creator_id != self._creator_id:
                continue
            if request.level == GROUP_LEVEL and request.number < GROUPS:
                sums = self._table.bucket_sums(request.number)
                yield Digests([Digest(self._creator_id, request.number, sums)])
            elif request.level == BUCKET_LEVEL and request.number < BUCKETS and self._listed_left > 0:
                states = list(self._table.bucket(request.number))
                self._listed_left -= 1 + len(states)
                total = len(states)
                yield Lists([Listed(self._creator_id, request.number, total, *s) for s in states or [(_NONE, 0)]])

    def listed(self, messages: Iterable[Listed], *, trusted: bool) -> list[bytes]:
        """Parts of lists that we asked for have come: the states to be asked for, of those lists that are whole now.

        What we have and the peer has not is asked for only if the peer is `trusted` to know that it has ended.
        """
        wanted: list[bytes] = []
        for creator_id, bucket, total, identity, checksum in messages:
            place = creator_id, bucket
            theirs = self._lists.get(place)
            if theirs is None:
                continue
            if total > LISTED_A_ROUND:  # nobody lists so many at once
                del self._lists[place]
                continue
            if total:
                theirs[identity] = checksum
            if len(theirs) < total:
                continue
            del self._lists[place]
            ours = dict(self._table.bucket(bucket))
            wanted += [identity for identity, checksum in theirs.items() if ours.get(identity) != checksum]
            if trusted:
                wanted += [identity for identity in ours if identity not in theirs]
        return wanted


def _differing(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    return [i for i, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
