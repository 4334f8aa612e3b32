"""The command line of ucarp: what it says and the exit status, as ucarp 1.5.2 has them, and what the options make."""

from __future__ import annotations

import re
import syslog
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from carpd.cli import ucarp
from carpd.runtime.ucarp.log import Log
from carpd.runtime.ucarp.options import OPTIONS
from carpd.runtime.ucarp.settings import Settings

COMPLETE = ["-i", "eth1", "-s", "192.0.2.1", "-v", "7", "-p", "secret", "-a", "192.0.2.9", "-u", "/up", "-d", "/down"]

REFUSED = {
    "-i eth1": (1, "You must supply a valid virtual host id"),
    "-i eth1 -v 0": (1, "vhid must be between 1 and 255."),
    "-i eth1 -v 256": (1, "vhid must be between 1 and 255."),
    "-i eth1 -v x": (1, "vhid must be between 1 and 255."),
    "-i eth1 -v 1": (1, "You must supply a password"),
    "-i eth1 -v 1 -p=": (1, "You must supply a persistent source address"),  # the password is "="
    "-i eth1 -v 1 --pass=": (1, "You must supply a password"),
    "-i eth1 -v 1 -p x": (1, "You must supply a persistent source address"),
    "-i eth1 -v 1 -p x -s 192.0.2.1": (1, "You must supply a virtual host address"),
    "-i eth1 -s 192.0.2.999": (1, "Invalid address: [192.0.2.999]"),
    "-i eth1 -a 2001:db8::1": (1, "Invalid address: [2001:db8::1]"),
    "-i eth1 --mcast=192.0.2.1": (1, "Invalid address: [192.0.2.1]"),
    "-i eth1 -b 0": (1, "You must supply an advertisement time base"),
    "-i eth1 -b x": (1, "You must supply an advertisement time base"),
    "-i eth1 -r 0": (1, "Dead ratio can't be zero"),
    "-i eth1 -k 256": (1, "advskew must be between 0 and 255."),
    "-i eth1 -k 0000000000256": (1, "advskew must be between 0 and 255."),
    "-i eth1 -f nowhere": (1, "Unknown syslog facility: [nowhere]"),
    "-i eth1 -o /nowhere": (1, "unable to open passfile /nowhere for reading: No such file or directory"),
    "-i eth1 -o /dev/null": (1, "error reading passfile /dev/null: unexpected end of file"),
    "-Q": (1, "option -Q not recognized"),
    "--nowhere": (1, "option --nowhere not recognized"),
    "--adv=1": (1, "option --adv not a unique prefix"),
    "-i": (1, "option -i requires argument"),
    f"{' '.join(COMPLETE)} -p {20 * 'x'}": (2, "Password too long"),
    f"{' '.join(COMPLETE)} -i nowhere": (2, "Unable to find MAC address of [nowhere]"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, message = REFUSED[line]
    assert ucarp.main(line.split()) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert re.sub(r"(?m)^[0-9T:.-]{26}: ", "", err) == f"[ERROR] {message}\n"


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["--he"]])
def test_help(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert ucarp.main(argv) == 0
    out = capfd.readouterr().out
    assert out.startswith("ucarp (carpd ")
    for option in OPTIONS:
        assert f"  {option.short}, --{option.long}" in out


MINIMAL = Settings(
    interface="eth1",
    source=IPv4Address("192.0.2.1"),
    vhid=7,
    password=b"secret",
    address=IPv4Address("192.0.2.9"),
    up_script="/up",
    down_script="/down",
)

ACCEPTED = {
    "": MINIMAL,
    "-b 2 -k 255 -r 5": replace(MINIMAL, advbase=2, advskew=255, dead_ratio=5),
    "-PnzSMBD": replace(
        MINIMAL,
        preempt=True,
        neutral=True,
        shutdown=True,
        ignore_link=True,
        broadcast=True,
        background=True,
        debug=True,
    ),
    "--preempt --neutral --shutdown": replace(MINIMAL, preempt=True, neutral=True, shutdown=True),
    "--ignoreifstate --nomcast --daemonize --debug": replace(
        MINIMAL, ignore_link=True, broadcast=True, background=True, debug=True
    ),
    "-m 224.0.0.99 -x some": replace(MINIMAL, group=IPv4Address("224.0.0.99"), extra="some"),
    "--mcastip=224.0.0.99 --xparam=": replace(MINIMAL, group=IPv4Address("224.0.0.99"), extra=""),
    "-f none": replace(MINIMAL, facility=None),
    "--facility local7": replace(MINIMAL, facility=syslog.LOG_LOCAL7),
    "--upscript=/a --downscript=/b --addr=192.0.2.8": replace(
        MINIMAL, up_script="/a", down_script="/b", address=IPv4Address("192.0.2.8")
    ),
    "--interface=eth2 --srcip=192.0.2.3 --vhid=255 --pass=other": replace(
        MINIMAL, interface="eth2", source=IPv4Address("192.0.2.3"), vhid=255, password=b"other"
    ),
    "words that mean nothing -k 1": replace(MINIMAL, advskew=1),
}


@pytest.mark.parametrize("line", ACCEPTED)
def test_accepted(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert settings_of([*COMPLETE, *line.split()], monkeypatch) == ACCEPTED[line]
    assert capfd.readouterr() == ("", "")


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"of the file\nnot this\n")
    assert settings_of([*COMPLETE, "-o", str(file)], monkeypatch) == replace(MINIMAL, password=b"of the file")


def test_what_is_not_said_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ucarp, "_first_interface", lambda: "eth9")
    settings = settings_of(COMPLETE[2:-4], monkeypatch)
    assert settings == replace(MINIMAL, interface="eth9", up_script=None, down_script=None)
    out, err = (re.sub(r"(?m)^[0-9T:.-]{26}: ", "", text) for text in capfd.readouterr())
    assert out == "[INFO] Using [eth9] as a network interface\n"
    assert err == (
        "[WARNING] Warning: no script called when going up\n[WARNING] Warning: no script called when going down\n"
    )


def settings_of(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    found: list[Settings] = []

    def run(settings: Settings, log: Log) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(ucarp, "_run", run)
    assert ucarp.main(argv) == 0
    (settings,) = found
    return settings
