"""ucarp: command lines, in scripts or as they are, and Debian's stanzas in /etc/network/interfaces.

Ref: ucarp(8), ucarp's README.Debian, interfaces(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from carpd.config.model import DEAD_RATIO
from carpd.migration import redaction, words
from carpd.migration.found import Found, Place, Table, number
from carpd.runtime.ucarp.options import UsageError, split

_STANZA = re.compile(r"(?m)^\s+ucarp-[a-z]")
_COMMAND = re.compile(r"(?m)^(?!\s*#).*?(?:^|[\s/])ucarp\s+-")

_PROGRAM = "ucarp"
_STARTER = "start-stop-daemon"
"""It has options of its own, and those of the program behind `--`."""

_NO_COMMAND = "is no command line of ucarp"

_STANZA_OPTIONS = {
    "ucarp-vid": "vhid",
    "ucarp-vip": "addr",
    "ucarp-password": "pass",
    "ucarp-advskew": "advskew",
    "ucarp-advbase": "advbase",
    "ucarp-deadratio": "deadratio",
    "ucarp-xparam": "xparam",
    "ucarp-upscript": "upscript",
    "ucarp-downscript": "downscript",
    "ucarp-master": "preempt",
    "ucarp-nomcast": "nomcast",
}
"""The options of the command, by their long names."""
_FLAGS = ("preempt", "nomcast")
_NO = ("no", "off", "false", "0")
_REQUIRED = ("ucarp-vid", "ucarp-vip", "ucarp-password")

_ADVSKEW_LIMIT = 254

_ITSELF = "carpd puts the address on and takes it away itself"
_LEFT = {
    "srcip": "advertisements come from the first address of the interface",
    "nomcast": "advertisements can't be broadcast: where multicast does not arrive, list the hosts in peers",
    "mcast": "advertisements go to 224.0.0.18",
    "ignoreifstate": "a host without a link can't be master",
    "deadratio": "a backup waits for three advertisements: let advbase be larger",
    "neutral": _ITSELF,
    "shutdown": _ITSELF,
    "daemonize": "carpd runs in the foreground, for systemd",
    "facility": "carpd logs to the journal, or to standard error",
    "debug": "`carpctl monitor` shows what happens",
    "help": "it is for people",
}


class _Given(NamedTuple):
    """The value of an option, and where it stands."""

    value: str
    place: Place


def recognises(_: str, text: str) -> bool:
    return bool(_STANZA.search(text) or _COMMAND.search(text))


def read(file: str, text: str, found: Found) -> None:
    (_read_interfaces if _STANZA.search(text) else _read_commands)(file, text, found)


def finish(_: Found) -> None:
    """A command line says all there is."""


def _read_commands(file: str, text: str, found: Found) -> None:
    for line_number, line in words.lines(text, words.of_lines):
        place = Place(file, line_number)
        commands = [*words.commands(line)]
        if not any(map(_is_of_ucarp, commands)):
            if commands:
                found.leave(place, line, _NO_COMMAND)
            continue
        for command in commands:
            if _is_of_ucarp(command):
                _read_shell_command(command, place, found)
            else:
                found.leave(place, " ".join(command), _NO_COMMAND)


def _programs(command: Sequence[str]) -> list[str]:
    """Its words, without directories."""
    return [word.rpartition("/")[2] for word in command]


def _is_of_ucarp(command: Sequence[str]) -> bool:
    return _PROGRAM in _programs(command)


def _read_shell_command(command: Sequence[str], place: Place, found: Found) -> None:
    """One of a script's, which may begin with other words than the program's name."""
    here = _without_redirections(command, place, found)
    programs = _programs(here)
    begin = programs.index(_PROGRAM) if _PROGRAM in programs else len(here)  # > ucarp
    if _STARTER in programs[:begin] and "--" in here[begin:]:
        begin = here.index("--", begin)
    if any("$" in word or "`" in word for word in here[begin:]):
        found.leave(place, " ".join(here), "what a shell would put in is not known: write the values")
        return
    read_command(here[begin + 1 :], place, found)


def _without_redirections(command: Sequence[str], place: Place, found: Found) -> list[str]:
    kept = []
    following = iter(command)
    for word in following:
        if not isinstance(word, words.Operator):
            kept.append(word)
        elif (target := next(following, "")) != "/dev/null" and not word.endswith("&"):  # as in 2>&1
            found.leave(place, f"{word} {target}", _LEFT["facility"])
    return kept


def read_command(arguments: Sequence[str], place: Place, found: Found) -> None:
    """The words behind the name of the program."""
    command = shlex.join([_PROGRAM, *arguments])
    found.secrets |= redaction.secrets(command)
    try:
        options, others = split(arguments)
    except UsageError as error:
        found.leave(place, "ucarp", str(error))  # which names an option, and no value
        return
    given = {option.long: _Given(value, place) for option, value in options}
    if not given.keys() & {"vhid", "addr"}:
        found.leave(place, command, f"{_NO_COMMAND}: it has neither --vhid nor --addr")
        return
    if others:
        found.leave(place, " ".join(others), "is no option of ucarp")
    _take(given, place, found)


def _read_interfaces(file: str, text: str, found: Found) -> None:
    """Debian's ifupdown starts a ucarp for each stanza that has a vid, a vip and a password."""
    for header, place, options in _stanzas(file, text, found):
        given = {"interface": _Given(header[1] if len(header) > 1 else "", place)}
        for name, option in options.items():
            long = _STANZA_OPTIONS.get(name)
            if long is None:
                found.leave(option.place, f"{name} {option.value}", "there is no such option")
            elif long not in _FLAGS or not option.value.startswith(_NO):
                given[long] = option
        if all(name in options for name in _REQUIRED):
            _take(given, place, found)
        elif options:
            found.leave(place, " ".join(header), f"ucarp is not started without {', '.join(_REQUIRED)}")


