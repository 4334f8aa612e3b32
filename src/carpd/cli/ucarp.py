"""ucarp: hosts share one IPv4 address, which scripts put on and take away; with the options of ucarp 1.5.2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from carpd import __version__
from carpd.cli.streams import standard_streams
from carpd.errors import SystemCallError
from carpd.linux.links import links
from carpd.runtime.ucarp.log import Log
from carpd.runtime.ucarp.options import OPTIONS, UsageError, split
from carpd.runtime.ucarp.settings import Settings
from carpd.wire.carp_auth import PASSWORD_LIMIT

EXIT_USAGE = 1
EXIT_START = 2

_REQUIRED = {
    "vhid": "You must supply a valid virtual host id",
    "password": "You must supply a password",
    "source": "You must supply a persistent source address",
    "address": "You must supply a virtual host address",
}
"""In the order in which they are missed."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a signal with -z, 1 for options, 2 if it can't begin."""
    argv = sys.argv[1:] if argv is None else argv
    log = Log()
    try:
        options, _ = split(argv)
        given = {option.field: option.read(value) for option, value in options}
        with standard_streams("ucarp"):
            if not argv or "help" in given:
                print(_help(), end="")
                return 0
        settings = _settings(given, log)
    except UsageError as error:
        log.error(str(error))
        return EXIT_USAGE
    if len(settings.password) > PASSWORD_LIMIT:
        log.error("Password too long")
        return EXIT_START
    log.facility, log.debugging = settings.facility, settings.debug
    return _run(settings, log)


def _run(settings: Settings, log: Log) -> int:
    from carpd.runtime.ucarp.loop import StartError, Ucarp

    try:
        ucarp = Ucarp(settings, log)
        if settings.background:
            _detach()
            log.terminal = False
    except (StartError, OSError) as error:
        log.error(str(error))
        return EXIT_START
    ucarp.run()
    return 0


def _settings(given: dict[str, Any], log: Log) -> Settings:
    """Raise UsageError for what is missing."""
    if "interface" not in given:
        given["interface"] = _first_interface()
        log.info(f"Using [{given['interface']}] as a network interface")
    for field, message in _REQUIRED.items():
        if not given.get(field):
            raise UsageError(message)
    for field, what in (("up_script", "up"), ("down_script", "down")):
        if field not in given:
            log.warning(f"Warning: no script called when going {what}")
    return Settings(**given)


def _first_interface() -> str:
    try:
        for link in links():
            if link.enabled and any(link.mac):
                return link.name
    except SystemCallError as error:
        raise UsageError(f"You must supply a network interface: {error}") from error
    raise UsageError("You must supply a network interface")


def _help() -> str:
    rows = [
        (f"{option.short}, --{option.long}{'=' * bool(option.value)}{option.value}", option.help) for option in OPTIONS
    ]
    width = max(len(names) for names, _ in rows)
    lines = "\n".join(f"  {names:{width}}  {text}" for names, text in rows)
    return (
        f"ucarp (carpd {__version__}): hosts share an IPv4 address by CARP; scripts put it on and take it away.\n\n"
        f"{lines}\n\n"
        "SIGUSR1 logs the state. SIGUSR2 lets another host be master, if there is one.\n"
    )


def _detach() -> None:
    """Go on in the background, without the terminal. Raise OSError."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():  # who does not lead the session can't be given a terminal
        os._exit(0)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
