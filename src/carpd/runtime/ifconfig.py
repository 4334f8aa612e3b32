"""`carpctl ifconfig`, on the daemon's side: what it shows, and what it sets until the daemon ends or reads its file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from carpd.config import ifconfig
from carpd.config.ifconfig import DemotionOrder, Edit, IfconfigError, StateOrder
from carpd.config.model import Config
from carpd.control.nearest import hint
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Access, Command
from carpd.errors import CarpdError
from carpd.runtime.configuration import ConfigurationFile
from carpd.runtime.reload import BadConfigurationError, usable

if TYPE_CHECKING:
    from carpd.runtime.commands import Commands
    from carpd.runtime.supervisor import Supervisor

WORDS_LIMIT = 256
REASON = "operator: carpdemote"
"""Of the demotion that `carpdemote` adds to and takes from."""


class Ifconfig:
    """The words of one supervisor's interfaces."""

    def __init__(self, supervisor: Supervisor, commands: Commands, file: ConfigurationFile) -> None:
        self._supervisor = supervisor
        self._commands = commands
        self._file = file

    def table(self) -> dict[str, Command]:
        """By name: whoever may read may see, whoever may change may set."""
        return {
            "ifconfig": Command(Access.READ, self.show),
            "ifconfig_set": Command(Access.CHANGE, self.set),
        }

    async def show(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the interface, or group, that is named is like; all without a name."""
        asked = self._asked(request)
        if asked.shown is None:
            raise ControlError(Failure.BAD_REQUEST, "these words set something")
        return {"shown": await self._shown(asked.shown)}

    async def set(self, request: dict[str, Any]) -> dict[str, Any]:
        """Obey the words. The answer has what has changed, and the edits that would save it."""
        asked = self._asked(request)
        if asked.shown is not None:
            raise ControlError(Failure.BAD_REQUEST, "these words set nothing")
        document: dict[str, Any] = {"plan": [], "problems": [], "failures": []}
        if asked.edits:
            document |= await self._apply(asked.edits, " ".join(("ifconfig", *request["words"][:1])))
        for order in asked.orders:
            await self._order(order)
        edits = [[list(edit.path), edit.value] for edit in asked.edits]
        return {**document, "file": str(self._file.path), "edits": edits}

    async def _apply(self, edits: Sequence[Edit], what: str) -> dict[str, Any]:
        async def wanted() -> tuple[Config, Sequence[str]]:
            config = self._supervisor.config
            tables = ifconfig.edited(config.tables, edits)
            return usable(await asyncio.to_thread(self._file.with_tables, tables, config.node))

        try:
            return (await self._supervisor.reloader.go_over_to(wanted, what)).document()
        except BadConfigurationError as error:
            raise ControlError(Failure.CONFIGURATION, str(error)) from error
        except CarpdError as error:
            raise ControlError(Failure.REFUSED, f"nothing was changed: {error}") from error

    def _asked(self, request: dict[str, Any]) -> ifconfig.Request:
        words = request.get("words")
        if not isinstance(words, list) or len(words) > WORDS_LIMIT or not all(isinstance(word, str) for word in words):
            raise ControlError(Failure.BAD_REQUEST, f"words: wants a list of at most {WORDS_LIMIT} strings")
        config = self._supervisor.config
        try:
            return ifconfig.request(words, config.tables, config.node)
        except IfconfigError as error:
            raise ControlError(Failure.BAD_REQUEST, str(error)) from error

    async def _order(self, order: StateOrder | DemotionOrder) -> None:
        if isinstance(order, StateOrder):
            await self._commands.state({"name": order.virtual_host, "state": order.state})
            return
        self._known_group(order.group)
        demotions = self._supervisor.demotions
        now = sum(d.amount for d in demotions.of(order.group) if d.reason == REASON)
        amount = min(max(now + order.amount, 0), 255)
        if amount:
            demotions.demote(order.group, REASON, amount)
        elif now:
            demotions.end(order.group, REASON)

    def _known_group(self, group: str) -> None:
        known = {host.group for host in self._supervisor.config.virtual_hosts}
        if group not in known:
            raise ControlError(Failure.NO_SUCH_OBJECT, f"no group {group!r}: {hint(group, sorted(known))}")

    async def _shown(self, what: str) -> dict[str, Any]:
        """All of it, or one interface, or one group."""
        status = await self._commands.status({})
        if what.startswith("-g "):
            group = what.removeprefix("-g ")
            self._known_group(group)
            return {"interfaces": [], "pfsync": None, "groups": [g for g in status["groups"] if g["name"] == group]}
        tables = self._supervisor.config.tables
        names = [*tables.get("carp", {})]
        if what not in ("", ifconfig.PFSYNC, *names):
            known = [*names, ifconfig.PFSYNC]
            raise ControlError(Failure.NO_SUCH_OBJECT, f"no interface {what!r}: {hint(what, known)}")
        interfaces = [self._interface(name, status["virtual_hosts"]) for name in names if what in ("", name)]
        pfsync = self._pfsync(status["pfsync"]) if what in ("", ifconfig.PFSYNC) else None
        return {"interfaces": interfaces, "pfsync": pfsync, "groups": []}

    def _interface(self, name: str, hosts: list[dict[str, Any]]) -> dict[str, Any]:
        """A virtual host of the tables, whether it takes part or not."""
        nodes = [h for h in hosts if name in (h["name"], (h["balancing"] or {}).get("virtual_host"))]
        if not nodes:
            table = self._supervisor.config.tables["carp"][name]
            of_table = table.get("nodes") or {table.get("vhid", 0): table.get("advskew", 0)}
            return {
                "name": name,
                "up": False,
                "interface": table.get("interface", "none"),
                "mac": None,
                "peers": table.get("peers", []),
                "advbase": table.get("advbase", 1),
                "group": table.get("group"),
                "addresses": table.get("addresses", []),
                "balancing": table.get("balancing", "ip") if table.get("nodes") else None,
                "nodes": [{"state": "INIT", "vhid": vhid, "advskew": advskew} for vhid, advskew in of_table.items()],
            }
        first = nodes[0]
        common = {key: first[key] for key in ("interface", "mac", "peers", "advbase", "group", "addresses")}
        mode = first["balancing"]["mode"] if first["balancing"] else None
        of_nodes = [{key: node[key] for key in ("state", "vhid", "advskew")} for node in nodes]
        return {"name": name, "up": True, **common, "balancing": mode, "nodes": of_nodes}

    def _pfsync(self, status: dict[str, Any] | None) -> dict[str, Any] | None:
        """[pfsync] of the configuration, whether it runs or not; None without it."""
        config = self._supervisor.config.pfsync
        table = self._supervisor.config.tables.get("pfsync")
        if config is None:
            if table is None:
                return None
            down = {"syncdev": table.get("syncdev"), "syncpeer": table.get("syncpeer", []), "maxupd": 128}
            return {"up": False, "running": False, **down, "defer": bool(table.get("defer"))}
        return {
            "up": True,
            "running": bool(status and status["running"]),
            "syncdev": config.syncdev,
            "syncpeer": [str(peer) for peer in config.syncpeers],
            "maxupd": config.maxupd,
            "defer": bool(config.defer),
        }
