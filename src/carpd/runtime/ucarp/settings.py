"""What a command line of ucarp says."""

from __future__ import annotations

import syslog
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from carpd.config.model import DEAD_RATIO, DemotionMode, MacMode, VirtualHostConfig
from carpd.wire import carp

SUPPRESSED = 240
"""What a demotion adds to advskew: ucarp advertises 240 while it does not want to be master. Ref: spec carp §10.3."""

MULTICAST_GROUP = IPv4Address(carp.GROUP4)

GROUP = "ucarp"
"""The redundancy group of the one virtual host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options, checked and complete. Times are in seconds, advskew in 1/256 s."""

    interface: str
    source: IPv4Address
    """What advertisements come from, -s."""
    vhid: int
    password: bytes
    """1 to 19 bytes."""
    address: IPv4Address
    """The shared one, -a."""
    advbase: int = 1
    advskew: int = 0
    dead_ratio: int = DEAD_RATIO
    preempt: bool = False
    group: IPv4Address = MULTICAST_GROUP
    """The multicast group that advertisements go to, -m."""
    broadcast: bool = False
    """They go to the broadcast MAC, -M."""
    ignore_link: bool = False
    """The state of the interface does not matter, -S."""
    up_script: str | None = None
    down_script: str | None = None
    extra: str | None = None
    """The last argument of the scripts, -x."""
    neutral: bool = False
    """The down-script is not run when we start, -n."""
    shutdown: bool = False
    """A master that ends runs the down-script, -z."""
    background: bool = False
    debug: bool = False
    facility: int | None = syslog.LOG_DAEMON
    """Of syslog, as a number of syslog.h; None: no syslog."""

    @property
    def virtual_host(self) -> VirtualHostConfig:
        """As the engine knows it."""
        return VirtualHostConfig(
            name=str(self.vhid),
            interface=self.interface,
            vhid=self.vhid,
            addresses=(IPv4Interface(self.address),),
            key=self.password,
            advbase=self.advbase,
            advskew=self.advskew,
            preempt=self.preempt,
            group=GROUP,
            mac=MacMode.REAL,
            demotion=DemotionMode.ADVSKEW,
            ifdown_demotion_factor=SUPPRESSED,
            senderr_demotion_factor=SUPPRESSED,
            dead_ratio=self.dead_ratio,
            tie_address=self.source.packed,
        )
