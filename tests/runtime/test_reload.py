"""One change at a time, as a whole or not at all; and what makes a change go back. The daemon is made up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from carpd.config.model import Config, PfsyncConfig, VirtualHostConfig
from carpd.config.parse import Loaded
from carpd.config.problems import Problem, Severity
from carpd.effects import PeerLeftBehind
from carpd.errors import CarpdError
from carpd.runtime import reload
from carpd.runtime.notices import Notice, Notices
from carpd.runtime.reload import BadConfigurationError, RefusedError, Reloader
from carpd.runtime.unconfirmed_note import UnconfirmedNote

LAN = VirtualHostConfig(
    name="lan", interface="eth1", vhid=1, addresses=(ip_interface("192.0.2.1/24"),), key=b"secret", advbase=0, advskew=1
)
WAN = replace(LAN, name="wan", vhid=2)
PFSYNC = PfsyncConfig(syncdev="eth3", secrets=(b"a secret of sixteen",))
OLD = Config(node="a", virtual_hosts=(LAN, WAN), pfsync=PFSYNC)
NEW = replace(OLD, virtual_hosts=(replace(LAN, key=b"other"), WAN))
LEFT_BEHIND = PeerLeftBehind("lan", b"\xc0\x00\x02\x03")
SOON, LATE = 0.02, 60.0
"""Seconds to confirm a change: those that a test waits for, and those that it never does."""


class Made:
    """A daemon that notes what it was changed to, and its reloader."""

    def __init__(self, state_dir: Path, new: Config | None = NEW, *problems: Problem) -> None:
        self.config = OLD
        self.notices = Notices()
        self.told: list[Notice] = []
        self.notices.subscribe(self.told.append)
        self.refuses: Exception | None = None
        self.masters: set[str] = set()
        self.heard: Callable[[], int | None] = lambda: None
        self.strangers = False
        self.under_way = 0
        self.loaded = Loaded(new, problems)
        self.note = UnconfirmedNote(state_dir)
        self.reloader = Reloader(self, lambda running: self.loaded, self.note)

    async def change(self, new: Config) -> Sequence[str]:
        if self.refuses:
            raise self.refuses
        self.under_way += 1
        assert self.under_way == 1, "two changes at a time"
        await asyncio.sleep(0)
        self.under_way -= 1
        self.config = new
        return ()

    def is_master(self, name: str) -> bool:
        return name in self.masters

    async def heard_ns(self, name: str) -> int | None:
        return self.heard()

    async def hears_sync_peers(self) -> bool:
        return True

    async def refuses_sync_peers(self) -> bool:
        return self.strangers

    def phases(self) -> list[tuple[str, bool | None]]:
        """Of the notices: which, and whether it was applied."""
        return [(notice.fields["phase"], notice.fields.get("applied")) for notice in self.told]

    async def goes_back(self) -> None:
        """Raise TimeoutError if it does not."""
        async with asyncio.timeout(10):
            while self.config is not OLD or self.reloader.unconfirmed_s is not None:
                await asyncio.sleep(0.001)


def play(story: Callable[[Made], Awaitable[None]], new: Config | None = NEW, *problems: Problem) -> Made:
    """Let it happen; the file has this configuration, or only problems."""

    async def run() -> Made:
        with TemporaryDirectory() as state_dir:
            made = Made(Path(state_dir), new, *problems)
            await story(made)
            await made.reloader.stop()
        return made

    return asyncio.run(run())


def test_it_is_told_between_its_beginning_and_its_end() -> None:
    async def story(made: Made) -> None:
        outcome = await made.reloader.reload()
        assert [str(change) for change in outcome.plan] == ["~ lan: password changed: the other nodes need it, too"]
        assert (outcome.applied, outcome.confirm_s) == (True, None)

    made = play(story)
    assert made.config is NEW
    assert made.phases() == [("begin", None), ("end", True)]
    assert made.told[1].fields["plan"] == ["~ lan: password changed: the other nodes need it, too"]


def test_nothing_to_change() -> None:
    """The daemon is not bothered, and there is nothing to confirm."""

    async def story(made: Made) -> None:
        made.refuses = CarpdError("asked in vain")
        outcome = await made.reloader.reload(confirm_s=LATE)
        assert (outcome.plan, outcome.applied, outcome.confirm_s) == ((), True, None)
        assert made.reloader.unconfirmed_s is None

    assert play(story, OLD).phases() == [("begin", None), ("end", True)]


def test_a_wrong_file() -> None:
    problem, other = (
        Problem(severity=Severity.ERROR, file=Path("x.toml"), line=line, key="carp", value="", message="it is wrong")
        for line in (1, 2)
    )

    async def story(made: Made) -> None:
        for attempt in (made.reloader.plan(), made.reloader.reload()):
            with pytest.raises(BadConfigurationError) as wrong:
                await attempt
            assert wrong.value.problems == [str(problem), str(other)]

    made = play(story, None, problem, other)
    assert made.config is OLD
    assert made.phases() == [("begin", None), ("end", False)]
    assert made.told[1].fields["problems"] == [str(problem), str(other)]


@pytest.mark.parametrize("error", [CarpdError("the kernel says no"), ZeroDivisionError("a defect")])
def test_the_daemon_refuses(error: Exception) -> None:
    """It has its end in any case: somebody waits for that."""

    async def story(made: Made) -> None:
        made.refuses = error
        with pytest.raises(RefusedError if isinstance(error, CarpdError) else type(error), match=str(error)):
            await made.reloader.reload(confirm_s=LATE)
        assert made.reloader.unconfirmed_s is None

    made = play(story)
    assert made.config is OLD
    assert made.phases() == [("begin", None), ("end", False)]


def test_a_plan_changes_nothing() -> None:
    async def story(made: Made) -> None:
        outcome = await made.reloader.plan()
        assert len(outcome.plan) == 1
        assert not outcome.applied

    made = play(story)
    assert made.config is OLD
    assert made.told == []


def test_one_at_a_time() -> None:
    """Others wait for their turn, also SIGHUP; each sees what the one before it has made."""
    other = replace(OLD, hooks=())

    async def story(made: Made) -> None:
        made.reloader.hang_up()
        outcomes = await asyncio.gather(
            made.reloader.reload(), made.reloader.apply(other, "ifconfig lan"), made.reloader.reload()
        )
        assert [len(outcome.plan) for outcome in outcomes] == [0, 1, 1]

    made = play(story)
    assert made.config is NEW
    assert made.phases() == [("begin", None), ("end", True)] * 4
    assert {notice.fields["reason"] for notice in made.told} == {"SIGHUP", "reload", "ifconfig lan"}


def test_confirmed() -> None:
    async def story(made: Made) -> None:
        outcome = await made.reloader.reload(confirm_s=LATE)
        assert outcome.confirm_s == LATE
        left_s = made.reloader.unconfirmed_s
        assert left_s is not None
        assert 0 < left_s <= LATE
        for attempt in (made.reloader.reload(), made.reloader.apply(OLD, "ifconfig lan")):
            with pytest.raises(RefusedError, match="waits for `carpctl confirm`"):
                await attempt
        made.reloader.confirm()
        assert made.reloader.unconfirmed_s is None
        with pytest.raises(RefusedError, match="nothing waits"):
            made.reloader.confirm()
        await made.reloader.apply(OLD, "ifconfig lan")

    made = play(story)
    assert made.phases()[-3:] == [("confirmed", None), ("begin", None), ("end", True)]


def test_what_is_never_confirmed_is_known_at_the_next_start() -> None:
    """That daemon ended meanwhile, or took it back: the file has it. Another configuration is none of that."""
    tried = replace(NEW, tables={"carp": {"lan": {"password": "other"}}})

    def restarted(made: Made, config: Config) -> bool:
        next_one = Reloader(made, lambda running: made.loaded, made.note)
        made.config = config
        next_one.begin()
        return next_one.never_confirmed

    async def story(made: Made) -> None:
        for end in (made.reloader.confirm, None):
            await made.reloader.reload(confirm_s=LATE)
            if end:
                end()
            assert restarted(made, tried) is (end is None)
            made.config = OLD
        await made.reloader.stop()
        assert restarted(made, tried) is True
        made.reloader.begin()
        made.reloader.confirm()
        assert made.reloader.status() == {"unconfirmed_s": None, "never_confirmed": False}
        assert restarted(made, tried) is False

        made.config = OLD
        await made.reloader.reload(confirm_s=SOON)
        await made.goes_back()
        assert restarted(made, tried) is True
        made.config = OLD
        await made.reloader.reload()
        assert restarted(made, tried) is False

        made.config = OLD
        await made.reloader.reload(confirm_s=SOON)
        await made.goes_back()
        assert restarted(made, OLD) is False
        assert restarted(made, tried) is False, "it was another one since"

    play(story, tried)


def test_not_confirmed() -> None:
    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=SOON)
        await made.goes_back()
        with pytest.raises(RefusedError, match="nothing waits"):
            made.reloader.confirm()

    made = play(story)
    assert made.phases() == [("begin", None), ("end", True)] * 2
    assert "nobody has confirmed it" in made.told[2].text


def test_a_way_back_that_is_refused() -> None:
    """It stays as it is, and the log says so: another reload is possible."""

    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=SOON)
        made.refuses = CarpdError("the kernel says no")
        async with asyncio.timeout(10):
            while len(made.told) < 4:
                await asyncio.sleep(0.001)
        made.refuses = None
        await made.reloader.apply(OLD, "ifconfig lan")

    assert play(story).phases()[2:4] == [("begin", None), ("end", False)]


def test_a_second_master_takes_it_back_at_once() -> None:
    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=LATE)
        made.masters.add("lan")
        made.reloader.left_behind(LEFT_BEHIND)
        await made.goes_back()

    assert "lan: 192.0.2.3 refuses us" in play(story).told[2].text


def test_a_backup_that_hears_no_master_goes_back() -> None:
    """The master-down time is 3/256 s here."""

    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=LATE)
        made.reloader.left_behind(LEFT_BEHIND)
        await made.goes_back()

    assert "lan: 192.0.2.3 refuses us" in play(story).told[2].text


def test_a_backup_that_hears_a_master_again_stays() -> None:
    """Until it is a master itself."""

    async def story(made: Made) -> None:
        judged = asyncio.Event()

        def heard() -> int:
            judged.set()
            return 1 << 62

        made.heard = heard
        await made.reloader.reload(confirm_s=LATE)
        for _ in range(2):
            made.reloader.left_behind(LEFT_BEHIND)
            await judged.wait()
            judged.clear()
            assert made.config is NEW
        made.masters.add("lan")
        async with asyncio.timeout(10):
            while made.config is NEW:
                made.reloader.left_behind(LEFT_BEHIND)
                await asyncio.sleep(0.001)

    play(story)


@pytest.mark.parametrize("fact", [PeerLeftBehind("wan", bytes(4)), PeerLeftBehind("gone", bytes(4))], ids=str)
def test_what_did_not_change_is_no_reason(fact: PeerLeftBehind) -> None:
    """Of a virtual host that the change left alone a peer may have been left behind by an earlier one."""

    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=LATE)
        made.masters |= {"wan", "gone"}
        made.reloader.left_behind(fact)
        made.reloader.confirm()

    assert play(story).config is NEW


@pytest.mark.parametrize("changed", [True, False])
def test_pfsync_peers_with_another_secret(monkeypatch: pytest.MonkeyPatch, changed: bool) -> None:
    """They take it back if it was [pfsync] that changed."""
    monkeypatch.setattr(reload, "LOOK_S", 0.001)
    secrets: Any = {"secrets": (b"another one of sixteen",)} if changed else {}
    new = replace(NEW, pfsync=replace(PFSYNC, **secrets))

    async def story(made: Made) -> None:
        await made.reloader.reload(confirm_s=LATE)
        made.strangers = True
        if changed:
            await made.goes_back()
        else:
            made.reloader.confirm()

    made = play(story, new)
    assert made.config is (OLD if changed else new)
    assert any("pfsync: the peers have other secrets" in notice.text for notice in made.told) is changed
