"""What is said of a flow beside its state: the bytes of each attribute, and malformed ones. Ref: spec pfsync §12.8."""

from __future__ import annotations

import pytest

from carpd.pfsync.mapping import Unmappable, from_state, to_attributes, to_state
from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    EXPECTED,
    FIXED_TIMEOUT,
    SCTP,
    SEEN_REPLY,
    TCP,
    ConntrackEntry,
    FlowTuple,
    SctpState,
    SequenceAdjustment,
    TcpState,
)
from carpd.wire.pfsync.attributes import AttributeType, LinuxAttributes
from tests.pfsync.strategies import conveyed
from tests.wire.pfsync.examples import FIRST

CLIENT, SERVER = bytes([192, 0, 2, 10]), bytes([198, 51, 100, 10])
CLIENT6, SERVER6 = bytes.fromhex("20010db8000100000000000000000010"), bytes.fromhex("20010db8000200000000000000000010")
ENTRY = ConntrackEntry(
    CLIENT, SERVER, TCP, 40000, 21, SERVER, CLIENT, 21, 40000,
    status=CONFIRMED | SEEN_REPLY | ASSURED, timeout=60, state=TcpState.ESTABLISHED,
    original_scale=7, reply_scale=8, original_flags=3, reply_flags=3,
)  # fmt: skip
ENTRY6 = ENTRY._replace(source=CLIENT6, destination=SERVER6, reply_source=SERVER6, reply_destination=CLIENT6)
ASSOCIATION = ENTRY._replace(
    protocol=SCTP, state=SctpState.SHUTDOWN_SENT, original_scale=0, reply_scale=0, original_flags=0, reply_flags=0,
    original_tag=0x01020304, reply_tag=0x05060708,
)  # fmt: skip
MASTER, MASTER6 = FlowTuple(CLIENT, SERVER, TCP, 40000, 21), FlowTuple(CLIENT6, SERVER6, TCP, 40000, 21)
LABELS = bytes(range(16))

VALUES = {
    "zone": (ENTRY._replace(zone=7), AttributeType.ZONE, "0007 0000 0000"),
    "original zone": (ENTRY._replace(original_zone=7), AttributeType.ZONE, "0000 0007 0000"),
    "reply zone": (ENTRY._replace(reply_zone=7), AttributeType.ZONE, "0000 0000 0007"),
    "mark": (ENTRY._replace(mark=0x2A), AttributeType.MARK, "0000002a"),
    "labels": (ENTRY._replace(labels=LABELS), AttributeType.LABELS, LABELS.hex()),
    "helper": (ENTRY._replace(helper="ftp"), AttributeType.HELPER, "667470"),
    "master": (
        ENTRY._replace(master=MASTER, status=ENTRY.status | EXPECTED),
        AttributeType.MASTER_TUPLE,
        "c000020a c633640a 06 9c40 0015",
    ),
    "master, IPv6": (
        ENTRY6._replace(master=MASTER6, status=ENTRY.status | EXPECTED),
        AttributeType.MASTER_TUPLE,
        f"{CLIENT6.hex()} {SERVER6.hex()} 06 9c40 0015",
    ),
    "original adjustment": (
        ENTRY._replace(original_adjustment=SequenceAdjustment(1, 2, 0xFFFFFFFD)),
        AttributeType.SEQ_ADJUST_ORIG,
        "00000001 00000002 fffffffd",
    ),
    "reply adjustment": (
        ENTRY._replace(reply_adjustment=SequenceAdjustment(1, 2, 3)),
        AttributeType.SEQ_ADJUST_REPLY,
        "00000001 00000002 00000003",
    ),
    "an established connection that was never answered": (
        ENTRY._replace(status=CONFIRMED),
        AttributeType.STATUS,
        "00000000",
    ),
    "fixed timeout": (ENTRY._replace(status=ENTRY.status | FIXED_TIMEOUT), AttributeType.STATUS, "00000406"),
    "no selective acknowledgements": (ENTRY._replace(reply_flags=1), AttributeType.TCP_FLAGS, "07 08 03 01"),
    "the other end closed first": (
        ENTRY._replace(state=TcpState.TIME_WAIT, reply_flags=3 | CLOSE_INIT),
        AttributeType.TCP_FLAGS,
        "07 08 03 07",
    ),
    "scales beyond those that are allowed": (ENTRY._replace(reply_scale=20), AttributeType.TCP_FLAGS, "07 14 03 03"),
    "SCTP": (ASSOCIATION, AttributeType.CONNTRACK_STATE, "05 01020304 05060708"),
}


@pytest.mark.parametrize(("entry", "kind", "text"), VALUES.values(), ids=VALUES)
def test_values(entry: ConntrackEntry, kind: AttributeType, text: str) -> None:
    attributes = to_attributes(FIRST, entry)
    assert attributes == LinuxAttributes(FIRST, ((kind, bytes.fromhex(text)),))
    state = to_state(FIRST, entry)
    assert state is not None
    assert from_state(state, attributes, 60) == conveyed(entry)


def given_to(entry: ConntrackEntry, kind: int, value: bytes) -> ConntrackEntry:
    state = to_state(FIRST, entry)
    assert state is not None
    return from_state(state, LinuxAttributes(FIRST, ((kind, value),)), 60)


MALFORMED = {
    "two zones": (ENTRY, AttributeType.ZONE, "0007 0007 0000"),
    "helper without a name": (ENTRY, AttributeType.HELPER, ""),
    "helper with a long name": (ENTRY, AttributeType.HELPER, "61" * 16),
    "helper with a zero in its name": (ENTRY, AttributeType.HELPER, "6100"),
    "helper of no ASCII": (ENTRY, AttributeType.HELPER, "c3a4"),
    "master of the other family": (ENTRY6, AttributeType.MASTER_TUPLE, "c000020a c633640a 06 9c40 0015"),
    "unknown state of SCTP": (ASSOCIATION, AttributeType.CONNTRACK_STATE, "09 01020304 05060708"),
    "flags of no TCP": (ASSOCIATION, AttributeType.TCP_FLAGS, "07 08 03 03"),
    "state of no SCTP": (ENTRY, AttributeType.CONNTRACK_STATE, "05 01020304 05060708"),
}
for name, (of, kind_, text_) in VALUES.items():
    if kind_ != AttributeType.HELPER:
        MALFORMED |= {f"{name}, short": (of, kind_, text_[:-2]), f"{name}, long": (of, kind_, text_ + "00")}


@pytest.mark.parametrize(("entry", "kind", "text"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(entry: ConntrackEntry, kind: AttributeType, text: str) -> None:
    with pytest.raises(Unmappable) as refused:
        given_to(entry, kind, bytes.fromhex(text))
    assert refused.value.counter == "badval"


@pytest.mark.parametrize("kind", [AttributeType.SYNPROXY, AttributeType.START_TIME, 99])
def test_others_are_a_newer_sender_s(kind: int) -> None:
    assert given_to(ENTRY, kind, b"whatever") == ENTRY


def test_bits_that_are_not_ours_to_set_are_ignored() -> None:
    assert given_to(ENTRY, AttributeType.STATUS, b"\xff\xff\xff\xff").status == ENTRY.status | FIXED_TIMEOUT
    assert given_to(ENTRY, AttributeType.TCP_FLAGS, b"\x07\x08\xff\xff").original_flags == 0x07
