"""What `carpd --check` says about a file: a table of mistakes, and the promise that nothing makes it raise."""

from __future__ import annotations

import dataclasses
import os
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from carpd.config.keys import CARP_KEYS
from carpd.config.model import Config, DemotionMode, MacMode, MasterDownRule, Transport, VirtualHostConfig
from carpd.config.parse import Loaded, load
from carpd.config.rules import OwnAddresses

EXAMPLE = Path(__file__).parents[2] / "packaging" / "carpd.toml"

MINIMAL = """\
[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24", "2001:db8:1::1/64"]
password_file = "password"
advskew = 0

[node.fw-b.carp.lan]
advskew = 100
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file yet to be written, with password files beside it."""
    for name, content in PASSWORDS.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o640)
    (tmp_path / "open").chmod(0o644)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "carpd.toml"


PASSWORDS = {
    "password": b"xyzzy\n",
    "longest": b"19 bytes, 1 newline\n",
    "too-long": b"twenty bytes are too",
    "too-long-by-newline": b"19 bytes, 2 newline\n\n",
    "long": b"x" * 1000,
    "empty": b"\n",
    "zero": b"a\0b\n",
    "pfsync.key": b"dGhpcnR5LXR3byByYW5kb20gYnl0ZXMgb2YgYmFzZTY0\n",
    "open": b"xyzzy\n",
}


def read(file: Path, text: str, node: str = "fw-a", own: OwnAddresses | None = None, mode: int = 0o640) -> Loaded:
    file.write_text(text)
    file.chmod(mode)
    return load(file, node, own)


def lines(loaded: Loaded, file: Path) -> list[str]:
    """The problems as printed, without the name of the file."""
    return [str(problem).removeprefix(f"{file}:").lstrip() for problem in loaded.problems]


def lan(*keys: str, omit: str = "") -> str:
    """A good virtual host, in lines 1 to 5, and with these keys from line 6 on; an omitted key leaves its line "
    "empty."""
    good = ['interface = "eth1"', "vhid = 1", 'addresses = ["192.0.2.1/24"]', 'password_file = "password"']
    kept = ("" if omit and line.startswith(omit + " ") else line for line in good)
    return "\n".join(["[carp.lan]", *kept, *keys, ""])


def wan(*keys: str) -> str:
    """A second one, which collides with nothing."""
    return '[carp.wan]\ninterface = "eth0"\nvhid = 2\npassword_file = "password"\n' + "\n".join([*keys, ""])


INTERFACE = "it is the network interface of the link that the addresses are on"
INTERFACE_CHARACTERS = "an interface name has no slash, colon or space"

