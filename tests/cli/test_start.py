"""carpctl starts quickly because of what it does not import. How quickly: benchmarks/carpctl.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import carpd
from tests.cli.daemon import Daemon, host, peer, pfsync, status

SLOW = {"asyncio", "dataclasses", "ipaddress", "logging", "pathlib", "shutil", "subprocess", "tomllib", "typing"}

PROGRAM = """\
import sys
from carpd.cli import carpctl
carpctl.main(sys.argv[1:])
print(*sys.modules)
"""


def test_what_the_status_does_not_import(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "carpd.sock", {"status": status(host("lan"), pfsync=pfsync(peer()))})
    daemon.start()
    try:
        argv = [sys.executable, "-S", "-c", PROGRAM, "status", "--socket", str(daemon.path)]
        environment = {"PYTHONPATH": str(Path(carpd.__file__).parents[1])}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    finally:
        daemon.stop()
    *shown, modules = done.stdout.splitlines()
    assert shown[0] == "fw-a: MASTER of lan; all well"
    assert SLOW & set(modules.split()) == set()
