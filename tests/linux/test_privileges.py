"""Capabilities and scheduling. What changes a process is tried in a child of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from carpd.linux import privileges

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


NET_ADMIN, NET_RAW, IPC_LOCK, SYS_ADMIN, SYS_NICE, BPF = 12, 13, 14, 21, 23, 39
FOUR = (NET_ADMIN, NET_RAW, IPC_LOCK, SYS_NICE)


def run(code: str, user: int = 0, capabilities: Sequence[int] = FOUR) -> str:
    """What Python prints for this code, run as root or, with these capabilities, as another user."""
    bits = sum(1 << number for number in capabilities)
    become = f"""
import ctypes, os, struct, sys
from carpd.linux import privileges
if {user}:
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid({user}, {user}, {user})
    low, high = {bits} & 0xFFFFFFFF, {bits} >> 32
    libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=IIIIII", low, low, 0, high, high, 0))
"""
    command = [sys.executable, "-c", become + code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@needs_root
def test_root_lacks_nothing() -> None:
    assert run("print(privileges.missing_capabilities())") == "[]"
    assert run("print(privileges.missing_capabilities(bpf=True))") == "[]"
    assert run("print(privileges.lock_memory())") == "None"
    assert run("print(privileges.keep_capabilities_for_children())") == "None"


@needs_root
def test_without_capabilities() -> None:
    drop = "libc = ctypes.CDLL(None); os.setresuid(65534, 65534, 65534)\n"
    assert run(drop + "print(privileges.missing_capabilities())") == "['CAP_NET_ADMIN', 'CAP_NET_RAW']"
    assert run(drop + "print(privileges.lock_memory())") == "needs CAP_IPC_LOCK"
    assert "CAP_SYS_NICE" in run(drop + "print(privileges.set_realtime(10))")
    assert run(drop + "print(privileges.keep_capabilities_for_children())") == "None"


MISSING = {
    # what a process has -> what it lacks without sharing traffic, and with it
    "what everybody needs": ((NET_ADMIN, NET_RAW), [], ["CAP_BPF"]),
    "all of ours": ((*FOUR, BPF), [], []),
    "the old way to load programs": ((NET_ADMIN, NET_RAW, SYS_ADMIN), [], []),
    "programs alone": ((BPF,), ["CAP_NET_ADMIN", "CAP_NET_RAW"], ["CAP_NET_ADMIN", "CAP_NET_RAW"]),
    "one": ((NET_RAW,), ["CAP_NET_ADMIN"], ["CAP_NET_ADMIN", "CAP_BPF"]),
    "nothing": ((), ["CAP_NET_ADMIN", "CAP_NET_RAW"], ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]),
}


@needs_root
@pytest.mark.parametrize(("capabilities", "missing", "missing_with_bpf"), MISSING.values(), ids=MISSING)
def test_missing(capabilities: Sequence[int], missing: list[str], missing_with_bpf: list[str]) -> None:
    ask = "print(privileges.missing_capabilities(), privileges.missing_capabilities(bpf=True))"
    assert run(ask, NOBODY, capabilities) == f"{missing} {missing_with_bpf}"


@needs_root
def test_children_of_an_unprivileged_user_keep_the_capabilities() -> None:
    """What nft and the election process, which are programs of their own, need."""
    ask = "os.execv('/bin/sh', ['sh', '-c', 'grep CapEff /proc/self/status'])"
    assert int(run(ask, NOBODY).split()[1], 16) == 0
    kept = run("assert privileges.keep_capabilities_for_children() is None\n" + ask, NOBODY)
    assert int(kept.split()[1], 16) == sum(1 << number for number in FOUR)


@needs_root
def test_the_election_process_keeps_the_right_to_load_programs() -> None:
    """It makes the share gate. What it does not need is not handed on."""
    ask = "os.execv('/bin/sh', ['sh', '-c', 'grep CapEff /proc/self/status'])"
    keep = "assert privileges.keep_capabilities_for_children() is None\n"
    kept = run(keep + ask, NOBODY, (NET_ADMIN, BPF, SYS_ADMIN))
    assert int(kept.split()[1], 16) == 1 << NET_ADMIN | 1 << BPF


@needs_root
def test_realtime_is_not_inherited() -> None:
    code = """
reason = privileges.set_realtime(10)
print(reason or (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR))
sys.stdout.flush()
if os.fork() == 0:
    print(os.sched_getscheduler(0) == os.SCHED_OTHER)
else:
    os.wait()
"""
    answer = run(code)
    if "CAP_SYS_NICE" in answer:
        pytest.skip(answer)
    assert answer == "True\nTrue"


def test_this_process_can_be_asked() -> None:
    assert set(privileges.missing_capabilities(bpf=True)) <= {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"}
