"""What an operator reads before he says yes: every kind of change has its line, and no secret is ever in one."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from carpd.config.model import (
    Balancing,
    BalancingMode,
    Config,
    ControlConfig,
    Endpoint,
    HookConfig,
    HookEvent,
    Ignore,
    MacMode,
    Mark,
    MetricsConfig,
    PfsyncConfig,
    Transport,
    VirtualHostConfig,
)
from carpd.config.plan import Sign, plan
from carpd.units import MILLISECOND, SECOND

LAN = VirtualHostConfig(
    name="lan", interface="eth1", vhid=1, addresses=(ip_interface("192.0.2.1/24"),), key=b"the password"
)
DMZ = VirtualHostConfig(
    name="dmz",
    interface="eth3",
    vhid=3,
    addresses=(ip_interface("198.51.100.9/24"), ip_interface("2001:db8::9/64")),
    key=b"another password",
)
PFSYNC = PfsyncConfig(syncdev="eth4", secrets=(b"the secret of the two",), secret_file="/etc/carpd/pfsync.key")
HOOK = HookConfig(name="mail", command=("/usr/bin/mail", "root"))
METRICS = MetricsConfig(listen=Endpoint(ip_address("127.0.0.1"), 9120))
CONFIG = Config(node="a", virtual_hosts=(LAN, DMZ), pfsync=PFSYNC, metrics=METRICS, hooks=(HOOK,))


def sharing(advskews: dict[int, int], mode: BalancingMode = BalancingMode.IP) -> tuple[VirtualHostConfig, ...]:
    """The nodes of a virtual host "www"."""
    balancing = Balancing(virtual_host="www", mode=mode, vhids=tuple(advskews))
    return tuple(
        replace(LAN, name=f"www:{vhid}", vhid=vhid, advskew=advskew, balancing=balancing)
        for vhid, advskew in advskews.items()
    )


def lan(**changes: Any) -> tuple[Config, Config]:
    return CONFIG, replace(CONFIG, virtual_hosts=(replace(LAN, **changes), DMZ))


def pfsync(**changes: Any) -> tuple[Config, Config]:
    return CONFIG, replace(CONFIG, pfsync=replace(PFSYNC, **changes))


def nodes(old: tuple[VirtualHostConfig, ...], new: tuple[VirtualHostConfig, ...]) -> tuple[Config, Config]:
    return replace(CONFIG, virtual_hosts=old), replace(CONFIG, virtual_hosts=new)


ANEW = "it is given up and taken anew"
NEEDED = "the other nodes need it, too"
RESTARTED = "pfsyncd is restarted, connections stay"

PLANS: dict[str, tuple[tuple[Config, Config], list[str]]] = {
    "nothing": ((CONFIG, CONFIG), []),
    "a virtual host more": (
        nodes((LAN,), (LAN, DMZ)),
        ["+ virtual host dmz (vhid 3 on eth3): 198.51.100.9/24 2001:db8::9/64"],
    ),
    "one less": (
        nodes((LAN, DMZ), (LAN,)),
        ["- virtual host dmz (vhid 3 on eth3): 198.51.100.9/24 2001:db8::9/64 !"],
    ),
    "another name": (
        nodes((LAN,), (replace(LAN, name="inside"),)),
        ["- virtual host lan (vhid 1 on eth1): 192.0.2.1/24 !", "+ virtual host inside (vhid 1 on eth1): 192.0.2.1/24"],
    ),
    "addresses": (
        lan(addresses=(ip_interface("192.0.2.7/24"), ip_interface("2001:db8::1/64"))),
        [
            f"~ lan: address removed 192.0.2.1/24: {NEEDED} !",
            f"~ lan: address added 192.0.2.7/24: {NEEDED}",
            f"~ lan: address added 2001:db8::1/64: {NEEDED}",
        ],
    ),
    "a prefix length": (
        lan(addresses=(ip_interface("192.0.2.1/25"),)),
        ["~ lan: address 192.0.2.1/24 -> 192.0.2.1/25"],
    ),
    "the order of addresses": (
        nodes((DMZ,), (replace(DMZ, addresses=DMZ.addresses[::-1]),)),
        ["~ dmz: addresses in another order"],
    ),
    "another interface": (lan(interface="eth2"), [f"~ lan: interface eth1 -> eth2: {ANEW} !"]),
    "another vhid": (lan(vhid=7), [f"~ lan: vhid 1 -> vhid 7: {ANEW}: {NEEDED} !"]),
    "another MAC": (lan(mac=MacMode.REAL), [f"~ lan: mac virtual -> real: {ANEW} !"]),
    "timers": (
        lan(advbase=0, advskew=12, others_master_down_ns=211 * MILLISECOND),
        [
            "~ lan: advskew 0 -> 12",
            "~ lan: the quickest of the other nodes takes over after unknown -> 0.211 s",
            "~ lan: advbase 1 -> 0",
        ],
    ),
    "a password": (lan(key=b"it is secret"), [f"~ lan: password changed: {NEEDED}"]),
    "no password any more": (lan(key=b""), [f"~ lan: password removed: {NEEDED}"]),
    "settings": (lan(preempt=True, group="edge"), ["~ lan: preempt false -> true", "~ lan: group carp -> edge"]),
    "peers": (
        lan(peers=(ip_address("192.0.2.3"),), multicast=False),
        ["~ lan: peer added 192.0.2.3", "~ lan: multicast true -> false"],
    ),
    "a virtual host that shares": (
        nodes((LAN,), (LAN, *sharing({1: 0, 2: 100}))),
        ["+ virtual host www (nodes 1, 2, balancing ip on eth1): 192.0.2.1/24"],
    ),
    "a node more": (
        nodes(sharing({1: 0, 2: 100}), sharing({1: 0, 2: 100, 3: 200})),
        [f"~ www: nodes 1, 2, balancing ip -> nodes 1, 2, 3, balancing ip: {ANEW}: {NEEDED} !"],
    ),
    "another mode": (
        nodes(sharing({1: 0, 2: 100}), sharing({1: 0, 2: 100}, BalancingMode.ARP)),
        [f"~ www: nodes 1, 2, balancing ip -> nodes 1, 2, balancing arp: {ANEW}: {NEEDED} !"],
    ),
    "the preference of one node": (
        nodes(sharing({1: 0, 2: 100}), sharing({1: 0, 2: 50})),
        ["~ www:2: advskew 100 -> 50"],
    ),
    "state synchronisation": ((replace(CONFIG, pfsync=None), CONFIG), ["+ pfsync on eth4 (sealed)"]),
    "none any more": ((CONFIG, replace(CONFIG, pfsync=None)), ["- pfsync"]),
    "its settings": (
        pfsync(maxupd=64, syncpeers=(ip_address("10.0.0.2"),)),
        [f"~ pfsync: syncpeer added 10.0.0.2: {RESTARTED}", f"~ pfsync: maxupd 128 -> 64: {RESTARTED}"],
    ),
    "its secrets": (
        pfsync(secrets=(b"a secret that nobody knows", *PFSYNC.secrets)),
        [f"~ pfsync: secrets changed: {RESTARTED}"],
    ),
    "in the open": (
        pfsync(transport=Transport.PLAIN, secrets=(), secret_file=None),
        [
            f"~ pfsync: transport sealed -> plain: {RESTARTED}",
            f"~ pfsync: secrets removed: {RESTARTED}",
            f"~ pfsync: secret_file /etc/carpd/pfsync.key -> none: {RESTARTED}",
        ],
    ),
    "what it ignores": (
        pfsync(ignore=Ignore(addresses=(ip_network("10.0.0.0/8"),), marks=(Mark(7, 0xFF),))),
        [
            f"~ pfsync: ignore: address added 10.0.0.0/8: {RESTARTED}",
            f"~ pfsync: ignore: mark added 0x7/0xff: {RESTARTED}",
        ],
    ),
    "what a bulk update demotes by": (
        pfsync(carp_demotion_factor=0),
        ["~ pfsync: carp_demotion_factor 32 -> 0"],
    ),
    "who may": (
        (CONFIG, replace(CONFIG, control=ControlConfig(read_group="ops"))),
        ["~ control: read_group none -> ops"],
    ),
    "metrics": ((replace(CONFIG, metrics=None), CONFIG), ["+ metrics on 127.0.0.1:9120"]),
    "metrics elsewhere": (
        (CONFIG, replace(CONFIG, metrics=MetricsConfig(listen="/run/carpd/metrics"))),
        ["~ metrics: listen 127.0.0.1:9120 -> /run/carpd/metrics"],
    ),
    "hooks": (
        (CONFIG, replace(CONFIG, hooks=(HookConfig(name="page", command=("/usr/bin/page",)),))),
        ["- hook mail", "+ hook page: /usr/bin/page"],
    ),
    "a hook": (
        (CONFIG, replace(CONFIG, hooks=(replace(HOOK, events=(HookEvent.MASTER,), timeout=5),))),
        ["~ hook mail: event removed backup", "~ hook mail: event removed init", "~ hook mail: timeout 30 -> 5"],
    ),
}


@pytest.mark.parametrize(("configs", "lines"), PLANS.values(), ids=PLANS.keys())
def test_plan(configs: tuple[Config, Config], lines: list[str]) -> None:
    """What ends with "!" gives an address up."""
    assert [f"{change} !" if change.disruptive else str(change) for change in plan(*configs)] == lines


@pytest.mark.parametrize(("configs", "lines"), PLANS.values(), ids=PLANS.keys())
def test_the_way_back(configs: tuple[Config, Config], lines: list[str]) -> None:
    """It has as many lines; what was added is removed."""
    old, new = configs
    back = plan(new, old)
    assert len(back) == len(lines)
    opposite = {Sign.ADDED: Sign.REMOVED, Sign.REMOVED: Sign.ADDED, Sign.CHANGED: Sign.CHANGED}
    assert sorted(opposite[c.sign].value for c in back) == sorted(line[0] for line in lines)


# No key can be forgotten

EVERYTHING = replace(
    CONFIG,
    virtual_hosts=tuple(replace(node, others_master_down_ns=SECOND) for node in sharing({1: 0, 2: 100})),
    control=ControlConfig(read_group="ops", change_group="wheel"),
)
NOT_CHANGED = {"node", "name", "virtual_host"}
"""The same file is read for the same node; names tell what is what, and a change of one is one less and one more."""


def other(value: Any) -> Any:
    """A value of the same kind that is another one."""
    match value:
        case None:
            return "anything"
        case bool():
            return not value
        case enum.Enum():
            return next(member for member in type(value) if member is not value)
        case int():
            return value + 1
        case str():
            return value + "2"
        case bytes():
            return value[::-1]
        case tuple():
            return value[:-1] if value else ("anything",)
        case Endpoint():
            return replace(value, port=value.port + 1)
    raise AssertionError(f"no other {value!r}")


def changed(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a table, and of those in it, with one value in which it alone differs."""
    for field in dataclasses.fields(value):
        here, now = f"{path}.{field.name}".lstrip("."), getattr(value, field.name)
        if field.name in NOT_CHANGED or not field.compare:
            continue
        if isinstance(now, (Ignore, PfsyncConfig, ControlConfig, MetricsConfig, Balancing)):
            for inner, different in changed(now, here):
                yield inner, replace(value, **{field.name: different})
        elif isinstance(now, tuple) and now and dataclasses.is_dataclass(now[0]):
            for inner, different in changed(now[0], here):
                yield inner, replace(value, **{field.name: (different, *now[1:])})
        else:
            yield here, replace(value, **{field.name: other(now)})


