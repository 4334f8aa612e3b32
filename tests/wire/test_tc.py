"""Traffic control: the bytes of requests, what is read from answers, and what malformed ones get."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.errors import DecodeError
from carpd.wire import tc
from carpd.wire.netlink import Message
from carpd.wire.tc import FilterMessage, QdiscMessage

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes are those of a little-endian machine")

REQUESTS = {
    "add clsact": (
        tc.add_clsact(3),
        "30000000 2400 0106 00000000 00000000 00 000000 03000000 0000ffff f1ffffff 000000000b00 0100 636c7361637400 00",
    ),
    "set filter": (
        tc.set_filter(3, tc.INGRESS, 7, "carpd-web", 9),
        "50000000 2c00 0104 00000000 00000000 00 000000 03000000 07000000 f2ffffff 00037000"
        "0800 0100 62706600 2400 0280"
        "0800 0600 09000000 0e00 0700 63617270642d77656200 0000 0800 0800 01000000",
    ),
    "delete filter": (
        tc.delete_filter(3, tc.EGRESS, 7),
        "2c000000 2d00 0100 00000000 00000000 00 000000 03000000 07000000 f3ffffff 00037000 0800 0100 62706600",
    ),
    "delete another's": (
        tc.delete_filter(3, tc.EGRESS, 7, 0x00010008),
        "2c000000 2d00 0100 00000000 00000000 00 000000 03000000 07000000 f3ffffff 08000100 0800 0100 62706600",
    ),
    "dump qdiscs": (
        tc.dump_qdiscs(),
        "24000000 2600 0103 00000000 00000000 00 000000 00000000 00000000 00000000 00000000",
    ),
    "dump filters": (
        tc.dump_filters(3, tc.INGRESS),
        "24000000 2e00 0103 00000000 00000000 00 000000 03000000 00000000 f2ffffff 00000000",
    ),
}


@little_endian
@pytest.mark.parametrize(("request_", "encoded"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests(request_: Message, encoded: str) -> None:
    assert request_.to_bytes() == bytes.fromhex(encoded)


def answer_of(request: Message) -> Message:
    """The kernel answers with the same layout."""
    return Message(request.kind, 0, request.body)


def test_qdisc() -> None:
    read = QdiscMessage.from_message(answer_of(tc.add_clsact(3)))
    assert read == QdiscMessage(index=3, kind="clsact")
    assert read.is_clsact
    other = tc.add_clsact(3).body.replace(b"clsact", b"noqueu")
    assert not QdiscMessage.from_message(Message(tc.NEWQDISC, 0, other)).is_clsact


def test_filter() -> None:
    read = FilterMessage.from_message(answer_of(tc.set_filter(3, tc.EGRESS, 7, "carpd-web", 9)))
    assert (read.index, read.parent, read.handle, read.kind, read.name) == (3, tc.EGRESS, 7, "bpf", "carpd-web")
    assert tc.delete_filter(read.index, read.parent, read.handle, read.info) == tc.delete_filter(3, tc.EGRESS, 7)


def test_filter_without_name() -> None:
    """The first answer of a dump is the priority as a whole."""
    read = FilterMessage.from_message(answer_of(tc.delete_filter(3, tc.EGRESS, 0)))
    assert (read.kind, read.name) == ("bpf", "")


def test_filter_of_another_kind() -> None:
    """Its options are its own: what stands there is not looked at."""
    body = tc.set_filter(3, tc.EGRESS, 7, "carpd-web", 9).body.replace(b"bpf\0", b"u32\0")
    read = FilterMessage.from_message(Message(tc.NEWTFILTER, 0, body))
    assert (read.kind, read.name) == ("u32", "")


@pytest.mark.parametrize("read", [QdiscMessage.from_message, FilterMessage.from_message])
@given(body=st.binary(max_size=60))
def test_malformed(read: type, body: bytes) -> None:
    """It is read, or DecodeError."""
    try:
        read(Message(tc.NEWTFILTER, 0, body))
    except DecodeError:
        return
    assert len(body) >= 20


def test_too_short() -> None:
    with pytest.raises(DecodeError, match="tc: need 20 bytes, got 19"):
        FilterMessage.from_message(Message(tc.NEWTFILTER, 0, bytes(19)))
