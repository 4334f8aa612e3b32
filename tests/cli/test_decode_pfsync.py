"""carpctl decode of pfsync."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from carpd.cli.decode.states import state_fields, state_text
from carpd.wire.carp import Advertisement, virtual_mac
from carpd.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame, multicast_mac4, multicast_mac6
from carpd.wire.frames import advertisement_frame
from carpd.wire.ipv4 import IPv4Packet
from carpd.wire.ipv6 import IPv6Packet
from carpd.wire.pfsync import header
from carpd.wire.pfsync.attributes import LinuxAttributes
from carpd.wire.pfsync.batches import (
    Attributes,
    BulkStatuses,
    Clears,
    CompressedDeletes,
    Inserts,
    Reports,
    Sequences,
    UpdateRequests,
    Updates,
)
from carpd.wire.pfsync.linux_messages import CARRYING, PacketNumber, Report
from carpd.wire.pfsync.messages import BULK_END, BULK_REQUEST, BULK_START, BulkStatus, Clear
from carpd.wire.pfsync.numbers import INET6, OUT, Dialect
from carpd.wire.pfsync.packet import Packet
from carpd.wire.pfsync.state import Key, Peer, StateRecord
from tests.cli.captures import CAPTURES, capture, decode

SOURCE4, SOURCE6 = ip_address("192.0.2.2").packed, ip_address("fe80::2").packed
CREATOR = bytes.fromhex("1a2b3c4d")
IDENTITY = bytes.fromhex("5f00000000000001") + CREATOR

CLIENT, WEB, SHARED = (ip_address(text).packed for text in ("10.0.0.5", "192.0.2.80", "198.51.100.1"))
KEY = Key(CLIENT, WEB, 40000, 80, 0, 2)
STATE = StateRecord(
    identity=IDENTITY,
    interface="all",
    wire=KEY,
    stack=KEY,
    src=Peer(state=4),
    dst=Peer(state=2),
    creation=90,
    expire=86390,
    packets0=12,
    packets1=10,
    bytes0=3456,
    bytes1=78901,
    family=2,
    protocol=6,
    direction=1,
    timeout=1,
    flags=2,
)
COUNTED = "age 00:01:30, expires in 23:59:50, 12:10 pkts, 3456:78901 bytes, id 5f00000000000001 creatorid 1a2b3c4d"


def frame4(payload: bytes, *, more_fragments: bool = False) -> bytes:
    packet = IPv4Packet(
        source=SOURCE4,
        destination=header.GROUP4,
        ttl=header.TTL,
        protocol=header.PROTOCOL,
        payload=payload,
        more_fragments=more_fragments,
    )
    destination_mac = multicast_mac4(header.GROUP4)
    return EthernetFrame(destination_mac, virtual_mac(7), ETHERTYPE_IPV4, packet.to_bytes()).to_bytes()


def frame6(payload: bytes) -> bytes:
    packet = IPv6Packet(
        source=SOURCE6,
        destination=header.GROUP6,
        hop_limit=header.TTL,
        next_header=header.PROTOCOL,
        payload=payload,
    )
    destination_mac = multicast_mac6(header.GROUP6)
    return EthernetFrame(destination_mac, virtual_mac(7), ETHERTYPE_IPV6, packet.to_bytes()).to_bytes()


INSERT = Packet(6, [Inserts([STATE]), Attributes([LinuxAttributes(IDENTITY, ((2, bytes(4)),))])])
FREEBSD = Packet(5, [Updates([STATE], Dialect.FREEBSD_1400), CompressedDeletes([IDENTITY] * 3)])
CARP = advertisement_frame(
    Advertisement(vhid=7), source_mac=virtual_mac(7), source=SOURCE4, destination=bytes((224, 0, 0, 18))
)


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(tmp_path / "x", CARP, frame4(INSERT.to_bytes()), frame6(FREEBSD.to_bytes()))
    status, lines, err = decode(capsys, file)
    assert "carp vhid 7" in lines.pop(0)
    assert [" ".join(line.split()) for line in lines] == [
        "1.000000 192.0.2.2 > 224.0.0.240 pfsync version 6 INS 1, LINUX 1",
        "2.000000 fe80::2 > ff12::f0 pfsync version 5 UPD 1, DEL_C 3",
    ]
    assert len({line.index("pfsync") for line in lines}) == 1, "the columns are aligned"
    assert (status, err) == (0, "")


def test_states_follow_their_packet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packet = Packet(6, [Inserts([STATE, STATE._replace(direction=OUT)]), Updates([STATE])])
    _, lines, _ = decode(capsys, capture(tmp_path / "x", frame4(packet.to_bytes())), "--states")
    inbound = f"all tcp 192.0.2.80:80 <- 10.0.0.5:40000  SYN_SENT:ESTABLISHED  {COUNTED}"
    outbound = f"all tcp 192.0.2.80:80 -> 10.0.0.5:40000  ESTABLISHED:SYN_SENT  {COUNTED}"
    assert lines[0].endswith("pfsync version 6 INS 2, UPD 1")
    assert lines[1:] == [f"{' ' * 12}INS {inbound}", f"{' ' * 12}INS {outbound}", f"{' ' * 12}UPD {inbound}"]


ACTIONS = {
    "bulk request": (Packet(6, [UpdateRequests([BULK_REQUEST])]), "UPD_REQ 1 (bulk)"),
    "request of states": (Packet(6, [UpdateRequests([IDENTITY] * 2)]), "UPD_REQ 2"),
    "bulk start": (Packet(5, [BulkStatuses([BulkStatus(CREATOR, 0, BULK_START)])]), "BUS 1 (start)"),
    "bulk end": (Packet(6, [BulkStatuses([BulkStatus(CREATOR, 0, BULK_END)])]), "BUS 1 (end)"),
    "no such bulk status": (Packet(6, [BulkStatuses([BulkStatus(CREATOR, 0, 9)])]), "BUS 1 (9)"),
    "clear": (Packet(5, [Clears([Clear("", CREATOR)])]), "CLR 1"),
    "a numbered packet": (
        Packet(6, [Sequences([PacketNumber(CREATOR, 2**32)]), CompressedDeletes([IDENTITY])]),
        "SEQ 1 (4294967296), DEL_C 1",
    ),
    "reports": (Packet(6, [Reports([Report(CREATOR, bytes(4), 1, 0, 9, CARRYING)] * 2)]), "REPORT 2"),
    "nothing": (Packet(6, []), "no messages"),
}


@pytest.mark.parametrize(("packet", "text"), ACTIONS.values(), ids=ACTIONS)
def test_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str], packet: Packet, text: str) -> None:
    _, lines, _ = decode(capsys, capture(tmp_path / "x", frame4(packet.to_bytes())))
    assert lines[0].endswith(f" pfsync version {packet.version} {text}")


def test_skipped_actions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = bytes.fromhex("01010002 ffffffff ffffffff 4d010001 ffffffff")
    packet = header.HEADER.pack(6, 20 + len(body), bytes(16)) + body
    _, lines, _ = decode(capsys, capture(tmp_path / "x", frame4(packet)))
    assert lines[0].endswith(" OINS 2, action 77 1")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(tmp_path / "x", frame4(INSERT.to_bytes()), frame6(FREEBSD.to_bytes()))
    status, lines, err = decode(capsys, file, "--json")
    first, second = map(json.loads, lines)
    assert first == {
        "time": 1_700_000_000.0,
        "family": 4,
        "source": "192.0.2.2",
        "destination": "224.0.0.240",
        "version": 6,
        "messages": [{"action": "INS", "count": 1}, {"action": "LINUX", "count": 1}],
    }
    assert list(first) == ["time", "family", "source", "destination", "version", "messages"]
    assert (second["family"], second["destination"], second["version"]) == (6, "ff12::f0", 5)
    assert second["messages"] == [{"action": "UPD", "count": 1}, {"action": "DEL_C", "count": 3}]
    assert (status, err) == (0, "")


def test_json_of_our_own_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packet = Packet(6, [Sequences([PacketNumber(CREATOR, 7)]), Reports([Report(CREATOR, bytes(4), 1, 0, 9, 0)])])
    _, (line,), _ = decode(capsys, capture(tmp_path / "x", frame4(packet.to_bytes())), "--json")
    assert json.loads(line)["messages"] == [{"action": "SEQ", "count": 1}, {"action": "REPORT", "count": 1}]


def test_json_with_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(tmp_path / "x", frame4(FREEBSD.to_bytes()), frame4(Packet(6, []).to_bytes()))
    _, lines, _ = decode(capsys, file, "--json", "--states")
    first, second = map(json.loads, lines)
    assert list(first) == ["time", "family", "source", "destination", "version", "messages", "states"]
    (state,) = first["states"]
    assert state == json.loads(json.dumps({"action": "UPD", **state_fields(STATE)}))
    assert (state["creator_id"], state["direction"], state["timeout"]) == ("1a2b3c4d", "in", "TCP_OPENING")
    assert state["wire"] == state["stack"] == [["10.0.0.5", 40000], ["192.0.2.80", 80]]
    assert (state["src"]["state"], state["dst"]["state"]) == ("ESTABLISHED", "SYN_SENT")
    assert second["states"] == []


SIX = Key(bytes(15) + b"\1", bytes(15) + b"\2", 128, 77, 0, INET6)
WORDS = {
    "destination translated on the way in": (
        STATE._replace(stack=KEY._replace(address1=CLIENT, port1=8080)),
        "all tcp 10.0.0.5:8080 (192.0.2.80:80) <- 10.0.0.5:40000  SYN_SENT:ESTABLISHED",
    ),
    "source translated on the way out": (
        STATE._replace(
            direction=OUT,
            wire=Key(WEB, SHARED, 80, 50000, 0, 2),
            stack=Key(WEB, CLIENT, 80, 40000, 0, 2),
        ),
        "all tcp 198.51.100.1:50000 (10.0.0.5:40000) -> 192.0.2.80:80  ESTABLISHED:SYN_SENT",
    ),
    "UDP": (
        STATE._replace(protocol=17, src=Peer(state=1), dst=Peer()),
        "all udp 192.0.2.80:80 <- 10.0.0.5:40000  NO_TRAFFIC:SINGLE",
    ),
    "ICMPv6": (
        STATE._replace(protocol=58, family=INET6, wire=SIX, stack=SIX, direction=OUT, src=Peer(), dst=Peer()),
        "all ipv6-icmp ::2[77] -> ::1[128]  0:0",
    ),
    "no ports": (
        STATE._replace(
            protocol=50, wire=KEY._replace(port0=0, port1=0), stack=KEY._replace(port0=0, port1=0), src=Peer(state=2)
        ),
        "all esp 192.0.2.80 <- 10.0.0.5  MULTIPLE:MULTIPLE",
    ),
    "numbers without names": (
        STATE._replace(protocol=200, src=Peer(state=99), direction=7, interface=""),
        "'' 200 192.0.2.80:80 <- 10.0.0.5:40000  MULTIPLE:99",
    ),
    "syn-proxy": (
        STATE._replace(src=Peer(state=11), dst=Peer(state=0)),
        "all tcp 192.0.2.80:80 <- 10.0.0.5:40000  CLOSED:PROXY_SRC",
    ),
    "a name that would write to the terminal": (
        STATE._replace(interface="em\x1b[2J\udcff"),
        "'em\\x1b[2J\\udcff' tcp 192.0.2.80:80 <- 10.0.0.5:40000  SYN_SENT:ESTABLISHED",
    ),
    "no address family": (
        STATE._replace(wire=Key(bytes(16), bytes(16), 1, 2, 0, 99), stack=Key(bytes(16), bytes(16), 1, 2, 0, 99)),
        "all tcp ::[2] <- ::[1]  SYN_SENT:ESTABLISHED",
    ),
}


@pytest.mark.parametrize(("state", "text"), WORDS.values(), ids=WORDS)
def test_states_in_words(state: StateRecord, text: str) -> None:
    assert state_text(state) == f"{text}  {COUNTED}"
    assert json.loads(json.dumps(state_fields(state))) is not None


GOOD = FREEBSD.to_bytes()
SKIPPED = {
    "version 4": (frame4(b"\4" + GOOD[1:]), "1 of protocol 240, but no whole pfsync packet"),
    "cut": (frame4(GOOD)[:60], "1 of protocol 240, but no whole pfsync packet"),
    "longer than it is": (frame4(GOOD[:-1]), "1 of protocol 240, but no whole pfsync packet"),
    "fragment": (frame4(GOOD, more_fragments=True), "1 of protocol 240, but no whole pfsync packet"),
}


@pytest.mark.parametrize(("frame", "note"), SKIPPED.values(), ids=SKIPPED)
def test_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], frame: bytes, note: str) -> None:
    file = capture(tmp_path / "x", frame, frame4(GOOD))
    status, lines, err = decode(capsys, file)
    assert (status, len(lines)) == (0, 1)
    assert err == f"carpctl decode: {file}: packets skipped: {note}\n"


def test_packets_are_shown_up_to_an_error_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = GOOD[:-4] + bytes.fromhex("4d000001")
    file = capture(tmp_path / "x", frame4(wrong), frame4(b""))
    _, lines, err = decode(capsys, file)
    assert lines[0].endswith(" UPD 1, DEL_C 3, then badact: version 5 has no action 77")
    assert err == f"carpctl decode: {file}: packets skipped: 1 of protocol 240, but no whole pfsync packet\n"
    _, lines, err = decode(capsys, file, "--json")
    assert [message["action"] for message in json.loads(lines[0])["messages"]] == ["UPD", "DEL_C"]
    assert err == (
        f"carpctl decode: {file}: packets skipped: 1 of protocol 240, but no whole pfsync packet; "
        "pfsync packets shown up to an error in them: 1\n"
    )


REAL = {
    "pfsync-freebsd-freebsd-multicast": (19, {"INS", "UPD_C", "UPD_REQ", "BUS", "DEL_C", "CLR"}),
    "pfsync-freebsd-freebsd-multicast-all": (19, {"INS", "UPD_C", "UPD_REQ", "BUS", "DEL_C", "CLR"}),
    "pfsync-freebsd-freebsd-defer-out": (14, {"INS", "INS_ACK", "UPD", "UPD_C", "UPD_REQ", "BUS"}),
}


@pytest.mark.parametrize(("name", "count", "actions"), [(name, *case) for name, case in REAL.items()], ids=REAL)
def test_real_captures(capsys: pytest.CaptureFixture[str], name: str, count: int, actions: set[str]) -> None:
    status, lines, err = decode(capsys, str(CAPTURES / f"{name}.pcap"), "--json")
    seen = [json.loads(line) for line in lines]
    assert (status, len(seen), err) == (0, count, "")
    assert {message["action"] for fields in seen for message in fields["messages"]} == actions
    assert {fields["version"] for fields in seen} == {5}


def test_captures_of_carp_alone_start_without_the_codec_of_pfsync() -> None:
    program = (
        "import sys; from carpd.cli import carpctl;"
        f"carpctl.main(['decode', {str(CAPTURES / 'ucarp-master.pcap')!r}]);"
        "sys.exit('carpd.wire.pfsync.packet' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False).returncode == 0
