"""The Debian package: what is in it, and its life on a machine with systemd, from installation to purge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import carpd
from carpd.lab.waiting import LabError, wait_until
from carpd.units import SECOND
from tests.conftest import leave_out, need
from tests.docs.markdown import blocks
from tests.packaging.machine import SOURCE, Machine
from tests.packaging.package import ROOT, built

DOCUMENTATION = ROOT / "docs" / "systemd.md"
LIMIT_NS = 20 * SECOND

SIMPLE = """
[pfsync]
syncdev = "eth2"
secret_file = "pfsync.key"

[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24"]
password_file = "password"
advbase = 0
advskew = 12
preempt = true
"""
EVERYTHING = """
[pfsync]
syncdev = "eth2"
secret_file = "/run/credentials/carpd.service/pfsync.key"
defer = ["eth1"]

[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24"]
password_file = "/run/credentials/carpd.service/password"
advbase = 0
advskew = 12
preempt = true

[carp.web]
interface = "eth1"
nodes = { 3 = 10, 4 = 20 }
addresses = ["192.0.2.3/24"]
password_file = "/run/credentials/carpd.service/password"
advbase = 0
preempt = true
"""
EXTRA = """
[carp.extra]
interface = "eth1"
vhid = 9
addresses = ["192.0.2.9/24"]
password_file = "/run/credentials/carpd.service/password"
advbase = 0
advskew = 12
preempt = true
"""
NETWORK = """
link add eth1 type veth peer name peer1
link add eth2 type veth peer name peer2
link set peer1 up
link set peer2 up
link set eth1 up
link set eth2 up
address add 192.0.2.2/24 dev eth1
address add 10.0.0.1/24 dev eth2
"""
OF_THE_TOOLS = re.compile(
    r"var/(lib|cache|log|backups)(/.*)?|etc/(passwd|shadow|group|gshadow|sub[ug]id)-?|etc/\.pwd\.lock"
)
"""What dpkg, systemd and the tools for users write down for themselves."""


@pytest.fixture
def package() -> Path:
    """Its file."""
    return built()


@pytest.fixture
def machine() -> Iterator[Machine]:
    need("systemd-analyze")
    try:
        machine = Machine()
    except LabError as error:
        leave_out(str(error))
    yield machine
    machine.close()


def dpkg_deb(*arguments: str) -> str:
    return subprocess.run(["dpkg-deb", *arguments], capture_output=True, text=True, check=True).stdout


def test_contents(package: Path) -> None:
    """All modules, programs for the system's Python, units, manual pages; nothing that anybody else has to write."""
    listing = dpkg_deb("--contents", str(package)).splitlines()
    files = {line.split(maxsplit=5)[5].removeprefix("."): line.split()[:2] for line in listing}
    sources = Path(carpd.__file__).parent
    manuals = ["carpd.toml.5", "carpd-troubleshooting.7", *(page.stem for page in (ROOT / "man").glob("*.[1-8].md"))]
    expected = {
        "/lib/systemd/system/carpd.service",
        "/lib/systemd/system/pfsyncd.service",
        "/lib/systemd/network/00-carpd.network",
        "/usr/lib/sysusers.d/carpd.conf",
        "/usr/lib/tmpfiles.d/carpd.conf",
        "/usr/lib/NetworkManager/conf.d/carpd.conf",
        "/usr/share/doc/carpd/copyright",
        "/usr/share/doc/carpd/examples/carpd.toml",
        "/usr/share/doc/carpd/examples/bpf.conf",
        "/usr/share/doc/carpd/examples/credentials.conf",
        "/usr/share/bash-completion/completions/carpctl",
        "/usr/share/zsh/vendor-completions/_carpctl",
        "/usr/share/fish/vendor_completions.d/carpctl.fish",
        *(f"/usr/share/doc/carpd/docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
        *(f"/usr/share/man/man{page[-1]}/{page}.gz" for page in manuals),
        *(f"/usr/lib/python3/dist-packages/carpd/{path.relative_to(sources)}" for path in sources.rglob("*.py")),
    }
    assert expected <= files.keys()
    programs = {path for path, (mode, _) in files.items() if "x" in mode and not mode.startswith("d")}
    assert programs == {"/usr/sbin/carpd", "/usr/sbin/pfsyncd", "/usr/bin/carpctl", "/usr/lib/carpd/ucarp"}
    assert {owner for _, owner in files.values()} == {"root/root"}
    assert not [path for path in files if path.startswith("/etc")]
    fields = dict(re.findall(r"^ ?(\w[\w-]*): (.*)$", dpkg_deb("--info", str(package)), re.MULTILINE))
    assert (fields["Version"], fields["Architecture"]) == (f"{carpd.__version__}-1", "all")
    needed = re.split(r", ", fields["Depends"])
    assert {"nftables (>= 1.0.6)", "python3-cryptography (>= 38)", "python3:any (>= 3.11~)"} <= set(needed)


def install(machine: Machine, package: Path) -> None:
    """Or install it again."""
    shutil.copy(package, machine.root / "run" / "carpd.deb")
    machine.run("dpkg", "--install", "/run/carpd.deb")
    machine.run("rm", "/run/carpd.deb")


def upgraded(machine: Machine) -> str:
    """As dpkg ends an upgrade, when all files are there; what was said."""
    return machine.run("/var/lib/dpkg/info/carpd.postinst", "configure", "0.0.1-1")


def configure(machine: Machine, configuration: str) -> None:
    """With two interfaces, a password and a secret."""
    machine.run("ip", "-batch", "-", stdin=NETWORK)
    directory = machine.root / "etc/carpd"
    (directory / "carpd.toml").write_text(configuration)
    (directory / "password").write_text("secret\n")
    (directory / "pfsync.key").write_text("a secret of many characters\n")


def examples(section: str) -> list[str]:
    """The blocks of commands in a section of the documentation."""
    return [block.text for block in blocks(DOCUMENTATION) if (block.section, block.language) == (section, "sh")]


def do(machine: Machine, example: str) -> str:
    """In the directory of the sources."""
    return machine.run("sh", "-ec", f"cd {SOURCE}\n{example}")


def property_of(machine: Machine, name: str, unit: str = "carpd") -> str:
    return machine.run("systemctl", "show", f"--property={name}", "--value", unit).strip()


def becomes_master(machine: Machine, names: str = "lan, web:3, web:4") -> None:
    """Wait for it, of these virtual hosts and nodes, which are all. The line of status says so."""
    expected = f"MASTER of {names}; demoted by 32: pfsync bulk update"
    wait_until(lambda: property_of(machine, "StatusText") == expected, LIMIT_NS, expected, poll_s=0.1)


def kept(machine: Machine) -> tuple[set[str], str]:
    """What an installation changes: files, less those that the tools write for themselves, and users."""
    users = machine.run("sh", "-c", "cd /etc && cat passwd group shadow gshadow subuid subgid")
    return {path for path in machine.changed() if not OF_THE_TOOLS.fullmatch(path)}, users


def test_installed_and_purged(package: Path, machine: Machine) -> None:
    """Nothing starts by itself, or without a configuration; an empty one and words suffice. A purge leaves nothing."""
    before = kept(machine)
    install(machine, package)
    assert machine.run("carpctl", "--version") == f"carpctl {carpd.__version__}\n"
    assert machine.run("stat", "-c", "%A %U:%G", "/etc/carpd") == "drwxr-x--- root:carpd\n"
    assert machine.run("systemd-analyze", "verify", "--man=no", "carpd.service", "pfsyncd.service") == ""
    assert machine.run("systemctl", "is-enabled", "carpd") == "enabled\n"
    assert machine.run("systemctl", "is-enabled", "pfsyncd", status=1) == "disabled\n"
    machine.run("systemctl", "start", "carpd")
    assert property_of(machine, "ConditionResult") == "no"
    assert property_of(machine, "ActiveState") == "inactive"
    configure(machine, "")
    machine.run("sh", "-c", "chgrp carpd /etc/carpd/* && chmod 640 /etc/carpd/*")
    do(machine, examples("Begin with nothing")[0])
    becomes_master(machine, "carp0")
    machine.run("systemctl", "restart", "carpd")
    becomes_master(machine, "carp0")
    assert machine.run("stat", "-c", "%A %U:%G", "/etc/carpd/carpd.toml") == "-rw-r----- root:carpd\n"
    machine.run("systemctl", "stop", "carpd")
    (machine.root / "etc/carpd/carpd.toml").write_text("[carp.lan]\n")
    assert "/etc/carpd/carpd.toml:1: error: " in machine.run("carpd", "--check", "/etc/carpd/carpd.toml", status=3)
    machine.run("systemctl", "start", "carpd", status=1)
    assert property_of(machine, "ActiveState") == "failed"
    machine.run("dpkg", "--remove", "carpd")
    assert (machine.root / "etc/carpd/carpd.toml").exists()
    machine.run("dpkg", "--purge", "carpd")
    assert kept(machine) == before


def test_in_service(package: Path, machine: Machine) -> None:
    """The unit permits all that carpd does, as a user who is nobody otherwise. Reloads, upgrades, crashes, removal.

    By the words of the documentation.
    """
    install(machine, package)
    configure(machine, SIMPLE)
    network = machine.run("ip", "-brief", "address")
    do(machine, examples("Install")[0])
    becomes_master(machine, "lan")
    assert machine.run("stat", "-c", "%U", f"/proc/{property_of(machine, 'MainPID')}") == "carpd\n"
    (journal,) = examples("The journal")
    assert "lan (vhid 1 on eth1): BACKUP -> MASTER (master timed out)" in do(machine, journal)
    log = machine.run("journalctl", "--unit=carpd", "--priority=warning", "--output=cat")
    assert {line for line in log.splitlines() if "IPv6" not in line} == {
        "group carp: demoted from 0 to 32 (pfsync bulk update)"
    }

    configuration = machine.root / "etc/carpd/carpd.toml"
    configuration.write_text(SIMPLE.replace("vhid = 1\n", "vhid = 1000\n"))
    machine.run("systemctl", "reload", "carpd", status=1)
    configuration.write_text(EVERYTHING)
    for block in (*examples("Secrets as credentials"), *examples("The unit")):
        do(machine, block)
    becomes_master(machine)
    status: dict[str, Any] = json.loads(machine.run("carpctl", "status", "--json"))
    assert status["pfsync"]["defer"]["working"]
    configuration.write_text(EVERYTHING + EXTRA)
    machine.run("systemctl", "reload", "carpd")
    becomes_master(machine, "lan, web:3, web:4, extra")
    configuration.write_text(EVERYTHING)
    machine.run("systemctl", "reload", "carpd")
    becomes_master(machine)

    first = property_of(machine, "MainPID")
    configuration.write_text("[carp.lan]\n")
    assert "carpd.service goes on as it was: mend /etc/carpd/carpd.toml" in upgraded(machine)
    assert property_of(machine, "MainPID") == first
    configuration.write_text(EVERYTHING)
    install(machine, package)
    assert property_of(machine, "MainPID") not in (first, "0")
    becomes_master(machine)
    machine.run("systemctl", "kill", "--signal=KILL", "carpd")
    cleaned = "left behind by a daemon that was killed: deleted interface carp-lan"
    wait_until(lambda: cleaned in machine.run("journalctl", "--unit=carpd"), LIMIT_NS, cleaned, poll_s=0.1)
    becomes_master(machine)

    machine.run("systemctl", "stop", "carpd")
    upgraded(machine)
    assert property_of(machine, "ActiveState") == "inactive"
    machine.run("systemctl", "start", "carpd")
    becomes_master(machine)
    machine.run("dpkg", "--remove", "carpd")
    assert machine.run("ip", "-brief", "address") == network
    assert machine.run("nft", "list", "ruleset") == ""
    assert not (machine.root / "run/carpd").exists()


def test_ucarp(package: Path, machine: Machine) -> None:
    """Ours takes the place of Debian's, and goes again."""
    need("ucarp")
    install(machine, package)
    ours, theirs = examples("ucarp")
    do(machine, ours)
    assert machine.run("ucarp", "--help").startswith(f"ucarp (carpd {carpd.__version__})")
    do(machine, theirs)
    assert "carpd" not in machine.run("ucarp", "--help")


def test_without_carp(package: Path, machine: Machine) -> None:
    """pfsyncd.service, instead of the other."""
    install(machine, package)
    configure(machine, SIMPLE.partition("[carp.lan]")[0])
    machine.run("sh", "-c", "chgrp carpd /etc/carpd/* && chmod 640 /etc/carpd/*")
    machine.run("systemctl", "start", "pfsyncd")
    expected = "requested, no peer has answered yet"
    wait_until(lambda: property_of(machine, "StatusText", "pfsyncd") == expected, LIMIT_NS, expected, poll_s=0.1)
    machine.run("systemctl", "start", "carpd")
    assert property_of(machine, "ActiveState", "pfsyncd") == "inactive"
    assert property_of(machine, "StatusText") == "no virtual host is configured"


def test_without_a_package(machine: Machine) -> None:
    """The same by hand, from the sources. systemd-networkd has every interface but ours, though told to have all."""
    do(machine, examples("Install")[1])
    assert machine.run("systemctl", "is-enabled", "carpd") == "enabled\n"
    assert machine.run("stat", "-c", "%A %U:%G", "/etc/carpd") == "drwxr-x--- root:carpd\n"
    (machine.root / "etc/systemd/network/10-all.network").write_text("[Match]\nName=*\n")
    machine.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "peer1")
    machine.run("ip", "link", "add", "carp-lan", "link", "eth1", "type", "macvlan", "mode", "bridge")
    machine.run("ip", "tuntap", "add", "carpd-defer", "mode", "tap")
    machine.run("systemctl", "start", "systemd-networkd")

    ours = {"carp-lan": "unmanaged", "carpd-defer": "unmanaged"}

    def settled() -> bool:
        rows = (line.split() for line in machine.run("networkctl", "list", "--no-legend").splitlines())
        states = {name: state for _, name, _, _, state in rows}
        return states["eth1"] in ("configuring", "configured") and ours.items() <= states.items()

    wait_until(settled, LIMIT_NS, f"eth1 is configured, and {ours}", poll_s=0.1)
