"""The frame by which hosts tell each other how they share traffic. Its digests were made by openssl."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire.sharing_probe import ETHERTYPE, SharingProbe

HEAD = "636172706401"  # "carpd", version 1

# printf 'carpd\1\2\2\1\2' | openssl dgst -sha1 -hmac secret
WIRE = {
    "two nodes, ip": (
        SharingProbe(2, b"\x01\x02"),
        b"secret",
        "02 02 0102",
        "bca5174ea56b25c40add4ea8d31da8ff369d98ef",
    ),
    "32 nodes, arp": (
        SharingProbe(1, bytes(range(224, 256))),
        b"nineteen characters",
        "01 20 e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "622cfb218f2ec5f0f9f0f2602f6148978ea09fcf",
    ),
    "without a password": (SharingProbe(4, b"\x05\x09"), b"", "04 02 0509", "4d2bdc39856bc055b71c0e41da78c475fc3fcc25"),
    "an unknown mode and no nodes": (
        SharingProbe(255, b""),
        b"secret",
        "ff 00",
        "dcae3e78f20f55bd4998be0d182b52953af121e2",
    ),
}


@pytest.mark.parametrize(("probe", "key", "body", "digest"), WIRE.values(), ids=WIRE)
def test_wire(probe: SharingProbe, key: bytes, body: str, digest: str) -> None:
    data = bytes.fromhex(HEAD + body + digest)
    assert probe.to_bytes(key) == data
    assert SharingProbe.from_bytes(data) == probe
    assert probe.is_authentic(data, key)


def test_an_ethertype_for_experiments() -> None:
    assert ETHERTYPE == 0x88B5


probes = st.builds(SharingProbe, st.integers(0, 255), st.binary(max_size=255))
keys = st.binary(max_size=19)


@given(probes, keys, st.binary(max_size=40))
def test_round_trip_ignores_padding(probe: SharingProbe, key: bytes, padding: bytes) -> None:
    data = probe.to_bytes(key) + padding
    assert SharingProbe.from_bytes(data) == probe
    assert probe.is_authentic(data, key)


@given(probes, keys, keys)
def test_only_with_the_password(probe: SharingProbe, key: bytes, other: bytes) -> None:
    """Zeros at its end are no other password: HMAC fills it up with them."""
    same = key.ljust(20, b"\0") == other.ljust(20, b"\0")
    assert probe.is_authentic(probe.to_bytes(key), other) is same


@given(probes, keys, st.data())
def test_every_bit_is_signed(probe: SharingProbe, key: bytes, data: st.DataObject) -> None:
    changed = bytearray(probe.to_bytes(key))
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(DecodeError):
        assert not SharingProbe.from_bytes(bytes(changed)).is_authentic(bytes(changed), key)


GOOD = SharingProbe(2, b"\x01\x02").to_bytes(b"secret")
REFUSED = {
    "empty": (b"", "does not begin like one"),
    "another beginning": (b"x" + GOOD[1:], "does not begin like one"),
    "another version": (GOOD[:5] + b"\x02" + GOOD[6:], "does not begin like one"),
    "the head alone": (GOOD[:6], "does not begin like one"),
    "without a number of nodes": (GOOD[:7], "does not begin like one"),
    "without nodes": (GOOD[:8], "need 30 bytes, got 8"),
    "cut": (GOOD[:-1], "need 30 bytes, got 29"),
    "more nodes than there are": (GOOD[:7] + b"\x03" + GOOD[8:], "need 31 bytes, got 30"),
}


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=f"sharing probe: .*{why}"):
        SharingProbe.from_bytes(data)


def test_cut_short_anywhere() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(DecodeError):
            SharingProbe.from_bytes(GOOD[:size])
        assert not SharingProbe(2, b"\x01\x02").is_authentic(GOOD[:size], b"secret")


@given(st.binary(max_size=300))
def test_anything(data: bytes) -> None:
    for begin in (b"", GOOD[:6]):
        with contextlib.suppress(DecodeError):
            SharingProbe.from_bytes(begin + data).is_authentic(begin + data, b"secret")
