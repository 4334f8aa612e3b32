"""What pfsyncd is told by the supervisor's side of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from carpd.config.model import PfsyncConfig
from carpd.linux import sysctls
from carpd.pfsync.events import RoleChanged
from carpd.runtime import pfsync_keeper
from carpd.runtime.messages import StartPfsync
from carpd.runtime.notices import Notices
from carpd.runtime.pfsync_keeper import PfsyncKeeper


class Process:
    """pfsyncd, which does nothing but listen."""

    def __init__(self, *_: object) -> None:
        self.heard: list[object] = []

    def send(self, message: object) -> None:
        self.heard.append(message)


@pytest.mark.parametrize(
    ("carried", "carrying", "moved", "told"),
    [
        (False, False, False, []),
        (False, False, True, []),
        (False, True, False, [RoleChanged(True)]),
        (True, True, False, []),
        (True, True, True, [RoleChanged(True)]),
        (True, False, False, [RoleChanged(False)]),
    ],
)
def test_it_is_told_of_what_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carried: bool, carrying: bool, moved: bool, told: list[object]
) -> None:
    """Also that it is not the same any more."""
    processes: list[Process] = []

    def start(*_: object) -> Process:
        processes.append(Process())
        return processes[-1]

    monkeypatch.setattr(pfsync_keeper, "ChildProcess", start)
    monkeypatch.setattr(sysctls, "read", lambda *_: "1")
    config = PfsyncConfig(syncdev="eth3")
    keeper = PfsyncKeeper(config, tmp_path, lambda *_: None, Notices())
    keeper.start(carrying=carried)
    keeper.carries(carrying, moved=moved)
    (process,) = processes
    assert process.heard == [StartPfsync(config, carried), *told]
