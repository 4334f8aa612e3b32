"""Completion in real shells: what somebody types with the tab key, and the command that comes of it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from carpd.cli import carpctl, completion
from tests.conftest import need

LIMIT_S = 30.0

STUB = """\
carpctl() {
    case "$*" in
        names*/other*) echo far ;;
        names\\ hosts\\ groups) printf '%s\\n' lan wan web edge ;;
        names\\ hosts*) printf '%s\\n' lan wan web web:5 web:6 ;;
        names\\ groups) echo core ;;
        names\\ hooks) echo mail ;;
        names\\ interfaces) printf '%s\\n' lan pfsync0 ;;
        *) echo "<$*>" ;;
    esac
}
"""
"""Knows names as the daemon does; anything else is shown as the shell has understood it."""

FISH_STUB = """\
function carpctl
    switch "$argv"
        case 'names*/other*'; echo far
        case 'names hosts'; printf '%s\\n' lan wan web web:5 web:6
        case 'names hosts groups'; printf '%s\\n' lan wan web edge
        case 'names groups'; echo core
        case 'names hooks'; echo mail
        case 'names interfaces'; printf '%s\\n' lan pfsync0
    end
end
"""

TYPED = {
    "carpctl is-m\t": "<is-master>",
    "carpctl state l\tmas\t": "<state lan master>",
    "carpctl demote ed\t--b\t3": "<demote edge --by 3>",
    "carpctl is-master --al\twa\t": "<is-master --all wan>",
    "carpctl is-master web:6\t": "<is-master web:6>",
    "carpctl completion ba\t": "<completion bash>",
    "carpctl hook te\tma\t --ev\tres": "<hook test mail --event res>",
    "carpctl hook test mail --event demo\t": "<hook test mail --event demotion>",
    "carpctl ifconfig pf\tup": "<ifconfig pfsync0 up>",
    "carpctl ifconfig -g co\tcarpdemote": "<ifconfig -g core carpdemote>",
    "carpctl import /etc/hostn\tfw-b=/etc/hostn\t": "<import /etc/hostname fw-b=/etc/hostname>",
    "carpctl status --socket /other fa\t": "<status --socket /other far>",
    "carpctl replay /etc/hostn\t": "<replay /etc/hostname>",
    "carpctl status --socket /etc/hostn\tla\t": "<status --socket /etc/hostname lan>",
}


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file for a shell, made by the command itself."""
    shell = request.param
    need(shell)
    assert carpctl.main(["completion", shell]) == 0
    path = tmp_path / f"carpctl.{shell}"
    path.write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", path], check=True)
    return path


class Shell:
    """An interactive one, on a terminal of its own."""

    def __init__(self, home: Path, *argv: str) -> None:
        environment = {"PATH": os.defpath, "TERM": "xterm", "PS1": "$ ", "HOME": str(home), "LC_ALL": "C"}
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            os.execvpe(argv[0], argv, environment)

    def shows(self, expected: str, typed: str) -> bool:
        """Whether a line has this effect."""
        os.write(self._terminal, f"{typed}\n".encode())
        shown = ""
        deadline = time.monotonic() + LIMIT_S
        while expected not in shown and time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.1)[0]:
                shown += os.read(self._terminal, 1 << 16).decode(errors="replace")
        return expected in shown

    def close(self) -> None:
        os.close(self._terminal)  # hangs up
        os.waitpid(self._child, 0)


@pytest.mark.parametrize("script", ["bash", "zsh"], indirect=True)
def test_typed_with_the_tab_key(script: Path) -> None:
    options, setup = {
        ".bash": (("--norc", "--noprofile"), ""),
        ".zsh": (("-f",), "autoload -Uz compinit; compinit -u -D\n"),
    }[script.suffix]
    shell = Shell(script.parent, script.suffix[1:], *options, "-i")
    try:
        setup += f"{STUB}source {script}\necho read''y"  # the terminal shows what is typed, too
        assert shell.shows("ready", setup)
        for typed, understood in TYPED.items():
            assert shell.shows(understood, typed), typed
    finally:
        shell.close()


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path) -> None:
    """It says itself what it would complete."""
    for typed, expected in {
        "carpctl is-m": ["is-master"],
        "carpctl is-master w": ["wan", "web", "web:5", "web:6"],
        "carpctl demote e": ["edge"],
        "carpctl state lan m": ["master"],
        "carpctl completion z": ["zsh"],
        "carpctl hook t": ["test"],
        "carpctl hook test m": ["mail"],
        "carpctl hook test mail --event demo": ["demotion"],
        "carpctl ifconfig pf": ["pfsync0"],
        "carpctl ifconfig -g co": ["core"],
        "carpctl import fw-b=/etc/hostn": ["fw-b=/etc/hostname"],
        "carpctl status --socket /other f": ["far"],
        "carpctl is-master --al": ["--all"],
        "carpctl replay /etc/hostn": ["/etc/hostname"],
        "carpctl status --socket /etc/hostn": ["/etc/hostname"],
    }.items():
        command = f"{FISH_STUB}source {script}; complete -C {typed!r}"
        argv = ["fish", "--no-config", "--private", "-c", command]
        environment = {"PATH": os.defpath, "HOME": str(script.parent)}
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == expected, typed


def test_every_command_is_completed(capsys: pytest.CaptureFixture[str]) -> None:
    """With its options; but not what nobody types."""
    for shell in ("bash", "fish", "zsh"):
        carpctl.main(["completion", shell])
        script = capsys.readouterr().out
        for name in carpctl.COMMANDS:
            assert name in script
            options = [option for action in carpctl.subcommand(name)._actions for option in action.option_strings]
            assert all(option.lstrip("-") in script for option in options)
    assert [level.path for level in completion.levels() if level.path.split()[-1] in carpctl.HIDDEN] == []