def _stanzas(file: str, text: str, found: Found) -> Iterator[tuple[list[str], Place, dict[str, _Given]]]:
    """Of the file interfaces: how each begins, where, and its options for ucarp.

    A value is all of its line, and Debian's script for ucarp leaves it to a shell to take it apart again.
    """
    header: list[str] = []
    begin = Place(file, 1)
    options: dict[str, _Given] = {}
    others: list[int] = []
    for line_number, line in words.lines(text, words.of_ifupdown):
        place, here = Place(file, line_number), line.split()
        if not here or here[0].startswith("#"):
            continue
        if here[0].startswith("ucarp-") and header:
            options[here[0]] = _Given(here[1] if len(here) > 1 else "", place)
            if here[2:]:
                found.note(place, " ".join(here), "only the first word ever counted, quotes or not, and is taken")
        elif here[0] == "iface":
            yield header, begin, options
            header, begin, options = here, place, {}
            if ":ucarp" in line:
                found.leave(place, line, f"{_ITSELF}: remove the stanza")
        elif here[0].startswith("source"):
            found.leave(place, line, "is not followed: give the files that it names")
        else:
            others.append(line_number)
    yield header, begin, options
    if others:
        found.leave(Place(file, others[0]), f"lines {', '.join(map(str, others))}", "nothing of ucarp")


def _take(given: Mapping[str, _Given], place: Place, found: Found) -> None:
    """One virtual host, from options by their long names. ucarp's don't know of each other."""
    table = found.host(f"vhid{given['vhid'].value}" if "vhid" in given else "", place)
    table.alone = True
    found.set(table, "mac", "real", place, 'as ucarp; with "virtual" clients see one MAC for ever')
    found.set(table, "demotion", "advskew", place, "as ucarp tells it")
    for option, (value, where) in given.items():
        if option == "interface":
            found.set(table, "interface", found.interface(value), where)
        elif option == "addr":
            found.add(table, "addresses", f"{value}/32", where)
        elif (option, value) == ("advskew", "255"):
            found.set(table, "advskew", _ADVSKEW_LIMIT, where)
            found.note(where, "--advskew 255", f"{_ADVSKEW_LIMIT} is the most")
        elif option in ("vhid", "advbase", "advskew"):
            found.set(table, option, number(value), where)
        elif option == "preempt":
            found.set(table, "preempt", True, where)
        elif option == "pass":
            found.password(table, value, where, cut=False)
        elif option == "passfile":
            found.set(table, "password_file", value, where)
            found.note(where, f"--passfile {value}", "carpd reads all of the file: the password, and nothing below it")
        elif option in ("upscript", "downscript"):
            _take_script(table, option, given, found)
        elif option != "xparam" and (option, value) != ("deadratio", str(DEAD_RATIO)):
            found.leave(where, f"--{option}{' ' * bool(value)}{value}", _LEFT[option])


def _take_script(table: Table, option: str, given: Mapping[str, _Given], found: Found) -> None:
    script, place = given[option]
    arguments = [given[name].value for name in ("interface", "addr", "xparam") if name in given]
    event = "master" if option == "upscript" else "backup"
    found.script(table, place, event, (script, *arguments))
    found.note(place, f"--{option} {script}", f"{_ITSELF}; for what else the script does see [hook.NAME] below")
