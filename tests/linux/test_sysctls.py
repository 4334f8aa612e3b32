"""Settings and their journal, in a network namespace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carpd.errors import SystemCallError
from carpd.linux import sysctls
from carpd.linux.sysctls import SysctlJournal
from tests.linux.segment import Neighbor, ip

ANNOUNCE = ("ipv4", "conf", "eth1", "arp_announce")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sysctls.json"


def test_restores(neighbor: Neighbor, path: Path) -> None:
    journal = SysctlJournal(path)
    journal.set("1", *ANNOUNCE)
    journal.set("2", *ANNOUNCE)
    assert sysctls.read(*ANNOUNCE) == "2"
    assert journal.restore() == [ANNOUNCE]
    assert sysctls.read(*ANNOUNCE) == "0"
    assert not path.exists()
    assert journal.restore() == []


def test_restores_one_interface(neighbor: Neighbor, path: Path) -> None:
    """What it has of others stays in the journal, for the next daemon as well."""
    other = ("ipv4", "conf", "lo", "arp_announce")
    journal = SysctlJournal(path)
    journal.set("1", *ANNOUNCE)
    journal.set("1", *other)
    assert journal.restore("eth1") == [ANNOUNCE]
    assert (sysctls.read(*ANNOUNCE), sysctls.read(*other)) == ("0", "1")
    again = SysctlJournal(path)
    assert again.restore("lo", "arp_ignore") == []
    assert again.restore("lo", other[-1]) == [other]
    assert not path.exists()


def test_the_next_daemon_restores(neighbor: Neighbor, path: Path) -> None:
    SysctlJournal(path).set("2", *ANNOUNCE)
    again = SysctlJournal(path)
    again.set("1", *ANNOUNCE)
    assert SysctlJournal(path).restore() == [ANNOUNCE]
    assert sysctls.read(*ANNOUNCE) == "0"


def test_leaves_alone_what_somebody_else_has_set_since(neighbor: Neighbor, path: Path) -> None:
    journal = SysctlJournal(path)
    journal.set("1", *ANNOUNCE)
    sysctls.write("2", *ANNOUNCE)
    assert journal.restore() == []
    assert sysctls.read(*ANNOUNCE) == "2"


def test_what_is_so_already_is_not_written_down(neighbor: Neighbor, path: Path) -> None:
    journal = SysctlJournal(path)
    journal.set("0", *ANNOUNCE)
    journal.set("1", "ipv4", "conf", "none", "arp_announce")
    assert not path.exists()


def test_an_interface_that_has_gone(neighbor: Neighbor, path: Path) -> None:
    journal = SysctlJournal(path)
    journal.set("2", *ANNOUNCE)
    ip("link delete eth1")
    assert journal.restore() == []


def test_a_name_with_a_dot(neighbor: Neighbor, path: Path) -> None:
    ip("link add eth1.5 type bridge")
    journal = SysctlJournal(path)
    journal.set("1", "ipv4", "conf", "eth1.5", "arp_ignore")
    assert sysctls.read("ipv4", "conf", "eth1.5", "arp_ignore") == "1"


def test_written_down_before_the_change(neighbor: Neighbor, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(value: str, *name: str) -> None:
        raise KeyboardInterrupt

    journal = SysctlJournal(path)
    monkeypatch.setattr(sysctls, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        journal.set("2", *ANNOUNCE)
    monkeypatch.undo()
    assert json.loads(path.read_text()) == [{"name": list(ANNOUNCE), "original": "0", "ours": "2"}]
    assert SysctlJournal(path).restore() == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": 1}]', '{"a": 1}'])
def test_a_damaged_journal(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SystemCallError, match="damaged"):
        SysctlJournal(path)


def test_refused(namespace: None) -> None:
    with pytest.raises(SystemCallError, match="set net/ipv4/ip_forward to x: Invalid argument"):
        sysctls.write("x", "ipv4", "ip_forward")
