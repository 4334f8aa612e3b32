"""What the program ucarp has beyond the BSDs: a dead ratio, and ties that the lower address wins.

Ref: spec carp §7.1, §9.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from carpd.config.model import MasterDownRule
from carpd.effects import Effect, Reason
from carpd.events import CarpState, FrameReceived
from carpd.units import SECOND, SKEW
from tests.carp.harness import IPV4_ONLY, Node, frame, host_config, signed, transcript


@pytest.mark.parametrize(
    ("rule", "advbase", "ratio", "expected_ns"),
    [
        (MasterDownRule.CLASSIC, 1, 3, 3 * SECOND + 100 * SKEW),
        (MasterDownRule.CLASSIC, 2, 5, 10 * SECOND + 100 * SKEW),
        (MasterDownRule.CLASSIC, 0, 5, 500 * SKEW),
        (MasterDownRule.OPENBSD, 1, 1, 1 * SECOND + 100 * SKEW),
    ],
)
def test_a_backup_waits_for_the_dead_ratio(rule: MasterDownRule, advbase: int, ratio: int, expected_ns: int) -> None:
    config = host_config(master_down=rule, advbase=advbase, dead_ratio=ratio)
    assert config.master_down_ns == expected_ns
    assert Node(config).wait == expected_ns


def test_a_master_that_will_time_out_is_replaced_by_the_dead_ratio() -> None:
    """8 s are too long for who waits 3 advbase, and not for who waits 10."""
    for ratio, state in ((3, CarpState.MASTER), (10, CarpState.BACKUP)):
        node = Node(host_config(dead_ratio=ratio))
        node.hear(advbase=8)
        assert node.state is state
    hasty = Node(host_config(dead_ratio=3))
    hasty.hear(advbase=8)
    assert hasty.host.reason is Reason.WILL_TIME_OUT


@pytest.mark.parametrize(
    ("ours", "peer", "stays"),
    [
        ("192.0.2.5", "192.0.2.6", True),
        ("192.0.2.6", "192.0.2.5", False),
        ("192.0.2.6", "203.0.113.5", False),  # as a little-endian machine compares them
        ("203.0.113.5", "192.0.2.6", True),
    ],
)
def test_of_two_equal_masters_the_lower_address_goes_on(ours: str, peer: str, stays: bool) -> None:
    node = Node.master(host_config(addresses=IPV4_ONLY, tie_address=ip_address(ours).packed))
    effects = hear(node, peer, advskew=100)
    if stays:
        assert transcript(node, effects) == "MASTER send announce"
    else:  # and says so, so that the other one announces itself again
        assert transcript(node, effects) == "BACKUP surrender release own-mac surrender changed"
        assert node.wait == node.host.config.master_down_ns


def test_a_better_master_wins_whatever_its_address() -> None:
    node = Node.master(host_config(addresses=IPV4_ONLY, tie_address=ip_address("192.0.2.5").packed))
    hear(node, "192.0.2.6", advskew=99)
    assert node.state is CarpState.BACKUP


def hear(node: Node, peer: str, advskew: int) -> list[Effect]:
    message = signed(node.host.config, advskew=advskew)
    return node.tell(FrameReceived("eth0", frame(message, source=ip_address(peer).packed)))
