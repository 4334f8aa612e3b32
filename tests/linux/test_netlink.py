"""The netlink socket against the kernel: answers, refusals, lost ones."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from carpd.errors import SystemCallError
from carpd.linux.netlink import REQUESTS_AT_ONCE, NetlinkSocket, Refusal
from carpd.wire import netlink, nftnetlink, rtnetlink
from carpd.wire.netlink import Message


@pytest.fixture
def kernel(namespace: None) -> Iterator[NetlinkSocket]:
    with NetlinkSocket(netlink.ROUTE) as opened:
        yield opened


def test_refusals_are_told_by_position(kernel: NetlinkSocket) -> None:
    up, none = rtnetlink.set_up(1), rtnetlink.set_up(999)
    for requests, refused in (([], []), ([up], []), ([none], [0]), ([up, none, up, none], [1, 3]), ([none, up], [0])):
        refusals = kernel.perform(requests)
        assert [(r.position, r.errno) for r in refusals] == [(position, errno.ENODEV) for position in refused]


def test_more_than_one_send(kernel: NetlinkSocket) -> None:
    count = 2 * REQUESTS_AT_ONCE + 3
    assert [r.position for r in kernel.perform(count * [rtnetlink.set_up(999)])] == list(range(count))
    assert kernel.perform([rtnetlink.set_up(1)]) == []


def test_sequence_numbers_begin_again(kernel: NetlinkSocket) -> None:
    kernel._sequence = 0xFFFFFFFF - 5
    up, none = rtnetlink.set_up(1), rtnetlink.set_up(999)
    assert [r.position for r in kernel.perform([*9 * [up], none])] == [9]
    assert [r.position for r in kernel.perform([none, *9 * [up]])] == [0]


def test_a_dump_in_pieces(kernel: NetlinkSocket) -> None:
    pieces = [
        data[offset : offset + length]
        for data, spans in kernel.pieces("look", rtnetlink.dump_links())
        for offset, length in spans
    ]
    (answer,) = netlink.messages(b"".join(pieces))
    assert answer.body == kernel.ask("look", rtnetlink.dump_links())[0].body
    with pytest.raises(SystemCallError, match="look: "):
        list(kernel.pieces("look", Message(0x7FF, netlink.REQUEST | netlink.DUMP, bytes(4))))


def test_the_kernel_s_reason(kernel: NetlinkSocket) -> None:
    """Its own words where it gives some, those of the errno where not."""
    mac = bytes.fromhex("00005e000101")
    with pytest.raises(SystemCallError, match=r"^make it: .*[a-z]$"):
        kernel.do("make it", rtnetlink.new_macvlan("a-name-that-is-too-long", 1, mac))
    with pytest.raises(SystemCallError, match=r"^make it: No such device$") as refused:
        kernel.do("make it", rtnetlink.new_macvlan("m", 999, mac))
    assert refused.value.errno == errno.ENODEV


def test_ask(kernel: NetlinkSocket) -> None:
    for request in (rtnetlink.dump_links(), rtnetlink.get_link("lo")):
        (answer,) = kernel.ask("look", request)
        link = rtnetlink.LinkMessage.from_message(answer)
        assert link
        assert (link.name, link.index, link.parent) == ("lo", 1, 0)
    with pytest.raises(SystemCallError, match="look: "):
        kernel.ask("look", rtnetlink.get_link("none"))
    assert kernel.ask("look", rtnetlink.dump_addresses()) == []


def test_late_answers_to_others_are_skipped(kernel: NetlinkSocket) -> None:
    """As after a request that was given up."""
    kernel._socket.send(Message(rtnetlink.GETLINK, netlink.REQUEST, b"", sequence=0).to_bytes())
    assert kernel.perform([rtnetlink.set_up(999)]) == [Refusal(0, errno.ENODEV, "")]


def test_never_waits_for_ever(kernel: NetlinkSocket) -> None:
    kernel.close()
    kernel._socket, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 1000))
    with pytest.raises(SystemCallError, match="does not answer") as failed:
        kernel.perform([rtnetlink.set_up(1)])
    assert failed.value.errno == errno.ETIMEDOUT
    silent.close()


def test_commit(namespace: None) -> None:
    with NetlinkSocket(netlink.NETFILTER) as kernel:
        assert kernel.commit(nftnetlink.delete_table("none")) == errno.ENOENT
        assert kernel.commit(nftnetlink.flush_set("none", "none")) == errno.ENOENT
        assert kernel.ask("look", nftnetlink.dump_tables()) == []


def test_no_such_protocol() -> None:
    with pytest.raises(SystemCallError, match="open a netlink socket"):
        NetlinkSocket(31)
