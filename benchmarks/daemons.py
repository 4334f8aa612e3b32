"""The daemons that are compared, each with the configuration an operator would write for two firewalls.

fw-a is the better node. Every daemon lets it take over again when it returns.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from carpd import __version__
from carpd.config.model import MasterDownRule
from carpd.control import client
from carpd.control.protocol import ControlError
from carpd.lab.daemons import Carpd
from carpd.lab.firewalls import LAN_GATEWAYS, Firewall
from carpd.units import MILLISECOND, SECOND, SKEW, interval_ns

ADDRESS4, ADDRESS6 = LAN_GATEWAYS
"""What the two nodes share: ucarp and keepalived the first, carpd both."""

DEFAULT, FASTEST, SAFE = "default", "fastest", "50 ms"
"""Timers: of the documentation's examples; as short as the daemon can; short and safe on a loaded machine."""

_REALTIME_PRIORITY = 50  # what carpd's election process has by itself


@dataclass(frozen=True, slots=True)
class Contender:
    """A daemon with certain timers. The bounds are those of its protocol, in nanoseconds."""

    daemon: str
    timers: str
    settings: str
    """The settings that matter, in the daemon's own words: fw-a's, then what differs on fw-b."""
    interval_ns: int
    """Between two advertisements of the master."""
    master_down_ns: int
    """How long fw-b waits for a master that says nothing."""
    leave_ns: int
    """How long it waits when a master that is stopped says so: the master-down time, where masters say nothing."""
    start: Callable[[Firewall], None]
    tied: bool = False
    """No node is the better one: whoever is master stays it."""
    ready: Callable[[Firewall], bool] = lambda firewall: True
    """Whether a node that was started can be backup already. Who becomes master when it is started shows it so."""
    planned_only: bool = False
    """Measured for stop and return alone."""

    @property
    def name(self) -> str:
        return f"{self.daemon}, {self.timers}"


def versions() -> dict[str, str]:
    """What each daemon says of itself."""
    return {
        "carpd": __version__,
        "ucarp": _first_line("ucarp", "--help"),
        "keepalived": _first_line("keepalived", "--version"),
    }


def _first_line(*argv: str) -> str:
    """To either of its outputs."""
    try:
        process = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return next((line.strip() for line in process.stdout.splitlines() if line.strip()), "?")


# carpd

_CARPD = """\
[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["{address4}/24", "{address6}/64"]
password_file = "password"
advbase = {advbase}
advskew = {advskew_a}
preempt = true

[node.fw-b.carp.lan]
advskew = {advskew_b}
"""


def _carpd(timers: str, advbase: int, advskew_a: int, advskew_b: int) -> Contender:
    configuration = _CARPD.format(
        address4=ADDRESS4, address6=ADDRESS6, advbase=advbase, advskew_a=advskew_a, advskew_b=advskew_b
    )
    return Contender(
        daemon="carpd",
        timers=timers,
        settings=f"advbase {advbase}, advskew {advskew_a}, {advskew_b}",
        interval_ns=interval_ns(advbase, advskew_a),
        master_down_ns=MasterDownRule.CLASSIC.master_down_ns(advbase, advskew_b),
        leave_ns=0,
        start=lambda firewall: Carpd(firewall, configuration).start(),
        tied=advskew_a == advskew_b,
        ready=_carpd_ready,
    )


def _carpd_ready(firewall: Firewall) -> bool:
    try:
        hosts = client.request(firewall.node.directory / "carpd.sock", "status")["virtual_hosts"]
    except ControlError:
        return False
    return all(host["state"] != "INIT" for host in hosts)


# ucarp

_UCARP_SCRIPT = '#!/bin/sh\nexec ip address {action} {address}/24 dev "$1"\n'


