"""Whatever is in a file: problems of one line each, and a configuration exactly if none of them is an error."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carpd.config.keys import CARP_KEYS, CONTROL_KEYS, HOOK_KEYS, IGNORE_KEYS, METRICS_KEYS, PFSYNC_KEYS
from carpd.config.locate import key_lines
from carpd.config.parse import load

VALUES = st.recursive(
    st.booleans()
    | st.integers().map(str)
    | st.floats().map(str)
    | st.just("1979-05-27")
    | st.just("07:32:00")
    | st.sampled_from(
        [
            "0",
            "1",
            "255",
            '"0x1/0xf"',
            '"plain"',
            '"1301"',
            '"pfsync.key"',
            '"192.0.2.1"',
            '"fe80::1/64"',
            '"virtual"',
            '"eth1"',
            '"ip"',
            "{ 1 = 0, 2 = 100 }",
            "{ 255 = 254, 7 = true, 256 = 0, 01 = 1 }",
            r'"\u0000"',
            '["/bin/true"]',
            '"127.0.0.1:1"',
            '"/"',
        ]
    )
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\"\\'"), max_size=20).map(
        '"{}"'.format
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: "[" + ", ".join(map(str, values)) + "]")
        | st.lists(inner, max_size=3).map(lambda v: "{" + ", ".join(f"k{i} = {x}" for i, x in enumerate(v)) + "}")
    ),
    max_leaves=5,
).map(lambda value: str(value).lower() if isinstance(value, bool) else str(value))
NAMES = st.sampled_from(
    [
        *CARP_KEYS,
        *PFSYNC_KEYS,
        *IGNORE_KEYS,
        *CONTROL_KEYS,
        *METRICS_KEYS,
        *HOOK_KEYS,
        "carp",
        "pfsync",
        "control",
        "metrics",
        "hook",
        "node",
        "lan",
        "dmz",
        "fw-b",
        "1",
        "2",
        '"a b"',
        '"é\\n"',
    ]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
SNIPPETS = (
    st.builds("{} = {}\n".format, PATHS, VALUES)
    | st.builds("\n[{}]\n".format, PATHS)
    | st.sampled_from(["\n", "#", '"', "'''", '"""', "[", "]", "{", "}", "=", ",", ".", "\\", "\r\n", "\0", "é"])
)
SOURCE = (
    (Path(__file__).parents[2] / "packaging" / "carpd.toml").read_text().replace("/etc/carpd/", "")
    + """
[node.fw-b.pfsync]
maxupd = 64

[carp.dmz]
interface = "eth3"
nodes = { 1 = 0, 2 = 100 }
balancing = "ip-stealth"
addresses = ["203.0.113.1/24"]
password_file = "password"
preempt = true

[node.fw-b.carp.dmz.nodes]
1 = 100
2 = 0

[pfsync.ignore]
addresses = ["192.0.2.0/24", "2001:db8::/32"]
protocols = ["icmp", 47]
marks = [5, "0x10/0xff"]
zones = [1]

[control]
read_group = "adm"

[metrics]
listen = "[::1]:9120"

[hook.log]
command = ["/usr/bin/logger", "-t", "carp"]
virtual_hosts = ["lan"]
user = "nobody"

[node.fw-b.hook.log]
events = ["demotion"]
timeout = 5
"""
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good file in which a few pieces were cut out, or put in."""
    text = SOURCE
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 40))
        text = text[:start] + draw(st.just("") | SNIPPETS) + text[end:]
    return text


def assigned() -> st.SearchStrategy[str]:
    """Valid TOML for the most part, with any value for any key."""
    table = st.dictionaries(NAMES, VALUES).map(lambda table: "\n".join(f"{key} = {table[key]}" for key in table))
    return (
        st.lists(SNIPPETS, max_size=8).map("".join)
        | st.builds("[carp.lan]\n{}\n[node.fw-b.carp.lan]\n{}".format, table, table)
        | st.builds("[pfsync]\n{}\n[pfsync.ignore]\n{}\n[node.fw-b.pfsync]\n{}".format, table, table, table)
        | st.builds("[control]\n{}\n[metrics]\n{}\n[hook.log]\n{}".format, table, table, table)
    )


@given(text=mutated() | assigned())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_in_a_file_raises(tmp_path: Path, text: str) -> None:
    for name in ("password", "pfsync.key"):
        (tmp_path / name).write_text("0123456789abcdef\n")
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "carpd.toml"
    file.write_bytes(text.encode())
    loaded = load(file, "fw-b", {"eth1": [ip_address("192.0.2.1")]})
    found = [str(problem) for problem in loaded.problems]
    assert all("\n" not in line for line in found)
    assert len(set(found)) == len(found)
    assert (loaded.config is None) == any("error: " in line for line in found)


def paths(table: dict[str, object], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key path of a document."""
    found = []
    for key, value in table.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += paths(value, (*above, key))
    return found


@given(text=mutated() | assigned())
@settings(max_examples=400)
def test_every_key_has_its_line(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = key_lines(text)
    source = text.split("\n")
    for path in paths(document):
        line = source[found[path] - 1]
        assert path[-1] in line or "\\n" in line
