"""What becomes of an exit status when the output goes nowhere, or can't go where it should: 0 and 1 are answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carpd.cli import carpctl, is_master
from carpd.cli.streams import EXIT_UNREAD, EXIT_UNWRITTEN
from carpd.control.protocol import Failure
from tests.cli.daemon import Daemon, host, status

IS_MASTER = "carpctl is-master lan"
STATUS = "carpctl status"
FULL = "can't write the output: No space left on device"

CASES = {
    # what is run, its redirections, the exit status, and what is left on standard error
    "an answer without words needs no output": (IS_MASTER, ">&-", 0, ""),
    "nor does one of which nobody wants words": (f"{IS_MASTER} -v", ">&- 2>&-", 0, ""),
    "a table that nobody wants": (STATUS, ">&-", 0, ""),
    "words that can't be written": (f"{IS_MASTER} -v", ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
    "JSON that can't be written": (f"{IS_MASTER} --json", ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
    "a table that can't be written": (STATUS, ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
    "a line at a time": ("carpctl monitor", ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
    "help": ("carpctl --help", ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
    "nowhere to complain": (STATUS, ">/dev/full 2>/dev/full", EXIT_UNWRITTEN, ""),
    "a complaint that can't be written": ("carpctl is-master wan x", "2>/dev/full", EXIT_UNWRITTEN, ""),
    "a complaint that nobody wants": ("carpctl is-master wan x", "2>&-", Failure.BAD_REQUEST.value, ""),
    "nobody reads on": ("carpctl completion bash", "| true", EXIT_UNREAD, ""),
    "carpd": ("carpd --check {directory}", ">/dev/full", EXIT_UNWRITTEN, f"carpd: {FULL}\n"),
    "pfsyncd": ("pfsyncd --help", ">/dev/full", EXIT_UNWRITTEN, f"pfsyncd: {FULL}\n"),
    "ucarp": ("ucarp --help", ">/dev/full", EXIT_UNWRITTEN, f"ucarp: {FULL}\n"),
    "a capture": ("carpctl decode {capture}", ">/dev/full", EXIT_UNWRITTEN, f"carpctl: {FULL}\n"),
}
CAPTURE = Path(__file__).parents[1] / "captures" / "ucarp-master.pcap"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    event = {"time": "2025-11-28T03:12:44.123Z", "kind": "state", "text": "lan: BACKUP"}
    daemon = Daemon(tmp_path / "carpd.sock", {"status": status(host("lan")), "monitor": [event]})
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.mark.parametrize(("line", "redirections", "exit_status", "errors"), CASES.values(), ids=CASES)
def test_exit_status(daemon: Daemon, line: str, redirections: str, exit_status: int, errors: str) -> None:
    program, command, *words = line.format(directory=daemon.path.parent, capture=CAPTURE).split()
    if command in ("status", "monitor", "is-master"):
        words += ["--socket", str(daemon.path)]
    shell = (
        f"{sys.executable} -m carpd.cli.{program} {command} {' '.join(words)} {redirections}; exit ${{PIPESTATUS[0]}}"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (exit_status, errors)


def test_without_a_buffer() -> None:
    """It is not the capture that can't be read."""
    shell = f"{sys.executable} -u -m carpd.cli.carpctl decode {CAPTURE} >/dev/full"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (EXIT_UNWRITTEN, f"carpctl: {FULL}\n")


def test_what_is_closed_does_not_become_a_socket(tmp_path: Path) -> None:
    """Or lines for standard output would go to the daemon, or onto a link."""
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(
        "import os, sys\n"
        "from carpd.cli.streams import standard_streams\n"
        "with standard_streams('x'), open(sys.argv[1], 'w') as out:\n"
        "    print(out.fileno(), *(os.readlink(f'/proc/self/fd/{n}') for n in range(3)), file=out)\n"
    )
    subprocess.run(["sh", "-c", f"{sys.executable} {script} {out} <&- >&- 2>&-"], check=True)
    number, *streams = out.read_text().split()
    assert int(number) > 2
    assert streams == ["/dev/null"] * 3


def test_an_error_of_ours_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(is_master, "run", lambda args: 1 // 0)
    assert carpctl.main(["is-master", "lan"]) == Failure.DEFECT.value
    assert re.search(r"(?s)^Traceback .*ZeroDivisionError", capsys.readouterr().err)


def test_a_report_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told before the demonstration begins, not a minute later."""
    report = tmp_path / "no" / "report.html"
    assert carpctl.main(["demo", "--report", str(report)]) == 2
    assert capsys.readouterr() == ("", f"carpctl demo: {report} can't be written: No such file or directory\n")
