"""`carpd --check`: what it prints, and its exit status."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from carpd.cli.check import check

HOST = '[carp.{0}]\ninterface = "{0}"\nvhid = 1\naddresses = ["192.0.2.{1}"]\npassword_file = "password"\n'

PFSYNC = '[pfsync]\nsyncdev = "eth2"\ntransport = "plain"\n'

CASES = {
    "good": (HOST.format("lan", 1), 0, ["FILE: ok: 1 virtual host on node fw-a"]),
    "two": (HOST.format("lan", 1) + HOST.format("wan", 2), 0, ["FILE: ok: 2 virtual hosts on node fw-a"]),
    "pfsync": (PFSYNC, 0, ["FILE: ok: pfsync on eth2 on node fw-a"]),
    "all": (HOST.format("lan", 1) + PFSYNC, 0, ["FILE: ok: 1 virtual host and pfsync on eth2 on node fw-a"]),
    "nothing": (
        "# nothing yet\n",
        0,
        [
            "FILE: warning: carp: no virtual host is configured: write at least [carp.lan] and, below it, interface = "
            '"eth1", vhid = 1, addresses = ["192.0.2.1/24"] and password_file = "/etc/carpd/password"; '
            "or use carpctl ifconfig",
            "FILE: ok: no virtual host on node fw-a",
        ],
    ),
    "all is down": (HOST.format("lan", 1) + "up = false\n", 0, ["FILE: ok: no virtual host on node fw-a"]),
    "an error of pfsync": (PFSYNC + "maxupd = 256\n", 3, ["FILE:4: error: pfsync.maxupd = 256: maxupd is 0 to 255"]),
    "a warning": (
        HOST.format("lan", 1) + "advbase = 90",
        0,
        [
            "FILE:6: warning: carp.lan.advbase = 90: with 86 or more the others don't believe a master that leaves, "
            "and "
            "wait until it times out",
            "FILE: ok: 1 virtual host on node fw-a",
        ],
    ),
    "two errors": (
        HOST.format("lan", 1) + "advbase = -1\nvhdi = 1",
        3,
        [
            "FILE:6: error: carp.lan.advbase = -1: advbase is 0 to 254",
            "FILE:7: error: carp.lan.vhdi = 1: unknown key: did you mean 'vhid'?",
        ],
    ),
    "no TOML": ("[", 3, ["FILE:1: error: no valid TOML: Invalid initial character for a key part"]),
}


@pytest.mark.parametrize(("text", "status", "expected"), CASES.values(), ids=CASES)
def test_check(tmp_path: Path, text: str, status: int, expected: list[str]) -> None:
    file = tmp_path / "carpd.toml"
    file.write_text(text)
    (tmp_path / "password").write_text("xyzzy\n")
    (tmp_path / "password").chmod(0o600)
    out = io.StringIO()
    assert check(file, "fw-a", None, out) == status
    assert out.getvalue().replace(str(file), "FILE").splitlines() == expected
