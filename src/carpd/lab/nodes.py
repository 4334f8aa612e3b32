"""A node of the laboratory: a machine with a network and processes of its own.

Its network and its process IDs are namespaces. Their first process is a shell that reads from a pipe which only the
laboratory holds: when the laboratory ends, however it ends, the shell deletes the node's directory and ends too, and
with it the kernel kills every process of the node. Nothing is mounted, and nothing has a name outside of the node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from carpd.lab.waiting import LabError
from carpd.linux import namespaces
from carpd.units import SECOND

CLONE_NEWPID = 0x20000000
"""Ref: Linux include/uapi/linux/sched.h"""

_INIT = ("sh", "-c", 'read end; kill -9 -1; rm -rf "$0"')
"""The first process of a node waits for the end of its standard input. Its argument is the node's directory."""

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_PACKET_OUTGOING = 4
_CAPTURE_BUFFER = 64 << 20
_LOG_TAIL = 2000  # characters of a log in an error message


class Process:
    """A program that runs in a node. It is started with `Node.start`."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self.log = log
        """What it writes to its standard output and error."""
        self.pid = popen.pid
        """Its process ID as the laboratory sees it; the node has another one for it."""

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        self._popen.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the program and all children that stayed in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, timeout_ns: int = 10 * SECOND) -> int:
        """Its exit status, or minus the signal that ended it. Raise LabError if it does not end in time."""
        try:
            return self._popen.wait(timeout_ns / SECOND)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self._popen.args!r} did not end in {timeout_ns / SECOND:g} s\n{self.output()}") from None

    def stop(self, timeout_ns: int = 10 * SECOND) -> int:
        """Ask it to end with SIGTERM, and return its exit status as `wait` does."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_ns)

    def output(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-_LOG_TAIL:]


class CapturedFrame(NamedTuple):
    """An Ethernet frame as an interface saw it, at `time_ns` of the system's (real-time) clock."""

    time_ns: int
    frame: bytes
    outgoing: bool


class Capture:
    """The frames that an interface of a node sends or receives, from now on."""

    def __init__(self, packets: socket.socket) -> None:
        self._packets = packets

    def frames(self) -> list[CapturedFrame]:
        """The frames that came since the last call, until this one: others may come faster than they are read."""
        frames: list[CapturedFrame] = []
        now = time.time_ns()
        with contextlib.suppress(BlockingIOError):
            while not frames or frames[-1].time_ns < now:
                frame, ancillary, _, address = self._packets.recvmsg(65536, 64)
                stamp = ancillary[0][2]  # the one option that was asked for: struct timespec
                seconds, nanoseconds = (int.from_bytes(stamp[i : i + 8], "little") for i in (0, 8))
                frames.append(CapturedFrame(seconds * SECOND + nanoseconds, frame, address[2] == _PACKET_OUTGOING))
        return frames

    def close(self) -> None:
        self._packets.close()


class Node:
    """One machine of the laboratory. `topology.Lab` makes it and ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"carpd-lab-{name}-"))
        """For files of the node's programs; it is deleted with the node."""
        self._processes: list[Process] = []
        self.network = namespaces.new_network_namespace()
        home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY)
        try:
            namespaces.unshare(CLONE_NEWPID)  # for the children that this thread makes now
            self._init = subprocess.Popen(
                (*_INIT, str(self.directory)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C on the terminal is for the laboratory alone
                preexec_fn=_let_the_kernel_collect_orphans,
            )
            self._pids = os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY)
        finally:
            namespaces.setns(home, CLONE_NEWPID)
            os.close(home)

    def run(
        self, argv: Sequence[str], *, stdin: str = "", timeout_ns: int = 10 * SECOND, pass_fds: Sequence[int] = ()
    ) -> str:
        """Run a program to its end and return what it printed. Raise LabError if it fails or takes too long."""
        with self._children():
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                pass_fds=pass_fds,
                preexec_fn=self._enter_network,
            )
        try:
            output, errors = process.communicate(stdin, timeout_ns / SECOND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise LabError(f"{self.name}: {' '.join(argv)}: not done in {timeout_ns / SECOND:g} s") from None
        if process.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(argv)}: {errors.strip() or f'status {process.returncode}'}")
        return output

    def start(
        self,
        argv: Sequence[str],
        *,
        log: str | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a program that runs until it is stopped, at the latest with the node.

        Its output is appended to the file `log` (default: the program's name with ".log") in the node's directory.
        """
        path = self.directory / (log or f"{Path(argv[0]).name}.log")
        with path.open("ab") as output, self._children():
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=self._enter_network,
            )
        process = Process(popen, path)
        self._processes.append(process)
        return process

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run a block of the laboratory itself in the node's network: sockets that it opens stay there."""
        with namespaces.inside(self.network):
            yield

    def ip(self, *commands: str, pass_fds: Sequence[int] = ()) -> None:
        """Run commands of ip(8), without the word "ip", in one go."""
        self.run(("ip", "-batch", "-"), stdin="\n".join(commands) + "\n", pass_fds=pass_fds)

    def sysctl(self, **values: int) -> None:
        """Set sysctls below net, with two underscores for each dot: sysctl(ipv4__ip_forward=1)."""
        with self.inside():
            for name, value in values.items():
                Path("/proc/sys/net", *name.split("__")).write_text(str(value))

    def capture(self, interface: str, *, outgoing: bool = True) -> Capture:
        """See every frame of an interface from now on, 64 MiB at most between two readings.

        Without `outgoing` only those that it receives.
        """
        with self.inside():
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        packets.setblocking(False)
        with contextlib.suppress(PermissionError):  # in a user namespace the default has to do
            packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BUFFER)
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, not outgoing)
        packets.bind((interface, 0))
        return Capture(packets)

    def kill(self) -> None:
        """Kill every process of the node at once, as a crash does: its network stays."""
        with self._children():
            subprocess.run(("sh", "-c", "kill -9 -1"), stderr=subprocess.DEVNULL, check=False)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def logs(self) -> dict[str, str]:
        """The ends of all logs, by file name: for reports of failures."""
        return {path.name: path.read_text(errors="replace")[-_LOG_TAIL:] for path in self.directory.glob("*.log")}

    def close(self) -> None:
        """End every process and the namespaces, and delete the directory."""
        assert self._init.stdin is not None
        self._init.stdin.close()
        for process in self._processes:
            process.wait()  # first, because init can't end while children of ours wait to be collected
        self._init.wait()
        os.close(self.network)
        os.close(self._pids)

    @contextmanager
    def _children(self) -> Iterator[None]:
        """The children that this thread makes in the block have process IDs of the node."""
        home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY)
        try:
            namespaces.setns(self._pids, CLONE_NEWPID)
            yield
        finally:
            namespaces.setns(home, CLONE_NEWPID)
            os.close(home)

    def _enter_network(self) -> None:
        namespaces.enter(self.network)


def _let_the_kernel_collect_orphans() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