ONE_VIRTUAL_HOST: dict[str, tuple[str, list[str]]] = {
    # what the table below leaves out is right
    "good": (lan(), []),
    "all keys": (
        lan(
            *("advbase = 2", "advskew = 254", "preempt = true", 'group = "edge"', 'mac = "real"', 'demotion = "both"'),
            *('peers = ["192.0.2.3"]', "multicast = true", 'master_down = "openbsd"', "digest_link_local = true"),
            *("ifdown_demotion_factor = 255", "senderr_demotion_factor = 0"),
        ),
        [],
    ),
    # the document
    "no valid TOML": ("[carp.lan]\nvhid = = 1\n", ["2: error: no valid TOML: Invalid value"]),
    "cut off": ("[carp.lan]\naddresses = [", ["2: error: no valid TOML: Invalid value"]),
    "a key twice": ("[carp.lan]\nvhid = 1\nvhid = 2\n", ["3: error: no valid TOML: Cannot overwrite a value"]),
    "an integer beyond all bounds": (
        f"vhid = {'9' * 5000}",
        [
            "error: no valid TOML: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
            "digits; "
            "use sys.set_int_max_str_digits() to increase the limit"
        ],
    ),
    "empty": (
        "",
        [
            "warning: carp: no virtual host is configured: write at least [carp.lan] and, below it, interface = "
            '"eth1", vhid = 1, addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; '
            "or use carpctl ifconfig",
        ],
    ),
    "an empty carp table": (
        "\n[carp]",
        [
            "2: warning: carp: no virtual host is configured: write at least [carp.lan] and, below it, interface = "
            '"eth1", vhid = 1, addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; '
            "or use carpctl ifconfig",
        ],
    ),
    "carp is no table": (
        "carp = 3",
        ["1: error: carp = 3: must be a table, [carp.NAME], not a whole number"],
    ),
    "a virtual host is no table": (
        "carp.lan = 3",
        ["1: error: carp.lan = 3: must be a table, [carp.NAME], not a whole number"],
    ),
    "an array of tables": (
        "[[carp.lan]]",
        ["1: error: carp.lan = [{}]: must be a table, [carp.NAME], not an array"],
    ),
    "no name": (
        '[carp]\ninterface = "eth1"',
        ['2: error: carp.interface = "eth1": must be a table, [carp.NAME], not a string'],
    ),
    "an unknown table": ("[crap.wan]\n" + lan(), ["1: error: crap: unknown table: did you mean 'carp'?"]),
    "a table like no other": (
        "defer = 1\n" + lan(),
        ["1: error: defer = 1: unknown table: known are carp, pfsync, control, metrics, hook, node"],
    ),
    "the name of a virtual host is too long": (
        lan().replace("carp.lan", "carp.elevenchars"),
        [
            "1: error: carp.elevenchars: the name of a virtual host has 1 to 10 of the characters A-Z a-z 0-9 _ -: "
            "its device is carp-NAME, and Linux allows that 15 characters"
        ],
    ),
    "the name of a virtual host has other characters": (
        lan().replace("carp.lan", r'carp."l\nn"'),
        [
            r'1: error: carp."l\nn": the name of a virtual host has 1 to 10 of the characters A-Z a-z 0-9 _ -: '
            "its device is carp-NAME, and Linux allows that 15 characters"
        ],
    ),
    # keys
    "an unknown key": (lan("vhdi = 3"), ["6: error: carp.lan.vhdi = 3: unknown key: did you mean 'vhid'?"]),
    "an unknown key, in capitals": (
        lan("ADV-BASE = 3"),
        ["6: error: carp.lan.ADV-BASE = 3: unknown key: did you mean 'advbase'?"],
    ),
    "a misspelt password is not shown": (
        lan('pasword = "x"'),
        ["6: error: carp.lan.pasword: unknown key: did you mean 'password'?"],
    ),
    "a key like no other": (
        lan("xxxxxx = 1.5"),
        [f"6: error: carp.lan.xxxxxx = 1.5: unknown key: known are {', '.join(CARP_KEYS)}"],
    ),
    "all that is required is missing": (
        "\n[carp.lan]",
        [
            f"2: error: carp.lan.interface: is missing: {INTERFACE}",
            "2: error: carp.lan.vhid: is missing: it is the number of the virtual host on its link, 1 to 255; "
            "for load sharing set nodes instead",
            "2: error: carp.lan.addresses: is missing: it is the addresses that the nodes share, IPv4 and IPv6, each "
            "as "
            "ADDRESS/LENGTH",
            "2: warning: carp.lan: no password: anybody on the link can take the addresses; set password_file",
        ],
    ),
    # interface
    "an empty interface": (
        lan('interface = ""', omit="interface"),
        ['6: error: carp.lan.interface = "": an interface name has 1 to 15 characters'],
    ),
    "an interface name of 16 characters": (
        lan('interface = "enp0s31f6.123456"', omit="interface"),
        ['6: error: carp.lan.interface = "enp0s31f6.123456": an interface name has 1 to 15 characters'],
    ),
    "an interface name of 15 characters": (lan('interface = "enp0s31f6.12345"', omit="interface"), []),
    "an interface is no string": (
        lan("interface = 1", omit="interface"),
        ["6: error: carp.lan.interface = 1: must be a string, not a whole number"],
    ),
    # vhid
    "vhid 300": (lan("vhid = 300", omit="vhid"), ["6: error: carp.lan.vhid = 300: a vhid is 1 to 255"]),
    "vhid 0": (lan("vhid = 0", omit="vhid"), ["6: error: carp.lan.vhid = 0: a vhid is 1 to 255"]),
    "vhid -1": (lan("vhid = -1", omit="vhid"), ["6: error: carp.lan.vhid = -1: a vhid is 1 to 255"]),
    "vhid 255": (lan("vhid = 255", omit="vhid"), []),
    "a huge vhid": (
        lan(f"vhid = 0x{'f' * 9000}", omit="vhid"),
        [f"6: error: carp.lan.vhid = 0x{'f' * 57}…: a vhid is 1 to 255"],
    ),
    "vhid is a boolean": (
        lan("vhid = true", omit="vhid"),
        ["6: error: carp.lan.vhid = true: a vhid is a whole number, not a boolean"],
    ),
    "vhid is a string": (
        lan('vhid = "1"', omit="vhid"),
        ['6: error: carp.lan.vhid = "1": a vhid is a whole number, not a string'],
    ),
    "vhid is a fraction": (
        lan("vhid = 1.0", omit="vhid"),
        ["6: error: carp.lan.vhid = 1.0: a vhid is a whole number, not a fraction"],
    ),
    "vhid is a date": (
        lan("vhid = 2001-01-01", omit="vhid"),
        ["6: error: carp.lan.vhid = 2001-01-01: a vhid is a whole number, not a date"],
    ),
    "vhid is a time": (
        lan("vhid = 07:32:00", omit="vhid"),
        ["6: error: carp.lan.vhid = 07:32:00: a vhid is a whole number, not a time"],
    ),
    "vhid is a table": (
        lan("[carp.lan.vhid]", omit="vhid"),
        ["6: error: carp.lan.vhid = {}: a vhid is a whole number, not a table"],
    ),
    # timers
    "advbase 255": (lan("advbase = 255"), ["6: error: carp.lan.advbase = 255: advbase is 0 to 254"]),
    "advskew 255": (lan("advskew = 255"), ["6: error: carp.lan.advskew = 255: advskew is 0 to 254"]),
    "advbase 86": (
        lan("advbase = 86"),
        [
            "6: warning: carp.lan.advbase = 86: with 86 or more the others don't believe a master that leaves, and "
            "wait "
            "until it times out"
        ],
    ),
    "advbase 85": (lan("advbase = 85"), []),
    "advbase 0, advskew 0": (
        lan("advbase = 0", "advskew = 0"),
        [
            "7: error: carp.lan.advskew = 0: with advbase 0 and advskew 0 there is no time between advertisements: "
            "set advskew to 1 or more"
        ],
    ),
    "advbase 0, no advskew": (
        lan("advbase = 0"),
        [
            "6: error: carp.lan.advbase = 0: with advbase 0 and advskew 0 there is no time between advertisements: "
            "set advskew to 1 or more"
        ],
    ),
    "advbase 0, a refused advskew": (
        lan("advbase = 0", "advskew = -1"),
        ["7: error: carp.lan.advskew = -1: advskew is 0 to 254"],
    ),
    "advbase 0, advskew 1": (lan("advbase = 0", "advskew = 1"), []),
    "advbase 0, demotion in advskew": (
        lan("advbase = 0", "advskew = 1", 'demotion = "both"'),
        [
            '8: error: carp.lan.demotion = "both": with advbase 0 a demoted node would advertise (every 240/256 s) '
            "more "
            'rarely than its peers wait (3 advskew/256 s): use demotion = "counter", or advbase 1 or more'
        ],
    ),
    # switches and choices
    "preempt is a number": (
        lan("preempt = 1"),
        ["6: error: carp.lan.preempt = 1: must be true or false, not a whole number"],
    ),
    "an unknown mac": (lan('mac = "macvlan"'), ['6: error: carp.lan.mac = "macvlan": must be "virtual" or "real"']),
    "an unknown demotion": (
        lan("demotion = []"),
        ['6: error: carp.lan.demotion = []: must be "counter" or "advskew" or "both"'],
    ),
    "an unknown master_down": (
        lan("master_down = 3"),
        ['6: error: carp.lan.master_down = 3: must be "classic" or "openbsd"'],
    ),
    "demotion factors": (
        lan("ifdown_demotion_factor = 256", "senderr_demotion_factor = -1"),
        [
            "6: error: carp.lan.ifdown_demotion_factor = 256: a demotion factor is 0 to 255",
            "7: error: carp.lan.senderr_demotion_factor = -1: a demotion factor is 0 to 255",
        ],
    ),
    "one group, two ways of demoting": (
        lan('demotion = "advskew"', "[carp.wan]", 'interface = "eth2"', "vhid = 1", 'addresses = ["198.51.100.1"]'),
        [
            "7: warning: carp.wan: no password: anybody on the link can take the addresses; set password_file",
            '7: error: carp.wan: carp.lan, of the same group, has demotion = "advskew": use one',
        ],
    ),
    "a node that does not wait for the other": (
        lan("advbase = 0", "advskew = 40", "[node.fw-b.carp.lan]", "advskew = 10"),
        [
            "7: warning: carp.lan.advskew = 40: fw-a would advertise every 0.156 s, for which fw-b will not wait: "
            "give the nodes about the same advbase, and with advbase 0 about the same advskew"
        ],
    ),
    "a group with a space": (
        lan('group = "the edge"'),
        ['6: error: carp.lan.group = "the edge": a group has 1 to 15 of the characters A-Z a-z 0-9 _ -'],
    ),
    # peers and multicast
    "peers is no array": (
        lan('peers = "192.0.2.3"'),
        ['6: error: carp.lan.peers = "192.0.2.3": must be an array, ["192.0.2.3"], not a string'],
    ),
    "peers are no addresses": (
        lan('peers = ["fw-b", "192.0.2.3/24", 3, "192.0.2.3"]'),
        [
            '6: error: carp.lan.peers = "fw-b": must be the address of a node, such as "192.0.2.2" or "2001:db8::2"',
            '6: error: carp.lan.peers = "192.0.2.3/24": must be the address of a node, such as "192.0.2.2" or '
            '"2001:db8::2"',
            "6: error: carp.lan.peers = 3: must be a string, not a whole number",
        ],
    ),
    "a peer is a group": (
        lan('peers = ["224.0.0.18"]'),
        ['6: error: carp.lan.peers = "224.0.0.18": is a multicast address: only a unicast address can be a host\'s'],
    ),
    "a peer with a zone": (
        lan('peers = ["fe80::2%eth1"]'),
        [
            '6: error: carp.lan.peers = "fe80::2%eth1": write it without % and what follows: the interface has a key '
            "of its own"
        ],
    ),
    "a peer of another family": (
        lan('peers = ["2001:db8::3"]'),
        [
            '6: error: carp.lan.peers = ["2001:db8::3"]: a peer is of a family of which the virtual host has no '
            "address: "
            "nothing would be sent to it"
        ],
    ),
    "a peer twice": (
        lan('peers = ["192.0.2.3", "192.0.2.3"]'),
        ['6: error: carp.lan.peers = ["192.0.2.3", "192.0.2.3"]: a peer is listed twice: name each once'],
    ),
    "a peer is a shared address": (
        lan('peers = ["192.0.2.1"]'),
        [
            '6: error: carp.lan.peers = ["192.0.2.1"]: a peer is one of the shared addresses: list addresses that the '
            "nodes have of their own"
        ],
    ),
    "neither multicast nor peers": (
        lan("multicast = false"),
        [
            "6: error: carp.lan.multicast = false: nobody would hear an advertisement: list the other nodes in peers, "
            "or "
            "leave multicast on"
        ],
    ),
    "peers alone": (lan("multicast = false", 'peers = ["192.0.2.3"]'), []),
    "peers of one family alone": (
        lan(
            "multicast = false",
            'peers = ["192.0.2.3"]',
            'addresses = ["192.0.2.1", "2001:db8::1"]',
            omit="addresses",
        ),
        [
            '7: error: carp.lan.peers = ["192.0.2.3"]: without multicast each family of the addresses needs a peer: a '
            "backup that misses one family becomes master"
        ],
    ),
    # passwords
    "no password": (
        lan(omit="password_file"),
        ["1: warning: carp.lan: no password: anybody on the link can take the addresses; set password_file"],
    ),
    "two passwords": (
        lan('password = "xyzzy"'),
        ["6: error: carp.lan.password: there is also a password_file: keep one of the two"],
    ),
    "an empty password": (
        lan('password = ""', omit="password_file"),
        ["6: error: carp.lan.password: the password is empty"],
    ),
    "on the loopback interface": (
        lan('interface = "lo"', omit="interface"),
        [
            '6: error: carp.lan.interface = "lo": no other host is on the loopback interface: name that of the link '
            "that the hosts share"
        ],
    ),
    "on a device of our own": (
        lan() + wan('addresses = ["192.0.2.2/24"]').replace('"eth0"', '"carp-lan"'),
        [
            '7: error: carp.wan.interface = "carp-lan": interfaces called carp-NAME are carpd\'s own devices: name the '
            "one that they are to be on"
        ],
    ),
    "19 bytes of password": (lan('password = "correct horse batte"', omit="password_file"), []),
    "20 bytes of password, 19 characters": (
        lan('password = "corréct horse batte"', omit="password_file"),
        ["6: error: carp.lan.password: a password has at most 19 bytes"],
    ),
    "a zero byte in the password": (
        lan(r'password = "a\u0000b"', omit="password_file"),
        ["6: error: carp.lan.password: a password contains no zero byte"],
    ),
    "a password that is a number is not shown": (
        lan("password = 12345", omit="password_file"),
        ["6: error: carp.lan.password: must be a string, not a whole number"],
    ),
    "no name of a password file": (
        lan('password_file = ""', omit="password_file"),
        ['6: error: carp.lan.password_file = "": must be the name of a file'],
    ),
    "no such password file": (
        lan('password_file = "no-such"', omit="password_file"),
        ['6: error: carp.lan.password_file = "no-such": can\'t be read: No such file or directory'],
    ),
    "a password file that can't exist": (
        lan(r'password_file = "\u0000"', omit="password_file"),
        [r"""6: error: carp.lan.password_file = "\u0000": can't be read: embedded null byte"""],
    ),
    "a directory as password file": (
        lan('password_file = "."', omit="password_file"),
        ['6: error: carp.lan.password_file = ".": can\'t be read: Is a directory'],
    ),
    "a pipe as password file": (
        lan('password_file = "pipe"', omit="password_file"),
        ['6: error: carp.lan.password_file = "pipe": can\'t be read: it is no regular file'],
    ),
    "an empty password file": (
        lan('password_file = "empty"', omit="password_file"),
        ['6: error: carp.lan.password_file = "empty": the password is empty'],
    ),
    "a password file with 19 bytes and a newline": (lan('password_file = "longest"', omit="password_file"), []),
    **{
        f"a password file with too much: {name}": (
            lan(f'password_file = "{name}"', omit="password_file"),
            [f'6: error: carp.lan.password_file = "{name}": a password has at most 19 bytes'],
        )
        for name in ("too-long", "too-long-by-newline", "long")
    },
    "a zero byte in the password file": (
        lan('password_file = "zero"', omit="password_file"),
        ['6: error: carp.lan.password_file = "zero": a password contains no zero byte'],
    ),
    "a password file that others can read": (
        lan('password_file = "open"', omit="password_file"),
        [
            '6: warning: carp.lan.password_file = "open": others can read this file: take that permission from them '
            "(chmod o-r)"
        ],
    ),
    # everything is found at once
    "ten mistakes": (
        "carp.lan = { vhid = 0, addresses = ['::1', '192.0.2.1'], advbse = 1 } # 2 and a missing interface\n"
        "[carp.wan]\n"
        "interface = 'eth 1'\n"
        "vhid = 1.5\n"
        "addresses = ['192.0.2.1', '192.0.2.300']\n"
        "multicast = false\n"
        "[[node]]\n",
        [
            '1: error: carp.lan.addresses = "::1": is a loopback address: only a unicast address can be a host\'s',
            "1: error: carp.lan.advbse = 1: unknown key: did you mean 'advbase'?",
            f"1: error: carp.lan.interface: is missing: {INTERFACE}",
            "1: error: carp.lan.vhid = 0: a vhid is 1 to 255",
            "1: warning: carp.lan: no password: anybody on the link can take the addresses; set password_file",
            "2: warning: carp.wan: no password: anybody on the link can take the addresses; set password_file",
            f'3: error: carp.wan.interface = "eth 1": {INTERFACE_CHARACTERS}',
            "4: error: carp.wan.vhid = 1.5: a vhid is a whole number, not a fraction",
            '5: error: carp.wan.addresses = "192.0.2.1": is already listed in carp.lan: an address is in one '
            "virtual "
            "host, once",
            '5: error: carp.wan.addresses = "192.0.2.300": must be an address, such as "192.0.2.1/24" or '
            '"2001:db8::1/64"',
            "6: error: carp.wan.multicast = false: nobody would hear an advertisement: list the other nodes in peers, "
            "or "
            "leave multicast on",
            "7: error: node = [{}]: must be a table, such as [node.NODE.carp.NAME], not an array",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), ONE_VIRTUAL_HOST.values(), ids=ONE_VIRTUAL_HOST)
def test_one_virtual_host(file: Path, text: str, expected: list[str]) -> None:
    loaded = read(file, text)
    assert sorted(lines(loaded, file)) == sorted(expected)
    assert (loaded.config is None) == any("error: " in line for line in expected)
    assert [problem.line for problem in loaded.problems] == sorted(problem.line for problem in loaded.problems)


@pytest.mark.parametrize("name", [".", "..", "eth/1", "eth 1", "eth1:0", "eth\u00a01", r"eth\n1", r"\u0000"])
def test_characters_of_an_interface(file: Path, name: str) -> None:
    loaded = read(file, lan(f'interface = "{name}"', omit="interface"))
    [line] = lines(loaded, file)
    assert line.startswith("6: error: carp.lan.interface = ")
    assert line.endswith(INTERFACE_CHARACTERS)


ADDRESSES = {
    "192.0.2.1": "",
    "192.0.2.1/32": "",
    "192.0.2.0/31": "",
    "192.0.2.0": "",
    "169.254.1.1/16": "",
    "2001:db8::": "",
    "2001:db8::/127": "",
    "2001:db8::ffff/112": "",
    "192.0.2.0/24": "is the address of the network: write that of a host in it",
    "2001:db8::/64": "is the address of the network: write that of a host in it",
    "192.0.2.255/24": "is the broadcast address of the network: write that of a host in it",
    "224.0.0.18": "is a multicast address: only a unicast address can be a host's",
    "ff02::12/64": "is a multicast address: only a unicast address can be a host's",
    "0.0.0.0": "is the unspecified address: only a unicast address can be a host's",
    "::": "is the unspecified address: only a unicast address can be a host's",
    "127.0.0.2/8": "is a loopback address: only a unicast address can be a host's",
    "::1": "is a loopback address: only a unicast address can be a host's",
    "255.255.255.255": "is a reserved address: only a unicast address can be a host's",
    "240.0.0.1/24": "is a reserved address: only a unicast address can be a host's",
    "::ffff:192.0.2.1": "is an IPv4 address in disguise: only a unicast address can be a host's",
    "fe80::1%eth1/64": "write it without % and what follows: the interface has a key of its own",
    "192.0.2.1/33": 'must be an address, such as "192.0.2.1/24" or "2001:db8::1/64"',
    "192.0.2.01/24": 'must be an address, such as "192.0.2.1/24" or "2001:db8::1/64"',
    "": 'must be an address, such as "192.0.2.1/24" or "2001:db8::1/64"',
}


@pytest.mark.parametrize(("address", "message"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses(file: Path, address: str, message: str) -> None:
    loaded = read(file, lan(f'addresses = ["{address}"]', omit="addresses"))
    assert lines(loaded, file) == ([f'6: error: carp.lan.addresses = "{address}": {message}'] if message else [])
    if loaded.config is not None:
        assert loaded.config.virtual_hosts[0].addresses == (ip_interface(address),)


def test_no_addresses(file: Path) -> None:
    loaded = read(file, lan("addresses = []", omit="addresses"))
    assert lines(loaded, file) == ["6: error: carp.lan.addresses = []: a virtual host has at least one address"]


LINK_LOCAL = 'addresses = ["2001:db8::1/64", "fe80::1/64"]'


@pytest.mark.parametrize("decided", ["", "digest_link_local = true", "digest_link_local = false"])
def test_link_local_address(file: Path, decided: str) -> None:
    loaded = read(file, lan(LINK_LOCAL, decided, omit="addresses"))
    expected = (
        '6: warning: carp.lan.addresses = ["2001:db8::1/64", "fe80::1/64"]: has a link-local address: FreeBSD and '
        "NetBSD "
        "peers want digest_link_local = true, others false; set it"
    )
    assert lines(loaded, file) == ([] if decided else [expected])


BETWEEN_HOSTS: dict[str, tuple[str, list[str]]] = {
    "nothing in common": (lan() + wan('addresses = ["198.51.100.1"]'), []),
    "a vhid on two interfaces": (lan() + wan('addresses = ["198.51.100.1"]').replace("vhid = 2", "vhid = 1"), []),
    "a vhid twice on an interface": (
        lan() + wan('addresses = ["198.51.100.1"]').replace("vhid = 2", "vhid = 1").replace("eth0", "eth1"),
        ["8: error: carp.wan.vhid = 1: carp.lan has vhid 1 on eth1 too: give each its own"],
    ),
    "a vhid twice on an interface, of another node": (
        lan()
        + wan('addresses = ["198.51.100.1"]', "[node.fw-b.carp.wan]", 'interface = "eth1"', "advskew = 1")
        + "[node.fw-b.carp.lan]\nadvskew = 1\n[carp.dmz]\nvhid = 2\ninterface = 'eth2'\n"
        + "addresses = ['203.0.113.1']\npassword_file = 'password'\n[node.fw-b.carp.dmz]\nadvskew = 1\n"
        + "interface = 'eth1'\n",
        ['23: error: node.fw-b.carp.dmz.interface = "eth1": carp.wan has vhid 2 on eth1 too: give each its own'],
    ),
    "an address in two virtual hosts": (
        lan() + wan('addresses = ["192.0.2.1"]'),
        [
            '10: error: carp.wan.addresses = "192.0.2.1": is already listed in carp.lan: an address is in one '
            "virtual "
            "host, once"
        ],
    ),
    "an address twice in a virtual host": (
        lan() + wan('addresses = ["2001:db8::1/64", "2001:DB8:0::1"]'),
        ['10: error: carp.wan.addresses = "2001:db8::1": is already listed: an address is in one virtual host, once'],
    ),
    "a link-local address on two interfaces": (
        lan(LINK_LOCAL, "digest_link_local = true", omit="addresses")
        + wan('addresses = ["fe80::1/64"]', "digest_link_local = true"),
        [],
    ),
    # nodes
    "one advskew": (
        lan("[node.fw-b]"),
        ["1: warning: carp.lan: fw-a and fw-b have one advskew, 0: give each its own, the preferred one the smallest"],
    ),
    "one advskew, of the nodes that have a table": (
        lan(
            "advskew = 5",
            "[node.fw-b]",
            "[node.fw-c.carp.lan]",
            "advskew = 7",
            "[node.'fw d'.carp.lan]",
            "advskew = 7",
        ),
        [
            "6: warning: carp.lan.advskew = 5: fw-a and fw-b have one advskew, 5: give each its own, the preferred "
            "one the "
            "smallest",
            '11: warning: node."fw d".carp.lan.advskew = 7: fw-c and "fw d" have one advskew, 7: give each its own, '
            "the "
            "preferred one the smallest",
        ],
    ),
    "one advskew, of the node that has a table and the one that needs none": (
        lan("[node.fw-a.carp.lan]", "preempt = true"),
        [
            "1: warning: carp.lan: fw-a and every other node have one advskew, 0: give each its own, the preferred one "
            "the smallest"
        ],
    ),
    "the advskew of nobody": (lan("[node.fw-a]", "[node.fw-b.carp.lan]", "advskew = 1"), []),
    "one advskew, but another advbase": (lan("[node.fw-b.carp.lan]", "advbase = 2"), []),
    "an override of what is the same on every node": (
        lan("[node.fw-b.carp.lan]", "vhid = 2", 'addresses = ["192.0.2.2"]', 'group = "x"', "advskew = 1"),
        [
            "7: error: node.fw-b.carp.lan.vhid = 2: is the same on every node: set it in [carp.lan]",
            '8: error: node.fw-b.carp.lan.addresses = ["192.0.2.2"]: is the same on every node: set it in [carp.lan]',
            '9: error: node.fw-b.carp.lan.group = "x": is the same on every node: set it in [carp.lan]',
        ],
    ),
    "an override of an unknown virtual host": (
        lan("[node.fw-b.carp.lna]", "advskew = 1", "[node.fw-b.carp.lan]", "advskew = 1"),
        ["6: error: node.fw-b.carp.lna: unknown virtual host: did you mean 'lan'?"],
    ),
    "an override, but no virtual host": (
        "[node.fw-b.carp.lan]",
        [
            "warning: carp: no virtual host is configured: write at least [carp.lan] and, below it, interface = "
            '"eth1", vhid = 1, addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; '
            "or use carpctl ifconfig",
            "1: error: node.fw-b.carp.lan: unknown virtual host: there is none",
        ],
    ),
    "mistakes in an override": (
        lan(
            "[node.fw-b.carp.lan]", "advskew = 255", "preemt = true", "[node.fw-b.crap]", "[node.fw-b]", "carp.lan = 1"
        ).replace("[node.fw-b]\n", "[node.fw-c]\n"),
        [
            "7: error: node.fw-b.carp.lan.advskew = 255: advskew is 0 to 254",
            "8: error: node.fw-b.carp.lan.preemt = true: unknown key: did you mean 'preempt'?",
            "9: error: node.fw-b.crap: unknown table: did you mean 'carp'?",
            "11: error: node.fw-c.carp.lan = 1: must be a table, [node.NODE.carp.NAME], not a whole number",
            "1: warning: carp.lan: fw-a and fw-c have one advskew, 0: give each its own, the preferred one the "
            "smallest",
        ],
    ),
    "a node that is no table": (
        lan("[node]", "fw-b = 1"),
        ["7: error: node.fw-b = 1: must be a table, such as [node.NODE.carp.NAME], not a whole number"],
    ),
    "a pair of values that is wrong on one node": (
        lan("advbase = 0", "advskew = 1", "[node.fw-b.carp.lan]", "advskew = 0"),
        [
            "9: error: node.fw-b.carp.lan.advskew = 0: with advbase 0 and advskew 0 there is no time between "
            "advertisements: set advskew to 1 or more"
        ],
    ),
    "a key that is missing on some nodes": (
        lan(
            "[node.fw-b.carp.lan]",
            'interface = "eth1"',
            "advskew = 1",
            "[node.fw-c.carp.lan]",
            "advskew = 2",
            omit="interface",
        ),
        [f"1: error: carp.lan.interface: is missing on fw-a and fw-c: {INTERFACE}"],
    ),
    "the password file of another node need not be here": (
        lan("[node.fw-b.carp.lan]", 'password_file = "/there/password"', "advskew = 1"),
        [],
    ),
    "a password and a file by an override": (
        lan("[node.fw-b.carp.lan]", 'password = ""', "advskew = 1"),
        [
            "7: error: node.fw-b.carp.lan.password: the password is empty",
            "7: error: node.fw-b.carp.lan.password: there is also a password_file: keep one of the two",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), BETWEEN_HOSTS.values(), ids=BETWEEN_HOSTS)
def test_between_hosts_and_nodes(file: Path, text: str, expected: list[str]) -> None:
    assert sorted(lines(read(file, text), file)) == sorted(expected)


OWN = {
    "another address": ({"eth1": [ip_address("192.0.2.2")]}, False),
    "on the interface": ({"eth1": [ip_address("192.0.2.2"), ip_address("192.0.2.1")]}, True),
    "on another interface": ({"eth0": [ip_address("192.0.2.1")]}, True),
    "link-local, on another interface": ({"eth0": [ip_address("fe80::1")]}, False),
}


@pytest.mark.parametrize(("own", "refused"), OWN.values(), ids=OWN)
def test_own_addresses(file: Path, own: OwnAddresses, refused: bool) -> None:
    text = lan('addresses = ["192.0.2.1/24", "fe80::1/64"]', "digest_link_local = false", omit="addresses")
    message = "is this host's own address, on {}: share one that belongs to no host"
    expected = [f'6: error: carp.lan.addresses = "192.0.2.1": {message.format(*own)}'] if refused else []
    assert lines(read(file, text, own=own), file) == expected


def test_own_link_local_address(file: Path) -> None:
    text = lan('addresses = ["fe80::1/64"]', "digest_link_local = false", omit="addresses")
    [line] = lines(read(file, text, own={"eth1": {ip_address("fe80::1")}}), file)
    assert "own address, on eth1" in line


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_password_in_a_file_that_others_can_read(file: Path, mode: int) -> None:
    loaded = read(file, lan('password = "xyzzy"', omit="password_file"), mode=mode)
    expected = (
        "6: warning: carp.lan.password: others can read this file: take that permission from them (chmod o-r), or use "
        "password_file"
    )
    assert lines(loaded, file) == ([expected] if mode & 0o004 else [])
    assert loaded.config is not None
    assert loaded.config.virtual_hosts[0].key == b"xyzzy"


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "missing": "can't be read: No such file or directory",
        ".": "can't be read: Is a directory",
        "pipe": "can't be read: it is no regular file",
        "endless": "has more than 4194304 bytes: it is no configuration",
    }.items(),
)
def test_a_file_that_is_none(file: Path, name: str, message: str) -> None:
    (file.parent / "endless").write_text("#" * (4 << 20) + "\n")
    path = file.parent / name
    assert [str(problem) for problem in load(path).problems] == [f"{path}: error: {message}"]


def test_a_file_that_is_not_utf8(file: Path) -> None:
    file.write_bytes(b"[carp.lan]\n# caf\xe9\n")
    assert [str(p) for p in load(file).problems] == [f"{file}:2: error: TOML is UTF-8, and this is not"]


def test_brackets_beyond_all_bounds(file: Path) -> None:
    [line] = lines(read(file, "x = " + "[" * 100_000), file)
    assert line.startswith("error: no valid TOML: maximum recursion depth exceeded")


MINIMAL_HOST = VirtualHostConfig(
    name="lan",
    interface="eth1",
    vhid=1,
    addresses=(ip_interface("192.0.2.1/24"), ip_interface("2001:db8:1::1/64")),
    key=b"xyzzy",
)


@pytest.mark.parametrize(
    ("node", "advskew", "others_wait_ns"),
    [("fw-a", 0, 3_390_625_000), ("fw-b", 100, 3_000_000_000), ("fw-c", 0, 3_390_625_000)],
)
def test_minimal(file: Path, node: str, advskew: int, others_wait_ns: int) -> None:
    loaded = read(file, MINIMAL, node)
    assert lines(loaded, file) == []
    expected = dataclasses.replace(MINIMAL_HOST, advskew=advskew, others_master_down_ns=others_wait_ns)
    assert loaded.config == Config(node=node, virtual_hosts=(expected,))


def test_the_node_is_the_host_without_its_domain(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((here[0], "fw-b.example.org", *here[2:])))
    file.write_text(MINIMAL)
    config = load(file).config
    assert config is not None
    assert (config.node, config.virtual_hosts[0].advskew) == ("fw-b", 100)


def test_all_keys(file: Path) -> None:
    text, _ = ONE_VIRTUAL_HOST["all keys"]
    loaded = read(file, text)
    assert loaded.config is not None
    assert loaded.config.virtual_hosts == (
        VirtualHostConfig(
            name="lan",
            interface="eth1",
            vhid=1,
            addresses=(ip_interface("192.0.2.1/24"),),
            key=b"xyzzy",
            advbase=2,
            advskew=254,
            preempt=True,
            group="edge",
            mac=MacMode.REAL,
            peers=(ip_address("192.0.2.3"),),
            multicast=True,
            demotion=DemotionMode.BOTH,
            master_down=MasterDownRule.OPENBSD,
            ifdown_demotion_factor=255,
            senderr_demotion_factor=0,
            digest_link_local=True,
        ),
    )


@pytest.mark.parametrize(
    ("keys", "factors"),
    [
        ((), (1, 1)),
        (('demotion = "advskew"',), (240, 240)),
        (('demotion = "both"', "ifdown_demotion_factor = 1"), (1, 240)),
        (('demotion = "counter"', "senderr_demotion_factor = 5"), (1, 5)),
    ],
)
def test_demotion_factors(file: Path, keys: tuple[str, ...], factors: tuple[int, int]) -> None:
    config = read(file, lan(*keys)).config
    assert config is not None
    [host] = config.virtual_hosts
    assert (host.ifdown_demotion_factor, host.senderr_demotion_factor) == factors


@pytest.mark.parametrize(("node", "advskew"), [("fw-a", 0), ("fw-b", 100)])
def test_packaged_example(file: Path, node: str, advskew: int) -> None:
    loaded = read(file, EXAMPLE.read_text().replace("/etc/carpd/", ""), node)
    assert lines(loaded, file) == []
    assert loaded.config is not None
    assert [(host.name, host.advskew, host.group) for host in loaded.config.virtual_hosts] == [
        ("lan", advskew, "edge"),
        ("wan", advskew, "edge"),
    ]
    assert all(host.addresses4 and host.addresses6 for host in loaded.config.virtual_hosts)
    assert loaded.config.pfsync is not None
    assert (loaded.config.pfsync.syncdev, loaded.config.pfsync.transport) == ("eth2", Transport.SEALED)


def test_the_password_stays_out_of_what_is_printed(file: Path) -> None:
    loaded = read(file, lan('password = "correct horse batte"', "vhid = 0", omit="vhid"), mode=0o644)
    assert "correct" not in "".join(lines(loaded, file)) + repr(loaded)


def test_what_is_down_is_as_if_it_were_not_there(file: Path) -> None:
    """Its mistakes are mistakes all the same. `carpctl ifconfig NAME down` sets it."""
    text = (
        '[carp.lan]\ninterface = "eth1"\nvhid = 1\naddresses = ["192.0.2.1/24"]\npassword = "x"\nadvskew = 1\n'
        '[carp.wan]\ninterface = "eth0"\nvhid = 2\naddresses = ["198.51.100.1/24"]\npassword = "x"\nup = false\n'
        '[pfsync]\nsyncdev = "eth2"\ntransport = "plain"\nup = false\n'
    )
    file.write_text(text)
    file.chmod(0o600)
    config = load(file, "fw-a").config
    assert config is not None
    assert [host.name for host in config.virtual_hosts] == ["lan"]
    assert config.pfsync is None
    file.write_text(text.replace("vhid = 2", "vhid = 0"))
    assert load(file, "fw-a").config is None
