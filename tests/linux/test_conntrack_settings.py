"""Settings of connection tracking, in a network namespace."""

from __future__ import annotations

import pytest

from carpd.errors import SystemCallError
from carpd.linux import conntrack_settings, sysctls
from carpd.linux.conntrack import ConntrackTable
from tests.linux.test_conntrack import TCP, UDP6


def test_timeouts(namespace: None) -> None:
    sysctls.write("1234", "netfilter", "nf_conntrack_tcp_timeout_established")
    sysctls.write("17", "netfilter", "nf_conntrack_udp_timeout")
    timeouts = conntrack_settings.read_timeouts()
    assert timeouts["nf_conntrack_tcp_timeout_established"] == 1234
    assert timeouts["nf_conntrack_udp_timeout"] == 17
    assert {"nf_conntrack_icmp_timeout", "nf_conntrack_generic_timeout"} < timeouts.keys()


def test_size(namespace: None) -> None:
    assert conntrack_settings.table_count() == 0
    with ConntrackTable() as table:
        assert table.insert([TCP, UDP6]) == []
    assert conntrack_settings.table_count() == 2
    assert conntrack_settings.table_limit() > 2


def test_without_connection_tracking(namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctls, "_ROOT", sysctls._ROOT / "none")
    assert conntrack_settings.read_timeouts() == {}
    with pytest.raises(SystemCallError, match="read net/netfilter/nf_conntrack_max: "):
        conntrack_settings.table_limit()
