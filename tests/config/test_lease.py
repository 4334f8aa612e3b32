"""How long an advertisement lets its sender answer: never longer than a peer waits for the next one."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from carpd.config.model import VirtualHostConfig
from carpd.units import SECOND, SKEW


@pytest.mark.parametrize(
    ("advbase", "advskew", "others_ns", "lease_ns"),
    [
        (1, 0, None, 3 * SECOND - SKEW),
        (1, 100, None, 3 * SECOND - SKEW),  # a peer may have advskew 0
        (1, 0, 3 * SECOND + 100 * SKEW, 3 * SECOND - SKEW),
        (2, 0, 3 * SECOND, 3 * SECOND),  # a peer with advbase 1
        (3, 0, 3 * SECOND, 9 * SECOND - SKEW),  # one that takes over in any case
        (0, 4, None, 12 * SKEW),
        (0, 4, 15 * SKEW, 12 * SKEW),
        (0, 4, 9 * SKEW, 9 * SKEW),
        (0, 9, 9 * SKEW, 27 * SKEW),
    ],
)
def test_lease(advbase: int, advskew: int, others_ns: int | None, lease_ns: int) -> None:
    config = VirtualHostConfig(
        name="lan",
        interface="eth1",
        vhid=1,
        addresses=(ip_interface("192.0.2.1/24"),),
        key=b"",
        advbase=advbase,
        advskew=advskew,
        others_master_down_ns=others_ns,
    )
    assert config.lease_ns == lease_ns
