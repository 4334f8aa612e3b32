"""[pfsync]: what `carpd --check` says about it, and what comes of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from carpd.config.model import Config, Ignore, Mark, PfsyncConfig, Transport, Version
from carpd.config.parse import Loaded, load
from carpd.config.rules import OwnAddresses

SECRET = b"dGhpcnR5LXR3byByYW5kb20gYnl0ZXMgb2YgYmFzZTY0"

SECRET_FILES = {
    "key": SECRET + b"\n",
    "shortest": b"x" * 16,
    "too-short": b"x" * 15 + b"\n",
    "longest": b"x" * 256 + b"\r\n",
    "too-long": b"x" * 257,
    "empty": b"\n",
    "comments": b"# old\n  # and older\n\n",
    "several": b"# new\n\n  new secret of 24 bytes  \r\n#old\n" + SECRET,
    "eight": b"0123456789abcdef\n" * 8,
    "nine": b"0123456789abcdef\n" * 9,
    "binary": SECRET + b"\n\n" + bytes(range(128, 160)),
    "zero": b"0123456789abcdef\0\n",
    "endless": b"# 456789abcdef\n" * 5000,
    "open": SECRET,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file yet to be written, with its secrets beside it."""
    for name, content in {**SECRET_FILES, "password": b"xyzzy\n"}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o640)
    (tmp_path / "open").chmod(0o644)
    return tmp_path / "carpd.toml"


def read(file: Path, text: str, node: str = "fw-a", own: OwnAddresses | None = None) -> Loaded:
    file.write_text(text)
    return load(file, node, own)


def lines(loaded: Loaded, file: Path) -> list[str]:
    """The problems as printed, without the name of the file."""
    return [str(problem).removeprefix(f"{file}:").lstrip() for problem in loaded.problems]


def pfsync(*keys: str, secret_file: str = 'secret_file = "key"') -> str:
    """A good table in lines 1 to 3, and these keys from line 4 on."""
    return "\n".join(["[pfsync]", 'syncdev = "eth2"', secret_file, *keys, ""])


def plain(*keys: str) -> str:
    return pfsync(*keys, secret_file='transport = "plain"')


def ignore(key: str) -> str:
    """The key in line 5."""
    return pfsync("[pfsync.ignore]", key)


LAN = '[carp.lan]\ninterface = "eth1"\nvhid = 1\naddresses = ["192.0.2.1/24"]\npassword_file = "password"\n'

NO_SECRET = (
    'there is no secret: set secret_file = "/etc/carpd/pfsync.key" for the sealed transport, or transport = "plain", '
    "with which whoever is on the link can open the firewall"
)
NO_SEALED_BSD = 'the BSDs have no sealed transport: set transport = "plain", without a secret, on a link for this alone'
NOT_BOTH = "the plain transport has no use for a secret: keep one of the two, the secret to be safe on any link"
IPV4_ALONE = "OpenBSD, and FreeBSD before 14 (1301), have pfsync over IPv4 alone: name the nodes by IPv4"
DEFER_SYNCDEV = (
    "the syncdev is one of them, which carries the states that would be waited for: list the interfaces that "
    "connections leave by"
)
UNICAST = "only a unicast address can be a host's"
PROTOCOLS = (
    "must be a number or one of icmp, igmp, ipip, tcp, udp, dccp, ipv6, gre, esp, ah, icmpv6, ipv6-icmp, ospf, sctp, "
    "udplite"
)
A_MARK = 'must be a mark, such as 5, "0x10" or "0x10/0xff"'
MARK_RANGE = "a mark is 0 to 0xffffffff, and its mask 1 to 0xffffffff"
A_NETWORK = 'must be an address or a network, such as "192.0.2.1" or "2001:db8::/32"'

