"""Samples of every format, written after the formats' manuals: what becomes of them, and what is left over.

Each directory has the files of two firewalls; beside them stands what `carpctl import` makes of them.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from carpd.cli import carpctl
from carpd.config.parse import load

SAMPLES = Path(__file__).parent / "samples"
PAIRS = ("openbsd", "freebsd", "keepalived", "ucarp")
HOSTS = ("fw-a", "fw-b")
INTERFACES = "em1=eth1,em2=eth2,em3=eth3"

PASSWORDS = {
    "openbsd": {"carp0.password": "the LAN's", "carp1.password": "outside"},
    "freebsd": {"em1-1.password": "of the LAN", "em2-2.password": "outside-and-far-awa"},
    "keepalived": {"password": "k4D!x"},
    "ucarp": {"vhid1.password": "of-the-LAN", "vhid2.password": "outside"},
}


def imported(sample: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Import the files of both firewalls; the exit status."""
    monkeypatch.chdir(SAMPLES / sample)
    hosts = [f"{host}={host}" for host in HOSTS]
    return carpctl.main(["import", *hosts, "--interface-map", INTERFACES, "--output", str(output)])


@pytest.mark.parametrize("sample", PAIRS)
def test_two_firewalls(
    sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "carpd.toml"
    assert imported(sample, output, monkeypatch) == 0
    assert output.read_text() == (SAMPLES / sample / "carpd.toml").read_text()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.replace(f"{tmp_path}/", "") == (SAMPLES / sample / "told").read_text()
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for name, password in PASSWORDS[sample].items():
        assert (tmp_path / name).read_text() == f"{password}\n"


@pytest.mark.parametrize("sample", PAIRS)
def test_suggested_hooks_can_be_used(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the # in front they are a configuration, too."""
    output = tmp_path / "carpd.toml"
    imported(sample, output, monkeypatch)
    text = output.read_text()
    output.write_text(re.sub(r"(?m)^# (?=\[hook\.|command = |events = |virtual_hosts = )", "", text))
    config = load(output, "fw-a").config
    assert config is not None
    assert len(config.hooks) == text.count("# [hook.")
    for hook in config.hooks:
        assert set(hook.virtual_hosts) <= {host.name for host in config.virtual_hosts}
