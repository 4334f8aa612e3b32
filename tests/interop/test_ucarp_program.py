"""Our program `ucarp` in the place of Debian's: the same scripts are called in the same order, whoever the peer is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from carpd.lab.nodes import Process
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabTimeoutError, wait_until
from carpd.wire import carp
from carpd.wire.ethernet import BROADCAST, ETHERTYPE_IPV4, EthernetFrame
from carpd.wire.frames import decode_ip_frame
from tests.conftest import need
from tests.daemon.carpd import LIMIT_NS, PASSWORD
from tests.daemon.segment import Host, Segment, addresses

DEBIANS = ("stdbuf", "-oL", "/usr/sbin/ucarp")  # its standard output would be lost at its end
PROGRAM = str(Path(sys.executable).parent / "ucarp")
"""As it is installed."""
OURS = (sys.executable, "-m", "carpd.cli.ucarp")

SCRIPT = """\
#!/bin/sh
[ ! -p {directory}/gate-{name} ] || cat {directory}/gate-{name}
ip address {command} "$2/32" dev "$1" 2>/dev/null
echo {name} "$@" >> {directory}/calls-"$2"
"""

OTHER_WAYS = ("-n", "-M", "--mcast=224.0.0.99")
IGNORES_LINK = ("-S",)

PREEMPTED = "[WARNING] Putting MASTER down - preemption"
REASSERTED = "[WARNING] Non-preferred master advertising: reasserting control of VIP with another gratuitous arp"
YIELDED = "[WARNING] Preferred master advertised: going back to BACKUP state"
LEFT = "[WARNING] Putting MASTER DOWN (going to time out)"


BAD_DIGEST = re.compile(
    r"\[WARNING\] Bad digest - md2=\[[0-9a-f]{8}\.\.\.\] md=\[[0-9a-f]{8}\.\.\.\] "
    r"- Check vhid, password and virtual IP address"
)


@pytest.fixture(autouse=True)
def ucarp_is_there() -> None:
    need("ucarp")


@pytest.fixture
def segment(lab: Lab) -> Segment:
    return Segment(lab, "a", "b")


class Ucarp:
    """One process of either program, for one address."""

    def __init__(self, host: Host, program: Sequence[str], vhid: int, *options: str) -> None:
        self.host, self.vhid, self.address = host, vhid, f"192.0.2.{100 + vhid}"
        words = ["-i", "eth1", "-s", host.ipv4, "-p", PASSWORD, "-v", str(vhid), "-a", self.address, "-f", "none"]
        for option, name, command in (("-u", "up", "add"), ("-d", "down", "delete")):
            words += [option, str(script(host, name, command))]
        self.process: Process = host.node.start([*program, *words, *options], log=f"ucarp-{vhid}.log")

    def calls(self) -> list[str]:
        """How the scripts were called."""
        record = self.host.node.directory / f"calls-{self.address}"
        lines = record.read_text().splitlines() if record.exists() else []
        return [line.replace(self.address, "ADDRESS") for line in lines]

    def log(self) -> list[str]:
        """Its lines, without times and what is each process's own."""
        text = re.sub(r"(?m)^[0-9T:.-]{26}: ", "", self.process.log.read_text())
        for own, name in ((self.address, "ADDRESS"), (f"id {self.vhid}", "id VHID")):
            text = text.replace(own, name)
        return text.splitlines()

    def logs(self, line: str) -> None:
        """Wait until it does."""
        wait_until(lambda: line in self.log(), LIMIT_NS, f"{line}, in {self.log()}")


def script(host: Host, name: str, command: str) -> Path:
    """Does what it is for, and writes down how it was called. If there is a FIFO "gate-NAME", it waits there."""
    path = host.node.directory / name
    if not path.exists():
        path.write_text(SCRIPT.format(name=name, command=command, directory=host.node.directory))
        path.chmod(0o755)
    return path


@dataclass
class Pair:
    """Two hosts with one address: the better one with preemption, `-z` and an extra parameter, the other without."""

    better: Sequence[str]
    worse: Sequence[str]
    vhid: int
    options: tuple[str, ...] = ()
    expected_a: list[str] = field(default_factory=list)
    expected_b: list[str] = field(default_factory=list)

    def start_a(self, host: Host) -> None:
        self.a = Ucarp(host, self.better, self.vhid, "-P", "-z", "-x", "extra word", *self.options)

    def start_b(self, host: Host) -> None:
        self.b = Ucarp(host, self.worse, self.vhid, "-k", "50", *self.options)

    def expect(self, a: str = "", b: str = "") -> None:
        """These further calls of the scripts on the two hosts."""
        self.expected_a += (f"{name} eth1 ADDRESS extra word" for name in a.split())
        self.expected_b += (f"{name} eth1 ADDRESS" for name in b.split())

    def missing(self) -> bool:
        return len(self.a.calls()) < len(self.expected_a) or (
            bool(self.expected_b) and len(self.b.calls()) < len(self.expected_b)
        )

    def check(self) -> None:
        assert self.a.calls() == self.expected_a, self.a.log()
        if self.expected_b:
            assert self.b.calls() == self.expected_b, self.b.log()


