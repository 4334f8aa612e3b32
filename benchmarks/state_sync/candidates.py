"""What is compared: conntrackd in four modes, pfsyncd with both transports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.state_sync import network
from benchmarks.state_sync.network import SYNC, SYNC_DEVICE
from carpd import __version__
from carpd.control import client
from carpd.control.protocol import ControlError
from carpd.lab.nodes import Node
from carpd.lab.waiting import LabError, LabTimeoutError, wait_until
from carpd.units import SECOND

OURS = "pfsyncd"

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_START_NS = 30 * SECOND
_COMMAND_NS = 120 * SECOND
_ANSWER_NS = 10 * SECOND


class Daemon(Protocol):
    """State synchronisation on one of the two firewalls. It does not run before `start`."""

    def start(self) -> None:
        """Return when it answers. Raise LabError if it never does."""

    def states(self) -> int:
        """How many states this firewall would have after a take-over. Raise LabError."""

    def join(self) -> None:
        """Start beside a peer that has states: return when it has asked for them, or will by itself. Raise LabError."""

    def take_over(self) -> Mapping[str, float]:
        """What an operator's script does on the standby when addresses have moved to it: its steps, and how many
        seconds each lasted. Raise LabError."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A daemon with certain settings."""

    name: str
    settings: str
    """Those that matter, in the daemon's own words."""
    daemon: Callable[[Node], Daemon]
    in_kernel: bool
    """Whether a standby's kernel has the states before a take-over."""
    program: str
    version: Callable[[], str]

    @property
    def installed(self) -> bool:
        return shutil.which(self.program, path=_PATH) is not None


class _Program:
    """A daemon that is one program, in the foreground. It ends with its node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def _start(self, argv: list[str], answers: Callable[[], bool]) -> None:
        process = self.node.start(argv)

        def settled() -> bool:
            return not process.running or answers()

        with suppress(LabTimeoutError):
            wait_until(settled, _START_NS, "")
        if not (process.running and answers()):
            raise LabError(f"{argv[0]} on {self.node.name} does not work: {process.output().strip()}")


# conntrackd

_CONNTRACKD = """\
Sync {{
    Mode {mode} {{
        DisableExternalCache {disable_external_cache}
    }}
    UDP {{
        IPv4_address {address}
        IPv4_Destination_Address {peer}
        Port 3780
        Interface {device}
        SndSocketBuffer {socket_buffer}
        RcvSocketBuffer {socket_buffer}
        Checksum on
    }}
}}
General {{
    Systemd off
    HashSize {hash_size}
    HashLimit {hash_limit}
    LogFile off
    Syslog off
    LockFile {directory}/conntrackd.lock
    UNIX {{
        Path {directory}/conntrackd.ctl
    }}
    NetlinkBufferSize {netlink_buffer}
    NetlinkBufferSizeMaxGrowth {netlink_growth}
}}
"""
# Its documentation's advice for a busy firewall: buffers of megabytes, room for twice as many states as the kernel's
# limit, a hash table to match. Its scheduling is its own default: real-time, before everything else.
_HASH_SIZE, _HASH_LIMIT = 1 << 19, 5_000_000
_NETLINK_BUFFER = 64 << 20  # what carpd asks for
_SOCKET_BUFFER = 64 << 20  # with 8 MiB it loses a part of a large bulk update for good
_CACHE = re.compile(r"cache external:\s*current active connections:\s*(\d+)")


TAKE_OVER = {"commit": "-c", "flush": "-f", "resync": "-R", "bulk update": "-B"}
"""Commit the external cache, forget both caches, read the kernel's table, offer everything to the peer."""


