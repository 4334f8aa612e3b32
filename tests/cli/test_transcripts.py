"""What every command that asks the daemon prints, word by word, asks for, and ends with."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carpd.cli import carpctl, statistics
from carpd.control.protocol import ControlError, Failure
from carpd.linux.defer import DeferCounters
from carpd.linux.sync_sockets import SyncSocketCounters
from carpd.pfsync.counters import PfsyncCounters
from carpd.pfsync.sealed import SealedCounters
from carpd.stats import CarpCounters
from tests.cli.daemon import Answer, Daemon, ago, group, host, peer, pfsync, status, status_of_pfsyncd


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


class Done(NamedTuple):
    exit_status: int
    output: str
    errors: str
    asked: list[dict[str, Any]]


class Terminal:
    """Runs carpctl against a daemon that gives these answers."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = directory / "carpd.sock"
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def run(self, line: str, answers: Mapping[str, Answer], *, is_terminal: bool = False) -> Done:
        self._monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
        daemon = Daemon(self._socket, answers)
        daemon.start()
        try:
            exit_status = carpctl.main([*shlex.split(line), "--socket", str(self._socket)])
        except SystemExit as usage:
            exit_status = int(str(usage.code))
        finally:
            daemon.stop()
        return Done(exit_status, *self._capsys.readouterr(), daemon.asked)


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(tmp_path, capsys, monkeypatch)


LAN, WAN = host("lan"), host("wan", interface="eth0", vhid=2, addresses=["198.51.100.1/24"])
WELL = status(LAN, WAN)
EMPTY = status(groups=[], interfaces=[])
LATER = "2099-11-28T03:12:00.000Z"


ADVSKEW = "lan: advskew 0 -> 50"


def outcome(
    *changes: tuple[str, str, bool], applied: bool = True, confirm_s: int | None = None, **others: list[str]
) -> dict[str, Any]:
    """The answer to "reload"."""
    plan = [{"sign": sign, "text": text, "disruptive": disruptive} for sign, text, disruptive in changes]
    return {"applied": applied, "plan": plan, "problems": [], "failures": [], "confirm_s": confirm_s, **others}


NAMES: dict[str, Any] = {
    "virtual_hosts": ["lan", "web"],
    "nodes": ["web:5"],
    "groups": ["edge", "lan"],
    "hooks": ["mail"],
}

NOTHING_SHOWN: dict[str, Any] = {"interfaces": [], "pfsync": None, "groups": []}


class Case(NamedTuple):
    """What is typed, what the daemon answers, and what is printed."""

    line: str
    answers: Mapping[str, Answer]
    output: str
    asked: dict[str, Any] | None = None
    exit_status: int = 0


