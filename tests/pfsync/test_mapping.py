"""Linux's entries and pf's states, both ways. Ref: spec pfsync §12."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.pfsync.levels import is_stale, levels, merge
from carpd.pfsync.mapping import (
    Unmappable,
    from_state,
    from_update,
    levels_told,
    to_attributes,
    to_state,
    to_update,
)
from carpd.wire.conntrack import (
    ASSURED,
    CLOSE_INIT,
    CONFIRMED,
    ICMP,
    ICMPV6,
    SACK_PERMITTED,
    SCTP,
    SEEN_REPLY,
    TCP,
    UDP,
    WINDOW_SCALE,
    ConntrackEntry,
    TcpState,
    flow_key,
)
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import Attributes, CompressedUpdates, Updates
from carpd.wire.pfsync.messages import CompressedUpdate
from carpd.wire.pfsync.numbers import IN, INET, INET6, NONE, NOSYNC, OUT, SLOPPY, Timeout
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Key, Peer, PfFields, StateRecord
from tests.pfsync.strategies import conveyed, entries, identities
from tests.wire.pfsync.examples import FIRST, STATE

CLIENT, SERVER, OUTSIDE = bytes([192, 0, 2, 10]), bytes([198, 51, 100, 10]), bytes([198, 51, 100, 1])
CLIENT6, SERVER6 = bytes.fromhex("20010db8000100000000000000000010"), bytes.fromhex("20010db8000200000000000000000010")
USUAL = SACK_PERMITTED | WINDOW_SCALE

TCP_ENTRY = ConntrackEntry(
    CLIENT, SERVER, TCP, 40000, 80, SERVER, CLIENT, 80, 40000,
    status=CONFIRMED | SEEN_REPLY | ASSURED, timeout=432000, state=TcpState.ESTABLISHED,
    original_scale=7, reply_scale=8, original_flags=USUAL, reply_flags=USUAL,
)  # fmt: skip
UDP_ENTRY = ConntrackEntry(CLIENT, SERVER, UDP, 40000, 53, SERVER, CLIENT, 53, 40000, status=CONFIRMED, timeout=30)
PING = ConntrackEntry(
    CLIENT, SERVER, ICMP, 77, 8 << 8, SERVER, CLIENT, 8 << 8, 77, status=CONFIRMED | SEEN_REPLY, timeout=30
)
PING6 = ConntrackEntry(
    CLIENT6, SERVER6, ICMPV6, 77, 128 << 8, SERVER6, CLIENT6, 128 << 8, 77, status=CONFIRMED, timeout=30
)


def told(entry: ConntrackEntry) -> StateRecord:
    state = to_state(FIRST, entry)
    assert state is not None
    return state


# --- There and back ---


@given(identities, entries())
def test_states_there_and_back(identity: bytes, entry: ConntrackEntry) -> None:
    state, attributes = to_state(identity, entry), to_attributes(identity, entry)
    assert state is not None
    assert from_state(state, attributes, entry.timeout) == conveyed(entry)
    assert levels_told(state) == levels(entry)


@given(identities, entries())
def test_states_there_and_back_as_bytes(identity: bytes, entry: ConntrackEntry) -> None:
    state, attributes = to_state(identity, entry), to_attributes(identity, entry)
    assert state is not None
    sent = Packet(6, [Updates([state]), Attributes([attributes] if attributes else [])])
    updates, *more = Packet.from_bytes(sent.to_bytes()).batches
    assert isinstance(updates, Updates)
    assert updates.messages == [state]
    received = None
    if more:
        (batch,) = more
        assert isinstance(batch, Attributes)
        (received,) = batch.messages
    assert from_state(updates.messages[0], received, entry.timeout) == conveyed(entry)


@given(identities, entries())
def test_what_comes_back_is_told_in_the_same_way(identity: bytes, entry: ConntrackEntry) -> None:
    """A standby tells others what it was told itself."""
    state, attributes = to_state(identity, entry), to_attributes(identity, entry)
    assert state is not None
    copy = from_state(state, attributes, entry.timeout)
    assert (to_state(identity, copy), to_attributes(identity, copy)) == (state, attributes)


@given(identities, entries())
def test_updates(identity: bytes, entry: ConntrackEntry) -> None:
    """They tell what changes in a connection while it lives, and nothing else."""
    update, state = to_update(identity, entry), to_state(identity, entry)
    assert update is not None
    assert state is not None
    assert update == (identity, state.src, state.dst, state.timeout)
    sent = Packet(6, [CompressedUpdates([update])]).to_bytes()
    assert Packet.from_bytes(sent).batches == [CompressedUpdates([update])]
    assert levels_told(update) == levels(entry)

    change = from_update(flow_key(entry), update, levels(entry))
    assert flow_key(change) == flow_key(entry)
    assert [change.timeout, change.mark, change.labels, change.master] == [None] * 4
    assert (change.helper, change.original_adjustment, change.reply_adjustment) == ("", None, None)
    if entry.protocol == SCTP:
        assert change.state is None
    else:
        whole = from_state(state)
        assert change[10] == whole[10]
        assert change[12:17] == whole[12:17], "state, scales and flags"


ORDINARY = {
    "SYN": TCP_ENTRY._replace(state=TcpState.SYN_SENT, status=CONFIRMED, reply_flags=0, reply_scale=0),
    "SYN+ACK": TCP_ENTRY._replace(state=TcpState.SYN_RECV, status=CONFIRMED | SEEN_REPLY),
    "established": TCP_ENTRY._replace(original_flags=USUAL | 0x20, reply_flags=USUAL | 0x20),
    "no window scales": TCP_ENTRY._replace(original_scale=0, reply_scale=0, original_flags=2, reply_flags=2),
    "opener closes": TCP_ENTRY._replace(state=TcpState.FIN_WAIT, original_flags=USUAL | CLOSE_INIT),
    "other end closes": TCP_ENTRY._replace(state=TcpState.LAST_ACK, reply_flags=USUAL | CLOSE_INIT),
    "closed": TCP_ENTRY._replace(state=TcpState.TIME_WAIT, original_flags=USUAL | CLOSE_INIT),
    "reset": TCP_ENTRY._replace(state=TcpState.CLOSE),
    "with NAT": TCP_ENTRY._replace(status=0x19E, reply_destination=OUTSIDE),
    "UDP": UDP_ENTRY,
    "UDP, answered": UDP_ENTRY._replace(status=CONFIRMED | SEEN_REPLY),
    "UDP, assured": UDP_ENTRY._replace(status=CONFIRMED | SEEN_REPLY | ASSURED),
    "ping": PING,
    "ping, IPv6": PING6,
}


@pytest.mark.parametrize("entry", ORDINARY.values(), ids=ORDINARY)
def test_of_ordinary_entries_nothing_more_is_said(entry: ConntrackEntry) -> None:
    assert to_attributes(FIRST, entry) is None
    assert from_state(told(entry), timeout=entry.timeout) == conveyed(entry)


# --- The tables of §12.3 and §12.4 ---


class Row(NamedTuple):
    """A state of Linux, and what pf calls it."""

    entry: ConntrackEntry
    src: int
    dst: int
    timeout: Timeout


def tcp(state: TcpState, closer: str = "") -> ConntrackEntry:
    return TCP_ENTRY._replace(
        state=state,
        original_flags=USUAL | CLOSE_INIT * (closer == "src"),
        reply_flags=USUAL | CLOSE_INIT * (closer == "dst"),
    )


def seen(protocol: int, status: int) -> ConntrackEntry:
    return UDP_ENTRY._replace(protocol=protocol, status=status | CONFIRMED)


EXPORT = {
    "SYN_SENT": Row(tcp(TcpState.SYN_SENT), 2, 0, Timeout.TCP_FIRST),
    "SYN_SENT2": Row(tcp(TcpState.SYN_SENT2), 2, 2, Timeout.TCP_OPENING),
    "SYN_RECV": Row(tcp(TcpState.SYN_RECV), 4, 2, Timeout.TCP_OPENING),
    "ESTABLISHED": Row(tcp(TcpState.ESTABLISHED), 4, 4, Timeout.TCP_ESTABLISHED),
    "FIN_WAIT": Row(tcp(TcpState.FIN_WAIT), 7, 4, Timeout.TCP_CLOSING),
    "FIN_WAIT, src": Row(tcp(TcpState.FIN_WAIT, "src"), 7, 4, Timeout.TCP_CLOSING),
    "FIN_WAIT, dst": Row(tcp(TcpState.FIN_WAIT, "dst"), 4, 7, Timeout.TCP_CLOSING),
    "CLOSE_WAIT": Row(tcp(TcpState.CLOSE_WAIT), 9, 4, Timeout.TCP_CLOSING),
    "CLOSE_WAIT, src": Row(tcp(TcpState.CLOSE_WAIT, "src"), 9, 4, Timeout.TCP_CLOSING),
    "CLOSE_WAIT, dst": Row(tcp(TcpState.CLOSE_WAIT, "dst"), 4, 9, Timeout.TCP_CLOSING),
    "LAST_ACK": Row(tcp(TcpState.LAST_ACK), 9, 7, Timeout.TCP_FIN_WAIT),
    "LAST_ACK, src": Row(tcp(TcpState.LAST_ACK, "src"), 9, 7, Timeout.TCP_FIN_WAIT),
    "LAST_ACK, dst": Row(tcp(TcpState.LAST_ACK, "dst"), 7, 9, Timeout.TCP_FIN_WAIT),
    "TIME_WAIT": Row(tcp(TcpState.TIME_WAIT, "src"), 9, 9, Timeout.TCP_CLOSED),
    "TIME_WAIT, dst": Row(tcp(TcpState.TIME_WAIT, "dst"), 9, 9, Timeout.TCP_CLOSED),
    "CLOSE": Row(tcp(TcpState.CLOSE), 10, 10, Timeout.TCP_CLOSED),
    "UDP": Row(seen(UDP, 0), 1, 0, Timeout.UDP_FIRST),
    "UDP, answered": Row(seen(UDP, SEEN_REPLY), 2, 1, Timeout.UDP_SINGLE),
    "UDP, assured": Row(seen(UDP, SEEN_REPLY | ASSURED), 2, 2, Timeout.UDP_MULTIPLE),
    "ping": Row(PING._replace(status=CONFIRMED), 0, 0, Timeout.ICMP_FIRST),
    "ping, answered": Row(PING, 0, 0, Timeout.ICMP_ERROR),
    "other": Row(seen(47, 0), 1, 0, Timeout.OTHER_FIRST),
    "other, answered": Row(seen(47, SEEN_REPLY), 2, 1, Timeout.OTHER_SINGLE),
    "other, assured": Row(seen(47, SEEN_REPLY | ASSURED), 2, 2, Timeout.OTHER_MULTIPLE),
}


@pytest.mark.parametrize("row", EXPORT.values(), ids=EXPORT)
def test_linux_to_pf(row: Row) -> None:
    state = told(row.entry)
    assert (state.src.state, state.dst.state, state.timeout) == row[1:]


UNTOLD = {
    "TCP NONE": TCP_ENTRY._replace(state=TcpState.NONE),
    "TCP, its state untold": TCP_ENTRY._replace(state=None),
    "SCTP, its state untold": TCP_ENTRY._replace(protocol=SCTP, state=None),
    "ping with a code": PING._replace(destination_port=8 << 8 | 9, reply_source_port=8 << 8 | 9),
}


@pytest.mark.parametrize("entry", UNTOLD.values(), ids=UNTOLD)
def test_what_can_not_be_told(entry: ConntrackEntry) -> None:
    assert to_state(FIRST, entry) is None
    assert to_update(FIRST, entry) is None
    assert to_attributes(FIRST, entry) is None


def spec_row(src: int, dst: int) -> tuple[TcpState, str] | None:
    """The second table of §12.3 in its own words, first match; TIME_WAIT has a closer, see `kinds`."""
    one, other = max(src, dst), min(src, dst)
    further = "src" if src >= dst else "dst"
    rows = (
        (one >= 11, None),
        (other >= 10, (TcpState.CLOSE, "")),
        (other >= 9, (TcpState.TIME_WAIT, "src")),
        (one >= 9 and other in (7, 8), (TcpState.LAST_ACK, further)),
        (other >= 7, (TcpState.LAST_ACK, "src")),
        (one >= 9, (TcpState.CLOSE_WAIT, further)),
        (one >= 7, (TcpState.FIN_WAIT, further)),
        (other >= 4, (TcpState.ESTABLISHED, "")),
        (one >= 4 and other >= 2, (TcpState.SYN_RECV, "")),
        (other >= 2, (TcpState.SYN_SENT2, "")),
        (one >= 4, (TcpState.ESTABLISHED, "")),
        (src >= 2, (TcpState.SYN_SENT, "")),
    )
    return next((result for condition, result in rows if condition), None)


@pytest.mark.parametrize("src", range(13))
@pytest.mark.parametrize("dst", range(13))
def test_pf_to_linux(src: int, dst: int) -> None:
    state = STATE._replace(src=Peer(state=src), dst=Peer(state=dst))
    wanted = spec_row(src, dst)
    if wanted is None:
        with pytest.raises(Unmappable) as refused:
            from_state(state)
        assert refused.value.counter == "unsupported"
        return
    entry = from_state(state)
    closed_by = {(0, 0): "", (CLOSE_INIT, 0): "src", (0, CLOSE_INIT): "dst"}
    assert entry.state == wanted[0]
    assert closed_by[entry.original_flags & CLOSE_INIT, entry.reply_flags & CLOSE_INIT] == wanted[1]
    assert bool(entry.status & SEEN_REPLY) == (dst >= 2)
    assert bool(entry.status & ASSURED) == (src >= 4 and dst >= 4)
    assert entry.status & CONFIRMED


TRAFFIC = {
    "nothing": (0, 0, 0),
    "first": (1, 0, 0),
    "one answer": (2, 1, SEEN_REPLY),
    "one answer, before it was asked again": (1, 1, SEEN_REPLY),
    "both": (2, 2, SEEN_REPLY | ASSURED),
    "answers only": (1, 2, SEEN_REPLY),
}


@pytest.mark.parametrize("protocol", [UDP, 47, 50])
@pytest.mark.parametrize(("src", "dst", "status"), TRAFFIC.values(), ids=TRAFFIC)
def test_traffic_to_linux(protocol: int, src: int, dst: int, status: int) -> None:
    entry = from_state(told(seen(protocol, 0))._replace(src=Peer(state=src), dst=Peer(state=dst, wscale=0x87)))
    assert entry.status == status | CONFIRMED
    assert (entry.state, entry.reply_scale, entry.reply_flags) == (None, 0, 0)


# --- Keys, directions, addresses ---


def test_the_example() -> None:
    """Ref: spec pfsync §14, whose bytes are decoded in tests/wire/pfsync."""
    client, server = bytes([10, 0, 0, 5]), bytes([192, 0, 2, 80])
    assert from_state(STATE) == ConntrackEntry(
        client, server, TCP, 40000, 80, server, client, 80, 40000,
        status=CONFIRMED | SEEN_REPLY | ASSURED, timeout=86390, state=TcpState.ESTABLISHED,
        original_scale=7, reply_scale=6, original_flags=USUAL, reply_flags=USUAL,
    )  # fmt: skip


def test_a_state_is_complete() -> None:
    assert to_state(FIRST, TCP_ENTRY, age=90) == StateRecord(
        identity=FIRST,
        interface="all",
        wire=Key(CLIENT, SERVER, 40000, 80, 0, INET),
        stack=Key(CLIENT, SERVER, 40000, 80, 0, INET),
        src=Peer(state=4, wscale=0x87),
        dst=Peer(state=4, wscale=0x88),
        creation=90,
        expire=86400,
        packets0=0,
        packets1=0,
        bytes0=0,
        bytes1=0,
        family=INET,
        protocol=TCP,
        direction=IN,
        timeout=Timeout.TCP_ESTABLISHED,
        flags=SLOPPY,
        pf=PfFields(rule=NONE, anchor=NONE, nat_rule=NONE),
    )


def test_both_translations_are_in_the_keys() -> None:
    entry = TCP_ENTRY._replace(
        reply_source=bytes([10, 0, 0, 9]), reply_source_port=8080,
        reply_destination=OUTSIDE, reply_destination_port=61000,
    )  # fmt: skip
    state = told(entry)
    assert state.wire == Key(CLIENT, SERVER, 40000, 80, 0, INET)
    assert state.stack == Key(OUTSIDE, bytes([10, 0, 0, 9]), 61000, 8080, 0, INET)


def test_what_goes_out_is_the_other_way_round() -> None:
    """An outbound state of pf: its opener is in slot 1, and the network sees the translated one. Ref: spec §12.2."""
    state = STATE._replace(
        direction=OUT,
        wire=Key(SERVER, OUTSIDE, 80, 61000, 0, INET),
        stack=Key(SERVER, CLIENT, 80, 40000, 0, INET),
    )
    entry = from_state(state)
    assert entry[:9] == (CLIENT, SERVER, TCP, 40000, 80, SERVER, OUTSIDE, 80, 61000)


def test_protocols_without_ports() -> None:
    state = told(UDP_ENTRY)._replace(protocol=50)
    entry = from_state(state)
    assert entry[:9] == (CLIENT, SERVER, 50, 0, 0, SERVER, CLIENT, 0, 0)


def test_queries() -> None:
    assert told(PING).wire == Key(CLIENT, SERVER, 77, 8, 0, INET)
    assert told(PING6).wire == Key(CLIENT6, SERVER6, 77, 128, 0, INET6)
    freebsd13 = Key(CLIENT, SERVER, 77, 77, 0, INET)
    assert from_state(told(PING)._replace(wire=freebsd13, stack=freebsd13)) == PING._replace(timeout=10)


# --- Timeouts ---

LEFT = {
    "fresh": (432000, 86400),
    "held": (2_000_000, 86400),
    "old": (17, 17),
    "about to end": (0, 1),
    "not told": (None, 86400),
}


@pytest.mark.parametrize(("timeout", "expire"), LEFT.values(), ids=LEFT)
def test_what_is_left_of_a_life(timeout: int | None, expire: int) -> None:
    assert told(TCP_ENTRY._replace(timeout=timeout)).expire == expire


EXPIRES = {
    "some": (17, None, 17),
    "all of it": (0, None, 86400),
    "more than that": (0xFFFFFFFF, None, 86400),
    "held": (17, 2_000_000, 2_000_000),
}


@pytest.mark.parametrize(("expire", "timeout", "wanted"), EXPIRES.values(), ids=EXPIRES)
def test_what_an_entry_is_given(expire: int, timeout: int | None, wanted: int) -> None:
    assert from_state(STATE._replace(expire=expire), None, timeout).timeout == wanted


# --- What is refused ---

KEY4, KEY6 = Key(CLIENT, SERVER, 1, 2, 0, INET), Key(CLIENT6, SERVER6, 1, 2, 0, INET6)
ODD = Key(CLIENT6, SERVER6, 1, 2, 0, 3)
PING_STATE = told(PING)

REFUSED = {
    "state of src": ("badval", STATE._replace(src=Peer(state=13))),
    "state of dst": ("badval", STATE._replace(dst=Peer(state=255))),
    "timeout index": ("badval", STATE._replace(timeout=25)),
    "direction": ("badval", STATE._replace(direction=3)),
    "no direction": ("badval", STATE._replace(direction=0)),
    "family": ("badval", STATE._replace(family=3, wire=ODD, stack=ODD)),
    "family of a key": ("badval", STATE._replace(stack=ODD)),
    "no creator": ("badstate", STATE._replace(identity=FIRST[:8] + bytes(4))),
    "NAT64": ("unsupported", STATE._replace(stack=KEY6)),
    "another family than that of its keys": ("unsupported", STATE._replace(family=INET6)),
    "timeout that is none of a state": ("unsupported", STATE._replace(timeout=14)),
    "FreeBSD's SCTP": ("unsupported", STATE._replace(protocol=SCTP, timeout=Timeout.SCTP_ESTABLISHED)),
    "SCTP without its state": ("unsupported", STATE._replace(protocol=SCTP, timeout=Timeout.OTHER_FIRST)),
    "not to be synchronised": ("unsupported", STATE._replace(flags=NOSYNC)),
    "modulated sequence numbers": ("unsupported", STATE._replace(src=Peer(state=4, seqdiff=1))),
    "modulated sequence numbers of dst": ("unsupported", STATE._replace(dst=Peer(state=4, seqdiff=1))),
    "route-to": ("unsupported", STATE._replace(pf=PfFields(rt=1))),
    "syn-proxy": ("unsupported", STATE._replace(src=Peer(state=11))),
    "nothing seen": ("unsupported", STATE._replace(src=Peer(), dst=Peer())),
    "router advertisement": ("unsupported", PING_STATE._replace(wire=Key(CLIENT, SERVER, 0, 9, 0, INET))),
    "neighbour discovery, of FreeBSD 13": (
        "unsupported",
        told(PING6)._replace(wire=Key(CLIENT6, SERVER6, 0, 0, 0, INET6)),
    ),
    "echo of the other family": ("unsupported", PING_STATE._replace(protocol=ICMPV6)),
    "echo of the other family, IPv6": ("unsupported", told(PING6)._replace(protocol=ICMP)),
}


@pytest.mark.parametrize(("counter", "state"), REFUSED.values(), ids=REFUSED)
def test_refused(counter: str, state: StateRecord) -> None:
    with pytest.raises(Unmappable) as refused:
        from_state(state)
    assert refused.value.counter == counter
    assert refused.value.reason


BAD_UPDATES = {
    "state of src": CompressedUpdate(FIRST, Peer(state=13), Peer(), 0),
    "state of dst": CompressedUpdate(FIRST, Peer(), Peer(state=13), 0),
    "timeout index": CompressedUpdate(FIRST, Peer(), Peer(), 25),
}


@pytest.mark.parametrize("update", BAD_UPDATES.values(), ids=BAD_UPDATES)
def test_refused_updates(update: CompressedUpdate) -> None:
    with pytest.raises(Unmappable) as refused:
        levels_told(update)
    assert refused.value.counter == "badval"


def test_updates_to_levels_that_linux_does_not_know() -> None:
    update = to_update(FIRST, TCP_ENTRY)
    assert update is not None
    with pytest.raises(Unmappable):
        from_update(flow_key(TCP_ENTRY), update, 0xB4)


peers = st.builds(Peer, state=st.integers(0, 255), wscale=st.integers(0, 255), seqdiff=st.sampled_from((0, 0, 0, 1)))


@given(
    st.builds(
        STATE._replace,
        src=peers, dst=peers,
        protocol=st.sampled_from((1, 6, 17, 47, 50, 58, 132)),
        family=st.sampled_from((INET, INET6, 3)),
        wire=st.sampled_from((KEY4, KEY6, ODD)), stack=st.sampled_from((KEY4, KEY6, ODD)),
        direction=st.integers(0, 3), timeout=st.integers(0, 30), expire=st.integers(0, 2**32 - 1),
        flags=st.integers(0, 2**16 - 1),
    ),
    st.none() | st.lists(st.tuples(st.integers(0, 14), st.binary(max_size=40))),
)  # fmt: skip
def test_any_state_is_mapped_or_refused(state: StateRecord, more: list[tuple[int, bytes]] | None) -> None:
    attributes = None if more is None else LinuxAttributes(state.identity, tuple(more))
    try:
        entry = from_state(state, attributes)
    except Unmappable:
        return
    assert len(entry.source) == len(entry.destination) == len(entry.reply_source) == len(entry.reply_destination)
    assert entry.timeout is not None
    assert 1 <= entry.timeout <= 86400
    assert entry.protocol not in (TCP, SCTP) or entry.state is not None


TCP_ROWS = {name: row.entry for name, row in EXPORT.items() if row.entry.protocol == TCP}


@pytest.mark.parametrize("one", TCP_ROWS.values(), ids=TCP_ROWS)
@pytest.mark.parametrize("other", TCP_ROWS.values(), ids=TCP_ROWS)
def test_merged_views_can_be_installed(one: ConntrackEntry, other: ConntrackEntry) -> None:
    """Whatever two nodes saw of a flow, and Linux then is at least as far."""
    merged = merge(levels(one), levels(other))
    update = to_update(FIRST, one)
    assert update is not None
    assert not is_stale(merged, levels(from_update(flow_key(one), update, merged)))