class Pairs(list[Pair]):
    """Pairs to which the same happens at the same time."""

    @property
    def on_a(self) -> list[Ucarp]:
        return [pair.a for pair in self]

    @property
    def on_b(self) -> list[Ucarp]:
        return [pair.b for pair in self]

    def expect(self, a: str = "", b: str = "", *, of: Callable[[Pair], bool] = lambda _: True) -> None:
        """These further calls of the scripts, of all pairs or some."""
        for pair in filter(of, self):
            pair.expect(a, b)

    def happens(self) -> None:
        """Wait until all that is expected has been called, and see that nothing else was."""
        with suppress(LabTimeoutError):
            wait_until(lambda: not any(pair.missing() for pair in self), LIMIT_NS, "calls of scripts")
        for pair in self:
            pair.check()


def signal_all(ucarps: Sequence[Ucarp], number: int) -> None:
    for ucarp in ucarps:
        ucarp.process.signal(number)


def neutral(pair: Pair) -> bool:
    return pair.options == OTHER_WAYS


def test_they_swap_places(segment: Segment) -> None:
    """Every mixture of the two programs tells the same story: of the scripts, of the log, of the exit status."""
    a, b = segment["a"], segment["b"]
    pairs = Pairs(
        (
            Pair(DEBIANS, DEBIANS, 1),
            Pair(DEBIANS, OURS, 2),
            Pair(OURS, DEBIANS, 3),
            Pair(OURS, OURS, 4),
            Pair(DEBIANS, OURS, 5, OTHER_WAYS),
            Pair(OURS, DEBIANS, 6, OTHER_WAYS),
            Pair(DEBIANS, DEBIANS, 7, IGNORES_LINK),
            Pair(OURS, OURS, 8, IGNORES_LINK),
        )
    )
    for pair in pairs:
        pair.start_a(a)
    pairs.expect("down", of=lambda pair: not neutral(pair))
    pairs.expect("up")
    pairs.happens()
    for pair in pairs:
        pair.start_b(b)
    pairs.expect("", "down", of=lambda pair: not neutral(pair))
    pairs.happens()
    for ucarp in pairs.on_b:
        ucarp.logs("[WARNING] Switching to state: BACKUP")

    signal_all(pairs.on_a + pairs.on_b, signal.SIGUSR1)
    for pair in pairs:
        pair.a.logs("[INFO] MASTER on eth1 id VHID")
        pair.b.logs("[INFO] BACKUP on eth1 id VHID")

    signal_all(pairs.on_a, signal.SIGUSR2)
    pairs.expect("down up", "up down")
    pairs.happens()

    a.port.unplug()
    pairs.expect("down", of=lambda pair: pair.options != IGNORES_LINK)
    pairs.expect("", "up")
    pairs.happens()
    a.port.plug()
    pairs.expect("up", of=lambda pair: pair.options != IGNORES_LINK)
    pairs.expect("", "down")
    pairs.happens()

    signal_all(pairs.on_a, signal.SIGTERM)
    pairs.expect("down", "up")
    pairs.happens()
    assert [ucarp.process.wait() for ucarp in pairs.on_a] == [0] * len(pairs)
    signal_all(pairs.on_b, signal.SIGTERM)  # without -z it just ends, and leaves the address
    assert [ucarp.process.wait() for ucarp in pairs.on_b] == [-signal.SIGTERM] * len(pairs)
    pairs.happens()
    assert {f"{ucarp.address}/32" for ucarp in pairs.on_b} < addresses(b.node)
    assert {f"{ucarp.address}/32" for ucarp in pairs.on_a}.isdisjoint(addresses(a.node))

    for group in (pairs[:4], pairs[4:6], pairs[6:]):
        for ucarps in (Pairs(group).on_a, Pairs(group).on_b):
            first, *others = (states(ucarp.log()) for ucarp in ucarps)
            assert others == [first] * len(others)
    for pair in pairs:
        assert reasons(pair.a.log()) == {PREEMPTED, REASSERTED}
        assert reasons(pair.b.log()) in ({YIELDED}, {YIELDED, LEFT})  # Debian's says nothing when it leaves


def test_facilities_have_the_same_names() -> None:
    """Of syslog, in any case. Neither gets as far as to log there, as there is no such interface."""
    for name in ("DAEMON", "ftp", "Security", "local7", "None"):
        for program in (DEBIANS, OURS):
            words = ["-i", "nowhere", "-s", "192.0.2.2", "-v", "1", "-p", PASSWORD, "-a", "192.0.2.1", "-f", name]
            ended = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
            assert ended.returncode == 2
            assert "Unable to find MAC address of [nowhere]" in ended.stderr
            assert "facility" not in ended.stderr


def states(log: Sequence[str]) -> list[str]:
    """The lines that tell of states and scripts."""
    return [line for line in log if re.search(r"Switching|Spawning|\[INFO\]|\[ERROR\]", line)]


def reasons(log: Sequence[str]) -> set[str]:
    """All other lines; some are written once for each advertisement."""
    return set(log) - set(states(log))


