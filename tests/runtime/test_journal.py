"""Entries as systemd's journal reads them, on a socket like its own."""

from __future__ import annotations

import ast
import io
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import carpd
from carpd.runtime import journal
from carpd.runtime.journal import MESSAGE_IDS, JournalHandler, PrefixFormatter
from carpd.runtime.logs import LOG, start_logging
from carpd.runtime.notices import Notices

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "systemd.md"


class Journal:
    """The other end: takes datagrams, and files that come with one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """The next one. Raise BlockingIOError if there is none."""
        data, files, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for file in files:
            with open(file, "rb") as stream:
                assert not data, "an entry comes in the datagram or in the file"
                with pytest.raises(PermissionError):  # it is sealed: the journal can map it without fear
                    os.truncate(file, 0)
                stream.seek(0)
                data = stream.read()
        return dict(decoded(data))


def decoded(data: bytes) -> Iterator[tuple[str, str]]:
    """Ref: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md."""
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            (size,) = struct.unpack_from("<Q", rest)
            value, end, data = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        yield name.decode(), value.decode()


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Journal]:
    end = Journal(tmp_path / "socket")
    yield end
    end.socket.close()


@pytest.fixture
def standard_error() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(theirs: Journal, standard_error: io.StringIO) -> Iterator[logging.Logger]:
    """Our log, which goes to that journal, or to what stands for standard error."""
    otherwise = logging.StreamHandler(standard_error)
    otherwise.setFormatter(PrefixFormatter())
    handler = JournalHandler("carpd", otherwise, str(theirs.path))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield LOG
    LOG.removeHandler(handler)
    handler.close()


@pytest.mark.parametrize(
    ("level", "text", "priority"),
    [
        (logging.INFO, "a line", "6"),
        (logging.WARNING, "two\nlines", "4"),
        (logging.ERROR, "name=value\n\nPRIORITY=0\n", "3"),
        (logging.CRITICAL, "ÄÖÜ, and half a character: \udc80", "2"),
        (logging.INFO, "", "6"),
        (logging.INFO, "longer than any datagram " * 50_000, "6"),
    ],
    ids=["a line", "lines", "forged fields", "no UTF-8", "nothing", "a file"],
)
def test_a_line(log: logging.Logger, theirs: Journal, level: int, text: str, priority: str) -> None:
    """Text, priority and name; what it says is never taken for a field."""
    log.log(level, "%s", text)
    message = text.encode(errors="replace").decode()
    assert theirs.entry() == {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "carpd"}


def test_a_traceback(log: logging.Logger, theirs: Journal) -> None:
    try:
        raise ValueError("of all things")
    except ValueError:
        log.exception("a defect")
    message = theirs.entry()["MESSAGE"].splitlines()
    assert (message[0], message[-1]) == ("a defect", "ValueError: of all things")


def test_a_notice(log: logging.Logger, theirs: Journal) -> None:
    """Its fields are the entry's; what is not known is left out."""
    fields: dict[str, Any] = {"name": "lan", "vhid": 7, "interface": "eth1", "group": "edge"}
    fields |= {"old": "BACKUP", "new": "MASTER"}
    Notices().publish("state", "lan is master", reason="master timed out", present=True, nobody=None, **fields)
    assert theirs.entry() == {
        "MESSAGE": "lan is master",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "carpd",
        "MESSAGE_ID": MESSAGE_IDS["state"],
        "CARP_NAME": "lan",
        "CARP_VHID": "7",
        "CARP_INTERFACE": "eth1",
        "CARP_GROUP": "edge",
        "CARP_FROM": "BACKUP",
        "CARP_TO": "MASTER",
        "CARP_REASON": "master timed out",
        "CARP_PRESENT": "true",
    }


def test_without_a_journal(log: logging.Logger, theirs: Journal, standard_error: io.StringIO) -> None:
    """Standard error, with the priority in front. As soon as there is a journal again, it has the next line."""
    theirs.path.unlink()
    log.warning("nobody is there")
    again = Journal(theirs.path)
    log.warning("somebody is there")
    assert standard_error.getvalue() == "<4>nobody is there\n"
    assert again.entry()["MESSAGE"] == "somebody is there"
    again.socket.close()


def test_a_journal_that_does_not_read(
    log: logging.Logger, theirs: Journal, standard_error: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nobody up. What is lost is counted, and said as soon as it reads."""
    monkeypatch.setattr(journal, "PATIENCE_S", 0.001)
    for number in range(2000):
        log.info("line %d", number)
    taken = [*entries(theirs)]
    assert taken == [f"line {number}" for number in range(len(taken))]
    assert len(taken) < 2000
    log.info("it reads")
    assert [*entries(theirs)] == ["it reads", f"{2000 - len(taken)} lines were lost here: the journal did not read"]
    assert standard_error.getvalue() == ""


def entries(theirs: Journal) -> Iterator[str]:
    while True:
        try:
            yield theirs.entry()["MESSAGE"]
        except BlockingIOError:
            return


@pytest.mark.parametrize("whose", ["ours", "another's"])
def test_who_reads_standard_error(whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of a service has $JOURNAL_STREAM, too: what it starts on a terminal logs there, with a time."""
    with (tmp_path / "stderr").open("w") as stderr:
        status = os.fstat(stderr.fileno())
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + (whose != 'ours')}")
        monkeypatch.setattr(journal, "ADDRESS", "/nowhere")
        start_logging("pfsyncd")
        LOG.warning("hello")
        LOG.removeHandler(LOG.handlers[-1])
    line = (tmp_path / "stderr").read_text()
    assert re.fullmatch(r"<4>hello\n" if whose == "ours" else r"\d{4}-\S+ \S+ pfsyncd: WARNING: hello\n", line)


def test_every_kind_has_an_id() -> None:
    """Each notice that is published anywhere has one, no two have the same, and the documentation has them all."""
    sources = (file.read_text() for file in Path(carpd.__file__).parent.rglob("*.py"))
    kinds = {
        call.args[0].value
        for source in sources
        if ".publish(" in source
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "publish"
        if isinstance(call.args[0], ast.Constant)
    }
    assert {"state", "demotion", "sharing", "election"} <= kinds <= MESSAGE_IDS.keys()
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    documented = dict(re.findall(r"^\| `([\w ]+)` \| `([0-9a-f]{32})` \|", DOCUMENTATION.read_text(), re.MULTILINE))
    assert documented == MESSAGE_IDS
