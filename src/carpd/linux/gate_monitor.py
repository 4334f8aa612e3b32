"""Notices when somebody deletes a lease gate.

`nft flush ruleset`, which begins Debian's /etc/nftables.conf, takes everybody's tables.
"""

from __future__ import annotations

from carpd.linux.netlink import NetlinkListener
from carpd.wire import netlink, nftnetlink


class GateMonitor:
    """Hears that tables are deleted; which ones is for `lease.installed` to tell."""

    def __init__(self) -> None:
        """Raise SystemCallError."""
        self._listener = NetlinkListener(netlink.NETFILTER, (nftnetlink.GROUP_NFTABLES,))

    def fileno(self) -> int:
        return self._listener.fileno()

    def table_deleted(self) -> bool:
        """Whether a table was deleted since the last call, or changes were missed."""
        deleted = False
        while (messages := self._listener.receive()) != []:
            deleted |= messages is None or any(map(nftnetlink.is_table_deletion, messages))
        return deleted