def test_a_script_that_hangs_delays_nothing(segment: Segment) -> None:
    """Debian's would be silent until it ends, and be replaced. Nor does somebody with another password matter."""
    a, b = segment["a"], segment["b"]
    gate = a.node.directory / "gate-up"
    os.mkfifo(gate)
    pair = Pair(OURS, DEBIANS, 9, OTHER_WAYS)
    pair.start_a(a)
    pair.a.logs("[WARNING] Switching to state: MASTER")
    pair.start_b(b)
    capture = b.node.capture("eth1")
    heard: list[EthernetFrame] = []

    def five_more() -> bool:
        heard.extend(filter(is_advertisement, (EthernetFrame.from_bytes(found.frame) for found in capture.frames())))
        return len(heard) >= 5

    stranger = Ucarp(segment.client, OURS, 9, *OTHER_WAYS, "-p", "another", "-r", "1")
    wait_until(five_more, LIMIT_NS, "advertisements of five seconds")
    for ucarp in (stranger, pair.b):
        assert any(BAD_DIGEST.fullmatch(line) for line in ucarp.log()), ucarp.log()
    stranger.process.stop()
    capture.close()
    assert {frame.destination for frame in heard} == {BROADCAST}
    assert pair.a.calls() == pair.b.calls() == []

    pair.a.process.signal(signal.SIGTERM)
    wait_until(lambda: pair.b.calls() == ["up eth1 ADDRESS"], LIMIT_NS, "the other one takes over all the same")
    assert pair.a.process.running
    gate.write_text("")
    assert pair.a.process.wait() == 0
    assert pair.a.calls() == ["up eth1 ADDRESS extra word", "down eth1 ADDRESS extra word"]


def is_advertisement(frame: EthernetFrame) -> bool:
    if frame.ethertype != ETHERTYPE_IPV4:
        return False
    packet = decode_ip_frame(frame.to_bytes())
    return packet is not None and packet.protocol == carp.PROTOCOL


def test_in_the_background(segment: Segment) -> None:
    """It is called ucarp, as `killall` and `pgrep` look for it; what keeps it from beginning is said before."""
    a = segment["a"]
    failed = Ucarp(a, [PROGRAM], 1, "-B", "-s", "192.0.2.250")
    assert failed.process.wait() == 2
    assert failed.log()[-1] == "[ERROR] Can't do IP_ADD_MEMBERSHIP errno=No such device (19)"

    ucarp = Ucarp(a, [PROGRAM], 2, "-B", "-z", "-r", "1")
    assert ucarp.process.wait() == 0
    wait_until(lambda: len(ucarp.calls()) == 2, LIMIT_NS, "it becomes master")
    (pid,) = (process for process in Path("/proc").glob("[0-9]*") if is_ours(process, a.node.directory))
    assert (pid / "comm").read_text() == "ucarp\n"
    os.kill(int(pid.name), signal.SIGHUP)
    wait_until(lambda: not is_ours(pid, a.node.directory), LIMIT_NS, "it ends")
    assert ucarp.calls() == ["down eth1 ADDRESS", "up eth1 ADDRESS", "down eth1 ADDRESS"]
    assert len(ucarp.log()) == 1  # what it said before it went into the background


def test_ifupdown_starts_it(segment: Segment) -> None:
    """Debian's script for a stanza with ucarp-vid and so on, with our program where it looks for ucarp."""
    a = segment["a"]
    options = {
        "vid": "3",
        "vip": "192.0.2.103",
        "password": PASSWORD,
        "master": "yes",
        "deadratio": "1",
        "xparam": "extra",
        "upscript": str(script(a, "up", "add")),
        "downscript": str(script(a, "down", "delete")),
    }
    environment = {f"IF_UCARP_{name.upper()}": value for name, value in options.items()}
    exchanged = f"mount --bind {PROGRAM} /usr/sbin/ucarp && exec sh /etc/network/if-up.d/ucarp"
    ifup = a.node.start(
        ["unshare", "--mount", "sh", "-c", exchanged],
        log="ifup.log",
        environment={**os.environ, "IFACE": "eth1", "IF_ADDRESS": a.ipv4, **environment},
    )
    assert ifup.wait() == 0, ifup.output()
    calls = a.node.directory / "calls-192.0.2.103"
    wait_until(lambda: calls.exists() and calls.read_text().count("\n") == 2, LIMIT_NS, "it becomes master")
    assert calls.read_text() == "down eth1 192.0.2.103 extra\nup eth1 192.0.2.103 extra\n"
    (pid,) = (process for process in Path("/proc").glob("[0-9]*") if is_ours(process, a.node.directory))
    assert (pid / "cmdline").read_bytes().startswith(sys.executable.encode())
    os.kill(int(pid.name), signal.SIGTERM)
    wait_until(lambda: calls.read_text().endswith("\ndown eth1 192.0.2.103 extra\n"), LIMIT_NS, "it ends")


def is_ours(process: Path, directory: Path) -> bool:
    """Whether a process was started with a script of this directory."""
    with suppress(OSError):
        return f"{directory}/up".encode() in (process / "cmdline").read_bytes().split(b"\0")
    return False
