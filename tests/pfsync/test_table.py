"""The table of states, against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.table import (
    BUCKETS,
    BUCKETS_A_GROUP,
    GROUPS,
    Record,
    StateTable,
    bucket_of,
    checksum,
    pack_record,
    unpack_record,
)

OURS, THEIRS = b"\x55" * 4, b"\x0a" * 4

_keys = st.sampled_from([b"one flow", b"another", b"a third"])
_identities = st.builds(
    lambda number, creator: number.to_bytes(8, "big") + creator,
    st.sampled_from([2, 4, 2 * BUCKETS, 2 * BUCKETS + 2, 2**64 - 2]),
    st.sampled_from([OURS, THEIRS]),
)
_records = st.builds(
    Record,
    _identities,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


def table_of(records: dict[bytes, Record]) -> StateTable:
    table = StateTable()
    for key, record in records.items():
        table.add(key, record.identity, pack_record(*record))
    return table


@given(_records)
def test_records(record: Record) -> None:
    assert unpack_record(pack_record(*record)) == record


@given(st.lists(st.tuples(_keys, _records | st.none()), max_size=20))
def test_it_holds_what_was_put_into_it(changes: list[tuple[bytes, Record | None]]) -> None:
    """Both ways; and its sums are those of a table that never had anything else."""
    table, model = StateTable(), dict[bytes, Record]()
    for key, record in changes:
        if record is None:
            known = model.pop(key, None)
            assert table.remove(key) == (known.identity if known else None)
        elif all(other == key or known.identity != record.identity for other, known in model.items()):
            if key in model:
                table.put(key, pack_record(*record))
            else:
                table.add(key, record.identity, pack_record(*record))
            model[key] = record
        assert {key: unpack_record(data) for key, data in table.records.items()} == model
        assert len(table) == len(model)
        identities = {record.identity: key for key, record in model.items()}
        assert {identity: table.key_of(identity) for identity in identities} == identities
        listed = [state for bucket in range(BUCKETS) for state in table.bucket(bucket)]
        assert sorted(listed) == sorted((known.identity, checksum(pack_record(*known))) for known in model.values())
        for creator in (OURS, THEIRS):
            created = {key for key, known in model.items() if known.identity[8:] == creator}
            assert set(table.created_by(creator)) == created
    assert table.group_sums() == table_of(model).group_sums()


@given(st.lists(_records, unique_by=lambda record: record.identity, max_size=8))
def test_sums(records: list[Record]) -> None:
    """A group's is the sum of its buckets', a bucket's that of its states; the kernel's numbers don't count."""
    table = table_of({record.identity: record for record in records})
    for group in range(GROUPS):
        assert table.group_sums()[group] == sum(table.bucket_sums(group))
    for record in records:
        bucket = bucket_of(record.identity)
        found = table.bucket_sums(bucket // BUCKETS_A_GROUP)[bucket % BUCKETS_A_GROUP]
        assert found == sum(checksum for _, checksum in table.bucket(bucket))
    renumbered = table_of({record.identity: record._replace(number=7) for record in records})
    assert renumbered.group_sums() == table.group_sums()


def test_ids_in_a_row_fill_all_buckets() -> None:
    """Ours are even."""
    identities = [number.to_bytes(8, "big") + OURS for number in range(1000, 1000 + 2 * BUCKETS, 2)]
    assert {bucket_of(identity) for identity in identities} == set(range(BUCKETS))


def test_a_new_number_is_no_change() -> None:
    record = Record(bytes(8) + OURS, 0x44, 1, 2, 3)
    table = table_of({b"flow": record})
    version, sums = table.version, table.group_sums()
    table.renumber(b"flow", pack_record(*record._replace(number=9)))
    assert (table.version, table.group_sums()) == (version, sums)
    assert unpack_record(table.records[b"flow"]).number == 9
