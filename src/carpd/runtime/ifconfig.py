"""`carpctl ifconfig`, on the daemon's side: what it shows, and what it sets until the daemon ends or reads its file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carpd.config import ifconfig
from carpd.config.edits import Edit, Tables, edited, strange, unmade
from carpd.config.ifconfig import DemotionOrder, IfconfigError, StateOrder
from carpd.config.model import Config
from carpd.config.plan import plan
from carpd.config.problems import KeyPath, dotted
from carpd.control.protocol import ControlError, Failure
from carpd.control.server import Access, Command
from carpd.errors import CarpdError
from carpd.nearest import hint
from carpd.runtime.background import in_background
from carpd.runtime.configuration import ConfigurationFile
from carpd.runtime.reload import BadConfigurationError, RefusedError, usable

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
            "ifconfig_save": Command(Access.SECRETS, self.save),
        }

    async def show(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the interface, or group, that is named is like; all without a name."""
        asked = self._asked(request)
        if asked.shown is None:
            raise ControlError(Failure.BAD_REQUEST, "these words set something")
        return {"shown": await self._shown(asked.shown)}

    async def set(self, request: dict[str, Any]) -> dict[str, Any]:
        """Obey the words, of which keys come before orders: what these set stays, whatever becomes of the orders.

        The answer has what has changed, in `refused` the orders that could not be done, a line each, and the paths of
        keys that `save` can be asked for.
        """
        asked = self._asked(request)
        if asked.shown is not None:
            raise ControlError(Failure.BAD_REQUEST, "these words set nothing")
        document: dict[str, Any] = {"plan": [], "problems": [], "failures": [], "refused": [], "paths": []}
        if asked.edits:
            document |= await self._apply(request["words"])
        for order in asked.orders:
            try:
                await self._order(order)
            except ControlError as error:
                if not asked.edits:
                    raise
                document["refused"].append(str(error))
        return document

    async def _apply(self, words: Sequence[str]) -> dict[str, Any]:
        paths: list[KeyPath] = []

        async def wanted() -> tuple[Config, Sequence[str]]:
            config = self._supervisor.config  # others may have changed it before it was our turn
            edits = ifconfig.request(words, config.tables, config.node).edits
            paths.extend(edit.path for edit in edits)
            tables = edited(config.tables, edits)
            new, problems = usable(await in_background(self._file.with_tables, tables, config.node))
            since = tuple(dict.fromkeys((*config.set_since, *paths)))
            return replace(new, set_since=since, in_file=config.in_file or (config.tables,)), problems

        try:
            outcome = await self._supervisor.reloader.go_over_to(wanted, " ".join(("ifconfig", *words[:1])))
            return {**outcome.document(), "paths": [list(path) for path in paths]}
        except BadConfigurationError as error:
            raise ControlError(Failure.CONFIGURATION, str(error)) from error
        except CarpdError as error:
            raise ControlError(Failure.REFUSED, f"nothing was changed: {error}") from error

    async def save(self, request: dict[str, Any]) -> dict[str, Any]:
        """How the file is to be edited to have what was set since it was read; with `paths`, at these alone.

        Whoever asks writes it: the daemon can't. The answer has what changes in the file, a line each, and in `left`
        the interfaces of which it will still not have all.
        """
        paths = _paths(request.get("paths"))
        try:
            async with self._supervisor.reloader.turn:
                config = self._supervisor.config
                wanted = config.set_since if paths is None else [path for path in config.set_since if path in paths]
                saving, in_file = await in_background(self._saving, config, wanted)
                self._supervisor.config = replace(config, in_file=in_file)
            return saving
        except BadConfigurationError as error:
            raise ControlError(Failure.CONFIGURATION, str(error)) from error
        except (CarpdError, OSError) as error:
            raise ControlError(Failure.REFUSED, f"nothing was saved: {error}") from error

    def _saving(self, config: Config, wanted: Sequence[KeyPath]) -> tuple[dict[str, Any], tuple[Tables, ...]]:
        """The answer, and what the file may have then: it is not for us to know what becomes of it.

        Raise CarpdError, OSError.
        """
        file, _ = usable(self._file.of(config.node).read())
        by_hand = strange(config.set_since, file.tables, (*config.in_file, config.tables))
        if lost := [path for path in wanted if path in by_hand]:
            what = f"{self._file.path} was edited after it was read, at {', '.join(map(dotted, lost))}"
            raise RefusedError(f"{what}: say carpctl reload, which reads that, and then the words again")
        edits = unmade(wanted, file.tables, config.tables)
        tables = edited(file.tables, edits)
        left = unmade(config.set_since, tables, config.tables)
        try:
            saved, problems = usable(self._file.with_tables(tables, config.node, to_be_saved=True))
        except BadConfigurationError:
            if left and self._file.with_tables(edited(tables, left), config.node, to_be_saved=True).config:
                why = f"it makes no sense without what was set of {', '.join(_interfaces(left))} before"
                raise RefusedError(f"{why}: carpctl ifconfig --save saves all") from None
            raise
        saving = {
            "file": str(self._file.path),
            "edits": [[list(edit.path), edit.value] for edit in edits],
            "plan": [change.document() for change in plan(file, saved)],
            "problems": [*problems],
            "left": _interfaces(left),
        }
        seen = [path for path in config.set_since if path not in by_hand]
        return saving, _may_have(config, seen, wanted, file.tables, tables)

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


def _paths(answered: Any) -> list[KeyPath] | None:
    """What `set` has answered; None: nothing in particular. Raise ControlError."""
    if answered is None:
        return None
    paths = answered if isinstance(answered, list) else []
    if not paths or not all(isinstance(path, list) and all(isinstance(name, str) for name in path) for path in paths):
        raise ControlError(Failure.BAD_REQUEST, "paths: wants a list of [KEY, ...], as ifconfig_set answers")
    return [tuple(path) for path in paths]


def _may_have(
    config: Config, seen: Sequence[KeyPath], wanted: Sequence[KeyPath], file: Tables, saved: Tables
) -> tuple[Tables, ...]:
    """Of a file that was compared at these paths, and is to be as `saved` where it was wanted. Ref: Config.in_file"""
    if not config.in_file:
        return ()
    compared, to_be_saved = config.in_file[0], config.in_file[-1]
    return (
        edited(compared, unmade(seen, compared, file)),
        edited(to_be_saved, unmade(wanted, to_be_saved, saved)),
    )


def _interfaces(edits: Iterable[Edit]) -> list[str]:
    """What ifconfig calls that which they are of."""
    tables = (edit.path[2:] if edit.path[0] == "node" else edit.path for edit in edits)
    return list(dict.fromkeys(ifconfig.PFSYNC if table[0] == "pfsync" else table[1] for table in tables))
