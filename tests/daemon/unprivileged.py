"""Programs of ours as a user who is nobody, and who may not read this checkout or its Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import carpd
from tests.conftest import leave_out

NOBODY = 65534


def run_as_nobody(directory: Path, module: str, *capabilities: str) -> list[str]:
    """The beginning of a command that runs a module with just these capabilities ("net_admin", ...).

    The sources are copied into a directory, which is NOBODY's from then on. The test is skipped if there is no Python
    that NOBODY can run.
    """
    library = directory / "lib"
    shutil.copytree(Path(carpd.__file__).parent, library / "carpd", ignore=shutil.ignore_patterns("__pycache__"))
    os.chown(directory, NOBODY, NOBODY)
    return [*_as_nobody(capabilities), f"PYTHONPATH={library}", _python(), "-m", module]


def _as_nobody(capabilities: Sequence[str] = ()) -> list[str]:
    wanted = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return [
        "setpriv",
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={wanted}", f"--ambient-caps={wanted}", f"--bounding-set={wanted}"),
        "env",  # finds the program without the capabilities that setpriv still has itself
    ]


def _python() -> str:
    """A Python that is new enough."""
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):
        if python is not None:
            argv = [*_as_nobody(), python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
                return python
    return leave_out("nobody may run a Python of version 3.11")
