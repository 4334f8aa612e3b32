"""Packets of both versions: the examples of spec pfsync §14, and what wrong ones get (§2, §7.4)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.wire.pfsync import v5, v6
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import (
    AnyBatch,
    Attributes,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    CompressedUpdates,
    Deletes,
    DigestRequests,
    Digests,
    InsertAcknowledgements,
    Inserts,
    Lists,
    Reports,
    Resends,
    Sequences,
    Skipped,
    Tdbs,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.header import HEADER, SUBHEADER, PacketError
from carpd.wire.pfsync.linux_messages import (
    ALL_GROUPS,
    BUCKET_LEVEL,
    CARRYING,
    COMPLETE,
    EQUAL,
    GROUP_LEVEL,
    Digest,
    DigestRequest,
    Listed,
    PacketNumber,
    Report,
    Resend,
)
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, BulkStatus, Clear, CompressedUpdate
from carpd.wire.pfsync.numbers import Dialect
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import FreeBSDFields, PfFields
from carpd.wire.pfsync.tdb import Tdb
from tests.wire.pfsync.examples import (
    CREATOR,
    DST,
    FIRST,
    SECOND,
    SRC,
    STATE,
    U8,
    U16,
    U32,
    U64,
    identities,
    names,
    peers,
    states,
)

ZEROS = "00" * 16
OTHER = bytes.fromhex("5e6f7a8b")
INS = """
    06000120000000000000000000000000000000000d4200015f00000000000001
    616c6c000000000000000000000000000a000005000000000000000000000000
    c00002500000000000000000000000009c400050000002000a00000500000000
    0000000000000000c00002500000000000000000000000009c40005000000200
    0000000000000000000003e9000101d100000000ffff05b40487000000000000
    0000000000000000000013890001ffb900000000fe8805b40486000000000000
    00000000000000000000000000000000ffffffffffffffffffffffff0000005a
    00015176000000000000000c000000000000000a0000000000000d8000000000
    000134351a2b3c4d00000000ffffffff00000206010000020000000000020000"""
UPD_C = """
    0600006c00000000000000000000000000000000041500015f00000000000001
    0000000000000000000003e9000101d100000000ffff05b40487000000000000
    0000000000000000000013890001ffb900000000fe8805b40486000000000000
    1a2b3c4d0000000002000000"""
KEY = "0a000005000000000000000000000000 c0000250000000000000000000000000 9c400050"
FREEBSD_STATE = f"""
    5f00000000000001 616c6c00000000000000000000000000 {KEY} {KEY}
    0000000000000000000003e9000101d100000000ffff05b40487000000000000
    0000000000000000000013890001ffb900000000fe8805b40486000000000000
    {ZEROS} ffffffffffffffffffffffff 0000005a 00015176
    000000000000000c 000000000000000a 0000000000000d80 0000000000013435 1a2b3c4d"""
MADE_ON_EM1 = STATE._replace(pf=PfFields(freebsd=FreeBSDFields(original_interface="em1")))

WIRE = {
    "bulk request, OpenBSD": (
        Packet(6, [UpdateRequests([BULK_REQUEST])]),
        f"06000024 {ZEROS} 05030001 0000000000000000 00000000",
    ),
    "bulk request, FreeBSD": (
        Packet(5, [UpdateRequests([BULK_REQUEST])]),
        f"05000028 {ZEROS} 05000001 0000000000000000 00000000 0c000001",
    ),
    "BUS start": (
        Packet(6, [BulkStatuses([BulkStatus(CREATOR, 0, BULK_START)])]),
        f"06000024 {ZEROS} 0a030001 1a2b3c4d 00000000 01 000000",
    ),
    "BUS end": (
        Packet(6, [BulkStatuses([BulkStatus(CREATOR, 0, BULK_END)])]),
        f"06000024 {ZEROS} 0a030001 1a2b3c4d 00000000 02 000000",
    ),
    "CLR em0": (
        Packet(6, [Clears([Clear("em0", CREATOR)])]),
        f"0600002c {ZEROS} 00050001 656d3000 000000000000000000000000 1a2b3c4d",
    ),
    "INS_ACK + DEL_C": (
        Packet(6, [InsertAcknowledgements([SECOND]), CompressedDeletes([FIRST])]),
        f"06000034 {ZEROS} 02030001 5f00000000000002 1a2b3c4d 07030001 5f00000000000001 1a2b3c4d",
    ),
    "INS, OpenBSD": (Packet(6, [Inserts([STATE])]), INS),
    "INS, one record for both halves of a translated flow": (
        Packet(
            6, [Inserts([STATE._replace(stack=STATE.wire._replace(address0=bytes([198, 51, 100, 1]), port0=50000))])]
        ),
        INS.replace("000002000a00000500000000", "00000200c633640100000000").replace(
            "9c40005000000200\n", "c350005000000200\n"
        ),
    ),
    "UPD_C, OpenBSD": (Packet(6, [CompressedUpdates([CompressedUpdate(FIRST, SRC, DST, 2)])]), UPD_C),
    "INS, FreeBSD 1301": (
        Packet(5, [Inserts([STATE], Dialect.FREEBSD_1301)]),
        f"0500010e {ZEROS} 01000001 {FREEBSD_STATE} 02 06 01 0000 00 02 02 00 00 0c000001",
    ),
    "INS, FreeBSD 1500": (
        Packet(5, [Inserts([MADE_ON_EM1], Dialect.FREEBSD_1500)]),
        f"05000184 {ZEROS} 0f000001 {FREEBSD_STATE} {'00' * 64} {ZEROS} 656d31 {'00' * 13}"
        "ffffffff 0002 0000 0000 0000 0000 0000 02 02 00 06 06 00 02 01 00 00 00 0000 000000 0c000001",
    ),
    "UPD, OpenBSD": (Packet(6, [Updates([STATE])]), INS.replace("0d420001", "0e420001")),
    "DEL, OpenBSD": (Packet(6, [Deletes([STATE])]), INS.replace("0d420001", "06420001")),
    "UPD, FreeBSD 1301": (
        Packet(5, [Updates([STATE], Dialect.FREEBSD_1301)]),
        f"0500010e {ZEROS} 03000001 {FREEBSD_STATE} 02 06 01 0000 00 02 02 00 00 0c000001",
    ),
    "UPD, FreeBSD 1400": (
        Packet(5, [Updates([STATE], Dialect.FREEBSD_1400)]),
        f"05000131 {ZEROS} 0e000001 {FREEBSD_STATE} 02 06 01 0002 00 00 02 00 00"
        f"0000 0000 0000 0000 ffffffff 00 00 0000 0000 00 {ZEROS} 0c000001",
    ),
    "FreeBSD, all other actions": (
        Packet(
            5,
            [
                Clears([Clear("", CREATOR)]),
                InsertAcknowledgements([FIRST, SECOND]),
                BulkStatuses([BulkStatus(CREATOR, 7, BULK_END)]),
                CompressedDeletes([FIRST]),
            ],
            ruleset_checksum=bytes(range(16)),
        ),
        "0500006c 000102030405060708090a0b0c0d0e0f"
        f"00000001 {ZEROS} 1a2b3c4d  02000002 5f00000000000001 1a2b3c4d 5f00000000000002 1a2b3c4d"
        "0a000001 1a2b3c4d 00000007 02 000000  07000001 5f00000000000001 1a2b3c4d  0c000001",
    ),
    "TDB over IPv4, OpenBSD": (
        Packet(6, [Tdbs([Tdb(0x1234, b"\x0a\0\0\1", 5, 6, 50, 7, 8)])]),
        f"0600004c {ZEROS} 0f0d0001 00001234 1002 0000 0a000001 {'00' * 20}"
        "0000000000000005 0000000000000006 32 07 0008",
    ),
    "TDB over IPv6, FreeBSD": (
        Packet(5, [Tdbs([Tdb(0x1234, bytes(range(16)), 5, 6, 50, 7)])]),
        f"0500004c {ZEROS} 0b000001 00001234 1c1c 0000 00000000 000102030405060708090a0b0c0d0e0f 00000000"
        "00000005 0000000000000006 32 07 0000 0c000001",
    ),
    "attributes, padded to one size": (
        Packet(
            6,
            [Attributes([LinuxAttributes(FIRST, ((2, b"abcd"),)), LinuxAttributes(SECOND, ((4, b"ftp"), (99, b"")))])],
        ),
        f"06000048 {ZEROS} 80060002 5f00000000000001 1a2b3c4d 0002 0004 61626364 0000 0000"
        "5f00000000000002 1a2b3c4d 0004 0003 66747000 0063 0000",
    ),
    "a numbered packet": (
        Packet(6, [Sequences([PacketNumber(CREATOR, 2**32 + 1)]), CompressedDeletes([FIRST])]),
        f"06000038 {ZEROS} 81040001 1a2b3c4d 0000000100000001 00000000 07030001 5f00000000000001 1a2b3c4d",
    ),
    "reports": (
        Packet(
            6,
            [
                Reports(
                    [
                        Report(CREATOR, OTHER, received=258, compared=257, states=3, flags=EQUAL | COMPLETE),
                        Report(OTHER, CREATOR, received=0, compared=0, states=0, flags=CARRYING),
                    ]
                )
            ],
        ),
        f"06000058 {ZEROS} 82080002"
        "1a2b3c4d 5e6f7a8b 0000000000000102 0000000000000101 00000003 05 000000"
        "5e6f7a8b 1a2b3c4d 0000000000000000 0000000000000000 00000000 02 000000",
    ),
    "missing packets": (
        Packet(6, [Resends([Resend(CREATOR, 2**32 + 1, 7)])]),
        f"06000028 {ZEROS} 83040001 1a2b3c4d 0000000100000001 00000007",
    ),
    "the sums of all groups": (
        Packet(6, [Digests([Digest(CREATOR, ALL_GROUPS, (2**63, *62 * [0], 9))])]),
        f"06000220 {ZEROS} 84820001 1a2b3c4d ffffffff 8000000000000000 {'00' * 62 * 8} 0000000000000009",
    ),
    "what sums and lists are wanted": (
        Packet(6, [DigestRequests([DigestRequest(OTHER, GROUP_LEVEL, 63), DigestRequest(OTHER, BUCKET_LEVEL, 4095)])]),
        f"06000030 {ZEROS} 85030002 5e6f7a8b 00000000 0000003f 5e6f7a8b 00000001 00000fff",
    ),
    "the lists of a bucket with a state and of an empty one": (
        Packet(6, [Lists([Listed(CREATOR, 1, 1, FIRST, 0xFACADE), Listed(CREATOR, 2, 0, bytes(12), 0)])]),
        f"06000050 {ZEROS} 86070002 1a2b3c4d 00000001 00000001 5f00000000000001 1a2b3c4d 00facade"
        f"1a2b3c4d 00000002 00000000 {'00' * 12} 00000000",
    ),
    "nothing, OpenBSD": (Packet(6, []), f"06000014 {ZEROS}"),
    "nothing, FreeBSD": (Packet(5, []), f"05000018 {ZEROS} 0c000001"),
}


@pytest.mark.parametrize(("packet", "text"), WIRE.values(), ids=WIRE)
def test_wire(packet: Packet, text: str) -> None:
    data = bytes.fromhex(text)
    assert packet.to_bytes().hex(" ", -4) == data.hex(" ", -4)
    assert Packet.from_bytes(data) == packet


def version6(body: str) -> bytes:
    """A packet of version 6 with the right length."""
    data = bytes.fromhex(body)
    return HEADER.pack(6, HEADER.size + len(data), bytes(16)) + data


def version5(body: str) -> bytes:
    data = bytes.fromhex(body)
    return HEADER.pack(5, HEADER.size + len(data), bytes(16)) + data


ACK, DEL_C = f"02030001 {FIRST.hex()}", f"07030001 {SECOND.hex()}"
ACK_BATCH, DEL_C_BATCH = InsertAcknowledgements([FIRST]), CompressedDeletes([SECOND])

STEPPED_OVER: dict[str, tuple[str, list[AnyBatch]]] = {
    "an unknown action": (f"4d020003 {'ff' * 24} {DEL_C}", [Skipped(0x4D, 8, 3), DEL_C_BATCH]),
    "a retired action": (f"01010001 ffffffff {DEL_C}", [Skipped(1, 4, 1), DEL_C_BATCH]),
    "messages that are longer than known": (
        f"07040002 {FIRST.hex()} ffffffff {SECOND.hex()} ffffffff {ACK}",
        [CompressedDeletes([FIRST, SECOND]), ACK_BATCH],
    ),
    "messages that are shorter than known": (f"07020001 {'ff' * 8} {ACK}", [Skipped(7, 8, 1), ACK_BATCH]),
    "attributes without an identity": (f"80020001 {'ff' * 8} {ACK}", [Skipped(128, 8, 1), ACK_BATCH]),
    "the EOF of others": (f"{ACK} 0c000001 {DEL_C}", [ACK_BATCH, DEL_C_BATCH]),
    "an EOF with a body": (f"{ACK} 0c010002 ffffffff ffffffff {DEL_C}", [ACK_BATCH, DEL_C_BATCH]),
    "a batch without messages": (f"07030000 {ACK}", [CompressedDeletes([]), ACK_BATCH]),
    "a part of a subheader": (f"{ACK} 070300", [ACK_BATCH]),
}


@pytest.mark.parametrize(("body", "batches"), STEPPED_OVER.values(), ids=STEPPED_OVER)
def test_what_version_6_steps_over(body: str, batches: list[AnyBatch]) -> None:
    assert Packet.from_bytes(version6(body)).batches == batches


def test_the_length_in_the_header_cuts_the_packet() -> None:
    packet = version6(f"{ACK} {DEL_C}")
    shorter = packet[:2] + (36).to_bytes(2) + packet[4:]
    assert Packet.from_bytes(shorter).batches == [ACK_BATCH]


class Wrong(NamedTuple):
    """A wrong packet, what it counts as, and what is obeyed of it."""

    data: bytes
    counter: str
    batches: Sequence[AnyBatch] = ()


ACK5, EOF = f"02000001 {FIRST.hex()}", "0c000001"
GOOD_ATTRIBUTES, LYING_ATTRIBUTES = f"{FIRST.hex()} 0002 0004 61626364", f"{FIRST.hex()} 0002 0005 61626364"

WRONG = {
    "nothing": Wrong(b"", "hdrops"),
    "a part of the header": Wrong(bytes.fromhex(f"06000014 {ZEROS}")[:19], "hdrops"),
    "version 4": Wrong(bytes.fromhex(f"04000014 {ZEROS}"), "badver"),
    "longer than it is": Wrong(version6(ACK)[:-1], "badlen"),
    "shorter than a header": Wrong(bytes.fromhex(f"06000013 {ZEROS}"), "badlen"),
    "6: more messages than there are": Wrong(version6(f"{ACK} 07030002 {FIRST.hex()}"), "badlen", [ACK_BATCH]),
    "6: longer messages than there are": Wrong(version6(f"{ACK} 07040001 {FIRST.hex()}"), "badlen", [ACK_BATCH]),
    "6: more unknown messages than there are": Wrong(version6(f"{ACK} 4d010002 ffffffff"), "badlen", [ACK_BATCH]),
    "6: no state is half there": Wrong(version6(f"0d420001 {'00' * 260}"), "badlen"),
    "6: unknown and without size": Wrong(version6(f"{ACK} 4d000001 {DEL_C}"), "badact", [ACK_BATCH]),
    "6: unknown and without messages": Wrong(version6(f"{ACK} 4d010000 {DEL_C}"), "badact", [ACK_BATCH]),
    "6: known and without size": Wrong(version6(f"{ACK} 07000001 {DEL_C}"), "badact", [ACK_BATCH]),
    "6: the second of two messages with attributes": Wrong(
        version6(f"{ACK} 80050002 {GOOD_ATTRIBUTES} {LYING_ATTRIBUTES} {DEL_C}"),
        "badlen",
        [ACK_BATCH, Attributes([LinuxAttributes(FIRST, ((2, b"abcd"),))])],
    ),
    "5: no EOF": Wrong(version5(ACK5), "badlen", [ACK_BATCH]),
    "5: bytes behind the EOF": Wrong(version5(f"{ACK5} {EOF} 00"), "badlen", [ACK_BATCH]),
    "5: a batch behind the EOF": Wrong(version5(f"{ACK5} {EOF} {ACK5} {EOF}"), "badlen", [ACK_BATCH]),
    "5: a length without the EOF": Wrong(
        version5(f"{ACK5} {EOF}").replace(b"\5\0\0\x28", b"\5\0\0\x24"), "badlen", [ACK_BATCH]
    ),
    "5: more messages than there are": Wrong(version5(f"{ACK5} 07000002 {FIRST.hex()} {EOF}"), "badlen", [ACK_BATCH]),
    "5: an unknown action": Wrong(version5(f"{ACK5} 11000001 {EOF}"), "badact", [ACK_BATCH]),
    "5: DEL": Wrong(version5(f"{ACK5} 06000001 {'00' * 242} {EOF}"), "badact", [ACK_BATCH]),
    "5: our attributes": Wrong(version5(f"{ACK5} 80000001 {FIRST.hex()} {EOF}"), "badact", [ACK_BATCH]),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_packets(wrong: Wrong) -> None:
    with pytest.raises(PacketError) as caught:
        Packet.from_bytes(wrong.data)
    assert caught.value.counter == wrong.counter
    assert [*caught.value.batches] == [*wrong.batches]
    assert str(caught.value).startswith("pfsync: ")


def test_freebsd_states_of_all_lengths_in_one_frame() -> None:
    packet = Packet(5, [Inserts([STATE, STATE], d) for d in Dialect if d.version == 5])
    assert Packet.from_bytes(packet.to_bytes()) == packet


def test_empty_batches_are_not_sent() -> None:
    assert Packet(6, [Inserts([]), ACK_BATCH, Attributes([])]).to_bytes() == version6(ACK)
    assert Packet(5, [Inserts([], Dialect.FREEBSD_1301), ACK_BATCH]).to_bytes() == version5(ACK5 + EOF)


UNSPEAKABLE = {
    "5: a state of OpenBSD": Packet(5, [Inserts([STATE])]),
    "5: DEL": Packet(5, [Deletes([STATE], Dialect.FREEBSD_1301)]),
    "5: a packet number": Packet(5, [Sequences([PacketNumber(CREATOR, 1)])]),
    "5: attributes": Packet(5, [Attributes([LinuxAttributes(FIRST, ())])]),
    "6: a state of FreeBSD": Packet(6, [Updates([STATE], Dialect.FREEBSD_1500)]),
    "6: what was skipped": Packet(6, [Skipped(77, 4, 1)]),
    "6: attributes of more than 1020 bytes": Packet(6, [Attributes([LinuxAttributes(FIRST, ((3, bytes(1005)),))])]),
}


@pytest.mark.parametrize("packet", UNSPEAKABLE.values(), ids=UNSPEAKABLE)
def test_what_a_version_cannot_say(packet: Packet) -> None:
    with pytest.raises(ValueError, match=r"^pfsync: "):
        packet.to_bytes()


FULL = {
    "OpenBSD, states": (1500 - 20 - HEADER.size, v6.KINDS.message_size(Inserts, Dialect.OPENBSD), 5),
    "OpenBSD, UPD_C": (1500 - 20 - HEADER.size, v6.KINDS.message_size(CompressedUpdates), 17),
    "OpenBSD, DEL_C": (1500 - 20 - HEADER.size, v6.KINDS.message_size(CompressedDeletes), 121),
    "FreeBSD 13": (1500 - 44, v5.KINDS.message_size(Inserts, Dialect.FREEBSD_1301), 6),
    "FreeBSD 15, 1301": (1500 - 64, v5.KINDS.message_size(Inserts, Dialect.FREEBSD_1301), 5),
    "FreeBSD 15, 1400": (1500 - 64, v5.KINDS.message_size(Inserts, Dialect.FREEBSD_1400), 5),
    "FreeBSD 15, 1500": (1500 - 64, v5.KINDS.message_size(Updates, Dialect.FREEBSD_1500), 3),
}


@pytest.mark.parametrize(("room", "size", "expected"), FULL.values(), ids=FULL)
def test_messages_of_a_full_packet(room: int, size: int, expected: int) -> None:
    """Ref: spec pfsync §1."""
    assert (room - SUBHEADER.size) // size == expected


creators = st.binary(min_size=4, max_size=4)
clears = st.builds(Clear, names, creators)
updates = st.builds(CompressedUpdate, identities, peers, peers, U8)
statuses = st.builds(BulkStatus, creators, U32, U8)
numbers = st.builds(PacketNumber, creators, U64, U8)
reports = st.builds(Report, creators, creators, U64, U64, U32, U8, U8)
resends = st.builds(Resend, creators, U64, U32)
digests = st.builds(Digest, creators, U32, st.lists(U64, min_size=64, max_size=64).map(tuple))
digest_requests = st.builds(DigestRequest, creators, U32, U32)
listed = st.builds(Listed, creators, U32, U32, identities, U32)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
tdbs = {
    6: st.builds(Tdb, U32, addresses, U64, U64, U8, U8, U16),
    5: st.builds(Tdb, U32, addresses, U32, U64, U8, U8, st.just(0)),
}
attribute_lists = st.lists(st.tuples(st.integers(1, 0xFFFF), st.binary(max_size=20)), max_size=5).map(tuple)


@st.composite
def packets(draw: st.DrawFn, version: int) -> Packet:
    def some(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(messages, min_size=1, max_size=3)

    dialects = [dialect for dialect in Dialect if dialect.version == version]
    kinds: list[st.SearchStrategy[AnyBatch]] = [
        st.builds(Clears, some(clears)),
        st.builds(CompressedUpdates, some(updates)),
        st.builds(CompressedDeletes, some(identities)),
        st.builds(UpdateRequests, some(identities)),
        st.builds(InsertAcknowledgements, some(identities)),
        st.builds(BulkStatuses, some(statuses)),
        st.builds(Tdbs, some(tdbs[version])),
        *[st.builds(Inserts, some(states(dialect)), st.just(dialect)) for dialect in dialects],
        *[st.builds(Updates, some(states(dialect)), st.just(dialect)) for dialect in dialects],
    ]
    if version == 6:
        kinds.append(st.builds(Deletes, some(states(Dialect.OPENBSD))))
        kinds.append(st.builds(Attributes, some(st.builds(LinuxAttributes, identities, attribute_lists))))
        kinds.append(st.builds(Sequences, some(numbers)))
        kinds.append(st.builds(Reports, some(reports)))
        kinds.append(st.builds(Resends, some(resends)))
        kinds.append(st.builds(Digests, some(digests)))
        kinds.append(st.builds(DigestRequests, some(digest_requests)))
        kinds.append(st.builds(Lists, some(listed)))
    return Packet(version, draw(st.lists(st.one_of(kinds), max_size=4)), draw(st.binary(min_size=16, max_size=16)))


any_packets = st.sampled_from([5, 6]).flatmap(packets)


@given(any_packets)
def test_packets_both_ways(packet: Packet) -> None:
    assert Packet.from_bytes(packet.to_bytes()) == packet


@given(any_packets, st.data())
def test_mutated_packets_are_read_or_refused(packet: Packet, data: st.DataObject) -> None:
    mutated = bytearray(packet.to_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(U8)
    cut = data.draw(st.integers(0, len(mutated)))
    for received in (bytes(mutated), bytes(mutated[:cut])):
        with contextlib.suppress(PacketError):
            Packet.from_bytes(received)


@given(st.sampled_from([5, 6]), st.binary(max_size=600))
def test_any_body_is_read_or_refused(version: int, body: bytes) -> None:
    with contextlib.suppress(PacketError):
        Packet.from_bytes(HEADER.pack(version, HEADER.size + len(body), bytes(16)) + body)


@given(any_packets, st.data())
def test_what_comes_before_an_error_is_kept(packet: Packet, data: st.DataObject) -> None:
    """Cut anywhere, with a header that tells the truth about it: the batches that are whole are obeyed."""
    whole = packet.to_bytes()
    cut = data.draw(st.integers(HEADER.size, len(whole)))
    try:
        found = Packet.from_bytes(whole[:2] + cut.to_bytes(2) + whole[4:cut]).batches
    except PacketError as error:
        found = error.batches
    eof = len(v5.EOF) if packet.version == 5 else 0
    ends = [len(Packet(packet.version, packet.batches[: n + 1]).to_bytes()) - eof for n in range(len(packet.batches))]
    assert [*found] == [*packet.batches][: sum(end <= cut for end in ends)]
