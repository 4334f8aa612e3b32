"""The short way says what the long way says, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync import mapping, ordinary
from carpd.pfsync.mapping import Unmappable
from carpd.pfsync.ordinary import OrdinaryReader, OrdinaryWriter
from carpd.wire import conntrack
from carpd.wire.conntrack import ConntrackEntry, TcpState
from carpd.wire.pfsync import v6
from tests.pfsync.strategies import entries, identities

CLIENT, SERVER, OUTSIDE = bytes([192, 0, 2, 10]), bytes([198, 51, 100, 10]), bytes([198, 51, 100, 1])
IDENTITY = bytes.fromhex("5f00000000000001 1a2b3c4d")
TCP = ConntrackEntry(
    CLIENT, SERVER, conntrack.TCP, 40000, 80, SERVER, OUTSIDE, 80, 40000,
    status=0x1E, timeout=432000, state=TcpState.ESTABLISHED,
    original_scale=7, reply_scale=8, original_flags=3, reply_flags=3,
)  # fmt: skip
UDP = ConntrackEntry(CLIENT, SERVER, conntrack.UDP, 40000, 53, SERVER, CLIENT, 53, 40000, status=8, timeout=30)

_READER, _WRITER = OrdinaryReader(), OrdinaryWriter()
"""The same for all examples: what they have learned of one must be right for the others."""


@pytest.mark.parametrize("entry", [TCP, UDP, UDP._replace(status=14, timeout=0), UDP._replace(timeout=None)])
def test_ordinary_states_take_the_short_way(entry: ConntrackEntry) -> None:
    for _ in range(2):
        written = OrdinaryWriter().write(IDENTITY, entry)
        state = mapping.to_state(IDENTITY, entry)
        assert state
        assert written == v6.encode_state(state)
        assert OrdinaryReader().read(written, 2_000_000) == (IDENTITY, mapping.from_state(state, None, 2_000_000))
        assert OrdinaryReader().read(written, None) == (IDENTITY, mapping.from_state(state))


@given(identities, entries())
def test_writing(identity: bytes, entry: ConntrackEntry) -> None:
    whole = mapping.to_whole(identity, entry)
    written = _WRITER.write(identity, entry)
    if written is not None:
        assert whole
        assert whole[1] is None
        assert written == v6.encode_state(whole[0])


@given(identities, entries(), st.none() | st.integers(1, 2_000_000))
def test_reading(identity: bytes, entry: ConntrackEntry, timeout: int | None) -> None:
    state = mapping.to_state(identity, entry)
    if state is not None:
        read = _READER.read(v6.encode_state(state), timeout)
        assert read is None or read == (identity, mapping.from_state(state, None, timeout))


@given(st.data())
def test_reading_anything(data: st.DataObject) -> None:
    """A valid state with some bytes changed: what can't be mapped is never read."""
    state = mapping.to_state(IDENTITY, data.draw(st.sampled_from([TCP, UDP])))
    assert state
    changed = bytearray(v6.encode_state(state))
    for place in data.draw(st.lists(st.integers(0, 263), max_size=3)):
        changed[place] = data.draw(st.integers(0, 255))
    read = _READER.read(bytes(changed), 60)
    decoded = v6.decode_state(bytes(changed))
    try:
        entry = mapping.from_state(decoded, None, 60)
    except Unmappable:
        assert read is None
    else:
        assert read is None or read == (decoded.identity, entry)


def test_what_is_learned_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordinary, "_KNOWN_MAX", 3)
    reader, writer = OrdinaryReader(), OrdinaryWriter()
    for scale in range(9):
        entry = TCP._replace(original_scale=scale)
        written = writer.write(IDENTITY, entry)
        assert written
        assert reader.read(written, 60) == (IDENTITY, mapping.from_state(v6.decode_state(written), None, 60))
