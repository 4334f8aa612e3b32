"""What the programs of a node use: time and memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from carpd.lab.nodes import Node

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """In KiB. In pss, what several processes share counts in parts."""

    pss: int
    rss: int


def processes(node: Node) -> list[Path]:
    """The /proc directories of everything that runs in the node's network."""
    network = os.fstat(node.network).st_ino
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is the kernel's
            if (process / "ns/net").stat().st_ino == network:
                found.append(process)
    return found


def cpu_s(node: Node) -> float:
    """What its processes, and their children that ended, have used until now, in user and kernel mode."""
    ticks = 0
    for process in processes(node):
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime and cstime. Ref: proc(5)
    return ticks / _TICKS_A_SECOND


def machine_cpu_s() -> float:
    """What the whole machine has used until now, interrupts included."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, first.split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS_A_SECOND


def memory(node: Node) -> Memory:
    """Of all its processes."""
    sums = {"Pss:": 0, "Rss:": 0}
    for process in processes(node):
        for line in (process / "smaps_rollup").read_text().splitlines():
            name, value, *_ = line.split()
            if name in sums:
                sums[name] += int(value)
    return Memory(*sums.values())
