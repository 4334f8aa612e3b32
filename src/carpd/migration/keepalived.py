"""keepalived.conf: VRRP instances and their sync groups.

VRRP and CARP don't understand each other: all routers of a group move at the same time. Ref: keepalived.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from carpd.migration import blocks
from carpd.migration.blocks import Statement
from carpd.migration.found import Found, Table, number
from carpd.migration.ifconfig import unicast

HIGHEST_PRIORITY = 255
"""Of VRRP: an advskew is so much less priority as there is to this. The order of the hosts stays."""

_COMMENT = "#!"
_INCLUDE = re.compile("include[a-z]?")
"""With a letter for what is to be an error."""
_GROUP_NAME_LIMIT = 15

_ADDRESS_OPTIONS = {"brd": 1, "scope": 1, "preferred_lft": 1, "label": 1, "dev": 1}
"""Words that may follow an address, and how many values each has."""

_NOTIFY = {"notify_master": "master", "notify_backup": "backup", "notify_fault": "", "notify_stop": "", "notify": ""}

_UNKNOWN = "is no keyword that import knows"

_ANNOUNCED = "a new master announces itself at once, and again some advertisements later"
_ONLY_CHANGES = "a [hook.NAME] hears of changes of state"
_INSTANCE_LEFT = {
    "state": "the election decides: every host begins as backup",
    "mcast_src_ip": "advertisements come from the first address of the interface",
    "unicast_src_ip": "advertisements come from the first address of the interface",
    "preempt_delay": "preemption has no delay; with [pfsync] a host waits for the states of the others first",
    "track_script": "let the script run `carpctl demote NAME --by N` when it fails",
    "track_file": "let who writes the file run `carpctl demote NAME --by N`",
    "track_process": "let who watches the process run `carpctl demote NAME --by N`",
    "track_bfd": "let who hears of it run `carpctl demote NAME --by N`",
    "virtual_routes": "routes are not moved: a [hook.NAME] can set them",
    "virtual_rules": "rules are not moved: a [hook.NAME] can set them",
    "version": "VRRP's version: CARP has its own",
    "native_ipv6": "the families are those of the addresses",
    "smtp_alert": "a [hook.NAME] can send mail",
    "dont_track_primary": "a host without a link can't be master",
    "accept": "the addresses are the master's own",
    "no_accept": "the addresses are the master's own",
    "strict_mode": "it is VRRP's",
    "vmac_xmit_base": "advertisements leave by the interface itself",
    "higher_prio_send_advert": "CARP has rules of its own",
    "lvs_sync_daemon_interface": "load balancing is no business of carpd",
    "global_tracking": "let who watches run `carpctl demote NAME --by N`",
    "sync_group_tracking_weight": "a demotion is of the whole group",
    "debug": "`carpctl monitor` shows what happens",
    "notify_master_rx_lower_pri": _ONLY_CHANGES,
    "notify_priority_changes": _ONLY_CHANGES,
    "notify_deleted": _ONLY_CHANGES,
    **dict.fromkeys(
        (
            *("garp_master_delay", "garp_master_repeat", "garp_master_refresh", "garp_master_refresh_repeat"),
            *("garp_lower_prio_delay", "garp_lower_prio_repeat", "garp_interval", "gna_interval"),
        ),
        _ANNOUNCED,
    ),
}

_GLOBAL_LEFT = {
    "virtual_server": "load balancing is no business of carpd: keepalived can go on doing it, without VRRP",
    "virtual_server_group": "load balancing is no business of carpd: keepalived can go on doing it, without VRRP",
    "real_server": "load balancing is no business of carpd: keepalived can go on doing it, without VRRP",
    "vrrp_script": _INSTANCE_LEFT["track_script"],
    "global_defs": "the settings of keepalived itself",
    "static_ipaddress": "set addresses as the system does",
    "static_routes": "set routes as the system does",
}


def recognises(_: str, text: str) -> bool:
    return bool(re.search(r"(?m)^\s*(?:@\S+\s+)?(vrrp_instance|vrrp_sync_group|vrrp_script|global_defs)\b", text))


def read(file: str, text: str, found: Found) -> None:
    """Raise MigrationError if its braces don't match."""
    groups: list[_Group] = []
    instances: list[_Instance] = []
    for statement in _for_this_host(blocks.parse(file, text, _COMMENT), found):
        if statement.keyword == "vrrp_instance" and statement.block is not None:
            instances.append(_Instance(statement, found))
        elif statement.keyword == "vrrp_sync_group" and statement.block is not None:
            groups.append(_Group(statement, found))
        else:
            found.leave(statement.place, str(statement), _GLOBAL_LEFT.get(statement.keyword, "nothing of VRRP"))
    names = {member: group.name for group in groups for member in group.members}
    for instance in instances:
        instance.finish(names, instances)
    tables = {instance.table.name: instance.table for instance in instances}
    for group in groups:
        _tell_of_unwatched(group.tracked, [tables[name] for name in group.members if name in tables], found)
        for script in group.scripts:
            _suggest_hook(script, next((tables[name] for name in group.members if name in tables), None), found)


