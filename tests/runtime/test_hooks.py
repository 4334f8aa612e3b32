"""Hooks as real processes: what they are given, in which order they run, and that nothing they do holds anybody up."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import time
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from carpd.config.model import Balancing, BalancingMode, HookConfig, HookEvent, VirtualHostConfig
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Tell
from carpd.runtime import hook_run, hooks
from carpd.runtime.hooks import Hooks
from carpd.runtime.notices import Notices
from tests.conftest import leave_out

LIMIT_S = 30.0
"""How long what must happen may take, on a busy machine."""

HOSTS = tuple(
    VirtualHostConfig(
        name=name,
        interface="eth1",
        vhid=vhid,
        addresses=(ip_interface("192.0.2.1/24"),),
        key=b"",
        group=group,
        balancing=balancing,
    )
    for name, vhid, group, balancing in (
        ("lan", 1, "edge", None),
        ("dmz", 2, "carp", None),
        ("web:3", 3, "web", Balancing(virtual_host="web", mode=BalancingMode.IP, vhids=(3, 4))),
    )
)


class Run:
    """Hooks in an event loop, and what can be done to them. `script` is the shell script that is the hook `x`."""

    def __init__(self, directory: Path, script: str, **settings: Any) -> None:
        self.output = directory / "output"
        self.output.touch()
        command = ("/bin/sh", "-c", script.replace("OUTPUT", str(self.output)), "hook", "an argument")
        self.config = HookConfig(name="x", command=command, **settings)
        self.notices = Notices()
        self.hooks = Hooks(self.notices)
        self.hooks.configure([self.config], HOSTS)

    def state(self, new: str = "MASTER", host: VirtualHostConfig = HOSTS[0], **more: Any) -> None:
        """A virtual host has changed its state."""
        about: dict[str, Any] = {
            "name": host.name,
            "virtual_host": host.virtual_host,
            "vhid": host.vhid,
            "group": host.group,
        }
        self.notices.publish("state", f"{host.name}: {new}", **about, old="BACKUP", new=new, **more)

    async def test(self, tell: Tell, **request: Any) -> Callable[[], None]:
        """As `carpctl hook test x`."""
        return await self.hooks.test({"name": "x", **request}, tell)

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    @property
    def results(self) -> dict[str, int]:
        """How many notices came to what."""
        return {result: count for (_, result), count in self.hooks.results.items() if count}


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.005)


def done(run: Run, act: Callable[[], Awaitable[None] | None]) -> None:
    """Do this in an event loop, and stop the hooks, which are thereby run for all that happened."""

    async def main() -> None:
        if waiting := act():
            await waiting
        await run.hooks.stop()

    asyncio.run(main())


def is_gone(pid: int) -> bool:
    """Whether a process is at most a zombie that nobody collects."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines of the log that begin with "hook "."""
    caplog.set_level(logging.INFO, "carpd")
    return lambda: [r.getMessage() for r in caplog.records if r.getMessage().startswith("hook ")]


