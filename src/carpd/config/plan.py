"""What a change of the configuration does, a line each, as an operator reads it before he says yes.

    + virtual host dmz (vhid 3 on eth3): 192.0.2.9/24
    ~ lan: advskew 0 -> 50
    ~ wan: interface eth1 -> eth2: it is given up and taken anew
    - hook mail

Secrets are never printed. Every field of the model that differs has its line, whether this file knows it or not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from carpd.config.model import Address, Config, HookConfig, Mark, PfsyncConfig, VirtualHostConfig
from carpd.units import SECOND

_Table = TypeVar("_Table")


class Sign(enum.Enum):
    """As in every diff; CHANGED is what is there before and after it."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


@dataclass(frozen=True, slots=True)
class Change:
    """One line."""

    sign: Sign
    text: str
    disruptive: bool = False
    """An address that this host may be answering for is given up: for a moment, or for good."""

    def __str__(self) -> str:
        return f"{self.sign.value} {self.text}"

    def document(self) -> dict[str, Any]:
        """As JSON's own types."""
        return {"sign": self.sign.value, "text": self.text, "disruptive": self.disruptive}


def plan(old: Config, new: Config) -> tuple[Change, ...]:
    """What changes, in the order of the file; nothing if they are equal."""
    return (
        *_virtual_hosts(old.virtual_hosts, new.virtual_hosts),
        *_table("pfsync", old.pfsync, new.pfsync, _pfsync_summary, _changes_of_pfsync),
        *_fields("control", old.control, new.control),
        *_table("metrics", old.metrics, new.metrics, lambda metrics: f" on {metrics.listen}", _fields),
        *_hooks(old.hooks, new.hooks),
    )


# Virtual hosts: NAME is one of the file, with all of its nodes

_ANEW = ": it is given up and taken anew"
_ON_EVERY_NODE = ": the other nodes need it, too"

_OF_EACH_NODE = ("advskew", "others_master_down_ns")
"""In these the nodes of a virtual host that shares its traffic may differ; in the others they are alike."""

_TOLD_ELSEWHERE = ("name", "vhid", "balancing", "addresses", "key")


def _virtual_hosts(old: Sequence[VirtualHostConfig], new: Sequence[VirtualHostConfig]) -> Iterator[Change]:
    before, after = _by_name(old), _by_name(new)
    for name, nodes in before.items():
        if name not in after:
            yield Change(Sign.REMOVED, _summary(name, nodes), disruptive=True)
    for name, nodes in after.items():
        if name in before:
            yield from _changes_of(name, before[name], nodes)
        else:
            yield Change(Sign.ADDED, _summary(name, nodes))


def _by_name(hosts: Sequence[VirtualHostConfig]) -> dict[str, list[VirtualHostConfig]]:
    found: dict[str, list[VirtualHostConfig]] = {}
    for host in hosts:
        found.setdefault(host.virtual_host, []).append(host)
    return found


def _summary(name: str, nodes: Sequence[VirtualHostConfig]) -> str:
    host = nodes[0]
    addresses = " ".join(map(str, host.addresses))
    return f"virtual host {name} ({_identity(nodes)} on {host.interface}): {addresses}"


def _identity(nodes: Sequence[VirtualHostConfig]) -> str:
    balancing = nodes[0].balancing
    if balancing is None:
        return f"vhid {nodes[0].vhid}"
    return f"nodes {_word(balancing.vhids)}, balancing {balancing.mode.value}"


def _changes_of(name: str, old: Sequence[VirtualHostConfig], new: Sequence[VirtualHostConfig]) -> Iterator[Change]:
    before, after = old[0], new[0]
    if _identity(old) != _identity(new):
        text = f"{name}: {_identity(old)} -> {_identity(new)}{_ANEW}{_ON_EVERY_NODE}"
        yield Change(Sign.CHANGED, text, disruptive=True)
    for field in ("interface", "mac"):
        yield from _field(name, field, before, after, _ANEW, disruptive=True)
    yield from _addresses(name, before.addresses, after.addresses)
    if before.key != after.key:
        yield Change(Sign.CHANGED, f"{name}: password {_of_secret(before.key, after.key)}{_ON_EVERY_NODE}")
    known = {node.vhid if node.balancing else 0: node for node in old}
    for node in new:
        was = known.get(node.vhid if node.balancing else 0)
        if was is not None:
            yield from _field(node.name, "advskew", was, node)
            yield from _patience_of_others(node.name, was.others_master_down_ns, node.others_master_down_ns)
    yield from _fields(name, before, after, leave_out={"interface", "mac", *_OF_EACH_NODE, *_TOLD_ELSEWHERE})


