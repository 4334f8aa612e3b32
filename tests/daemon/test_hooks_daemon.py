"""Hooks of a running daemon: what they are told from its start to its end, and `carpctl hook test`."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from carpd.lab.nodes import Node
from carpd.lab.waiting import wait_until
from tests.daemon.carpd import FAST, LIMIT_NS, Carpd, virtual_host
from tests.daemon.segment import ADDRESSES, Segment
from tests.daemon.unprivileged import run_as_nobody


def hook(name: str, script: str, **settings: Any) -> str:
    """A table [hook.NAME], of a shell script."""
    merged = {"command": ["/bin/sh", "-c", textwrap.dedent(script)], **settings}
    return "\n".join([f"[hook.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in merged.items())]) + "\n"


def carpctl(daemon: Carpd, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    words = [*(program or (sys.executable, "-m", "carpd.cli.carpctl")), *arguments, "--socket", str(daemon.socket)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def file_of(node: Node, user: str) -> Path:
    """A file that this user can write, in a directory that all can reach."""
    node.directory.chmod(0o755)
    file = node.directory / "told"
    file.touch(mode=0o644)
    entry = pwd.getpwnam(user)
    os.chown(file, entry.pw_uid, entry.pw_gid)
    return file


def test_from_start_to_end(segment: Segment) -> None:
    """A hook is told all in order, as its user, to the last; slow and failing ones are ended, and hold nobody up.

    `carpctl hook test` shows what a hook does, and its exit status whether that is good.
    """
    node = segment["a"].node
    file = file_of(node, "daemon")
    everything = ["init", "backup", "master", "demotion", "sharing", "pfsync", "reload"]
    a = Carpd(
        node,
        virtual_host(addresses=ADDRESSES, **FAST),
        hook("record", f"cat >>{file}; id -un; echo $CARP_EVENT $CARP_TO", events=everything, user="daemon"),
        hook("slow", "echo begun; exec sleep 1000", timeout=1),
        hook("bad", "echo out; echo err >&2; exit 3", events=["master"]),
    )
    a.becomes("MASTER")
    wait_until(lambda: bool(told(file)) and told(file)[-1].get("new") == "MASTER", LIMIT_NS, "a record")
    for notice in told(file):
        assert {"time", "kind", "text"} <= notice.keys()
    states = [notice for notice in told(file) if notice["kind"] == "state"]
    assert [(notice["old"], notice["new"]) for notice in states] == [("INIT", "BACKUP"), ("BACKUP", "MASTER")]
    for key, value in {"name": "lan", "virtual_host": "lan", "vhid": 7, "interface": "eth1", "group": "carp"}.items():
        assert states[0][key] == value
    for line in ("hook record: daemon", "hook record: master MASTER", "hook slow: begun", "hook bad: err"):
        a.logs(line)
    a.logs("hook bad: exit status 3 after ")
    a.logs("hook slow: ended by its timeout, killed by SIGTERM after ")

    good = carpctl(a, "hook", "test", "record", "--event", "demotion")
    assert (good.returncode, good.stderr) == (0, "")
    *lines, end = good.stdout.splitlines()
    assert lines == ["daemon", "demotion 1"]
    assert end.startswith("hook record: exit status 0 after 0.")
    assert told(file)[-1].items() >= {"kind": "demotion", "test": True, "group": "carp", "old": 0, "new": 1}.items()

    bad = carpctl(a, "hook", "test", "bad", "--json")
    assert bad.returncode == 1
    begin, *answers = map(json.loads, bad.stdout.splitlines())
    assert begin == {"begins": "a test of the event master"}
    assert answers[:-1] == [{"line": "out"}, {"line": "err"}]
    assert answers[-1].items() >= {"good": False, "exit_status": 3, "timed_out": False}.items()

    nobody = tuple(run_as_nobody(segment["b"].node.directory, "carpd.cli.carpctl"))
    for done, exit_status, line in (
        (carpctl(a, "hook", "test", "recrod"), 6, "no hook 'recrod': did you mean 'record'?"),
        (carpctl(a, "hook", "test", "bad", "--event", "mastre"), 2, "not 'mastre': did you mean 'master'?"),
        (carpctl(a, "hook", "test", "bad", program=nobody), 5, "permission denied"),
    ):
        assert (done.returncode, done.stdout) == (exit_status, "")
        assert line in done.stderr

    assert a.stop() == 0
    last = [notice for notice in told(file) if "new" in notice and notice["kind"] == "state"][-1]
    assert (last["old"], last["new"], last["reason"]) == ("MASTER", "INIT", "shutting down")
    assert a.log().endswith("INFO: stopped\n")


def test_without_the_right_to_become_another(segment: Segment) -> None:
    """A daemon that is not root says at its start that it can't run a hook as its user; it runs the others."""
    a, file = daemon_of_nobody(segment, "net_admin", "net_raw")
    a.becomes("MASTER")
    assert "ERROR: hook theirs: to run it as daemon carpd lacks CAP_SETUID, CAP_SETGID, CAP_KILL" in a.log()
    a.logs("ERROR: hook theirs: /bin/sh can't be run: Operation not permitted")
    wait_until(lambda: len(told(file)) == 2, LIMIT_NS, "both changes of state")
    assert "to run it as nobody" not in a.log()


def test_with_the_right_to_become_another(segment: Segment) -> None:
    """It needs not be root. A hook of another user has nothing of the daemon's capabilities, and is ended when late."""
    a, file = daemon_of_nobody(segment, "net_admin", "net_raw", "setuid", "setgid", "kill", timeout=1)
    a.logs("hook theirs: daemon 0000000000000000")
    a.logs("hook theirs: ended by its timeout")
    assert "lacks" not in a.log()
    assert len(told(file)) == 2


def test_without_the_right_to_end_what_is_anothers(segment: Segment) -> None:
    a, _ = daemon_of_nobody(segment, "net_admin", "net_raw", "setuid", "setgid", timeout=1)
    a.logs("ERROR: hook theirs: to run it as daemon carpd lacks CAP_KILL")
    a.logs("can't be ended: Operation not permitted (needs CAP_KILL)")
    a.logs("hook theirs: daemon 0000000000000000")
    assert a.stop() == 0


def daemon_of_nobody(segment: Segment, *capabilities: str, **theirs: Any) -> tuple[Carpd, Path]:
    """With a hook of its own, and what that writes; and one of another user, which takes its time after the first."""
    node = segment["a"].node
    program = run_as_nobody(node.directory, "carpd.cli.carpd", *capabilities)
    file = file_of(node, "nobody")
    says = "echo $(id -un) $(sed -n 's/CapEff:.//p' /proc/self/status); test $CARP_TO = BACKUP || exec sleep 30"
    a = Carpd(
        node,
        virtual_host(addresses=ADDRESSES, **FAST),
        hook("ours", f"cat >>{file}", user="nobody"),
        hook("theirs", says, user="daemon", **theirs),
        program=program,
        owner=pwd.getpwnam("nobody").pw_uid,
    )
    return a, file