FIELDS = dict(changed(EVERYTHING))


@pytest.mark.parametrize("new", FIELDS.values(), ids=FIELDS.keys())
def test_every_field_has_a_line(new: Config) -> None:
    assert plan(EVERYTHING, new)


def test_all_fields_are_among_them() -> None:
    """What is walked through is the whole model."""
    for table, path in (
        (VirtualHostConfig, "virtual_hosts."),
        (Balancing, "virtual_hosts.balancing."),
        (PfsyncConfig, "pfsync."),
        (Ignore, "pfsync.ignore."),
        (ControlConfig, "control."),
        (MetricsConfig, "metrics."),
        (HookConfig, "hooks."),
    ):
        for field in dataclasses.fields(table):
            if field.name not in NOT_CHANGED:
                assert any(f"{name}.".startswith(f"{path}{field.name}.") for name in FIELDS), field.name


def secrets_of(value: Any) -> Iterator[bytes]:
    """Every value of bytes in the model: nothing else is secret, and all of that is."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            yield from secrets_of(element)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from secrets_of(getattr(value, field.name))


@pytest.mark.parametrize("configs", [*(configs for configs, _ in PLANS.values()), (EVERYTHING, CONFIG)])
def test_secrets_are_not_printed(configs: tuple[Config, Config]) -> None:
    secrets = {secret for config in configs for secret in secrets_of(config) if secret}
    assert len(secrets) >= 2
    for change in plan(*configs):
        assert not any(secret.decode() in str(change) for secret in secrets)
