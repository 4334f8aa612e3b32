"""The way to the peers as the configuration has it: opened when the interface can be spoken on, closed when not."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from ipaddress import ip_address

from carpd.config.model import PfsyncConfig, Transport
from carpd.errors import SystemCallError
from carpd.linux import sync_device
from carpd.linux.sync_sockets import RawSyncSocket, SyncSocketCounters, UdpSyncSocket
from carpd.pfsync.sealed import SealedLink
from carpd.runtime.sync_transport import SealedTransport, SyncTransport
from carpd.wire.pfsync.header import GROUP4, GROUP6


class SyncLink:
    """One interface. It begins closed: `refresh` opens it."""

    def __init__(self, config: PfsyncConfig, log: Callable[[int, str], None]) -> None:
        """Raise CarpdError if the sealed transport can't be used here."""
        self._config = config
        self._log = log
        self._seal = _sealed_link(config) if config.transport is Transport.SEALED else None
        self._transport: SyncTransport | None = None
        self._failing: dict[str, int] = {}
        self._closed_counters: dict[str, int] = asdict(SyncSocketCounters())
        self.reason = "not opened yet"
        """Why it is closed; empty while it is open."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def max_packet(self) -> int | None:
        """Bytes of the longest pfsync packet that the link takes; None while it is closed."""
        return self._transport.max_payload if self._transport else None

    def fileno(self) -> int:
        """Of the open link."""
        assert self._transport is not None
        return self._transport.fileno()

    def refresh(self) -> bool:
        """Look at the interface again; whether the socket is another one now, or gone."""
        try:
            device = self._find()
            if self._transport is not None and self._transport.device == device:
                return False
            self.close()
            if self._seal:
                self._transport = SealedTransport(UdpSyncSocket(device, self._config.port), self._seal)
            else:
                self._transport = RawSyncSocket(device)
        except SystemCallError as error:
            changed = self._transport is not None or self.reason != str(error)
            self.close()
            self.reason = str(error)
            return changed
        self.reason = ""
        return True

    def close(self) -> None:
        if self._transport is not None:
            for name, value in asdict(self._transport.counters).items():
                self._closed_counters[name] += value
            self._transport.close()
            self._transport = None

    def send(self, packets: Sequence[bytes]) -> None:
        """To every peer. What the kernel does not take is lost, and said in the log when it begins and when it ends."""
        if self._transport is None:
            return
        failed = self._transport.send(packets)
        if failed == self._failing:
            return
        for peer, number in failed.items():
            if self._failing.get(peer) != number:
                self._log(logging.WARNING, f"pfsync: can't send to {peer}: {os.strerror(number)}")
        for peer in self._failing.keys() - failed.keys():
            self._log(logging.INFO, f"pfsync: {peer} is sent to again")
        self._failing = failed

    def receive(self) -> list[tuple[str, bytes]]:
        """The packets that have come, each with the address that it came from."""
        return self._transport.receive() if self._transport else []

    def counters(self) -> dict[str, int]:
        """All by name."""
        counters = dict(self._closed_counters)
        if self._transport is not None:
            for name, value in asdict(self._transport.counters).items():
                counters[name] += value
        return counters | (asdict(self._seal.counters) if self._seal else {})

    def _find(self) -> sync_device.SyncDevice:
        peers = self._config.syncpeers
        if peers:
            return sync_device.find(self._config.syncdev, peers)
        try:
            return sync_device.find(self._config.syncdev, [ip_address(GROUP4)])
        except SystemCallError as error:
            if error.errno != errno.EADDRNOTAVAIL or self._config.version.ipv4_only:
                raise
            return sync_device.find(self._config.syncdev, [ip_address(GROUP6)])


def _sealed_link(config: PfsyncConfig) -> SealedLink:
    """Only who seals needs the library."""
    from carpd.linux.seal_keys import SealKeys

    return SealedLink(SealKeys(), os.urandom, config.secrets)
