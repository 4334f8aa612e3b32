"""[control], [metrics] and [hook.NAME]: what `carpd --check` says about them, and what comes of them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from carpd.config.keys import HOOK_KEYS
from carpd.config.model import ControlConfig, Endpoint, HookConfig, HookEvent, MetricsConfig
from carpd.config.parse import Loaded, load

LAN = """\
[carp.lan]
interface = "eth1"
vhid = 1
addresses = ["192.0.2.1/24", "2001:db8::1/64"]
password = "xyzzy"
"""
"""A good virtual host, in lines 1 to 5."""

FORM = 'must be "ADDRESS:PORT", such as "127.0.0.1:9120" or "[::1]:9120", or the path of a socket'
EVENTS = 'must be "master" or "backup" or "init" or "demotion" or "sharing" or "pfsync" or "reload"'
SHARED = "a shared address is only on its master: use one that this node has of its own"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file yet to be written, with programs beside it."""
    tmp_path.chmod(0o755)
    for name, mode in {"program": 0o755, "text": 0o644, "open": 0o757}.items():
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    for name, mode in {"directory": 0o755, "open-directory": 0o777, "sticky": 0o1777}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        (tmp_path / name / "program").write_text("#!/bin/sh\n")
        (tmp_path / name / "program").chmod(0o755)
    (tmp_path / "link").symlink_to("open-directory/program")
    return tmp_path / "carpd.toml"


def read(file: Path, text: str, node: str = "fw-a") -> Loaded:
    """`DIR` in it is the directory of the file."""
    file.touch(mode=0o600)
    file.write_text(LAN + text.replace("DIR", str(file.parent)))
    return load(file, node)


def lines(loaded: Loaded, file: Path) -> list[str]:
    """The problems as printed, without the names of the file and of its directory."""
    return [
        str(problem).removeprefix(f"{file}:").lstrip().replace(str(file.parent), "DIR") for problem in loaded.problems
    ]