class Conntrackd(_Program):
    """Ref: conntrackd.conf(5), and primary-backup.sh among its examples."""

    def __init__(self, node: Node, mode: str, external_cache: bool) -> None:
        super().__init__(node)
        self._external_cache = external_cache
        configuration = node.directory / "conntrackd.conf"
        self.command = ["conntrackd", "-C", str(configuration)]
        """Starts it; with one option more, asks it for something."""
        peer = next(address for name, address in SYNC.items() if name != node.name)
        configuration.write_text(
            _CONNTRACKD.format(
                mode=mode,
                disable_external_cache="off" if external_cache else "on",
                address=SYNC[node.name],
                peer=peer,
                device=SYNC_DEVICE,
                socket_buffer=_SOCKET_BUFFER,
                netlink_buffer=_NETLINK_BUFFER,
                netlink_growth=4 * _NETLINK_BUFFER,
                hash_size=_HASH_SIZE,
                hash_limit=_HASH_LIMIT,
                directory=node.directory,
            )
        )

    def start(self) -> None:
        self._start(self.command, self._answers)

    def states(self) -> int:
        if not self._external_cache:
            return network.states(self.node)
        found = _CACHE.search(self._ask("-s", _ANSWER_NS))
        return int(found[1]) if found else 0

    def join(self) -> None:
        self.start()
        self._ask("-n")

    def take_over(self) -> Mapping[str, float]:
        lasted = {}
        for step, option in TAKE_OVER.items():
            begin = time.monotonic()
            self._ask(option)
            lasted[step] = time.monotonic() - begin
        return lasted

    def _answers(self) -> bool:
        try:
            return bool(self._ask("-s", _ANSWER_NS))
        except LabError:
            return False

    def _ask(self, option: str, timeout_ns: int = _COMMAND_NS) -> str:
        return self.node.run([*self.command, option], timeout_ns=timeout_ns)


def _conntrackd_version() -> str:
    said = subprocess.run(["conntrackd", "-v"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return said.splitlines()[0]


def _conntrackd(mode: str, external_cache: bool) -> Candidate:
    return Candidate(
        name=f"conntrackd {mode}{'' if external_cache else ' direct'}",
        settings=f"Mode {mode}, DisableExternalCache {'off' if external_cache else 'on'}",
        daemon=lambda node: Conntrackd(node, mode, external_cache),
        in_kernel=not external_cache,
        program="conntrackd",
        version=_conntrackd_version,
    )


# pfsyncd

_PFSYNCD = """\
[pfsync]
syncdev = "{device}"
syncpeer = [{peers}]
{transport}
"""
_SEALED, _PLAIN = 'secret_file = "pfsync.key"', 'transport = "plain"'
_PROGRAM = str(Path(sys.executable).with_name("pfsyncd"))


class Pfsyncd(_Program):
    """Nothing is to be done when a node joins or takes over."""

    def __init__(self, node: Node, transport: str) -> None:
        super().__init__(node)
        configuration, self._socket = node.directory / "pfsyncd.toml", node.directory / "pfsyncd.sock"
        options = {
            "--config": configuration,
            "--node": node.name,
            "--socket": self._socket,
            "--state-dir": node.directory,
        }
        self._argv = [_PROGRAM, *(str(word) for option in options.items() for word in option)]
        peers = ", ".join(f'"{address}"' for address in SYNC.values())
        configuration.write_text(_PFSYNCD.format(device=SYNC_DEVICE, peers=peers, transport=transport))
        secret = node.directory / "pfsync.key"
        secret.touch(mode=0o600)
        secret.write_text("a secret for the laboratory, 32 bytes or more\n")

    def start(self) -> None:
        self._start(self._argv, self._answers)

    def states(self) -> int:
        return network.states(self.node)

    def join(self) -> None:
        self.node.start(self._argv)

    def take_over(self) -> Mapping[str, float]:
        return {}

    def _answers(self) -> bool:
        try:
            pfsync = client.request(self._socket, "status")["pfsync"]
        except ControlError:
            return False
        return "link" in pfsync and bool(pfsync["link"]["up"])


def _pfsyncd(name: str, transport: str) -> Candidate:
    return Candidate(
        name=f"{OURS} {name}",
        settings=transport,
        daemon=lambda node: Pfsyncd(node, transport),
        in_kernel=True,
        program=_PROGRAM,
        version=lambda: __version__,
    )


CANDIDATES = (
    _conntrackd("FTFW", True),
    _conntrackd("FTFW", False),
    _conntrackd("NOTRACK", True),
    _conntrackd("NOTRACK", False),
    _pfsyncd("sealed", _SEALED),
    _pfsyncd("plain", _PLAIN),
)
