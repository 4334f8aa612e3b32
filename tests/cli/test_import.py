"""`carpctl import`: which files are read as what, what is written where, and what mistakes get."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from carpd.cli import carpctl

CARP = "vhid 1 carpdev eth1 192.0.2.1/24 pass secret advskew 5\n"
VRRP = "vrrp_instance A { interface eth1\nvirtual_router_id 1\nvirtual_ipaddress { 192.0.2.1/24\n}\n}\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return carpctl.main(["import", *words])


def test_without_output_secrets_stay_unsaid(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("hostname.carp0").write_text(CARP)
    assert run("hostname.carp0") == 0
    out, err = capsys.readouterr()
    assert 'password_file = "password"' in out
    assert "secret" not in out + err
    assert err.splitlines()[-1] == "with --output FILE these are written too: password"
    assert [file.name for file in directory.iterdir()] == ["hostname.carp0"]


def test_output_is_for_its_owner_alone_and_never_replaces_anything(capsys: pytest.CaptureFixture[str]) -> None:
    Path("hostname.carp0").write_text(CARP)
    Path("out").mkdir()
    assert run("hostname.carp0", "--output", "out/carpd.toml") == 0
    files = {path.name: path for path in Path("out").iterdir()}
    assert files.keys() == {"carpd.toml", "password"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    assert files["password"].read_text() == "secret\n"
    capsys.readouterr()

    files["carpd.toml"].unlink()
    files["password"].write_text("another\n")
    assert run("hostname.carp0", "--output", "out/carpd.toml") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "carpctl import: out/password is there already: choose another name, or remove it"
    assert not files["carpd.toml"].exists()
    assert files["password"].read_text() == "another\n"


def test_what_carpd_would_refuse_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("hostname.carp0").write_text("vhid 1 192.0.2.1/24\n")
    assert run("hostname.carp0", "--output", "carpd.toml") == 3
    err = capsys.readouterr().err
    assert "carpd.toml:4: error: carp.carp0.interface: is missing" in err


def test_a_directory_stands_for_the_files_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    for host, advskew in (("a", 0), ("b", 100)):
        etc = Path(host)
        (etc / "keepalived").mkdir(parents=True)
        (etc / "keepalived" / "keepalived.conf").write_text(VRRP + f"#{advskew}")
        (etc / "hostname.carp0").write_text(CARP.replace("vhid 1", "vhid 2").replace("2.1", "2.2"))
        (etc / "passwd").write_text("nothing for us")
    assert run("a=a", "b=b") == 0
    out = capsys.readouterr().out
    assert "[carp.A] # a/keepalived/keepalived.conf:1" in out
    assert "[carp.carp0] # a/hostname.carp0:1" in out
    assert "[node.b.carp.carp0]\nadvskew = 5" not in out  # it is the same on both


def test_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--node", "a", "--", "ucarp", "-i", "eth1", "-v", "1", "-p", "secret", "-a", "192.0.2.1", "-k", "5") == 0
    out, err = capsys.readouterr()
    assert out.startswith("# Made by `carpctl import` from a command line of ucarp.\n")
    assert "[node.a.carp.vhid1]\nadvskew = 5\n" in out
    assert "secret" not in out + err


def test_names_with_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a=b").mkdir()
    Path("a=b", "hostname.carp0").write_text(CARP)
    assert run("a=b") == 0
    assert "[carp.carp0] # a=b/hostname.carp0:1" in capsys.readouterr().out
    assert run("host=a=b") == 0
    assert "[node.host.carp.carp0]" in capsys.readouterr().out


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such file": (["nowhere"], "[Errno 2] No such file or directory: 'nowhere'"),
    "nothing in it": (["empty"], "empty: what is it of? Say --from keepalived|conntrackd|freebsd|ucarp|openbsd"),
    "nothing of ours": (["--from", "keepalived", "empty"], "nothing of CARP, VRRP or pfsync was found"),
    "no files": (["nothing"], "nothing: there is no file in it that can be read"),
    "of a host and of none": (
        ["a=hostname.carp0", "hostname.carp0"],
        "some files are of a host and some of none: write HOST=FILE, or --node HOST",
    ),
    "a damaged file": (["damaged"], "damaged:1: the block is not closed"),
    "no interface": (
        ["--from", "openbsd", "words"],
        "words:1: which interface is it of? Call the file hostname.carp0, for example",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = MISTAKES[name]
    Path("nothing").mkdir()
    Path("hostname.carp0").write_text(CARP)
    Path("empty").write_text("\n")
    Path("damaged").write_text("vrrp_instance A {\n")
    Path("words").write_text("192.0.2.1/24 vhid 1\n")
    assert run(*words) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"carpctl import: {expected}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "the following arguments are required: FILE"),
        (["--from", "openbds", "x"], "argument --from: not 'openbds': did you mean 'openbsd'?"),
        (
            ["--interface-map", "em0", "x"],
            "argument --interface-map: write OLD=NEW,OLD=NEW, such as em0=eth0,em1=eth1",
        ),
    ],
)
def test_wrong_usage(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"carpctl import: {expected} (see carpctl import --help)\n"
