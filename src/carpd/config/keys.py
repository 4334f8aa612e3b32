"""The keys of each table: what a key means, what it may be, and how its TOML value becomes the model's.

These tables are the reference: the parser reads by them, and the manual is checked against them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carpd.config import values
from carpd.config.model import (
    BalancingMode,
    ControlConfig,
    DemotionMode,
    HookConfig,
    HookEvent,
    Ignore,
    MacMode,
    MasterDownRule,
    MetricsConfig,
    PfsyncConfig,
    Transport,
    Version,
    VirtualHostConfig,
)
from carpd.config.problems import kind, show


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    read_one: values.Reader
    meaning: str
    many: bool = False
    """The value is an array, and `read_one` reads an element."""
    required: bool = False
    instead: str = ""
    """It is not required where this key is set."""
    shared: bool = False
    """Nodes that differ in it would not work together: it can't be overridden for a node."""
    secret: bool = False
    """Its value is never printed."""
    keys: Mapping[str, Key] | None = None
    """The value is a table of these keys."""
    default: Any = None
    """What it is where nobody sets it, as the model says; the model knows no key that is only for the parser."""

    def read(self, raw: Any) -> tuple[Any, list[values.Refusal]]:
        """The model's value (None if refused; of an array the elements that are good), and what was refused and why."""
        if not self.many:
            try:
                return self.read_one(raw), []
            except values.PartsError as error:
                return None, error.parts
            except ValueError as error:
                return None, [((), raw, str(error))]
        if not isinstance(raw, list):
            return (), [((), raw, f"must be an array, [{show(raw)}], not {kind(raw)}")]
        good: list[Any] = []
        refused: list[values.Refusal] = []
        for element in raw:
            try:
                good.append(self.read_one(element))
            except ValueError as error:
                refused.append(((), element, str(error)))
        return tuple(good), refused


def _keys_of(model: type, *keys: Key) -> Mapping[str, Key]:
    """By name, with the model's defaults; a key that the model does not know has its own."""
    defaults = {f.name: f.default for f in dataclasses.fields(model) if f.default is not dataclasses.MISSING}
    return {
        key.name: dataclasses.replace(key, default=defaults.get(key.name, () if key.many else key.default))
        for key in keys
    }


CARP_KEYS = _keys_of(
    VirtualHostConfig,
    Key(
        "interface", values.interface_name, "the network interface of the link that the addresses are on", required=True
    ),
    Key(
        "vhid",
        values.integer("a vhid", 1, 255),
        "the number of the virtual host on its link, 1 to 255; for load sharing set nodes instead",
        required=True,
        instead="nodes",
        shared=True,
    ),
    Key(
        "addresses",
        values.virtual_address,
        "the addresses that the nodes share, IPv4 and IPv6, each as ADDRESS/LENGTH",
        many=True,
        required=True,
        shared=True,
    ),
    Key(
        "password_file",
        values.file_name,
        "a file that contains the password, 1 to 19 bytes (a newline at its end does not count)",
    ),
    Key("password", values.text, "the password itself, for a configuration that only carpd can read", secret=True),
    Key("advbase", values.integer("advbase", 0, 254), "seconds from one advertisement to the next, 0 to 254"),
    Key(
        "advskew",
        values.integer("advskew", 0, 254),
        "256ths of a second that are added to advbase, 0 to 254; the node with the smallest is preferred as master",
    ),
    Key(
        "preempt", values.boolean, "whether to take over from a master that advertises more rarely than this node would"
    ),
    Key(
        "nodes",
        values.nodes,
        "load sharing, instead of vhid and advskew: the advskew of this host by vhid, 2 to 32, the same vhids on every "
        "host",
    ),
    Key(
        "balancing",
        values.one_of(BalancingMode),
        'how traffic comes to its node: "ip" (with nodes, if not set), "ip-stealth", "ip-unicast" or "arp"; see below',
        shared=True,
    ),
    Key(
        "group",
        values.short_name("a group", 15),
        "the redundancy group: virtual hosts of one group share their demotion, and so move together",
        shared=True,
    ),
    Key(
        "mac",
        values.one_of(MacMode),
        'which link-layer address answers: "virtual" (00:00:5e:00:01:vhid) or "real" (that of the interface)',
    ),
    Key("peers", values.node_address, "addresses of nodes that are sent every advertisement by unicast", many=True),
    Key("multicast", values.boolean, "whether advertisements are sent to 224.0.0.18 and ff02::12"),
    Key(
        "demotion",
        values.one_of(DemotionMode),
        'how peers are told of a demotion: "counter" (OpenBSD), "advskew" (FreeBSD, NetBSD, ucarp) or "both"',
        shared=True,
    ),
    Key(
        "master_down",
        values.one_of(MasterDownRule),
        'how long a backup waits: "classic" (3 advbase + advskew/256 s) or "openbsd" (3 (advbase + advskew/256) s)',
    ),
    Key(
        "ifdown_demotion_factor",
        values.integer("a demotion factor", 0, 255),
        'what a lost link adds to the demotion of the group, 0 to 255; 1 with demotion = "counter", otherwise 240',
    ),
    Key(
        "senderr_demotion_factor",
        values.integer("a demotion factor", 0, 255),
        "what failing to send adds to it, likewise",
    ),
    Key(
        "digest_link_local",
        values.boolean,
        "whether link-local addresses are part of the digest, as FreeBSD and NetBSD peers want it",
    ),
    Key("up", values.boolean, "whether it takes part; false is as if it were not there", default=True),
)
"""Of [carp.NAME]."""