def finish(found: Found) -> None:
    unicast(found)
    for table in found.hosts[:1]:
        reason = "VRRP and CARP don't understand each other: change all hosts at the same time"
        found.note(table.place, f"vrrp_instance {table.name}", reason)


def _for_this_host(statements: list[Statement], found: Found) -> Iterator[Statement]:
    """Without definitions and inclusions, and without what begins with @ and is for another host."""
    for statement in statements:
        keyword = statement.keyword
        if keyword.startswith("@"):
            name = keyword[1:].removeprefix("^")
            if found.node is None:
                found.leave(statement.place, str(statement), f"is for {keyword[1:]}: say who this host is, --node NAME")
                continue
            if (name == found.node) is keyword.startswith("@^"):
                continue
            statement = Statement(statement.place, statement.words[1:], statement.block)
        if _INCLUDE.fullmatch(statement.keyword):
            found.leave(statement.place, str(statement), "is not followed: give the files that it names")
        elif any("$" in word or word.startswith("~") for word in statement.words):
            found.leave(statement.place, str(statement), "definitions are not followed: write the values")
        else:
            yield statement


def _tell_of_unwatched(tracked: Sequence[Statement], hosts: Sequence[Table], found: Found) -> None:
    """Of the interfaces that a group, or an instance of it, is to watch."""
    watched = {table.values.get("interface") for table in hosts}
    for statement in tracked:
        if found.interface(statement.keyword) not in watched:
            reason = "only interfaces of virtual hosts of the same group are watched: put one there, or use a hook"
            found.leave(statement.place, f"track_interface {statement}", reason)
        elif statement.value:
            reason = "a group without the link can't be master: there are no weights"
            found.leave(statement.place, f"track_interface {statement}", reason)


def _suggest_hook(statement: Statement, table: Table | None, found: Found) -> None:
    """For a statement that names a script, which may have arguments in quotes, or a user to run it behind it."""
    if table is None:
        found.leave(statement.place, str(statement), "the group has no vrrp_instance")
        return
    user, groups = "".join(statement.words[2:3]), statement.words[3:]
    found.script(table, statement.place, _NOTIFY[statement.keyword], statement.value.split(), user)
    if groups:
        found.leave(statement.place, f"{statement.keyword} … {' '.join(groups)}", "a hook has the groups of its user")
    found.note(statement.place, str(statement), "see [hook.NAME] below: it is told what happens otherwise")


class _Group:
    """One vrrp_sync_group."""

    def __init__(self, block: Statement, found: Found) -> None:
        self.name = block.value
        self.members: list[str] = []
        self.scripts: list[Statement] = []
        self.tracked: list[Statement] = []
        for statement in _for_this_host(block.items, found):
            if statement.keyword == "group":
                self.members += (word for item in _for_this_host(statement.items, found) for word in item.words)
            elif statement.keyword in _NOTIFY:
                self.scripts.append(statement)
            elif statement.keyword == "track_interface":
                self.tracked += _for_this_host(statement.items, found)
            else:
                reason = _INSTANCE_LEFT.get(statement.keyword, _UNKNOWN)
                found.leave(statement.place, str(statement), reason)


