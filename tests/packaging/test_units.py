"""The units, as systemd itself judges them without running them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging" / "systemd"
EXPOSURE = dict(
    re.findall(r"^\| `(\S+\.service)` \| ([\d.]+) \|$", (ROOT / "docs/systemd.md").read_text(), re.MULTILINE)
)
"""As the documentation says it, of each unit."""


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
def test_exposure(unit: str) -> None:
    """It is no more exposed than the documentation says."""
    need("systemd-analyze")
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNITS / unit)]
    report = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+) ", report)
    assert found, report
    assert float(found[1]) <= float(EXPOSURE[unit]), report