IGNORE_KEYS = _keys_of(
    Ignore,
    Key("addresses", values.network, "connections from or to these networks and addresses", many=True),
    Key("protocols", values.protocol, 'connections of these IP protocols: names such as "icmp", or numbers', many=True),
    Key("marks", values.mark, 'connections with these conntrack marks: numbers or "VALUE/MASK"', many=True),
    Key("zones", values.integer("a zone", 0, 65535), "connections of these conntrack zones, 0 to 65535", many=True),
)
"""Of [pfsync.ignore]."""

PFSYNC_KEYS = _keys_of(
    PfsyncConfig,
    Key("syncdev", values.interface_name, "the network interface of the link between the nodes", required=True),
    Key(
        "syncpeer",
        values.node_address,
        "addresses of the nodes on that link, this one may be among them; "
        "without: the multicast groups 224.0.0.240 and ff12::f0",
        many=True,
    ),
    Key(
        "transport",
        values.one_of(Transport),
        'how nodes speak: "sealed" (encrypted and authenticated, in UDP) or "plain" (IP protocol 240, as the BSDs)',
        shared=True,
    ),
    Key(
        "secret_file",
        values.file_name,
        "a file of 1 to 8 secrets, one a line, of 16 to 256 characters: the first seals, all open",
    ),
    Key("secret", values.text, "the one secret itself, for a configuration that only carpd can read", secret=True),
    Key("port", values.integer("a port", 1, 65535), "the UDP port of the sealed transport, 1 to 65535", shared=True),
    Key(
        "maxupd",
        values.integer("maxupd", 0, 255),
        "so many changes of a state are merged into one update at most, 0 to 255",
    ),
    Key(
        "max_states",
        values.integer("max_states", 1, 0x7FFFFFFF),
        "so many states are held for the other nodes at most; without: as many as the kernel's table takes",
    ),
    Key("local", values.boolean, "whether connections that end on the firewall itself are synchronised", shared=True),
    Key(
        "version",
        values.one_of(Version),
        'whom to speak with: "linux", or with transport = "plain" "openbsd", or FreeBSD\'s "1301", "1400" or "1500"',
        shared=True,
    ),
    Key(
        "defer",
        values.interface_name,
        "interfaces on which the first packets of a connection that is forwarded leave only when the peers have its "
        "state",
        many=True,
    ),
    Key(
        "carp_demotion_factor",
        values.integer("a demotion factor", 0, 255),
        "what a bulk update adds to the demotion of every group until it is done, 0 to 255; 240 unless all have "
        'demotion = "counter"',
    ),
    Key("up", values.boolean, "whether states are synchronised; false is as if there were no [pfsync]", default=True),
    Key(
        "ignore",
        values.table("[pfsync.ignore]"),
        "what is not synchronised, a table: see below",
        shared=True,
        keys=IGNORE_KEYS,
    ),
)
"""Of [pfsync]."""

CONTROL_KEYS = _keys_of(
    ControlConfig,
    Key("read_group", values.account_name("a group"), "members of this Unix group may ask what the daemon does"),
    Key("change_group", values.account_name("a group"), "members of this Unix group may ask, and change it"),
)
"""Of [control]."""

METRICS_KEYS = _keys_of(
    MetricsConfig,
    Key(
        "listen",
        values.listen,
        'where metrics are to be had: "ADDRESS:PORT", such as "127.0.0.1:9120" or "[::1]:9120", or the path of a Unix '
        "socket",
        required=True,
    ),
)
"""Of [metrics]."""

HOOK_KEYS = _keys_of(
    HookConfig,
    Key(
        "command",
        values.argument,
        "the program, as an absolute path, and its arguments; no shell reads them",
        many=True,
        required=True,
    ),
    Key(
        "events",
        values.one_of(HookEvent),
        'when it is run: "master", "backup", "init" (the new state of a virtual host), "demotion", "sharing", '
        '"pfsync", "reload"; see below',
        many=True,
    ),
    Key(
        "virtual_hosts",
        values.text,
        "for which virtual hosts it is run, by NAME in [carp.NAME]; without: for all",
        many=True,
    ),
    Key("user", values.account_name("a user"), "the user that it runs as; without: the daemon's own"),
    Key(
        "timeout",
        values.integer("a timeout", 1, 3600),
        "seconds after which it is ended, 1 to 3600",
    ),
)
"""Of [hook.NAME]."""