TRANSCRIPTS = {
    "all well": Case(
        "status",
        {"status": WELL},
        """\
fw-a: MASTER of lan, wan; all well
NAME  STATE   SINCE  VHID  INTERFACE  ADVSKEW  DEMOTION  MASTER     ADDRESSES
lan   MASTER  3h     1     eth1       0        0         this host  192.0.2.1/24 2001:db8:1::1/64
wan   MASTER  3h     2     eth0       0        0         this host  198.51.100.1/24
""",
        {"command": "status"},
    ),
    "trouble": Case(
        "status",
        {
            "status": status(
                host("lan", "INIT", since=ago(hours=1.5), waits_for="link of eth1 is down", demotion=33),
                host("wan", "BACKUP", advskew=100, advskew_sent=240, demotion=33, master=None),
                host("dmz", "BACKUP", group="dmz"),
                groups=[
                    group("edge", "lan", "wan", link_of_eth1_is_down=1, pfsync_bulk_update=32),
                    group("dmz", "dmz"),
                ],
                pfsync=pfsync(bulk_update={"done": False, "reason": "receiving"}, states=10),
            )
        },
        """\
fw-a: BACKUP of wan, dmz; INIT of lan; edge demoted by 33 (link of eth1 is down, pfsync bulk update); \
no master of wan is heard; no pfsync peer is heard
NAME  STATE   SINCE  VHID  INTERFACE  ADVSKEW         DEMOTION  MASTER     ADDRESSES
lan   INIT    1h     1     eth1       0               33        -          192.0.2.1/24 2001:db8:1::1/64
wan   BACKUP  3h     1     eth1       100 (sent 240)  33        -          192.0.2.1/24 2001:db8:1::1/64
dmz   BACKUP  3h     1     eth1       0               0         192.0.2.3  192.0.2.1/24 2001:db8:1::1/64
lan: link of eth1 is down
group edge: demoted by 1: link of eth1 is down
group edge: demoted by 32: pfsync bulk update
pfsync on eth2 (sealed): 10 states, receiving
  no peer is heard
""",
    ),
    "no election process": Case(
        "status",
        {
            "status": status(
                *(host(f"v{n}", "INIT", since=None, waits_for="the election process does not run") for n in range(6)),
                groups=[group("edge", *"012345")],
                election={"pid": None, "restarts": 1},
            )
        },
        "fw-a: INIT of v0, v1, v2, v3 and 2 more; the election process does not run\n"
        "NAME  STATE  SINCE  VHID  INTERFACE  ADVSKEW  DEMOTION  MASTER  ADDRESSES\n"
        + "".join(
            f"v{n}    INIT   -      1     eth1       0        0         -       192.0.2.1/24 2001:db8:1::1/64\n"
            for n in range(6)
        )
        + "v0, v1, v2, v3 and 2 more: the election process does not run\n",
    ),
    "a device that the kernel refuses": Case(
        "status",
        {"status": status(LAN, host("wan", "INIT", since=None, waits_for="carp-wan is being prepared"))},
        """\
fw-a: MASTER of lan; INIT of wan; wan: carp-wan is being prepared
NAME  STATE   SINCE  VHID  INTERFACE  ADVSKEW  DEMOTION  MASTER     ADDRESSES
lan   MASTER  3h     1     eth1       0        0         this host  192.0.2.1/24 2001:db8:1::1/64
wan   INIT    -      1     eth1       0        0         -          192.0.2.1/24 2001:db8:1::1/64
wan: carp-wan is being prepared
""",
    ),
    "an operator's demotion": Case(
        "status",
        {
            "status": status(
                host("lan", "BACKUP", demotion=5),
                groups=[
                    {
                        **group("edge", "lan", operator=5),
                        "reasons": [{"reason": "operator: upgrade", "amount": 5, "until": LATER}],
                    }
                ],
            )
        },
        """\
fw-a: BACKUP of lan; demoted by 5 (operator: upgrade)
NAME  STATE   SINCE  VHID  INTERFACE  ADVSKEW  DEMOTION  MASTER     ADDRESSES
lan   BACKUP  3h     1     eth1       0        5         192.0.2.3  192.0.2.1/24 2001:db8:1::1/64
group edge: demoted by 5: operator: upgrade (until 2099-11-28 03:12)
""",
    ),
    "nodes that share": Case(
        "status",
        {
            "status": status(
                *(
                    host(
                        f"web:{vhid}",
                        state,
                        vhid=vhid,
                        balancing={"virtual_host": "web", "mode": "ip", "vhids": [5, 6]},
                        findings=["10.0.0.9 shares among other nodes"],
                    )
                    for vhid, state in ((5, "MASTER"), (6, "BACKUP"))
                )
            )
        },
        """\
fw-a: MASTER of web:5; BACKUP of web:6; web: see below
NAME   STATE   SINCE  VHID  INTERFACE  ADVSKEW  DEMOTION  SHARE  MASTER     ADDRESSES
web:5  MASTER  3h     5     eth1       0        0         50 %   this host  192.0.2.1/24 2001:db8:1::1/64
web:6  BACKUP  3h     6     eth1       0        0         0 %    192.0.2.3  192.0.2.1/24 2001:db8:1::1/64
web: 10.0.0.9 shares among other nodes
""",
    ),
    "nothing to do": Case("status", {"status": EMPTY}, "fw-a: no virtual host is configured\n"),
    "nothing to do, but pfsync": Case(
        "status",
        {"status": {**EMPTY, "election": {"pid": None, "restarts": 0}, "pfsync": pfsync(peer())}},
        """\
fw-a: no virtual host is configured; the election process does not run
pfsync on eth2 (sealed): 5182 states, bulk done
  10.0.0.2: 5182 states, 100 % of ours, heard 0.4 s ago
""",
    ),
    "pfsync alone": Case(
        "status",
        {
            "status": status_of_pfsyncd(
                pfsync(
                    peer(coverage=92.1, carrying=True),
                    peer(address="10.0.0.3", coverage=None),
                    link={"up": True, "reason": None},
                    unconfirmed_age_s=0.25,
                    defer={"interfaces": ["eth1"], "working": False, "reason": "no nft"},
                    resyncs={"a peer was started": 2},
                    refused={"No space left on device": 7},
                ),
            )
        },
        """\
fw-a: 10.0.0.2 has 92.1 % of our states; defer does not work
pfsync on eth2 (sealed): 5182 states, bulk done
  10.0.0.2: 5182 states, 92.1 % of ours, carries traffic, heard 0.4 s ago
  10.0.0.3: 5182 states, not compared yet, heard 0.4 s ago
  oldest change that is not confirmed: 0.250 s
  defer does not work: no nft
  resynchronised 2 times: a peer was started
  refused by the kernel 7 times: No space left on device
""",
    ),
    "pfsync is down": Case(
        "status",
        {"status": status_of_pfsyncd(pfsync(link={"up": False, "reason": "eth2 does not exist"}))},
        """\
fw-a: pfsync: eth2 does not exist
pfsync on eth2 (sealed): 5182 states, bulk done; eth2 does not exist
  no peer is heard
""",
    ),
    "a BSD is pfsync's peer": Case(
        "status",
        {"status": status_of_pfsyncd(pfsync(version="openbsd", transport="plain", states=1))},
        """\
fw-a: all well
pfsync on eth2 (plain): 1 state, bulk done
  such peers don't say what they have
""",
    ),
    "pfsyncd does not run": Case(
        "status",
        {"status": status_of_pfsyncd({"syncdev": "eth2", "transport": "plain", "running": False})},
        "fw-a: pfsyncd does not run\npfsync on eth2 (plain): pfsyncd does not run\n",
    ),
    "pfsyncd hangs": Case(
        "status",
        {
            "status": status_of_pfsyncd(
                {"syncdev": "eth2", "transport": "plain", "running": True, "waits_for": "an answer"}
            )
        },
        "fw-a: pfsync waits for an answer\npfsync on eth2 (plain): waits for an answer\n",
    ),
    "one in full": Case(
        "status wan",
        {
            "status": status(
                host("wan", "BACKUP", since="2025-11-28T03:12:00.000Z", demotion=1),
                groups=[group("edge", "wan", link_of_eth1_is_down=1)],
            )
        },
        """\
wan:
  state       BACKUP since 2025-11-28T03:12:00.000Z (master timed out)
  vhid        1 on eth1, device carp-wan, mac 00:00:5e:00:01:01
  addresses   192.0.2.1/24 2001:db8:1::1/64
  interval    advbase 1 advskew 0
  master down after 3.000 s
  preempt     yes
  demotion    1 (group edge; link of eth1 is down: 1)
  master      192.0.2.3 advbase 1 advskew 0 demotion 0, heard 0.4 s ago
  counters    ipackets 1203 ipackets6 1 badauth 2 preempt 1
""",
        {"command": "status", "name": "wan"},
    ),
    "monitor": Case(
        "monitor lan",
        {
            "monitor": [
                {
                    "time": "2025-11-28T03:12:44.123Z",
                    "kind": "state",
                    "text": "lan (vhid 1 on eth1): BACKUP",
                    "more": 1,
                },
                {"time": "2025-11-28T03:12:45.000Z", "kind": "state", "text": "lan: BACKUP -> MASTER (user requested)"},
            ]
        },
        "03:12:44.123 lan (vhid 1 on eth1): BACKUP\n03:12:45.000 lan: BACKUP -> MASTER (user requested)\n",
        {"command": "monitor", "name": "lan"},
        4,  # the daemon has ended
    ),
    "monitor as JSON": Case(
        "monitor --json",
        {"monitor": [{"time": "2025-11-28T03:12:44.123Z", "kind": "state", "text": "lan: BACKUP"}]},
        '{"time": "2025-11-28T03:12:44.123Z", "kind": "state", "text": "lan: BACKUP"}\n',
        {"command": "monitor"},
        4,
    ),
    "master, as wished": Case(
        "state lan master",
        {"state": {"before": {"lan": "BACKUP"}, "virtual_hosts": [LAN]}},
        "lan: BACKUP -> MASTER\n",
        {"command": "state", "name": "lan", "state": "master"},
    ),
    "backup, as wished": Case(
        "state lan backup",
        {
            "state": {
                "before": {"lan": "MASTER", "wan": "MASTER", "dmz": "BACKUP"},
                "virtual_hosts": [host("lan", "BACKUP"), host("wan", "BACKUP", master=None), host("dmz", "BACKUP")],
            }
        },
        """\
lan: MASTER -> BACKUP; master is 192.0.2.3
wan: MASTER -> BACKUP; no master is heard: without one this host takes over in 3.0 s
dmz: BACKUP, as before; master is 192.0.2.3
""",
        {"command": "state", "name": "lan", "state": "backup"},
    ),
    "demote": Case(
        "demote lan --by 32 --reason upgrade --for 1h30m",
        {
            "demote": {
                "group": {
                    **group("edge", "lan", "wan", operator=33),
                    "reasons": [
                        {"reason": "operator: upgrade", "amount": 32, "until": LATER},
                        {"reason": "link of eth1 is down", "amount": 1, "until": None},
                    ],
                }
            }
        },
        """\
group edge (lan, wan): demoted by 33:
   32  operator: upgrade, until 2099-11-28 03:12
    1  link of eth1 is down
""",
        {"command": "demote", "name": "lan", "amount": 32, "reason": "upgrade", "for_s": 5400},
    ),
    "end of a demotion": Case(
        "demote edge --end",
        {"end_demotion": {"ended": ["operator", "operator: upgrade"], "group": group("edge", "lan", "wan")}},
        "group edge (lan, wan): ended: operator, operator: upgrade; demoted by 0\n",
        {"command": "end_demotion", "name": "edge", "reason": None},
    ),
    "demotions": Case(
        "demote",
        {"status": status(LAN, groups=[group("edge", "lan", link_of_eth1_is_down=1, operator=255), group("dmz", "x")])},
        """\
GROUP  BY   UNTIL  REASON
edge   1    -      link of eth1 is down
edge   255  -      operator
""",
        {"command": "status"},
    ),
    "no demotions": Case("demote", {"status": WELL}, "no group is demoted\n"),
    "is master": Case("is-master lan", {"status": status(LAN)}, "", {"command": "status", "name": "lan"}),
    "is not master": Case("is-master lan", {"status": status(host("lan", "BACKUP"))}, "", exit_status=1),
    "is master of a node": Case("is-master lan", {"status": status(LAN, host("x", "BACKUP"))}, ""),
    "is not master of all": Case(
        "is-master lan --all -v", {"status": status(LAN, host("x", "INIT"))}, "lan: MASTER\nx: INIT\n", exit_status=1
    ),
    "is master, as JSON": Case(
        "is-master lan --all --json", {"status": status(LAN)}, '{"master": true, "states": {"lan": "MASTER"}}\n'
    ),
    "statistics": Case(
        "statistics",
        {"status": status(LAN, pfsync=pfsync(counters={"ipackets": 1, "sealed_forged": 2, "news_of_tomorrow": 3}))},
        """\
carp:
\t2406 packets received (IPv4)
\t2 packets received (IPv6)
\t\t4 discarded for bad authentication
\t0 packets sent (IPv4)
\t2 transitions to master
pfsync:
\t1 packet received (IPv4)
\t\t2 discarded because the seal does not open
\t3 news of tomorrow
""",
        {"command": "status"},
    ),
    "statistics of nothing": Case("statistics", {"status": EMPTY}, ""),
    "statistics of one protocol, as JSON": Case(
        "statistics pfsync --json",
        {"status": status(LAN, pfsync=pfsync())},
        '{"pfsync": {"ipackets": 1, "sealed_forged": 2, "inserted": 3}}\n',
    ),
    "reload": Case(
        "reload",
        {"reload": outcome(("-", "virtual host dmz (vhid 3 on eth3): 192.0.2.9/24", True), ("~", ADVSKEW, False))},
        """\
- virtual host dmz (vhid 3 on eth3): 192.0.2.9/24
~ lan: advskew 0 -> 50
2 changes, 1 of which gives addresses up
""",
        {"command": "reload", "plan": False, "confirm_s": None},
    ),
    "a plan": Case(
        "reload --plan",
        {"reload": outcome(("~", ADVSKEW, False), applied=False)},
        "~ lan: advskew 0 -> 50\n1 change; nothing is changed yet\n",
        {"command": "reload", "plan": True, "confirm_s": None},
    ),
    "a plan of nothing": Case("reload --plan", {"reload": outcome(applied=False)}, "nothing changes\n"),
    "nothing to reload": Case("reload", {"reload": outcome()}, "nothing has changed\n"),
    "on probation": Case(
        "reload --confirm 1m30s",
        {"reload": outcome(("~", ADVSKEW, False), confirm_s=90)},
        "~ lan: advskew 0 -> 50\n1 change; taken back in 90 s unless you say: carpctl confirm\n",
        {"command": "reload", "plan": False, "confirm_s": 90},
    ),
    "confirmed": Case("confirm", {"confirm": {"confirmed": True}}, "confirmed\n", {"command": "confirm"}),
    "ifconfig of nothing": Case("ifconfig", {"ifconfig": {"shown": NOTHING_SHOWN}}, ""),
    "names": Case("names hosts groups", {"names": NAMES}, "lan\nweb\nweb:5\nedge\n", {"command": "names"}),
    "names of others": Case("names interfaces hooks", {"names": NAMES}, "lan\nweb\npfsync0\nmail\n"),
    "no names": Case("names hosts", {}, "", exit_status=2),
}


