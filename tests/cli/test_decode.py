"""carpctl decode of CARP, run as a function and once as a program."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from carpd.trace.pcap import RAW_IP
from carpd.wire.carp import GROUP4, GROUP6, Advertisement, virtual_mac
from carpd.wire.carp_auth import Authenticator
from carpd.wire.ethernet import ETHERTYPE_IPV4, EthernetFrame, multicast_mac4
from carpd.wire.frames import advertisement_frame
from carpd.wire.ipv4 import IPv4Packet
from tests.cli.captures import CAPTURES, capture, decode

KEYS = [
    "time",
    "family",
    "source",
    "destination",
    "source_mac",
    "ttl",
    "vhid",
    "advbase",
    "advskew",
    "demotion",
    "counter",
    "checksum",
    "digest",
]

SOURCE4, SOURCE6 = ip_address("192.0.2.2").packed, ip_address("fe80::200:ff:fe00:a").packed
ADDRESSES = ("192.0.2.10", "fe80::7", "2001:db8::aa")
COUNTER = 0x0102030405060708


def message(*, send_link_local: bool = False) -> Advertisement:
    addresses6 = [ip_address(address).packed for address in ADDRESSES[1:]]
    authenticator = Authenticator(b"xyzzy", 7, [ip_address(ADDRESSES[0]).packed], addresses6, send_link_local)
    return Advertisement(vhid=7, advskew=100, demotion=1, counter=COUNTER, digest=authenticator.sign(COUNTER))


def frame4(payload: bytes, *, more_fragments: bool = False) -> bytes:
    """An Ethernet frame with this payload of protocol 112."""
    packet = IPv4Packet(
        source=SOURCE4, destination=GROUP4, ttl=255, protocol=112, payload=payload, more_fragments=more_fragments
    )
    return EthernetFrame(multicast_mac4(GROUP4), virtual_mac(7), ETHERTYPE_IPV4, packet.to_bytes()).to_bytes()


IPV4 = advertisement_frame(message(), source_mac=virtual_mac(7), source=SOURCE4, destination=GROUP4)
IPV6 = advertisement_frame(message(send_link_local=True), source_mac=virtual_mac(7), source=SOURCE6, destination=GROUP6)
BAD_CHECKSUM = IPV4.replace(message().to_bytes(), message().to_bytes()[:6] + b"\0\0" + message().to_bytes()[8:])
VRRP2 = frame4(bytes.fromhex("2101640100010000 c000020a") + bytes(8))
VRRP3 = frame4(bytes.fromhex("31016401006405fd c000020a"))
SHORT = frame4(message().to_bytes()[:35])
VERSION_5 = frame4(b"\x51" + bytes(35))
FRAGMENT = frame4(message().to_bytes(), more_fragments=True)
CUT = IPV4[:50]
NO_CARP = IPV4[:23] + b"\x06" + IPV4[24:]


CHECK = ["--password", "xyzzy", "--address", "192.0.2.10", "--address", "fe80::7/64", "--address", "2001:db8::aa/64"]


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        pytest.param([], "unchecked", id="unchecked"),
        pytest.param(CHECK, "ok", id="right"),
        pytest.param(["--password", "plugh", *CHECK[2:]], "bad", id="wrong password"),
        pytest.param(CHECK[:-2], "bad", id="an address is missing"),
    ],
)
def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], digest: str) -> None:
    file = capture(tmp_path / "x", NO_CARP, IPV4, IPV6, BAD_CHECKSUM)
    status, lines, err = decode(capsys, file, *options)
    common = "carp vhid 7 advbase 1 advskew 100 demotion 1 counter 0102030405060708 ttl 255 checksum"
    assert [" ".join(line.split()) for line in lines] == [
        f"1.000000 192.0.2.2 > 224.0.0.18 {common} ok digest {digest}",
        f"2.000000 fe80::200:ff:fe00:a > ff02::12 {common} ok digest {digest}",
        f"3.000000 192.0.2.2 > 224.0.0.18 {common} bad digest {digest}",
    ]
    assert len({line.index("carp") for line in lines}) == 1, "the columns are aligned"
    assert (status, err) == (0, "")


def test_the_line_says_which_of_the_addresses_a_digest_covers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines, _ = decode(capsys, capture(tmp_path / "x", IPV4), *CHECK, "--address", "192.0.2.99")
    assert lines[0].endswith("digest ok over 192.0.2.10 fe80::7 2001:db8::aa")
    _, lines, _ = decode(
        capsys, str(CAPTURES / "netbsd-shutdown.pcap"), "--password", "secret", "--address", "10.99.0.100"
    )
    assert [line.endswith("digest ok over no address") for line in lines].count(True) == 2


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(tmp_path / "x", NO_CARP, IPV6, VRRP3)
    status, lines, err = decode(capsys, file, "--json", *CHECK)
    (fields,) = map(json.loads, lines)
    assert fields == {
        "time": 1_700_000_001.0,
        "family": 6,
        "source": "fe80::200:ff:fe00:a",
        "destination": "ff02::12",
        "source_mac": "00:00:5e:00:01:07",
        "ttl": 255,
        "vhid": 7,
        "advbase": 1,
        "advskew": 100,
        "demotion": 1,
        "counter": "0102030405060708",
        "checksum": "ok",
        "digest": "ok",
    }
    assert list(fields) == KEYS
    assert (status, err) == (0, "")


def test_json_without_link_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = decode(capsys, capture(tmp_path / "x", IPV4[14:], linktype=RAW_IP), "--json")
    fields = json.loads(lines[0])
    assert list(fields) == KEYS
    assert fields["source_mac"] is None


@pytest.mark.parametrize("content", ["xyzzy", "xyzzy\n"])
def test_password_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    password = tmp_path / "password"
    password.write_text(content)
    file = capture(tmp_path / "x", IPV4)
    _, lines, _ = decode(capsys, file, "--password-file", str(password), *CHECK[2:])
    assert lines[0].endswith("digest ok")


SKIPPED = {
    "VRRP": ([VRRP2, VRRP3], "2 VRRP"),
    "too short": ([SHORT], "1 of protocol 112, but no whole CARP packet"),
    "all": ([VRRP2, SHORT], "1 VRRP, 1 of protocol 112, but no whole CARP packet"),
    "version, fragment, cut": ([VERSION_5, FRAGMENT, CUT], "3 of protocol 112, but no whole CARP packet"),
}


@pytest.mark.parametrize(("frames", "note"), SKIPPED.values(), ids=SKIPPED)
def test_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: list[bytes], note: str) -> None:
    file = capture(tmp_path / "x", *frames, IPV4)
    status, lines, err = decode(capsys, file)
    assert (status, len(lines)) == (0, 1)
    assert err == f"carpctl decode: {file}: packets skipped: {note}\n"


def test_other_packets_cut_short_are_no_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode(capsys, capture(tmp_path / "x", NO_CARP[:40], NO_CARP[:10])) == (0, [], "")


def test_unsupported_link_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = capture(tmp_path / "x", IPV4, linktype=127)
    status, lines, err = decode(capsys, file)
    assert (status, lines) == (0, [])
    assert err == f"carpctl decode: {file}: packets skipped: 1 of a link type that is not supported\n"


def test_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    file = capture(path, IPV4, IPV6)
    path.write_bytes(path.read_bytes()[:-1])
    status, lines, err = decode(capsys, file)
    assert (status, len(lines)) == (1, 1)
    assert (
        err
        == f"carpctl decode: {file}: offset 126: the file ends within the frame of a record: need 90 bytes, got 89\n"
    )


def test_every_truncation_of_a_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (CAPTURES / "freebsd-master-mixed.pcap").read_bytes()
    path = tmp_path / "x"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        status, lines, err = decode(capsys, str(path))
        assert (status, err.count("\n")) in ((0, 0), (1, 1))
        assert len(lines) <= 14


def test_no_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_text("hello")
    assert decode(capsys, str(path)) == (
        1,
        [],
        f"carpctl decode: {path}: not a capture: it begins with 68 65 6c 6c, which is neither pcap nor pcapng\n",
    )


@pytest.mark.parametrize("option", [[], ["--address", "192.0.2.1", "--password-file"]], ids=["capture", "password"])
def test_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    args = [str(CAPTURES / "ucarp-master.pcap"), *option] if option else []
    status, lines, err = decode(capsys, *args, str(tmp_path / "none"))
    assert (status, lines) == (1, [])
    assert err == f"carpctl decode: {tmp_path}/none: No such file or directory\n"


def test_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode(capsys, str(tmp_path)) == (1, [], f"carpctl decode: {tmp_path}: Is a directory\n")


USAGE = {
    "no file": ([], "the following arguments are required: FILE"),
    "address": (["x", "--password", "a", "--address", "192.0.2.300"], "'192.0.2.300' does not appear to be"),
    "address without password": (
        ["x", "--address", "192.0.2.1"],
        "with the password too: give --password or --password-file",
    ),
    "both passwords": (["x", "--password", "a", "--password-file", "b"], "not allowed with argument"),
    "long password": (
        ["x", "--password", "a" * 20, "--address", "192.0.2.1"],
        "a password has at most 19 bytes, this one has 20",
    ),
}


@pytest.mark.parametrize(("args", "message"), USAGE.values(), ids=USAGE)
def test_usage(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    status, lines, err = decode(capsys, *args)
    assert (status, lines) == (2, [])
    assert message in err


REAL = {
    "contest-freebsd-netbsd": (27, ["10.99.0.100"]),
    "freebsd-master-mixed": (14, ["10.99.0.100", "2001:db8:99::100", "fe80::99:1", "10.99.0.7"]),
    "freebsd-demotion": (31, ["10.99.0.100", "10.99.0.101"]),
    "freebsd-master-v4": (11, ["10.99.0.100"]),
    "netbsd-master-v4": (11, ["10.99.0.100"]),
    "netbsd-multi-v4": (4, ["10.99.200.7", "10.99.0.100", "10.99.255.1", "10.99.0.9", "10.99.128.1"]),
    "netbsd-shutdown": (12, ["10.99.0.100"]),
    "pfsync-freebsd-freebsd-multicast-all": (0, ["10.99.0.100"]),
    "ucarp-master": (9, ["10.99.0.100"]),
}


@pytest.mark.parametrize(("name", "count", "addresses"), [(name, *case) for name, case in REAL.items()], ids=REAL)
@pytest.mark.parametrize(("password", "digest"), [("secret", "ok"), ("Secret", "bad")])
def test_real_captures(
    capsys: pytest.CaptureFixture[str], name: str, count: int, addresses: list[str], password: str, digest: str
) -> None:
    options = [option for address in addresses for option in ("--address", address)]
    status, lines, err = decode(capsys, str(CAPTURES / f"{name}.pcap"), "--json", "--password", password, *options)
    seen = [fields for fields in map(json.loads, lines) if "vhid" in fields]
    assert (status, len(seen), err) == (0, count, "")
    assert {(fields["checksum"], fields["digest"]) for fields in seen} <= {("ok", digest)}


COMMAND = [sys.executable, "-m", "carpd.cli.carpctl", "decode", "-"]


def test_standard_input() -> None:
    with (CAPTURES / "ucarp-master.pcap").open("rb") as file:
        done = subprocess.run(COMMAND, stdin=file, capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (0, 9, b"")


def test_reader_gone(tmp_path: Path) -> None:
    file = capture(tmp_path / "x", *[IPV4] * 2000)  # more than a pipe and a buffer hold
    with subprocess.Popen([*COMMAND[:-1], file], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