class _Instance:
    """One vrrp_instance."""

    def __init__(self, block: Statement, found: Found) -> None:
        self.found = found
        self.table: Table = found.host(block.value, block.place)
        self._tracked: list[Statement] = []
        found.set(self.table, "preempt", True, block.place)
        found.set(self.table, "mac", "real", block.place, 'as keepalived; with "virtual" clients see one MAC for ever')
        known: dict[str, Callable[[Statement], None]] = {
            "interface": lambda s: found.set(self.table, "interface", found.interface(s.value), s.place),
            "virtual_router_id": lambda s: found.set(self.table, "vhid", number(s.value), s.place),
            "priority": self._priority,
            "advert_int": self._interval,
            "nopreempt": lambda s: found.set(self.table, "preempt", False, s.place),
            "preempt": lambda s: found.set(self.table, "preempt", True, s.place),
            "use_vmac": lambda s: found.set(self.table, "mac", "virtual", s.place),
            "virtual_ipaddress": self._addresses,
            "virtual_ipaddress_excluded": self._addresses,
            "authentication": self._authentication,
            "unicast_peer": self._peers,
            "track_interface": self._track,
        }
        statements = sorted(_for_this_host(block.items, found), key=lambda s: s.keyword != "interface")
        for statement in statements:  # the interface first: it says what is usual of the others
            if statement.keyword in known:
                known[statement.keyword](statement)
                if statement.behind:
                    found.leave(statement.place, str(statement), "has more than a value")
            elif statement.keyword in _NOTIFY:
                _suggest_hook(statement, self.table, found)
            else:
                reason = _INSTANCE_LEFT.get(statement.keyword, _UNKNOWN)
                found.leave(statement.place, str(statement), reason)

    def finish(self, groups: dict[str, str], instances: list[_Instance]) -> None:
        """What depends on the others."""
        name = groups.get(self.table.name)
        if name is None:
            self.table.alone = True
        else:
            group = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:_GROUP_NAME_LIMIT]
            self.found.set(self.table, "group", group, self.table.place, f"vrrp_sync_group {name}")
        same_group = [
            i.table for i in instances if i is self or (name is not None and groups.get(i.table.name) == name)
        ]
        _tell_of_unwatched(self._tracked, same_group, self.found)

    def _priority(self, statement: Statement) -> None:
        priority = number(statement.value)
        if isinstance(priority, int) and 1 <= priority <= HIGHEST_PRIORITY:
            advskew = HIGHEST_PRIORITY - priority
            self.found.set(self.table, "advskew", advskew, statement.place, f"255 less the priority, {priority}")
        else:
            self.found.leave(statement.place, str(statement), "a priority is 1 to 255")

    def _interval(self, statement: Statement) -> None:
        """VRRP version 3 has hundredths of a second, advbase whole ones."""
        match = re.fullmatch(r"([0-9]{1,3})(\.[0-9]{1,9})?", statement.value)
        if match is None:
            self.found.leave(statement.place, str(statement), "is no time in seconds")
            return
        seconds = max(1, int(match[1]) + (match[2] is not None and float(match[2]) >= 0.5))
        if float(statement.value) != seconds:
            reason = f'advbase has whole seconds: {seconds}; for less see "Fast timers" in docs/configuration.md'
            self.found.note(statement.place, str(statement), reason)
        self.found.set(self.table, "advbase", seconds, statement.place)

    def _addresses(self, block: Statement) -> None:
        for statement in _for_this_host(block.items, self.found):
            address, *rest = statement.words or [""]
            self.found.add(self.table, "addresses", address, statement.place)
            while rest:
                word = rest.pop(0)
                values = [rest.pop(0) for _ in range(min(_ADDRESS_OPTIONS.get(word, 0), len(rest)))]
                if word == "dev" and values == [self.table.values.get("interface")]:
                    continue
                text = " ".join((address, word, *values))
                reason = "only the address is taken over, on the interface of the instance"
                self.found.leave(statement.place, text, reason)

    def _authentication(self, block: Statement) -> None:
        for statement in _for_this_host(block.items, self.found):
            if statement.keyword == "auth_pass":
                self.found.password(self.table, statement.value, statement.place, cut=True)
                reason = "everybody on the link could read it in VRRP: choose another"
                self.found.note(statement.place, "auth_pass", reason)
                if statement.behind:
                    self.found.leave(statement.place, str(statement), "has more than a value")
            elif statement.words != ["auth_type", "PASS"]:
                self.found.leave(statement.place, str(statement), "CARP has an HMAC with the password")

    def _peers(self, block: Statement) -> None:
        for statement in _for_this_host(block.items, self.found):
            self.found.add(self.table, "peers", statement.keyword, statement.place)
            if statement.words[1:]:
                text = " ".join(statement.words)
                self.found.leave(statement.place, text, "advertisements have, and need, a TTL of 255")

    def _track(self, block: Statement) -> None:
        self._tracked += _for_this_host(block.items, self.found)