def _addresses(name: str, old: Sequence[Address], new: Sequence[Address]) -> Iterator[Change]:
    before, after = ({address.ip: address for address in addresses} for addresses in (old, new))
    for ip, address in before.items():
        if ip not in after:
            yield Change(Sign.CHANGED, f"{name}: address removed {address}{_ON_EVERY_NODE}", disruptive=True)
        elif after[ip] != address:
            yield Change(Sign.CHANGED, f"{name}: address {address} -> {after[ip]}")
    for ip, address in after.items():
        if ip not in before:
            yield Change(Sign.CHANGED, f"{name}: address added {address}{_ON_EVERY_NODE}")
    if old != new and set(old) == set(new):
        yield Change(Sign.CHANGED, f"{name}: addresses in another order")


def _patience_of_others(name: str, old: int | None, new: int | None) -> Iterator[Change]:
    """The lease is as short as the quickest of the others needs it."""
    if old != new:
        before, after = ("unknown" if wait is None else f"{wait / SECOND:.3f} s" for wait in (old, new))
        yield Change(Sign.CHANGED, f"{name}: the quickest of the other nodes takes over after {before} -> {after}")


# State synchronisation

_RESTARTED = ": pfsyncd is restarted, connections stay"

NEEDS_NO_RESTART = ("carp_demotion_factor",)
"""Of [pfsync]: what pfsyncd itself does not use."""


def needs_restart(old: PfsyncConfig, new: PfsyncConfig) -> bool:
    """Whether a pfsyncd that runs with the old settings must be started anew for the new ones."""
    return replace(old, **{name: getattr(new, name) for name in NEEDS_NO_RESTART}) != new


def _pfsync_summary(pfsync: PfsyncConfig) -> str:
    return f" on {pfsync.syncdev} ({pfsync.transport.value})"


def _changes_of_pfsync(what: str, old: PfsyncConfig, new: PfsyncConfig) -> Iterator[Change]:
    for field in NEEDS_NO_RESTART:
        yield from _field(what, field, old, new)
    yield from _fields(what, old, new, _RESTARTED, leave_out={*NEEDS_NO_RESTART, "ignore"})
    yield from _fields(f"{what}: ignore", old.ignore, new.ignore, _RESTARTED)


# Hooks, and what all tables have in common


def _hooks(old: Sequence[HookConfig], new: Sequence[HookConfig]) -> Iterator[Change]:
    before, after = ({hook.name: hook for hook in hooks} for hooks in (old, new))
    for name in dict.fromkeys((*before, *after)):
        yield from _table(f"hook {name}", before.get(name), after.get(name), _hook_summary, _fields)


def _hook_summary(hook: HookConfig) -> str:
    return f": {' '.join(hook.command)}"


def _table(
    what: str,
    old: _Table | None,
    new: _Table | None,
    summary: Callable[[_Table], str],
    changes: Callable[[str, _Table, _Table], Iterator[Change]],
) -> Iterator[Change]:
    """One that may be missing."""
    if old is None and new is not None:
        yield Change(Sign.ADDED, what + summary(new))
    elif old is not None and new is None:
        yield Change(Sign.REMOVED, what)
    elif old is not None and new is not None:
        yield from changes(what, old, new)


def _fields(what: str, old: Any, new: Any, hint: str = "", leave_out: Collection[str] = ()) -> Iterator[Change]:
    """All that differ, but for those that are told of otherwise."""
    for field in fields(old):
        if field.name not in leave_out:
            yield from _field(what, field.name, old, new, hint)


def _field(what: str, name: str, old: Any, new: Any, hint: str = "", *, disruptive: bool = False) -> Iterator[Change]:
    before, after = getattr(old, name), getattr(new, name)
    if before == after:
        return
    secret = not type(old).__dataclass_fields__[name].repr
    if secret:
        texts = [_of_secret(before, after)]
    elif name in _ELEMENTS:
        texts = [*_of_elements(before, after)]
    else:
        texts = [f"{_word(before)} -> {_word(after)}"]
    for text in texts:
        yield Change(Sign.CHANGED, f"{what}: {_ELEMENTS.get(name, name)} {text}{hint}", disruptive)


_ELEMENTS = {
    "peers": "peer",
    "syncpeers": "syncpeer",
    "defer": "defer",
    "addresses": "address",
    "protocols": "protocol",
    "marks": "mark",
    "zones": "zone",
    "events": "event",
    "virtual_hosts": "virtual host",
}
"""Fields with elements whose order means nothing: each is told of by itself."""


def _of_elements(old: Sequence[Any], new: Sequence[Any]) -> Iterator[str]:
    yield from (f"removed {_word(element)}" for element in old if element not in new)
    yield from (f"added {_word(element)}" for element in new if element not in old)
    if set(old) == set(new):
        yield "order changed"


def _of_secret(old: object, new: object) -> str:
    return "changed" if old and new else "set" if new else "removed"


def _word(value: object) -> str:
    """A value about as the file has it."""
    match value:
        case None | () | "":
            return "none"
        case bool():
            return "true" if value else "false"
        case enum.Enum():
            return str(value.value)
        case tuple():
            return ", ".join(map(_word, value))
        case Mark():
            return f"{value.value:#x}/{value.mask:#x}"
        case _:
            return str(value)
