"""What values of [control], [metrics] and [hook.NAME] must not be, with each other, and on the host that reads them."""

from __future__ import annotations

import grp
import pwd
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from carpd.config.model import Endpoint
from carpd.config.problems import Problems, Severity, nearest
from carpd.config.rules import Rule
from carpd.config.settings import Settings

HOOK_RULES = (
    Rule(
        Severity.ERROR,
        ("command",),
        lambda hook: not hook["command"],
        'there is no program: write at least ["/usr/local/sbin/PROGRAM"]',
    ),
    Rule(
        Severity.ERROR,
        ("command",),
        lambda hook: bool(hook["command"]) and not hook["command"][0].startswith("/"),
        "its first element is the program, as an absolute path, such as /usr/local/sbin/PROGRAM",
    ),
    Rule(
        Severity.ERROR,
        ("events",),
        lambda hook: not hook["events"],
        "it would never run: name events, or leave the key out",
    ),
)


def check_hooks(hooks: Iterable[Settings], hosts: Iterable[Settings], problems: Problems) -> None:
    """A hook is run for virtual hosts that there are."""
    known = tuple(host.name for host in hosts)
    for hook in hooks:
        for name in hook["virtual_hosts"]:
            if name not in known:
                path, _ = hook.place("virtual_hosts")
                problems.error(path, f"there is no such virtual host: {nearest(name, known)}", name)


def check_listen(metrics: Settings, hosts: Iterable[Settings], problems: Problems) -> None:
    """Metrics are had from each node."""
    listen = metrics["listen"]
    shared = {address.ip for host in hosts for address in host["addresses"]}
    if isinstance(listen, Endpoint) and listen.address in shared:
        path, value = metrics.place("listen")
        problems.error(path, "a shared address is only on its master: use one that this node has of its own", value)


def check_accounts(tables: Iterable[Settings], problems: Problems) -> None:
    """This host knows the groups of [control] and the users of hooks."""
    for table in tables:
        for key, what, find, add in (
            ("read_group", "group", grp.getgrnam, "groupadd"),
            ("change_group", "group", grp.getgrnam, "groupadd"),
            ("user", "user", pwd.getpwnam, "useradd"),
        ):
            if key in table.keys and table.usable(key) and (name := table[key]) and not _exists(find, name):
                path, value = table.place(key)
                message = f"this host has no such {what}: make it ({add} --system {name}), or name another"
                problems.error(path, message, value)


def _exists(find: Callable[[str], object], name: str) -> bool:
    try:
        find(name)
    except KeyError:
        return False
    return True


def check_programs(hooks: Iterable[Settings], problems: Problems) -> None:
    """The programs of hooks are on this host, can be run, and are changed by nobody else."""
    for hook in hooks:
        if not hook.usable("command") or not hook["command"] or not hook["command"][0].startswith("/"):
            continue
        path, value = hook.place("command")
        program = Path(hook["command"][0])
        try:
            mode = program.stat().st_mode
        except OSError as error:
            message = f"{program}: {error.strerror}: the hook fails until it is there"
            problems.add(Severity.WARNING, path, message, value)
            continue
        if not stat.S_ISREG(mode) or not mode & 0o111:
            message = f"{program} is not executable: make it so (chmod +x), or the hook fails"
            problems.add(Severity.WARNING, path, message, value)
        if (writable := _writable_by_others(program)) is not None:
            message = f"others can write {writable}, and so run what they like: take that from them (chmod o-w)"
            problems.error(path, message, value)


def _writable_by_others(program: Path) -> Path | None:
    """The program, or a directory above it, if anybody may replace it there."""
    for path in dict.fromkeys((program, *program.parents, program.resolve(), *program.resolve().parents)):
        mode = path.stat().st_mode
        if mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
            return path
    return None