def test_what_it_is_given(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    """The notice on standard input, its fields in an environment that is otherwise clean, arguments, and a session."""
    run = Run(tmp_path, 'cat >OUTPUT; echo "$1" >>OUTPUT; ps -o sid= $$ >>OUTPUT; pwd >>OUTPUT; env >>OUTPUT; echo $$')
    os.environ["SECRET_OF_THE_DAEMON"] = "1"
    try:
        done(run, lambda: run.state(reason='a "reason"', odd="a\0b\ud800", present=True))
    finally:
        del os.environ["SECRET_OF_THE_DAEMON"]
    document, argument, session, directory, *environment = run.lines()
    fields = json.loads(document)
    assert (fields["kind"], fields["text"], fields["old"], fields["new"]) == (
        "state",
        "lan: MASTER",
        "BACKUP",
        "MASTER",
    )
    assert (fields["vhid"], fields["group"], fields["reason"]) == (1, "edge", 'a "reason"')
    assert argument == "an argument"
    assert directory == "/"
    assert log() == [f"hook x: {session.strip()}"]  # that of the shell itself
    variables = dict(line.split("=", 1) for line in environment)
    assert {name: value for name, value in variables.items() if name not in ("PWD", "SHLVL", "_", "OLDPWD")} == {
        **hook_run.ENVIRONMENT,
        "CARP_EVENT": "master",
        "CARP_NAME": "lan",
        "CARP_VIRTUAL_HOST": "lan",
        "CARP_VHID": "1",
        "CARP_GROUP": "edge",
        "CARP_FROM": "BACKUP",
        "CARP_TO": "MASTER",
        "CARP_REASON": 'a "reason"',
        "CARP_ODD": "ab?",
        "CARP_PRESENT": "true",
    }
    assert run.results == {hooks.GOOD: 1}


def test_in_order_and_one_at_a_time(tmp_path: Path) -> None:
    """Whatever happens meanwhile; and it is not waited for."""
    run = Run(tmp_path, "echo begin $CARP_TO $CARP_NUMBER >>OUTPUT; sleep 0.05; echo end >>OUTPUT")

    def act() -> None:
        for number in range(5):
            run.state(("MASTER", "BACKUP")[number % 2], number=number)
        assert run.lines() == []

    done(run, act)
    expected = [[f"begin {('MASTER', 'BACKUP')[number % 2]} {number}", "end"] for number in range(5)]
    assert run.lines() == [line for pair in expected for line in pair]


WHAT_HAPPENS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all states": ({}, ["master lan", "backup lan", "init lan", "master dmz", "master web:3"]),
    "one state": ({"events": (HookEvent.INIT,)}, ["init lan"]),
    "one virtual host": ({"virtual_hosts": ("dmz",)}, ["master dmz"]),
    "all nodes of one": ({"virtual_hosts": ("web",)}, ["master web:3"]),
    "everything": (
        {"events": tuple(HookEvent)},
        [
            *("master lan", "backup lan", "init lan", "master dmz", "master web:3"),
            *("demotion", "sharing", "pfsync", "reload"),
        ],
    ),
    "what concerns web": (
        {"events": tuple(HookEvent), "virtual_hosts": ("web",)},
        ["master web:3", "sharing", "pfsync", "reload"],
    ),
    "what concerns lan": (
        {"events": tuple(HookEvent), "virtual_hosts": ("lan",)},
        ["master lan", "backup lan", "init lan", "demotion", "pfsync", "reload"],
    ),
}


