"""CARP's election is one comparison: of how well placed two hosts are to be master."""

from __future__ import annotations

from typing import NamedTuple

from carpd.config.model import DemotionMode, VirtualHostConfig
from carpd.units import interval_ns
from carpd.wire.carp import Advertisement

DEMOTED_ADVSKEW_LIMIT = 240
"""No demotion raises advskew beyond this (FreeBSD's CARP_MAXSKEW). Ref: spec carp §10.2."""

COUNTER_LIMIT = 255
"""Byte 4 of an advertisement."""


class Preference(NamedTuple):
    """How well placed a host is to be master of a virtual host. The smaller one wins.

    Ref: spec carp §7: OpenBSD's rules are the lexicographic order of these pairs; FreeBSD's, NetBSD's and
    ucarp's the same with a demotion that is always 0.
    """

    demotion: int
    interval_ns: int

    @classmethod
    def heard(cls, message: Advertisement, mode: DemotionMode) -> Preference:
        """What a peer says of itself. Byte 4 counts only where the group demotes by it."""
        return cls(message.demotion if mode.in_counter else 0, message.interval_ns)


def demoted_advskew(config: VirtualHostConfig, demotion: int) -> int:
    """The advskew to send and compare with: raised by the demotion where the mode says so."""
    if not config.demotion.in_advskew:
        return config.advskew
    return max(config.advskew, min(config.advskew + demotion, DEMOTED_ADVSKEW_LIMIT))


def demotion_counter(config: VirtualHostConfig, demotion: int) -> int:
    """The demotion to send in byte 4 and compare with."""
    return min(demotion, COUNTER_LIMIT) if config.demotion.in_counter else 0


def own_preference(config: VirtualHostConfig, demotion: int) -> Preference:
    """Our own place, demoted by the sum of the group's reasons."""
    return Preference(
        demotion_counter(config, demotion), interval_ns(config.advbase, demoted_advskew(config, demotion))
    )
