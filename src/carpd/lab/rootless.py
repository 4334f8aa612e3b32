"""Being root where the laboratory needs it: as it is, or in a new user namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from carpd.lab.waiting import LabError

_PROGRAMS = ("ip", "nft")
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
"""A process-ID namespace too: without it the laboratory could not return from those of its nodes."""


def check() -> None:
    """Raise LabError, saying what is missing, unless this process can build a laboratory."""
    _add_system_path()
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise LabError(f"the lab needs the program '{program}' (Debian: apt install iproute2 nftables)")
    if not _works(("unshare", "--net", "--pid", "--fork", "true")):
        raise LabError("the lab needs root with CAP_SYS_ADMIN and CAP_NET_ADMIN (try sudo)")


def become_root(argv: Sequence[str]) -> None:
    """Return if this process can build a laboratory; else run argv in its place, as root of a new user namespace.

    Raise LabError where the kernel does not allow that.
    """
    _add_system_path()
    if os.geteuid() != 0:
        if not _works((*_UNSHARE, "true")):
            raise LabError("the lab needs root: this kernel gives users no namespaces of their own (try sudo)")
        os.execvp(_UNSHARE[0], [*_UNSHARE, *argv])
    check()


def _works(argv: Sequence[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _add_system_path() -> None:
    """Users of Debian have no /sbin in their path, where ip and nft are."""
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
