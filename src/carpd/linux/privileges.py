"""What a process needs beyond the ordinary: capabilities, real-time scheduling, locked memory.

Each function returns None, or in a few words why not: carpd then runs on, less exactly.
Ref: capabilities(7), sched(7), mlockall(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path

from carpd.linux import libc

_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_IPC_LOCK, _CAP_SYS_ADMIN, _CAP_SYS_NICE, _CAP_BPF = 12, 13, 14, 21, 23, 39
_NEEDED = {"CAP_NET_ADMIN": _CAP_NET_ADMIN, "CAP_NET_RAW": _CAP_NET_RAW}
_TO_BE_ANOTHER = {"CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_KILL": 5}
_HANDED_ON = {**_NEEDED, "CAP_IPC_LOCK": _CAP_IPC_LOCK, "CAP_SYS_NICE": _CAP_SYS_NICE, "CAP_BPF": _CAP_BPF}

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3; this thread
_CAPABILITY_SETS = struct.Struct("=IIIIII")  # effective, permitted and inheritable: the low 32 bits, then the high ones

_mlockall = libc.function("mlockall", ctypes.c_int)
_prctl = libc.function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_capset = libc.function("capset", ctypes.c_char_p, ctypes.c_char_p)


def set_realtime(priority: int) -> str | None:
    """Schedule this process before all ordinary ones (SCHED_RR); its children are ordinary again."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        return f"{error.strerror} (needs CAP_SYS_NICE, or a limit for RTPRIO)"
    return None


def lock_memory() -> str | None:
    """Keep all memory of this process, now and later, from being paged out.

    Without the capability the limit on locked memory, 8 MiB or less, would count: locking might work now, and
    every later allocation fail.
    """
    if not _effective() >> _CAP_IPC_LOCK & 1:
        return "needs CAP_IPC_LOCK"
    try:
        _mlockall(_MCL_CURRENT | _MCL_FUTURE)
    except OSError as error:
        return error.strerror
    return None


def missing_capabilities(*, bpf: bool = False) -> list[str]:
    """The capabilities without which nothing works and that this process has not, by name.

    `bpf`: it is to load programs into the kernel, too, as sharing traffic needs it.
    """
    effective = _effective()
    missing = [name for name, number in _NEEDED.items() if not effective >> number & 1]
    if bpf and not effective & (1 << _CAP_BPF | 1 << _CAP_SYS_ADMIN):
        missing.append("CAP_BPF")
    return missing


def missing_to_be_another() -> list[str]:
    """The capabilities that this process has not, and needs to start and to end programs of another user, by name."""
    effective = _effective()
    return [name for name, number in _TO_BE_ANOTHER.items() if not effective >> number & 1]


def keep_capabilities_for_children() -> str | None:
    """Hand what we have of our capabilities on to the programs that we start, as an unprivileged user too."""
    sets = _status("CapEff"), _status("CapPrm"), _status("CapInh")
    effective, permitted, inheritable = sets
    ours = [number for number in _HANDED_ON.values() if permitted >> number & 1]
    for number in ours:
        inheritable |= 1 << number
    try:
        low, high = ([bits >> shift & 0xFFFFFFFF for bits in (effective, permitted, inheritable)] for shift in (0, 32))
        _capset(_CAPABILITY_HEADER, _CAPABILITY_SETS.pack(*low, *high))
        for number in ours:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
    except OSError as error:
        return error.strerror
    return None


def _effective() -> int:
    return _status("CapEff")


def _status(field: str) -> int:
    """A set of capabilities of this thread."""
    found = re.search(rf"^{field}:\s*([0-9a-f]+)$", Path("/proc/thread-self/status").read_text(), re.MULTILINE)
    assert found, f"/proc/thread-self/status has no {field}"
    return int(found[1], 16)