PROBLEMS: dict[str, tuple[str, list[str]]] = {
    # what the table below leaves out is right
    "good": (pfsync(), []),
    "good, plain": (plain(), []),
    "good, beside virtual hosts": (pfsync() + LAN, []),
    "good, with an empty carp table": (pfsync("[carp]"), []),
    # the table
    "no table": ("pfsync = 3", ["1: error: pfsync = 3: must be a table, [pfsync], not a whole number"]),
    "several": ("[[pfsync]]", ["1: error: pfsync = [{}]: must be a table, [pfsync], not an array"]),
    "misspelt": ("[pfsycn]\n" + LAN, ["1: error: pfsycn: unknown table: did you mean 'pfsync'?"]),
    "empty": (
        "\n[pfsync]",
        [
            "2: error: pfsync.syncdev: is missing: it is the network interface of the link between the nodes",
            f"2: error: pfsync: {NO_SECRET}",
        ],
    ),
    "an unknown key": (
        pfsync("syncpeers = []"),
        ["4: error: pfsync.syncpeers = []: unknown key: did you mean 'syncpeer'?"],
    ),
    "the secret itself is not shown": (
        pfsync('secrets = "hush, hush, hush!"'),
        ["4: error: pfsync.secrets: unknown key: did you mean 'secret'?"],
    ),
    "a key of ours that nobody sets": (
        pfsync("bulk_limit = 3"),
        [
            "4: error: pfsync.bulk_limit = 3: unknown key: known are syncdev, syncpeer, transport, secret_file, "
            "secret, port, maxupd, max_states, local, version, defer, carp_demotion_factor, up, ignore"
        ],
    ),
    # values
    "syncdev": (
        '[pfsync]\nsyncdev = "eth 2"\nsecret_file = "key"',
        ['2: error: pfsync.syncdev = "eth 2": an interface name has no slash, colon or space'],
    ),
    "numbers out of range": (
        pfsync("port = 0", "maxupd = 256", "max_states = 0", "carp_demotion_factor = -1"),
        [
            "4: error: pfsync.port = 0: a port is 1 to 65535",
            "5: error: pfsync.maxupd = 256: maxupd is 0 to 255",
            "6: error: pfsync.max_states = 0: max_states is 1 to 2147483647",
            "7: error: pfsync.carp_demotion_factor = -1: a demotion factor is 0 to 255",
        ],
    ),
    "numbers at their limits": (
        pfsync("port = 65535", "maxupd = 255", "max_states = 1", "carp_demotion_factor = 0"),
        [],
    ),
    "choices": (
        pfsync('transport = "tls"', "local = 1", "version = 1301"),
        [
            '4: error: pfsync.transport = "tls": must be "sealed" or "plain"',
            "5: error: pfsync.local = 1: must be true or false, not a whole number",
            '6: error: pfsync.version = 1301: must be "linux" or "openbsd" or "1301" or "1400" or "1500"',
        ],
    ),
    # transports
    "no secret": (pfsync(secret_file=""), [f"1: error: pfsync: {NO_SECRET}"]),
    "no secret, but sealed": (
        pfsync('transport = "sealed"', secret_file=""),
        [f'4: error: pfsync.transport = "sealed": {NO_SECRET}'],
    ),
    "a secret, but plain": (pfsync('transport = "plain"'), [f'4: error: pfsync.transport = "plain": {NOT_BOTH}']),
    "a BSD, sealed": (pfsync('version = "openbsd"'), [f'4: error: pfsync.version = "openbsd": {NO_SEALED_BSD}']),
    "a BSD, neither": (
        pfsync('version = "1500"', secret_file=""),
        [f'4: error: pfsync.version = "1500": {NO_SEALED_BSD}'],
    ),
    "a BSD, plain": (plain('version = "1400"'), []),
    "a port, plain": (
        plain("port = 5240"),
        [
            "4: warning: pfsync.port = 5240: the plain transport is an IP protocol of its own (240) and has no ports: "
            "remove it"
        ],
    ),
    # syncpeer
    "no array": (
        pfsync('syncpeer = "10.0.0.2"'),
        ['4: error: pfsync.syncpeer = "10.0.0.2": must be an array, ["10.0.0.2"], not a string'],
    ),
    "no hosts": (
        pfsync('syncpeer = ["224.0.0.240", "fe80::2%eth2", "0.0.0.0"]'),
        [
            f'4: error: pfsync.syncpeer = "0.0.0.0": is the unspecified address: {UNICAST}',
            f'4: error: pfsync.syncpeer = "224.0.0.240": is a multicast address: {UNICAST}',
            '4: error: pfsync.syncpeer = "fe80::2%eth2": write it without % and what follows: the interface has a key '
            "of its own",
        ],
    ),
    "a node twice": (
        pfsync('syncpeer = ["10.0.0.2", "10.0.0.2"]'),
        ['4: error: pfsync.syncpeer = ["10.0.0.2", "10.0.0.2"]: a node is listed twice: name each once'],
    ),
    "two families": (
        pfsync('syncpeer = ["10.0.0.2", "fe80::2"]'),
        [
            '4: error: pfsync.syncpeer = ["10.0.0.2", "fe80::2"]: has addresses of both families: name each node once, '
            "all by IPv4 or all by IPv6"
        ],
    ),
    "IPv6": (pfsync('syncpeer = ["fe80::1", "fe80::2"]'), []),
    **{
        f"IPv6, with version {version}": (
            plain(f'version = "{version}"', 'syncpeer = ["fe80::2"]'),
            [f'5: error: pfsync.syncpeer = ["fe80::2"]: {IPV4_ALONE}'],
        )
        for version in ("openbsd", "1301")
    },
    "IPv6, with version 1400": (plain('version = "1400"', 'syncpeer = ["fe80::2"]'), []),
    "a shared address": (
        pfsync('syncpeer = ["192.0.2.1"]') + LAN,
        [
            '4: error: pfsync.syncpeer = ["192.0.2.1"]: one is a shared address of a virtual host: list addresses that '
            "the nodes have"
        ],
    ),
    # defer
    "defer is no array": (
        pfsync('defer = "eth0"'),
        ['4: error: pfsync.defer = "eth0": must be an array, ["eth0"], not a string'],
    ),
    "no interfaces": (
        pfsync('defer = ["eth 0", "", 1, true, "eth0"]'),
        [
            '4: error: pfsync.defer = "": an interface name has 1 to 15 characters',
            '4: error: pfsync.defer = "eth 0": an interface name has no slash, colon or space',
            "4: error: pfsync.defer = 1: must be a string, not a whole number",
            "4: error: pfsync.defer = true: must be a string, not a boolean",
        ],
    ),
    "an interface twice": (
        pfsync('defer = ["eth0", "eth1", "eth0"]'),
        ['4: error: pfsync.defer = ["eth0", "eth1", "eth0"]: an interface is listed twice: name each once'],
    ),
    "the syncdev": (
        pfsync('defer = ["eth0", "eth2"]'),
        [f'4: error: pfsync.defer = ["eth0", "eth2"]: {DEFER_SYNCDEV}'],
    ),
    "the syncdev of another node": (
        pfsync('defer = ["eth0"]', "[node.fw-b.pfsync]", 'syncdev = "eth0"'),
        [f'6: error: node.fw-b.pfsync.syncdev = "eth0": {DEFER_SYNCDEV}'],
    ),
    "defer, of a virtual host's interface": (pfsync('defer = ["eth0", "eth1"]') + LAN, []),
    "defer, with a BSD": (plain('version = "1400"', 'defer = ["eth0"]'), []),
    # the link of a virtual host
    "on the link of a virtual host": (
        pfsync() + LAN.replace("eth1", "eth2"),
        [
            '2: warning: pfsync.syncdev = "eth2": carp.lan is on this link too, and its traffic and pfsync\'s are in '
            "each other's way: use a link for pfsync alone"
        ],
    ),
    "plain, on the link of a virtual host": (
        plain() + LAN.replace("eth1", "eth2"),
        [
            '2: warning: pfsync.syncdev = "eth2": carp.lan is on this link too, and whoever is on it can open the '
            "firewall: use a link for pfsync alone"
        ],
    ),
    "on the link of a virtual host, of another node": (
        pfsync() + LAN + "[node.fw-b]\ncarp.lan.advskew = 1\npfsync.syncdev = 'eth1'",
        [
            '11: warning: node.fw-b.pfsync.syncdev = "eth1": carp.lan is on this link too, and its traffic and '
            "pfsync's are in each other's way: use a link for pfsync alone"
        ],
    ),
    # ignore
    "ignore is no table": (
        pfsync('ignore = ["icmp"]'),
        ['4: error: pfsync.ignore = ["icmp"]: must be a table, [pfsync.ignore], not an array'],
    ),
    "ignore, misspelt": (pfsync("[pfsync.ignroe]"), ["4: error: pfsync.ignroe: unknown key: did you mean 'ignore'?"]),
    "an unknown key of ignore": (
        ignore("adresses = []"),
        ["5: error: pfsync.ignore.adresses = []: unknown key: did you mean 'addresses'?"],
    ),
    "ignored addresses": (
        ignore('addresses = ["192.0.2.1/24", "fe80::%eth0/64", "example.org", 5, "0.0.0.0/0"]'),
        [
            '5: error: pfsync.ignore.addresses = "192.0.2.1/24": is an address within a network: write "192.0.2.0/24", '
            'or "192.0.2.1" alone',
            "5: error: pfsync.ignore.addresses = 5: must be a string, not a whole number",
            f'5: error: pfsync.ignore.addresses = "example.org": {A_NETWORK}',
            f'5: error: pfsync.ignore.addresses = "fe80::%eth0/64": {A_NETWORK}',
        ],
    ),
    "ignored protocols": (
        ignore('protocols = ["ICMP", 256, true, 255]'),
        [
            f'5: error: pfsync.ignore.protocols = "ICMP": {PROTOCOLS}',
            "5: error: pfsync.ignore.protocols = 256: a protocol is 0 to 255",
            "5: error: pfsync.ignore.protocols = true: a protocol is a whole number, not a boolean",
        ],
    ),
    "ignored marks": (
        ignore('marks = ["0x10/0x0f", "1/0", "0x100000000", 4294967296, "9999999999", -1, "x", 1.5, true, "1/2/3"]'),
        [
            '5: error: pfsync.ignore.marks = "0x10/0x0f": has bits outside of its mask: nothing would match',
            f'5: error: pfsync.ignore.marks = "0x100000000": {A_MARK}',
            f'5: error: pfsync.ignore.marks = "1/0": {MARK_RANGE}',
            f'5: error: pfsync.ignore.marks = "1/2/3": {A_MARK}',
            f'5: error: pfsync.ignore.marks = "9999999999": {MARK_RANGE}',
            f'5: error: pfsync.ignore.marks = "x": {A_MARK}',
            f"5: error: pfsync.ignore.marks = -1: {MARK_RANGE}",
            f"5: error: pfsync.ignore.marks = 1.5: {A_MARK}",
            f"5: error: pfsync.ignore.marks = 4294967296: {MARK_RANGE}",
            f"5: error: pfsync.ignore.marks = true: {A_MARK}",
        ],
    ),
    "ignored zones": (
        ignore('zones = [-1, 65536, "1", 0, 65535]'),
        [
            '5: error: pfsync.ignore.zones = "1": a zone is a whole number, not a string',
            "5: error: pfsync.ignore.zones = -1: a zone is 0 to 65535",
            "5: error: pfsync.ignore.zones = 65536: a zone is 0 to 65535",
        ],
    ),
    # nodes
    "an override, but no pfsync": (
        LAN + "[node.fw-b]\ncarp.lan.advskew = 1\n[node.fw-b.pfsync]\nmaxupd = 1\n",
        ["8: error: node.fw-b.pfsync: there is no [pfsync]: write there what the nodes have in common"],
    ),
    "an override that is no table": (
        pfsync("[node.fw-b]", "pfsync = 3"),
        ["5: error: node.fw-b.pfsync = 3: must be a table, [node.NODE.pfsync], not a whole number"],
    ),
    "an override of what is the same on every node": (
        pfsync(
            *("[node.fw-b.pfsync]", 'transport = "sealed"', "port = 1", 'version = "linux"', "local = true"),
            *("ignore.zones = [1]", "maxupd = 1"),
        ),
        [
            '5: error: node.fw-b.pfsync.transport = "sealed": is the same on every node: set it in [pfsync]',
            "6: error: node.fw-b.pfsync.port = 1: is the same on every node: set it in [pfsync]",
            '7: error: node.fw-b.pfsync.version = "linux": is the same on every node: set it in [pfsync]',
            "8: error: node.fw-b.pfsync.local = true: is the same on every node: set it in [pfsync]",
            "9: error: node.fw-b.pfsync.ignore = {…}: is the same on every node: set it in [pfsync]",
        ],
    ),
    "missing on some nodes": (
        '[pfsync]\nsecret_file = "key"\n[node.fw-b.pfsync]\nsyncdev = "eth2"\n[node.fw-c]\n',
        [
            "1: error: pfsync.syncdev: is missing on fw-a and fw-c: it is the network interface of the link between "
            "the nodes"
        ],
    ),
    "no secret on one node": (
        pfsync("[node.fw-a.pfsync]", 'secret_file = "key"', "[node.fw-b]", secret_file=""),
        [f"1: error: pfsync: {NO_SECRET}"],
    ),
    "a secret on one node": (
        plain("[node.fw-b.pfsync]", 'secret_file = "key"'),
        [f'5: error: node.fw-b.pfsync.secret_file = "key": {NOT_BOTH}'],
    ),
    "the secret of another node need not be here": (
        pfsync("[node.fw-b.pfsync]", 'secret_file = "/there/key"'),
        [],
    ),
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems(file: Path, text: str, expected: list[str]) -> None:
    loaded = read(file, text)
    assert sorted(lines(loaded, file)) == sorted(expected)
    assert (loaded.config is None) == any("error: " in line for line in expected)


SECRETS: dict[str, tuple[bytes, ...] | str] = {
    "key": (SECRET,),
    "shortest": (b"x" * 16,),
    "longest": (b"x" * 256,),
    "several": (b"new secret of 24 bytes", SECRET),
    "eight": (b"0123456789abcdef",) * 8,
    "too-short": "line 1 of that file: a secret has 16 to 256 characters",
    "too-long": "line 1 of that file: a secret has 16 to 256 characters",
    "nine": "has 9 secrets: at most 8 are tried",
    "empty": "there is no secret in it: make one with `head -c 32 /dev/urandom | base64`, for all nodes the same",
    "comments": "there is no secret in it: make one with `head -c 32 /dev/urandom | base64`, for all nodes the same",
    "binary": "line 3 of that file: a secret has printable ASCII characters alone, as base64 makes them",
    "zero": "line 1 of that file: a secret has printable ASCII characters alone, as base64 makes them",
    "endless": "has more than 65536 bytes: it is no file of secrets",
    "open": "others can read this file: take that permission from them (chmod o-r)",
    "no-such": "can't be read: No such file or directory",
    ".": "can't be read: Is a directory",
    "": "must be the name of a file",
}


@pytest.mark.parametrize(("name", "expected"), SECRETS.items(), ids=SECRETS)
def test_secret_file(file: Path, name: str, expected: tuple[bytes, ...] | str) -> None:
    loaded = read(file, pfsync(secret_file=f'secret_file = "{name}"'))
    if isinstance(expected, str):
        assert lines(loaded, file) == [f'3: error: pfsync.secret_file = "{name}": {expected}']
    else:
        assert loaded.problems == ()
        assert loaded.config is not None
        assert loaded.config.pfsync is not None
        assert loaded.config.pfsync.secrets == expected
        assert loaded.config.pfsync.secret_file == str(file.parent / name)
        assert expected[0].decode() not in repr(loaded)


EVERYTHING = """\
[pfsync]
syncdev = "eth2"
syncpeer = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
transport = "plain"
port = 1
maxupd = 0
max_states = 1000
local = true
version = "1301"
defer = ["eth0", "eth1.7"]
carp_demotion_factor = 7

[pfsync.ignore]
addresses = ["192.0.2.0/24", "2001:db8::/32", "192.0.2.1"]
protocols = ["icmp", "gre", 47, 0]
marks = [5, "5", "0x10/0xff", "16/255"]
zones = [0, 1]
"""


def config(loaded: Loaded) -> PfsyncConfig:
    assert loaded.config is not None, loaded.problems
    assert loaded.config.pfsync is not None
    return loaded.config.pfsync


OTHERS_CAN_READ = "others can read this file: take that permission from them (chmod o-r), or use secret_file"
IN_THE_FILE: dict[str, tuple[str, int, list[str]]] = {
    # what stands in place of secret_file, the file's mode, and what is wrong
    "good": ('secret = "hush, hush, hush!"', 0o640, []),
    "others can read it": ('secret = "hush, hush, hush!"', 0o644, [f"3: error: pfsync.secret: {OTHERS_CAN_READ}"]),
    "too short": ('secret = "hush"', 0o600, ["3: error: pfsync.secret: a secret has 16 to 256 characters"]),
    "no string": ("secret = 5", 0o600, ["3: error: pfsync.secret: must be a string, not a whole number"]),
    "of a file, too": (
        'secret = "hush, hush, hush!"\nsecret_file = "key"',
        0o600,
        ["3: error: pfsync.secret: there is also a secret_file: keep one of the two"],
    ),
    "plain": (
        'secret = "hush, hush, hush!"\ntransport = "plain"',
        0o600,
        [f'4: error: pfsync.transport = "plain": {NOT_BOTH}'],
    ),
}


@pytest.mark.parametrize(("key", "mode", "expected"), IN_THE_FILE.values(), ids=IN_THE_FILE)
def test_a_secret_in_the_file_itself(file: Path, key: str, mode: int, expected: list[str]) -> None:
    """It is shown nowhere."""
    file.touch()
    file.chmod(mode)
    loaded = read(file, pfsync(secret_file=key))
    assert lines(loaded, file) == expected
    assert "hush" not in "".join(lines(loaded, file)) + repr(loaded)
    if not expected:
        assert loaded.config is not None
        secret = b"hush, hush, hush!"
        assert loaded.config.pfsync == PfsyncConfig(syncdev="eth2", secret_file=None, secrets=(secret,))


def test_minimal(file: Path) -> None:
    expected = PfsyncConfig(syncdev="eth2", secret_file=str(file.parent / "key"), secrets=(SECRET,))
    assert read(file, pfsync()).config == Config(node="fw-a", virtual_hosts=(), pfsync=expected)


def test_everything(file: Path) -> None:
    assert config(read(file, EVERYTHING)) == PfsyncConfig(
        syncdev="eth2",
        syncpeers=(ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.0.0.3")),
        transport=Transport.PLAIN,
        port=1,
        maxupd=0,
        max_states=1000,
        local=True,
        version=Version.FREEBSD_1301,
        defer=("eth0", "eth1.7"),
        carp_demotion_factor=7,
        ignore=Ignore(
            addresses=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("192.0.2.1/32")),
            protocols=(1, 47, 47, 0),
            marks=(Mark(5), Mark(5), Mark(0x10, 0xFF), Mark(0x10, 0xFF)),
            zones=(0, 1),
        ),
    )


@pytest.mark.parametrize(
    ("node", "syncdev", "secrets", "defer"),
    [("fw-a", "eth2", (SECRET,), ("eth0",)), ("fw-b", "eth3", (b"x" * 16,), ("eth4", "eth5"))],
)
def test_override(file: Path, node: str, syncdev: str, secrets: tuple[bytes, ...], defer: tuple[str, ...]) -> None:
    text = pfsync(
        *('defer = ["eth0"]', "[node.fw-b.pfsync]"),
        *('syncdev = "eth3"', 'secret_file = "shortest"', 'defer = ["eth4", "eth5"]'),
    )
    found = config(read(file, text, node))
    assert (found.syncdev, found.secrets, found.defer) == (syncdev, secrets, defer)


OWN_SYNCPEERS: dict[str, tuple[tuple[str, ...], dict[str, list[str]] | None, tuple[str, ...]]] = {
    "read elsewhere": (("10.0.0.1", "10.0.0.2"), None, ("10.0.0.1", "10.0.0.2")),
    "not named": (("10.0.0.2",), {"eth2": ["10.0.0.1"]}, ("10.0.0.2",)),
    "named": (("10.0.0.1", "10.0.0.2"), {"eth1": ["192.0.2.2"], "eth2": ["10.0.0.1"]}, ("10.0.0.2",)),
    "named, of another interface": (("10.0.0.1", "10.0.0.2"), {"lo": ["10.0.0.1"]}, ("10.0.0.2",)),
    "link-local": (("fe80::1", "fe80::2"), {"eth2": ["fe80::1"]}, ("fe80::2",)),
    "link-local, of another interface": (("fe80::1", "fe80::2"), {"eth1": ["fe80::1"]}, ("fe80::1", "fe80::2")),
    "multicast": ((), {"eth2": ["10.0.0.1"]}, ()),
}


@pytest.mark.parametrize(("named", "own", "expected"), OWN_SYNCPEERS.values(), ids=OWN_SYNCPEERS)
def test_own_address_is_no_syncpeer(
    file: Path, named: tuple[str, ...], own: dict[str, list[str]] | None, expected: tuple[str, ...]
) -> None:
    addresses = None if own is None else {link: [*map(ip_address, texts)] for link, texts in own.items()}
    found = config(read(file, pfsync(f"syncpeer = {list(named)}"), own=addresses))
    assert tuple(map(str, found.syncpeers)) == expected


def test_own_address_alone(file: Path) -> None:
    """It must not become the multicast group."""
    loaded = read(file, pfsync('syncpeer = ["10.0.0.1"]'), own={"eth2": [ip_address("10.0.0.1")]})
    message = "names this host alone: list the other nodes, or leave it out for multicast"
    assert lines(loaded, file) == [f'4: error: pfsync.syncpeer = ["10.0.0.1"]: {message}']


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        (pfsync(), 32),
        (pfsync() + LAN, 32),
        (pfsync() + LAN + 'demotion = "advskew"', 240),
        (pfsync() + LAN + 'demotion = "both"', 240),
        (pfsync("carp_demotion_factor = 5") + LAN + 'demotion = "both"', 5),
        (pfsync("[node.fw-a.pfsync]", "carp_demotion_factor = 5") + LAN + 'demotion = "both"', 5),
    ],
)
def test_carp_demotion_factor(file: Path, text: str, factor: int) -> None:
    assert config(read(file, text)).carp_demotion_factor == factor