@pytest.mark.parametrize("case", TRANSCRIPTS.values(), ids=TRANSCRIPTS.keys())
def test_transcript(terminal: Terminal, case: Case) -> None:
    done = terminal.run(case.line, case.answers)
    assert done.output == case.output
    assert done.exit_status == case.exit_status
    assert done.errors == "" if case.exit_status in (0, 1) else done.errors.count("\n") <= 1
    if case.asked is not None:
        assert done.asked == [case.asked]


JSON = {
    "status": {"status": WELL},
    "status lan": {"status": status(LAN)},
    "state lan master": {"state": {"before": {"lan": "BACKUP"}, "virtual_hosts": [LAN]}},
    "demote lan --by 1": {"demote": {"group": group("edge", "lan", operator=1)}},
    "demote lan --end": {"end_demotion": {"ended": ["operator"], "group": group("edge", "lan")}},
    "reload": {"reload": outcome(("~", ADVSKEW, False))},
    "confirm": {"confirm": {"confirmed": True}},
}


@pytest.mark.parametrize("line", JSON)
def test_json_is_what_the_daemon_answers(terminal: Terminal, line: str) -> None:
    """One line, whole."""
    ((_, answer),) = JSON[line].items()
    done = terminal.run(f"{line} --json", JSON[line])
    assert (done.exit_status, done.errors) == (0, "")
    assert json.loads(done.output) == answer
    assert done.output.count("\n") == 1


