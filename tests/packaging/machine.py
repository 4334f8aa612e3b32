"""A machine with systemd, on this one's files: what is changed there is forgotten at its end.

It has namespaces of its own for everything, an overlay for its files, and a part of the tree of control groups. A shell
that reads from a pipe holds them: when the test ends, however it ends, the shell takes everything away.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from carpd.lab.waiting import LabError, wait_until
from carpd.units import SECOND

_HOLD = """
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root groups
mount -t cgroup2 cgroup2 groups
group=groups/carpd-test-$$
mkdir $group
sh -ec 'echo $$ >$1/cgroup.procs; exec unshare --cgroup --pid --fork --kill-child sh -ec "$2"' sh $group "$2" <&- &
read end || true
exec 2>/dev/null
kill -9 $! || true
wait $! || true
until find $group -depth -type d -exec rmdir {} +; do sleep 0.01; done  # the last processes are just ending
cd /
umount --lazy "$1"
rmdir "$1"
"""

_BOOT = """
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
for directory in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $directory; done
mkdir .$SOURCE
mount --bind "$PROJECT" .$SOURCE  # which may lie in a directory that is empty there
mount -o remount,bind,ro .$SOURCE
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys  # but for the network the kernel is this machine's
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir dev/net dev/pts dev/shm
for device in 'null c 1 3' 'zero c 1 5' 'full c 1 7' 'random c 1 8' 'urandom c 1 9' 'tty c 5 0' 'net/tun c 10 200'; do
    mknod -m 666 dev/$device
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s null dev/console
ln -s /proc/self/fd dev/fd
ip link set lo up
systemd-id128 new >etc/machine-id
rm -f usr/sbin/policy-rc.d
for unit in systemd-sysctl.service systemd-modules-load.service systemd-udevd.service timers.target; do
    ln -sf /dev/null etc/systemd/system/$unit
done
mount --make-rshared .  # as systemd makes it where it is not in a container
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    chroot . /lib/systemd/systemd --unit=basic.target --show-status=false >/dev/null 2>&1
"""

BOOT_LIMIT_NS = 60 * SECOND

SOURCE = "/run/carpd-source"
"""Where the project's own files are found there."""


class Machine:
    """It is up from the beginning. Close it."""

    def __init__(self) -> None:
        """Raise LabError if it does not start."""
        self._directory = tempfile.mkdtemp(prefix="carpd-machine-")
        hold = ("unshare", "--mount", "--net", "--uts", "--ipc", "sh", "-c", _HOLD, "sh", self._directory, _BOOT)
        environment = os.environ | {"SOURCE": SOURCE, "PROJECT": str(Path(__file__).parents[2])}
        self._shell = subprocess.Popen(hold, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self._init = 0
        try:
            wait_until(self._has_booted, BOOT_LIMIT_NS, "systemd starts", poll_s=0.05)
        except LabError as error:
            raise LabError(f"{error}\n{self.close()}") from error

    def run(self, *argv: str, stdin: str = "", status: int = 0) -> str:
        """Run a program there and return what it printed, errors included. Raise LabError for another exit status."""
        done = self._run(argv, stdin)
        if done.returncode != status:
            raise LabError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    @property
    def root(self) -> Path:
        """Where its files are found from here, while it runs."""
        return Path(f"/proc/{self._init}/root")

    def changed(self) -> set[str]:
        """The files that were made, changed or deleted there, and directories that are new; without the leading /."""
        upper = Path(f"/proc/{self._shell.pid}/root{self._directory}/upper")
        found = ((str(path.relative_to(upper)), path.is_dir() and not path.is_symlink()) for path in upper.rglob("*"))
        return {path for path, directory in found if not directory or not Path("/", path).is_dir()}

    def close(self) -> str:
        """End everything that runs there, and forget its files. Return what went wrong at its start."""
        errors = self._shell.communicate()[1].decode()
        with suppress(FileNotFoundError):
            os.rmdir(self._directory)  # the shell has done it, unless it has not even begun
        return errors

    def _has_booted(self) -> bool:
        if self._shell.poll() is not None:
            raise LabError("systemd can't be started")
        self._init = _child(_child(self._shell.pid))
        if not self._init or Path(f"/proc/{self._init}/comm").read_text() != "systemd\n":
            return False
        return self._run(["systemctl", "is-system-running"], "").stdout in ("running\n", "degraded\n")

    def _run(self, argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        enter = ("nsenter", f"--target={self._init}", "--all", "--root", "--wd")
        return subprocess.run(
            [*enter, *argv],
            input=stdin,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            timeout=60,
            check=False,
        )


def _child(pid: int) -> int:
    """0 if it has none, or is none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0
    return int(children[0]) if children else 0