def hook(*keys: str, command: str = '["DIR/program"]') -> str:
    """A good hook in lines 6 and 7, and these keys from line 8 on."""
    return "\n".join(["[hook.x]", f"command = {command}", *keys, ""])


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "all keys": (
        '[control]\nread_group = "adm"\nchange_group = "root"\n[metrics]\nlisten = "0.0.0.0:9120"\n'
        + hook('events = ["master", "reload"]', 'virtual_hosts = ["lan"]', 'user = "nobody"', "timeout = 3600"),
        [],
    ),
    "empty tables": (
        "[control]\n[metrics]\n[hook]\n[hook.x]\n",
        [
            f"9: error: hook.x.command: is missing: it is {HOOK_KEYS['command'].meaning}",
            '7: error: metrics.listen: is missing: it is where metrics are to be had: "ADDRESS:PORT", such as '
            '"127.0.0.1:9120" or "[::1]:9120", or the path of a Unix socket',
        ],
    ),
    "no tables": (
        "[[control]]\n[[hook]]\n",
        [
            "6: error: control = [{}]: must be a table, [control], not an array",
            "7: error: hook = [{}]: must be a table, [hook.NAME], not an array",
        ],
    ),
    "misspelt": (
        '[contrl]\n[metrics]\nlistem = 3\nlisten = "/run/m"\n' + hook("evens = 1"),
        [
            "6: error: contrl: unknown table: did you mean 'control'?",
            "8: error: metrics.listem = 3: unknown key: did you mean 'listen'?",
            "12: error: hook.x.evens = 1: unknown key: did you mean 'events'?",
        ],
    ),
    "groups": (
        '[control]\nread_group = "no-such-group"\nchange_group = "a b"\n',
        [
            '7: error: control.read_group = "no-such-group": this host has no such group: make it (groupadd --system '
            "no-such-group), or name another",
            '8: error: control.change_group = "a b": a group is given by its name, of the characters A-Z a-z 0-9 _ . -',
        ],
    ),
    "a group by its number": (
        "[control]\nread_group = 4\n",
        ["7: error: control.read_group = 4: must be a string, not a whole number"],
    ),
    **{
        f"listen = {listen}": (f"[metrics]\nlisten = {listen}\n", [f"7: error: metrics.listen = {listen}: {FORM}"])
        for listen in (
            *('"localhost:9120"', '":9120"', '"127.0.0.1"', '"127.0.0.1:0"', '"127.0.0.1:65536"', '"::1:9120"'),
            *('"[127.0.0.1]:9120"', '"[]:1"', '"run/metrics.sock"', '""', '"127.0.0.256:1"', '"[::1]"'),
        )
    },
    "a long path": (
        f'[metrics]\nlisten = "/{"x" * 107}"\n',
        [
            f'7: error: metrics.listen = "/{"x" * 57}…: the path of a Unix socket has at most 107 bytes, none of them '
            "zero"
        ],
    ),
    "metrics at a shared address": (
        '[metrics]\nlisten = "[2001:db8::1]:9120"\n',
        [f'7: error: metrics.listen = "[2001:db8::1]:9120": {SHARED}'],
    ),
    "metrics of one node at a shared address": (
        '[metrics]\nlisten = "192.0.2.2:1"\n[node.fw-b]\nmetrics.listen = "192.0.2.1:1"\ncarp.lan.advskew = 1\n',
        [f'9: error: node.fw-b.metrics.listen = "192.0.2.1:1": {SHARED}'],
    ),
    "overrides of what is not there": (
        '[node.fw-b.metrics]\nlisten = "192.0.2.2:1"\n'
        "[node.fw-b.hook.y]\ntimeout = 1\n[node.fw-b.carp.lan]\nadvskew = 1\n" + hook(),
        [
            "6: error: node.fw-b.metrics: there is no [metrics]: write there what the nodes have in common",
            "8: error: node.fw-b.hook.y: unknown hook: known are x",
        ],
    ),
    "events and virtual hosts": (
        hook('events = ["master", "Backup"]', 'virtual_hosts = ["lam", "lan", 3]'),
        [
            f'8: error: hook.x.events = "Backup": {EVENTS}',
            "9: error: hook.x.virtual_hosts = 3: must be a string, not a whole number",
            "9: error: hook.x.virtual_hosts = \"lam\": there is no such virtual host: did you mean 'lan'?",
        ],
    ),
    "no event": (
        hook("events = []"),
        ["8: error: hook.x.events = []: it would never run: name events, or leave the key out"],
    ),
    "timeouts": (
        hook("timeout = 0") + '[hook.y]\ncommand = ["DIR/program"]\ntimeout = 3601\n',
        [
            "8: error: hook.x.timeout = 0: a timeout is 1 to 3600",
            "11: error: hook.y.timeout = 3601: a timeout is 1 to 3600",
        ],
    ),
    "a name": (
        hook().replace("hook.x", 'hook."x y"'),
        ['6: error: hook."x y": the name of a hook has 1 to 32 of the characters A-Z a-z 0-9 _ -'],
    ),
    "a user": (
        hook('user = "no-such-user"'),
        [
            '8: error: hook.x.user = "no-such-user": this host has no such user: make it (useradd --system '
            "no-such-user), or name another"
        ],
    ),
    "a command that is a string": (
        hook(command='"/bin/true"'),
        ['7: error: hook.x.command = "/bin/true": must be an array, ["/bin/true"], not a string'],
    ),
    "no program": (
        hook(command="[]"),
        ['7: error: hook.x.command = []: there is no program: write at least ["/usr/local/sbin/PROGRAM"]'],
    ),
    "a relative program": (
        hook(command='["true", "/bin"]'),
        [
            '7: error: hook.x.command = ["true", "/bin"]: its first element is the program, as an absolute path, such '
            "as /usr/local/sbin/PROGRAM"
        ],
    ),
    "an argument with a zero byte": (
        hook(command=r'["/bin/true", "\u0000"]'),
        [r'7: error: hook.x.command = "\u0000": a program can' "'t be given a zero byte"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(file: Path, text: str, expected: list[str]) -> None:
    loaded = read(file, text)
    assert sorted(lines(loaded, file)) == sorted(expected)
    assert (loaded.config is None) == any("error: " in line for line in expected)


CHANGES = "and so run what they like: take that from them (chmod o-w)"

PROGRAMS: dict[str, tuple[str, str]] = {
    "good": ("DIR/program", ""),
    "in a directory": ("DIR/directory/program", ""),
    "in a directory like /tmp": ("DIR/sticky/program", ""),
    "missing": ("DIR/missing", "warning: DIR/missing: No such file or directory: the hook fails until it is there"),
    "not executable": ("DIR/text", "warning: DIR/text is not executable: make it so (chmod +x), or the hook fails"),
    "a directory": (
        "DIR/directory",
        "warning: DIR/directory is not executable: make it so (chmod +x), or the hook fails",
    ),
    "anybody's": ("DIR/open", f"error: others can write DIR/open, {CHANGES}"),
    "in anybody's directory": ("DIR/open-directory/program", f"error: others can write DIR/open-directory, {CHANGES}"),
    "a link into anybody's directory": ("DIR/link", f"error: others can write DIR/open-directory, {CHANGES}"),
}


@pytest.mark.parametrize(("program", "expected"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs(file: Path, program: str, expected: str) -> None:
    """Whatever is wrong with it on this host: the severity and the message."""
    loaded = read(file, hook(command=f'["{program}"]'))
    found = [f"{p.severity.value}: {p.message}".replace(str(file.parent), "DIR") for p in loaded.problems]
    assert found == ([expected] if expected else [])
    assert {p.line for p in loaded.problems} <= {7}


def test_what_is_not_set(file: Path) -> None:
    """Nobody but root may use the socket, there are no metrics and no hooks."""
    config = read(file, "").config
    assert config is not None
    assert (config.control, config.metrics, config.hooks) == (ControlConfig(), None, ())


def test_the_model(file: Path) -> None:
    """A node's own settings go over those that the nodes have in common."""
    text = """
        [control]
        read_group = "adm"
        [metrics]
        listen = "127.0.0.1:9120"
        [hook.x]
        command = ["DIR/program", "a b"]
        [hook.y]
        command = ["DIR/program"]
        events = ["demotion"]
        virtual_hosts = ["lan"]
        user = "nobody"
        timeout = 5
        [node.fw-b]
        metrics.listen = "[2001:db8::2]:80"
        hook.x.timeout = 7
        [node.fw-c]
        metrics.listen = "/run/carpd/metrics.sock"
        control.change_group = "adm"
    """
    by_node = {}
    for node in ("fw-a", "fw-b", "fw-c"):
        loaded = read(file, text, node)
        assert loaded.config is not None, loaded.problems
        by_node[node] = loaded.config
    a, b, c = by_node.values()
    assert (a.control, c.control) == (
        ControlConfig(read_group="adm"),
        ControlConfig(read_group="adm", change_group="adm"),
    )
    assert a.metrics == MetricsConfig(listen=Endpoint(ip_address("127.0.0.1"), 9120))
    assert b.metrics == MetricsConfig(listen=Endpoint(ip_address("2001:db8::2"), 80))
    assert c.metrics == MetricsConfig(listen="/run/carpd/metrics.sock")
    program = str(file.parent / "program")
    x = HookConfig(name="x", command=(program, "a b"))
    assert (x.events, x.timeout) == ((HookEvent.MASTER, HookEvent.BACKUP, HookEvent.INIT), 30)
    y = HookConfig(
        name="y",
        command=(program,),
        events=(HookEvent.DEMOTION,),
        virtual_hosts=("lan",),
        user="nobody",
        timeout=5,
    )
    assert a.hooks == (x, y)
    assert b.hooks == (HookConfig(name="x", command=(program, "a b"), timeout=7), y)
