"""`carpctl replay`: a recording as a story, and what it says of a file that is none."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

import pytest

from carpd.cli.carpctl import main
from carpd.config.model import VirtualHostConfig
from carpd.events import Configure, Event, HostPrepared, InterfaceChanged, TimersDue
from carpd.trace.recording import START, recorded
from carpd.units import SECOND

HOST = VirtualHostConfig(
    name="lan", interface="eth1", vhid=1, addresses=(ip_interface("192.0.2.1/24"),), key=b"secret", group="edge"
)
EVENTS: list[tuple[int, Event]] = [
    (10 * SECOND, InterfaceChanged("eth1", up=True, mac=bytes(6))),
    (10 * SECOND, Configure((HOST,), seed=1)),
    (10 * SECOND, HostPrepared("lan")),
    (11 * SECOND, TimersDue(11 * SECOND)),
    (13 * SECOND, TimersDue(13 * SECOND)),
    (14 * SECOND, InterfaceChanged("eth1", up=False, mac=bytes(6))),
]

STORY = """\
    0.000000 HostPrepared(host='lan')
             -> lan: INIT -> BACKUP (initialization complete)
    3.000000 timers
             -> lan: take 192.0.2.1/24
             -> lan: send an IPv4 advertisement: advbase 1 advskew 0 demotion 0
             -> lan: announce 1 IPv4 and 0 IPv6 addresses
             -> lan: BACKUP -> MASTER (master timed out)
    4.000000 link of eth1 is down
             -> lan: close the gate
             -> lan: release 192.0.2.1/24
             -> lan: MASTER -> INIT (hardware interface down)
             -> group edge: demotion 0 -> 1 (link of eth1 is down)
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "recording"
    file.write_text("\n".join([START, *(recorded(now, event) for now, event in EVENTS)]) + "\n")
    return file


def test_story(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording)]) == 0
    assert capsys.readouterr() == (STORY, "")


def test_all(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--all", str(recording)]) == 0
    out = capsys.readouterr().out
    assert "    0.000000 configured: lan\n" in out
    assert "    1.000000 timers\n" in out


def test_cut_off(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What could be read, and one line."""
    recording.write_text(recording.read_text()[:-20])
    assert main(["replay", str(recording)]) == 1
    out, err = capsys.readouterr()
    assert "BACKUP -> MASTER" in out
    assert err.startswith(f"carpctl replay: {recording}: line 7: ")
    assert err.count("\n") == 1


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"carpctl replay: {tmp_path / 'none'}: No such file or directory\n"
