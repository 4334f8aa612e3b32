"""The packets that `defer` holds, as pfsyncd sees them: whether it works, and that somebody said why if not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from carpd.errors import SystemCallError
from carpd.linux import defer
from carpd.linux.defer import DeferCounters, DeferredPackets, Frame
from carpd.linux.gate_monitor import GateMonitor
from carpd.units import MILLISECOND, SECOND

HANG_NS = 2500 * MILLISECOND
"""When pfsyncd hangs, new connections wait for so long: its loop comes by every second."""
CALM_NS = 10 * SECOND
"""When all packets were held for so long, there are no longer too many."""


class HeldPackets:
    """Those of the interfaces with these names, if there are any. Where it can't work, nothing is held."""

    def __init__(self, names: Sequence[str], log: Callable[[int, str], None]) -> None:
        self._names, self._log = names, log
        self._reason = ""
        self._passed = 0
        self._passed_at: int | None = None
        """So many packets have passed because there were too many, and when the last one did, until it is calm."""
        self._packets: DeferredPackets | None = None
        self._tables: GateMonitor | None = None
        if not names:
            with suppress(SystemCallError):  # there may be no nftables
                defer.remove_table()  # of one that was killed
            return
        try:
            self._tables = GateMonitor()
            self._packets = DeferredPackets(names)
        except SystemCallError as error:
            self._fails(str(error))
        self.refresh()

    def hears(self) -> dict[int, Callable[[], Sequence[Frame]]]:
        """By file descriptor, what to do when it is readable: it returns frames to be held."""
        if self._packets is None or self._tables is None:
            return {}
        return {self._packets.fileno(): self._receive, self._tables.fileno(): self._look_at_table}

    def refresh(self) -> None:
        """Look at the interfaces and our own device again."""
        if self._packets is not None:
            try:
                if mended := self._packets.mend_device():
                    self._log(logging.WARNING, f"pfsync: defer: {mended}")
                self._fails("; ".join(self._packets.refresh()))
            except SystemCallError as error:
                self._fails(str(error))

    def hold(self, now: int, wanted: bool) -> None:
        """Hold packets from now on, or don't. If this is not called again, they are held for a while only."""
        if self._packets is not None:
            if wanted:
                self._packets.hold_until(now + HANG_NS)
            else:
                self._packets.let_pass()
            self._look_for_overload(now, self._packets.counters.defer_passed)

    def send(self, frames: Sequence[tuple[int, int, bytes]]) -> None:
        """Let these go."""
        if self._packets is not None:
            self._packets.send(frames)

    def close(self) -> None:
        """Hold nothing any more, and send what was taken and not yet handed over."""
        if self._packets is not None:
            self._packets.let_pass()
            while frames := self._receive():
                self._packets.send(frames)
            try:
                self._packets.close()
            except SystemCallError as error:
                self._log(logging.ERROR, f"pfsync: {error}")

    def status(self) -> dict[str, Any] | None:
        """As JSON's own types; None if nothing is to be held."""
        if not self._names:
            return None
        return {"interfaces": list(self._names), "working": not self._reason, "reason": self._reason or None}

    def counters(self) -> dict[str, int]:
        """Beside those of the engine."""
        return asdict(self._packets.counters if self._packets else DeferCounters())

    def _receive(self) -> Sequence[Frame]:
        assert self._packets is not None
        try:
            return self._packets.receive()
        except SystemCallError as error:  # `refresh` follows: the device has gone, which is told of
            self._fails(str(error))
            return ()

    def _look_for_overload(self, now: int, passed: int) -> None:
        if passed != self._passed:
            if self._passed_at is None:
                self._log(logging.WARNING, "pfsync: defer: too many new connections to hold all: some pass at once")
            self._passed, self._passed_at = passed, now
        elif self._passed_at is not None and now - self._passed_at >= CALM_NS:
            self._passed_at = None
            self._log(logging.INFO, f"pfsync: defer: all are held again; {passed} packets have passed so far")

    def _look_at_table(self) -> Sequence[Frame]:
        """`nft flush ruleset`, which begins Debian's /etc/nftables.conf, takes our table, too."""
        assert self._tables is not None
        try:
            if self._tables.table_deleted() and not defer.is_table_installed():
                defer.install_table(self._names)
                self._log(logging.WARNING, "pfsync: defer: somebody deleted the nftables table: installed it again")
        except SystemCallError as error:
            self._fails(str(error))
        return ()

    def _fails(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            if reason:
                self._log(logging.ERROR, f"pfsync: defer does not work: {reason}")
            else:
                self._log(logging.INFO, "pfsync: defer works")
