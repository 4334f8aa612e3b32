"""Capture files made for a test, and carpctl decode run on them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from carpd.cli import carpctl
from carpd.trace.pcap import ETHERNET, CapturedFrame, write_pcap
from carpd.units import SECOND

CAPTURES = Path(__file__).parent.parent / "captures"
START = 1_700_000_000 * SECOND


def capture(path: Path, *frames: bytes, linktype: int = ETHERNET) -> str:
    """A file with these frames, a second apart."""
    file = io.BytesIO()
    captured = [CapturedFrame(START + i * SECOND, linktype, data, len(data)) for i, data in enumerate(frames)]
    write_pcap(file, captured, linktype)
    path.write_bytes(file.getvalue())
    return str(path)


def decode(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, list[str], str]:
    """The exit status, the lines on standard output, and standard error."""
    try:
        status = carpctl.main(["decode", *args])
    except SystemExit as usage:
        status = int(usage.code or 0)
    out, err = capsys.readouterr()
    return status, out.splitlines(), err