@pytest.mark.parametrize(("settings", "expected"), WHAT_HAPPENS.values(), ids=WHAT_HAPPENS)
def test_what_it_is_run_for(tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
    run = Run(tmp_path, "echo $CARP_EVENT $CARP_NAME >>OUTPUT", **settings)
    lan, dmz, web = HOSTS

    def act() -> None:
        for new in ("MASTER", "BACKUP", "INIT"):
            run.state(new, lan)
        run.state("MASTER", dmz)
        run.state("MASTER", web)
        run.notices.publish("demotion", "", group="edge", old=0, new=1, reason="")
        run.notices.publish("sharing", "", virtual_host="web", finding="", present=True)
        run.notices.publish("pfsync", "")
        run.notices.publish("reload", "", phase="begin")
        run.notices.publish("reload", "", phase="end", plan=["a change"] * 100000)
        run.notices.publish("something else", "")

    done(run, act)
    assert run.lines() == expected


def test_failures(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    """An exit status, a signal, and a program that is no program, each on one line."""
    run = Run(tmp_path, 'echo out; echo err >&2; [ "$CARP_TO" = MASTER ] && exit 3; kill -9 $$')
    nowhere = HookConfig(name="y", command=("/nowhere/program",), events=(HookEvent.BACKUP,))

    def act() -> None:
        run.hooks.configure([run.config, nowhere], HOSTS)
        run.state("MASTER")
        run.state("BACKUP")

    done(run, act)
    lines = [line.partition(" after ")[0] for line in log()]
    assert [line for line in lines if line.startswith("hook x")] == [
        *("hook x: out", "hook x: err", "hook x: exit status 3"),
        *("hook x: out", "hook x: err", "hook x: killed by SIGKILL"),
    ]
    assert "hook y: /nowhere/program can't be run: No such file or directory" in lines
    results = {of: count for of, count in run.hooks.results.items() if count}
    assert results == {("x", hooks.FAILED): 2, ("y", hooks.NOT_STARTED): 1}
    assert run.hooks.results["x", hooks.GOOD] == 0  # known from the start


@pytest.mark.parametrize("stubborn", [False, True])
def test_too_late(
    tmp_path: Path, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    """It is ended after its timeout, with all that it has started, whether it obeys SIGTERM or not."""
    monkeypatch.setattr(hook_run, "KILL_DELAY_S", 0.1)
    script = "trap '' TERM\n" if stubborn else ""
    run = Run(tmp_path, f"{script}sleep 1000 & echo $$ $! >>OUTPUT; wait", timeout=1)
    done(run, run.state)
    (pids,) = run.lines()
    for pid in pids.split():
        asyncio.run(until(partial(is_gone, int(pid)), "the end of all"))
    how = "killed by SIGKILL" if stubborn else "killed by SIGTERM"
    assert [line.partition(" after ")[0] for line in log()] == [f"hook x: ended by its timeout, {how}"]
    assert run.results == {hooks.TIMED_OUT: 1}


def test_output_is_bounded(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    """Long lines are cut, endless ones too; control characters are not passed on, and more than 100 lines neither."""
    run = Run(
        tmp_path, r"head -c 3000 /dev/zero; printf '\na\033[31m\tb\303\251\n'; yes | head -n 1000; echo end >>OUTPUT"
    )
    done(run, run.state)
    first, second, *others, last = log()
    assert first == "hook x: " + "�" * 1000
    assert second == "hook x: a�[31m  bé"
    assert set(others) == {"hook x: y"}
    assert len(others) == 98
    assert last == "hook x: (more than 100 lines: the rest is left out)"
    assert run.lines() == ["end"]


@pytest.mark.parametrize("flood", ["exec yes", "exec cat /dev/zero"])
def test_a_flood_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: str) -> None:
    """It is read a hundred times a second, and not as fast as it comes, which is ten thousand times."""
    read = os.read
    reads = 0

    def counted(*arguments: int) -> bytes:
        nonlocal reads
        reads += 1
        return read(*arguments)

    monkeypatch.setattr(os, "read", counted)
    run = Run(tmp_path, flood, timeout=1)
    done(run, run.state)
    assert run.results == {hooks.TIMED_OUT: 1}
    assert reads < 1000


def test_a_child_that_stays(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    """What a hook leaves in the background, with its output open, is not waited for, and lives on."""
    run = Run(tmp_path, "sleep 1000 & echo $! >>OUTPUT; echo done; printf 'no end'")
    done(run, run.state)
    assert log() == ["hook x: done", "hook x: no end"]
    (pid,) = map(int, run.lines())
    assert not is_gone(pid)
    os.kill(pid, 9)


def test_too_slow(tmp_path: Path, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many notices wait; the oldest are dropped, and the log says how many."""
    monkeypatch.setattr(hooks, "WAITING_LIMIT", 3)
    run = Run(tmp_path, "echo $CARP_NUMBER >>OUTPUT; while [ -e OUTPUT.hold ]; do sleep 0.01; done")
    hold = tmp_path / "output.hold"
    hold.touch()

    async def act() -> None:
        run.state(number=0)
        await until(run.lines, "the first run")
        for number in range(1, 8):
            run.state(number=number)
        hold.unlink()

    done(run, act)
    assert run.lines() == ["0", "5", "6", "7"]
    assert log() == ["hook x: too slow: dropped the 4 oldest notices"]
    assert run.results == {hooks.GOOD: 4, hooks.DROPPED: 4}


def test_the_end(tmp_path: Path, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has happened until then is told, as long as there is time; then everything is ended."""
    monkeypatch.setattr(hooks, "STOP_LIMIT_S", 0.5)
    run = Run(tmp_path, "echo $$ $CARP_TO >>OUTPUT; [ $CARP_TO = MASTER ] || sleep 1000")

    def act() -> None:
        run.state("MASTER")
        run.state("INIT")
        run.state("BACKUP")

    done(run, act)
    (_, first), (pid, last) = (line.split() for line in run.lines())
    assert (first, last) == ("MASTER", "INIT")
    assert is_gone(int(pid))
    assert log() == ["hook x: still at work 0 s after the end: ending it, untold: 1"]
    run.state("MASTER")  # nobody hears of it any more
    assert len(run.lines()) == 2


@pytest.mark.parametrize(
    ("script", "expected"),
    {
        "echo $$ >>OUTPUT; sleep 0.1; echo good": "hook x: good",
        "echo $$ >>OUTPUT; sleep 1000": "hook x: still at work 1 s after the end: ending it, untold: 0",
    }.items(),
    ids=["in time", "late"],
)
def test_the_end_of_one_that_has_gone(
    tmp_path: Path, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    """What it is run for when it is taken out has the time that others have; then it is ended, and that is told."""
    monkeypatch.setattr(hooks, "STOP_LIMIT_S", LIMIT_S if expected == "hook x: good" else 1.0)
    run = Run(tmp_path, script)

    async def act() -> None:
        run.state("MASTER")
        run.state("BACKUP")
        await until(run.lines, "the first run")
        for _ in range(2):  # a change does not forget those that went before
            run.hooks.configure([], HOSTS)

    done(run, act)
    assert log() == [expected]
    (pid,) = map(int, run.lines())
    assert is_gone(pid)


def test_another_configuration(tmp_path: Path) -> None:
    """A hook that stays is run for what waits, a new one for what comes, one that has gone for nothing any more."""
    run = Run(tmp_path, "echo x $CARP_TO >>OUTPUT; while [ -e OUTPUT.hold ]; do sleep 0.01; done")
    program = tmp_path / "other"
    program.write_text(f"#!/bin/sh\necho $1 $CARP_TO >>{run.output}")
    program.chmod(0o755)
    hold = tmp_path / "output.hold"
    hold.touch()

    async def act() -> None:
        run.state("MASTER")
        await until(run.lines, "the first run")
        run.state("BACKUP")
        changed = HookConfig(name="x", command=(str(program), "x2"))
        new = HookConfig(name="y", command=(str(program), "y"))
        run.hooks.configure([changed, new], HOSTS)
        run.state("INIT")
        await until(lambda: "y INIT" in run.lines(), "the new hook")
        hold.unlink()
        await until(lambda: "x2 INIT" in run.lines(), "the last run")
        hold.touch()
        run.hooks.configure([run.config], HOSTS)
        run.state("MASTER")
        await until(lambda: run.lines().count("x MASTER") == 2, "the old program again")
        run.state("INIT")
        run.hooks.configure([], HOSTS)
        hold.unlink()

    done(run, act)
    assert run.lines() == ["x MASTER", "y INIT", "x2 BACKUP", "x2 INIT", "x MASTER"]


def test_its_user(tmp_path: Path) -> None:
    """With that user's groups; standard input and error can be opened by their names."""
    if os.geteuid() != 0:
        leave_out("only root may become somebody else")
    run = Run(tmp_path, "id -un; id -gn; id -G; cat /dev/stdin >/dev/null && echo ok >/dev/stderr", user="daemon")
    heard: list[str] = []

    async def act() -> None:
        ends: list[dict[str, Any]] = []
        await run.test(ends.append)
        await until(lambda: "ends" in ends[-1], "the end")
        heard.extend(answer["line"] for answer in ends if "line" in answer)

    done(run, act)
    entry = pwd.getpwnam("daemon")
    groups = " ".join(map(str, os.getgrouplist("daemon", entry.pw_gid)))
    assert heard == ["daemon", "daemon", groups, "ok"]


def test_a_test(tmp_path: Path, log: Callable[[], list[str]]) -> None:
    """It tells how the run began, what it printed and how it ended; the notice says that it is a test."""
    run = Run(tmp_path, 'echo "$CARP_EVENT $CARP_NAME $CARP_TEST"; exit 4', virtual_hosts=("dmz",))
    told: list[dict[str, Any]] = []

    async def act() -> None:
        for event in HookEvent:
            await run.test(told.append, event=event.value)
            await until(lambda: "ends" in told[-1], "the end")
        await run.test(told.append)
        await until(lambda: "ends" in told[-1], "the end")

    done(run, act)
    lines = [answer["line"] for answer in told if "line" in answer]
    named = {"master", "backup", "init", "sharing"}
    expected = [f"{e.value} {'dmz' if e.value in named else ''} true" for e in HookEvent]
    assert lines == [*expected, "master dmz true"]
    assert told[0] == {"begins": "a test of the event master"}
    assert {"exit_status": 4, "good": False, "timed_out": False}.items() <= told[2].items()
    assert told[2]["ends"].startswith("exit status 4 after ")
    assert log() == []


def test_a_test_that_nobody_waits_for(tmp_path: Path) -> None:
    """It is ended."""
    run = Run(tmp_path, "echo $$ >>OUTPUT; exec sleep 1000")

    async def act() -> None:
        end = await run.test(lambda _: None)
        await until(run.lines, "its beginning")
        end()
        await until(lambda: is_gone(int(run.lines()[0])), "its end")

    done(run, act)


def test_what_can_not_be_tested(tmp_path: Path) -> None:
    run = Run(tmp_path, "true")
    for name, event, failure in (
        ("y", None, Failure.NO_SUCH_OBJECT),
        ([], None, Failure.NO_SUCH_OBJECT),
        ("x", "mastre", Failure.BAD_REQUEST),
        ("x", [], Failure.BAD_REQUEST),
    ):
        with pytest.raises(ControlError) as caught:
            asyncio.run(run.hooks.test({"name": name, "event": event}, lambda _: None))
        assert caught.value.failure is failure
