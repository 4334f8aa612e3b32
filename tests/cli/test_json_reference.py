"""docs/json.md names every key that there is: those of the invented daemon, which tests/daemon/test_status.py compares
with those of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carpd.control.protocol import Failure
from tests.cli.daemon import group, host, peer, pfsync, status

REFERENCE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()

DOCUMENTS: dict[str, dict[str, Any]] = {
    "status": status(),
    "virtual host": host("lan"),
    "group": group("edge", "lan"),
    "pfsync": pfsync(),
    "peer": peer(),
    "reason": {"reason": "", "amount": 1, "until": None},
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_every_key_is_explained(document: dict[str, Any]) -> None:
    assert [key for key in document if f"`{key}`" not in REFERENCE] == []


def test_every_exit_status_is_explained() -> None:
    assert [failure for failure in Failure if f"\n| {failure.value} | " not in REFERENCE] == []