WRONG = {
    "status --jsn": (2, "carpctl status: unknown option '--jsn': did you mean '--json'? (see carpctl status --help)"),
    "status --watch lan": (2, "argument --watch: 'lan' is no number of seconds; NAME comes before it"),
    "status --watch 0": (2, "argument --watch: 0 s is not between 0.1 s and a day"),
    "status lan wan": (2, "carpctl status: 'wan' is one argument too many"),
    "statsu": (2, "carpctl: unknown command 'statsu': did you mean 'status'? (see carpctl --help)"),
    "": (2, "carpctl: say what to do (see carpctl --help)"),
    "--verion": (2, "carpctl: unknown option '--verion': did you mean '--version'?"),
    "--json status lan": (2, "carpctl: options come behind the command: carpctl status --json (see carpctl --help)"),
    "--jsn status": (2, "carpctl: unknown option '--jsn': known are "),
    "reload --confirm 0": (2, "argument --confirm: '0' is not between a second and a day"),
    "reload --confirm 2d": (2, "argument --confirm: '2d' is not between a second and a day"),
    "hook tset mail": (2, "carpctl hook: argument test: not 'tset': did you mean 'test'?"),
    "hook --event mastre test mail": (2, "argument --event: not 'mastre': did you mean 'master'?"),
    "state lan mastr": (2, "argument STATE: not 'mastr': did you mean 'master'?"),
    "state lan": (2, "the following arguments are required: STATE"),
    "statistics crap": (2, "argument PROTOCOL: not 'crap': did you mean 'carp'?"),
    "completion csh": (2, "argument SHELL: not 'csh': did you mean "),
    "demote lan": (2, "carpctl demote: say --by how much, or --end"),
    "demote --end": (2, "carpctl demote: name a virtual host or a group"),
    "demote lan --by 0": (2, "argument --by: '0' is not between 1 and 255"),
    "demote lan --by 256": (2, "argument --by: '256' is not between 1 and 255"),
    "demote lan --by 1 --end": (2, "argument --end: not allowed with argument --by"),
    "demote lan --end --for 2h": (2, "carpctl demote: --for goes with --by"),
    "demote lan --by 1 --for 2w": (2, "argument --for: '2w' is no length of time: write 90s, 30m, 2h, 1d or 1h30m"),
    "is-master": (2, "the following arguments are required: NAME"),
    "ifconfig --save lan": (2, "carpctl ifconfig: --save wants words that set something, or none at all"),
    "ifconfig --save -g carp": (2, "carpctl ifconfig: --save wants words that set something, or none at all"),
    "reload --plan --confirm 60": (2, "carpctl reload: --plan changes nothing: there is nothing to --confirm"),
    "reload --confirm soon": (2, "argument --confirm: 'soon' is no length of time: write 90s, 30m, 2h, 1d or 1h30m"),
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong and what is near; the daemon is not asked."""
    exit_status, text = WRONG[line]
    with pytest.raises(SystemExit) as ended:
        carpctl.main(shlex.split(line))
    assert ended.value.code == exit_status
    output, errors = capsys.readouterr()
    assert output == ""
    assert text in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("failure", Failure)
def test_each_failure_has_an_exit_status_and_a_line(terminal: Terminal, failure: Failure) -> None:
    done = terminal.run("status", {"status": ControlError(failure, "why")})
    assert (done.exit_status, done.output, done.errors) == (failure.value, "", "carpctl: why\n")


def test_a_reload_that_is_not_all_well(terminal: Terminal) -> None:
    """Every mistake has its line, and what the kernel refused; what the file could do better is told beside."""
    mistakes = ["carpd.toml:3: error: carp.lan.vhid = 300: a vhid is 1 to 255", "carpd.toml:9: error: carp.lan.x: …"]
    wrong = {"reload": ControlError(Failure.CONFIGURATION, "\n".join(mistakes))}
    done = terminal.run("reload", wrong)
    last = "carpctl: nothing was changed: the configuration is wrong"
    assert (done.exit_status, done.output, done.errors.splitlines()) == (3, "", [*mistakes, last])
    done = terminal.run("reload --json", wrong)
    assert (done.exit_status, done.errors) == (3, "")
    assert json.loads(done.output) == outcome(applied=False, problems=mistakes)

    hint, refusal = "carpd.toml:3: warning: …", "create the macvlan carp-lan: File exists"
    answer = outcome(("~", ADVSKEW, False), problems=[hint], failures=[refusal])
    done = terminal.run("reload", {"reload": answer})
    last = "carpctl: the kernel refused a part of it, which is tried again"
    assert (done.exit_status, done.errors.splitlines()) == (8, [hint, refusal, last])
    assert done.output == "~ lan: advskew 0 -> 50\n1 change\n"
    assert json.loads(terminal.run("reload --json", {"reload": answer}).output) == answer


def test_what_a_protocol_that_does_not_run_gets(terminal: Terminal) -> None:
    done = terminal.run("statistics pfsync", {"status": WELL})
    assert (done.exit_status, done.errors) == (6, "carpctl: pfsync is not running here\n")


@pytest.mark.parametrize("line", ["", "status", "demote", "completion"])
def test_help(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names everything that can be said."""
    with pytest.raises(SystemExit) as ended:
        carpctl.main([*shlex.split(line), "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    parser = carpctl.subcommand(line) if line else carpctl.overview()
    assert all(option in output for action in parser._actions for option in action.option_strings)
    if not line:
        assert all(name in output for name in carpctl.COMMANDS)
        assert not any(name in output for name in carpctl.HIDDEN)


# On a terminal


def test_colours_and_progress_are_for_terminals(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """And NO_COLOR is for people who don't want them."""
    receiving = pfsync(peer(states=200), bulk_update={"done": False, "reason": "receiving"}, states=50)
    answers = {"status": status(LAN, host("wan", "BACKUP"), pfsync=receiving)}
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    shown = terminal.run("status", answers, is_terminal=True).output
    assert "\033[32mMASTER\033[0m" in shown
    assert "\033[36mBACKUP\033[0m" in shown
    assert "50 states, receiving [######------------------] 25 %" in shown
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            plain = terminal.run("status", answers, is_terminal=True).output
        assert "\033" not in plain
        assert "25 %" in plain
    piped = terminal.run("status", answers).output
    assert "\033" not in piped
    assert "receiving\n" in piped


def test_words_for_every_counter() -> None:
    """For those that there are, and no others."""
    by_reason = {"refused", "resyncs"}  # the status has them
    counters = (PfsyncCounters, SyncSocketCounters, SealedCounters, DeferCounters)
    of_pfsync = {f.name for of in counters for f in fields(of)} - by_reason
    assert statistics.CARP.keys() == {field.name for field in fields(CarpCounters)}
    assert statistics.PFSYNC.keys() == of_pfsync


def test_watched(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is interrupted, whatever becomes of the daemon."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    done = terminal.run("status --watch 5", {"status": status(LAN)})
    once = terminal.run("status", {"status": status(LAN)}).output
    assert (done.exit_status, done.output, slept) == (130, f"{once}\n" * 2, [5.0, 5.0])
    slept.clear()
    done = terminal.run("status --watch", {"status": ControlError(Failure.TIMED_OUT, "why")})
    assert (done.exit_status, done.output, slept) == (130, "carpctl: why\n\n" * 2, [2.0, 2.0])
    slept.clear()
    done = terminal.run("status --watch --json", {"status": status(LAN)})
    assert [json.loads(line) for line in done.output.splitlines()] == [status(LAN)] * 2
    done = terminal.run("status lan --watch", {"status": ControlError(Failure.NO_SUCH_OBJECT, "why")})
    assert (done.exit_status, done.errors) == (6, "carpctl: why\n")


def test_watched_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for it is counted."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 5)))

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    hosts = [host(f"v{number}") for number in range(10)]
    done = terminal.run("status --watch", {"status": status(*hosts)}, is_terminal=True)
    assert done.exit_status == 130
    lines = done.output.split("\033[K\n")
    assert lines[0] == "\033[Hfw-a: MASTER of v0, v1, v2, v3 and 6 more; all well"
    assert lines[2].startswith("v0 ")
    assert lines[3:] == ["... 9 more lines", "\033[J"]