def _ucarp(timers: str, dead_ratio: int, advskew_b: int) -> Contender:
    def start(firewall: Firewall) -> None:
        node = firewall.node
        argv = ["ucarp", "-i", "eth1", "-s", own_address4(firewall), "-v", "1", "-p", "secret", "-a", ADDRESS4]
        argv += ["-b", "1", "-k", str(advskew_b if node.name == "fw-b" else 0), "-r", str(dead_ratio), "-P", "-z"]
        for option, action in (("-u", "add"), ("-d", "delete")):
            script = node.directory / f"{action}.sh"
            script.write_text(_UCARP_SCRIPT.format(action=action, address=ADDRESS4))
            script.chmod(0o700)
            argv += [option, str(script)]
        node.start(argv)

    master_down = dead_ratio * SECOND + advskew_b * SKEW
    return Contender(
        daemon="ucarp",
        timers=timers,
        settings=f"-b 1 -r {dead_ratio} -k 0, {advskew_b}",
        interval_ns=SECOND,
        master_down_ns=master_down,
        leave_ns=master_down,
        start=start,
    )


def own_address4(firewall: Firewall) -> str:
    """The firewall's own IPv4 address on the LAN. Ref: carpd.lab.firewalls."""
    return {"fw-a": "192.0.2.2", "fw-b": "192.0.2.3"}[firewall.node.name]


# keepalived

_KEEPALIVED = """\
global_defs {{
    vrrp_rt_priority {realtime}
}}
vrrp_instance lan {{
    version {version}
    state BACKUP
    interface eth1
    virtual_router_id 1
    priority {priority}
    advert_int {interval_s:g}
    {virtual_mac}
    virtual_ipaddress {{
        {address}/24
    }}
}}
"""


def keepalived_argv(firewall: Firewall, configuration: str) -> list[str]:
    """Write its configuration file, and return how it is started.

    With -G: without a syslog its console log stalls it.
    """
    directory = firewall.node.directory
    file = directory / "keepalived.conf"
    file.write_text(configuration)
    argv = ["keepalived", "--vrrp", "-n", "-G", "-f", str(file)]
    for option in ("-p", "-r"):
        pid_file = directory / f"keepalived{option}.pid"
        pid_file.unlink(missing_ok=True)  # of one that was killed: it would not start
        argv += [option, str(pid_file)]
    return argv


def _keepalived(
    timers: str, version: int, interval_ns: int, priorities: tuple[int, int], *, virtual_mac: bool = False
) -> Contender:
    def start(firewall: Firewall) -> None:
        configuration = _KEEPALIVED.format(
            realtime=_REALTIME_PRIORITY,
            version=version,
            priority=priorities[firewall.node.name == "fw-b"],
            interval_s=interval_ns / SECOND,
            virtual_mac="use_vmac\n    vmac_xmit_base" if virtual_mac else "",
            address=ADDRESS4,
        )
        firewall.node.start(keepalived_argv(firewall, configuration))

    skew_ns = (256 - priorities[1]) * (interval_ns if version == 3 else SECOND) // 256
    return Contender(
        daemon="keepalived vmac" if virtual_mac else "keepalived",
        timers=timers,
        settings=f"VRRPv{version}, advert_int {interval_ns / SECOND:g}, priority {priorities[0]}, {priorities[1]}",
        interval_ns=interval_ns,
        master_down_ns=3 * interval_ns + skew_ns,
        leave_ns=skew_ns,
        start=start,
        planned_only=virtual_mac,
    )


CONTENDERS = (
    _carpd(DEFAULT, 1, 0, 100),
    _ucarp(DEFAULT, 3, 100),
    _keepalived(DEFAULT, 2, SECOND, (254, 156)),
    _keepalived(DEFAULT, 2, SECOND, (254, 156), virtual_mac=True),
    _carpd(FASTEST, 0, 1, 1),
    _ucarp(FASTEST, 1, 1),
    _keepalived(FASTEST, 3, 10 * MILLISECOND, (254, 253)),
    _carpd(SAFE, 0, 3, 4),
)
"""In the order of the report: those with equal timers together."""

DAEMONS = tuple(dict.fromkeys(contender.daemon for contender in CONTENDERS))
TIMERS = tuple(dict.fromkeys(contender.timers for contender in CONTENDERS))
