"""The options of ucarp: what each is called, and which of the settings it makes."""

from __future__ import annotations

import getopt
import os
import syslog
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from carpd.errors import CarpdError
from carpd.wire.carp_auth import PASSWORD_LIMIT

_DIGITS = 9
"""No number has more."""

_NO_SYSLOG = "none"
_FACILITIES = {
    **{
        name: int(getattr(syslog, f"LOG_{name.upper()}"))
        for name in (
            *("auth", "authpriv", "cron", "daemon", "kern", "lpr", "mail", "news", "syslog", "user", "uucp"),
            *(f"local{number}" for number in range(8)),
        )
    },
    "ftp": 11 << 3,
    "security": syslog.LOG_AUTH,
}
"""By name, in small letters. Ref: Linux's sys/syslog.h, facilitynames."""


class UsageError(CarpdError):
    """Options that can't be used. The message is a line for the log."""


def _number(message: str, low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and low <= int(text) <= high):
            raise UsageError(message)
        return int(text)

    return read


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise UsageError(f"Invalid address: [{text}]") from None


def _group(text: str) -> IPv4Address:
    group = _address(text)
    if not group.is_multicast:
        raise UsageError(f"Invalid address: [{text}]")
    return group


def _password_file(text: str) -> bytes:
    try:
        first, *_ = Path(text).read_bytes().splitlines() or [b""]
    except OSError as error:
        raise UsageError(f"unable to open passfile {text} for reading: {error.strerror}") from error
    if not first:
        raise UsageError(f"error reading passfile {text}: unexpected end of file")
    return first


def _facility(text: str) -> int | None:
    name = text.casefold()
    if name == _NO_SYSLOG:
        return None
    if name not in _FACILITIES:
        raise UsageError(f"Unknown syslog facility: [{text}]")
    return _FACILITIES[name]


class Option(NamedTuple):
    """One option: what it is called, which of the settings it makes, and how."""

    short: str
    long: str
    value: str
    """What its value is, for the help; empty: it has none."""
    field: str
    read: Callable[[str], Any]
    help: str


def _on(_: str) -> bool:
    return True


OPTIONS = (
    Option("-i", "interface", "NAME", "interface", str, "the network interface (default: the first that is up)"),
    Option("-s", "srcip", "ADDRESS", "source", _address, "this host's own address there"),
    Option("-v", "vhid", "N", "vhid", _number("vhid must be between 1 and 255.", 1, 255), "the virtual host, 1-255"),
    Option("-p", "pass", "PASSWORD", "password", os.fsencode, f"of all hosts, 1-{PASSWORD_LIMIT} bytes; ps shows it"),
    Option("-o", "passfile", "FILE", "password", _password_file, "it is the first line of this file"),
    Option("-a", "addr", "ADDRESS", "address", _address, "the address that is shared"),
    Option(
        "-b",
        "advbase",
        "SECONDS",
        "advbase",
        _number("You must supply an advertisement time base", 1, 254),
        "from one advertisement to the next, 1-254 (default 1)",
    ),
    Option(
        "-k",
        "advskew",
        "N",
        "advskew",
        _number("advskew must be between 0 and 255.", 0, 255),
        "256ths of a second more, 0-255 (default 0): the smallest is preferred",
    ),
    Option(
        "-r",
        "deadratio",
        "N",
        "dead_ratio",
        _number("Dead ratio can't be zero", 1, 65535),
        "a backup waits so many advbase for an advertisement (default 3)",
    ),
    Option("-P", "preempt", "", "preempt", _on, "take over from a master that advertises more rarely"),
    Option("-u", "upscript", "FILE", "up_script", str, "run as FILE INTERFACE ADDRESS [PARAM] to become master"),
    Option("-d", "downscript", "FILE", "down_script", str, "run likewise to become backup"),
    Option("-x", "xparam", "PARAM", "extra", str, "the last argument of the scripts"),
    Option("-n", "neutral", "", "neutral", _on, "don't run the down-script at the start"),
    Option("-z", "shutdown", "", "shutdown", _on, "at the end of a master run the down-script"),
    Option("-S", "ignoreifstate", "", "ignore_link", _on, "whether the interface is up does not matter"),
    Option("-M", "nomcast", "", "broadcast", _on, "send to the broadcast MAC, not to the group's"),
    Option("-m", "mcast", "ADDRESS", "group", _group, "the multicast group (default 224.0.0.18)"),
    Option("-B", "daemonize", "", "background", _on, "run in the background"),
    Option("-f", "facility", "NAME", "facility", _facility, f'of syslog (default daemon), or "{_NO_SYSLOG}"'),
    Option("-D", "debug", "", "debug", _on, "log more"),
    Option("-h", "help", "", "help", _on, "this"),
)

_LONG_ALIASES = {"mcastip": "mcast"}
"""The original's help says the one, and its parser the other."""


def split(argv: Sequence[str]) -> tuple[list[tuple[Option, str]], list[str]]:
    """The options of a command line in order, each with its value as it is written; and what is no option.

    As with getopt_long(3) long ones may be cut short. Raise UsageError.
    """
    longs = {option.long: option for option in OPTIONS}
    longs |= {alias: longs[name] for alias, name in _LONG_ALIASES.items()}
    by_name = {f"--{long}": option for long, option in longs.items()} | {option.short: option for option in OPTIONS}
    try:
        found, others = getopt.gnu_getopt(
            list(argv),
            "".join(option.short[1] + ":" * bool(option.value) for option in OPTIONS),
            [long + "=" * bool(option.value) for long, option in longs.items()],
        )
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from None
    return [(by_name[name], value) for name, value in found], others
