"""The Debian package, built once for all tests."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.conftest import need

ROOT = Path(__file__).parents[2]


@cache
def built() -> Path:
    """As `make deb` builds it."""
    for program in ("dh", "dh_python3", "pyproject-build", "py3versions", "lowdown"):
        need(program)
    directory = tempfile.mkdtemp(prefix="carpd-deb-")
    atexit.register(shutil.rmtree, directory)
    done = subprocess.run([ROOT / "tools" / "deb", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = done.stdout.splitlines()
    return Path(path)
