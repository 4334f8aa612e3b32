"""What the program ucarp is made of: its log, which waits for nobody, and its scripts, one after the other."""

from __future__ import annotations

import fcntl
import os
import re
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from carpd.lab.waiting import wait_until
from carpd.runtime.ucarp.log import Log
from carpd.runtime.ucarp.scripts import Scripts
from carpd.runtime.ucarp.settings import Settings
from carpd.units import SECOND

DAEMON = 3 << 3
"""The facility LOG_DAEMON. Ref: syslog(3)."""

LIMIT_NS = 10 * SECOND


# The log


def test_levels_and_where_they_go(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log()
    for level in (log.info, log.warning, log.error, log.debug):
        level(level.__name__)
    Log(debugging=True).debug("more")
    out, err = (re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", "TIME", text) for text in capfd.readouterr())
    assert out == "TIME: [INFO] info\nTIME: [DEBUG] more\n"
    assert err == "TIME: [WARNING] warning\nTIME: [ERROR] error\n"


def test_syslog_has_it_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(facility=DAEMON, syslog=path, terminal=False)
    log.warning("nobody listens")
    for text in ("first", "after syslog was started again"):
        with listening(path) as syslog:
            log.warning(text)
            line = syslog.recv(4096).decode()
            assert re.fullmatch(
                rf"<28>[A-Z][a-z]{{2}} [ 0-9]\d [0-9:]{{8}} ucarp\[{os.getpid()}\]: \[WARNING\] {text}", line
            )


def test_syslog_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with listening(tmp_path / "log"):
        log = Log(facility=DAEMON, syslog=tmp_path / "log", terminal=False)
        for number in range(2000):  # /proc/sys/net/unix/max_dgram_qlen is some 10 to 512
            log.warning(str(number))


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        yield syslog
    path.unlink()


def test_a_terminal_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is counted, and said when it reads again."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2 * select.PIPE_BUF)
    monkeypatch.setattr("carpd.runtime.ucarp.log._STDERR", writer)
    log = Log()
    for number in range(500):
        log.warning(str(number))
    os.set_blocking(reader, False)
    taken = len(os.read(reader, 1 << 20).splitlines())
    assert taken < 500
    log.warning("now")
    lost, now = os.read(reader, 1 << 20).decode().splitlines()
    assert lost.endswith(f"[WARNING] {500 - taken} lines of the log were lost: nobody read them")
    assert now.endswith("[WARNING] now")
    os.close(reader)
    os.close(writer)


# The scripts

SETTINGS = Settings(
    interface="eth1", source=IPv4Address("192.0.2.1"), vhid=1, password=b"secret", address=IPv4Address("192.0.2.9")
)


class Hands:
    """Scripts that write down how they are called, and end when they may."""

    def __init__(self, directory: Path, *, up: bool = True, extra: str | None = None) -> None:
        self.calls = directory / "calls"
        self.calls.touch()
        script = directory / "script"
        script.write_text(f'#!/bin/sh\necho "$0 $#: $*" >> {self.calls}\n[ ! -p "$0-gate" ] || cat "$0-gate"\n')
        script.chmod(0o755)
        for name in ("up", "down"):
            (directory / name).symlink_to(script)
        up_script = str(directory / "up") if up else None
        settings = replace(SETTINGS, extra=extra, up_script=up_script, down_script=str(directory / "down"))
        self.scripts = Scripts(settings, Log(terminal=False))

    def called(self) -> list[str]:
        return [line.rpartition("/")[2] for line in self.calls.read_text().splitlines()]

    def finish(self) -> list[bool]:
        """Wait until none runs; those that ended."""
        ended: list[bool] = []

        def idle() -> bool:
            ended.extend(self.scripts.collect())
            return self.scripts.idle

        wait_until(idle, LIMIT_NS, "the scripts end")
        return ended


def test_one_after_the_other_in_order(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    gate = tmp_path / "down-gate"
    os.mkfifo(gate)
    hands.scripts.call(up=False)
    wait_until(lambda: hands.called() == ["down 2: eth1 192.0.2.9"], LIMIT_NS, "the first is called")
    hands.scripts.call(up=True)
    assert not hands.scripts.idle
    assert hands.scripts.collect() == []
    gate.write_text("")
    assert hands.finish() == [False, True]
    assert hands.called() == ["down 2: eth1 192.0.2.9", "up 2: eth1 192.0.2.9"]


def test_what_has_not_begun_and_its_opposite_are_nothing(tmp_path: Path) -> None:
    hands = Hands(tmp_path, extra="a word")
    hands.scripts.call(up=True)
    for up in (False, True, False, True, False):
        hands.scripts.call(up=up)
    assert hands.finish() == [True, False]
    assert hands.called() == ["up 3: eth1 192.0.2.9 a word", "down 3: eth1 192.0.2.9 a word"]


def test_a_script_that_is_not_wanted_is_not_called(tmp_path: Path) -> None:
    hands = Hands(tmp_path, up=False)
    for up in (False, True, False):
        hands.scripts.call(up=up)
        hands.finish()
    assert hands.called() == ["down 2: eth1 192.0.2.9"] * 2


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        (None, "[ERROR] Unable to exec SCRIPT eth1 192.0.2.9: No such file or directory\n"),
        ("#!/bin/sh\nexit 3\n", "[WARNING] [SCRIPT] failed: exit status 3\n"),
        ("#!/bin/sh\nkill -9 $$\n", "[WARNING] [SCRIPT] failed: killed by signal 9\n"),
        ("#!/bin/sh\n", ""),
    ],
)
def test_what_goes_wrong_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str | None, logged: str
) -> None:
    script = tmp_path / "script"
    if text is not None:
        script.write_text(text)
        script.chmod(0o755)
    scripts = Scripts(replace(SETTINGS, up_script=str(script)), Log())
    scripts.call(up=True)
    wait_until(lambda: bool(scripts.collect()), LIMIT_NS, "it ends")
    lines = re.sub(r"(?m)^[0-9T:.-]{26}: ", "", capfd.readouterr().err).replace(str(script), "SCRIPT")
    assert lines == f"[WARNING] Spawning [SCRIPT eth1 192.0.2.9]\n{logged}"
