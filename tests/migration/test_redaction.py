"""Passwords are in no remark and in no comment of the file that is written, whatever line they stand in."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carpd.migration.formats import read_all
from carpd.migration.found import Found, MigrationError, Place
from carpd.migration.merge import merge
from carpd.migration.redaction import redact, secrets
from carpd.migration.ucarp import read_command
from carpd.migration.write import write
from tests.migration.reading import FILES
from tests.migration.test_any_file import changed_samples
from tests.migration.test_any_file import words as any_words

REDACTED = {
    "vhid 1 pass xyzzy advskew 3": "vhid 1 pass …",
    "passs xyzzy": "passs …",
    "auth_type AH auth_pass xyzzy": "auth_type AH auth_pass …",
    "auth_pas xyzzy": "auth_pas …",
    "ucarp -v 1 -zp xyzzy": "ucarp -v 1 -zp …",
    "ucarp -pxyzzy -v 1": "ucarp -p …",
    "ucarp -v 1 -P xyzzy": "ucarp -v 1 -P …",
    "ucarp -P -p xyzzy": "ucarp -P -p …",
    "ucarp --pass=xyzzy": "ucarp --pass …",
    "ucarp --pas xyzzy": "ucarp --pas …",
    "ucarp-pasword xyzzy and more": "ucarp-pasword …",
    "VRRP_PASSWORD=xyzzy": "VRRP_PASSWORD …",
    "no word, but xyzzy is known": "no word, but … is known",
    # what is none
    "auth_type PASS": "auth_type PASS",
    "ucarp -P -z --passfile /etc/pw -v 1": "ucarp -P -z --passfile /etc/pw -v 1",
    "class peer alias mask path": "class peer alias mask path",
    "xyzzyx is another word": "xyzzyx is another word",
}


@pytest.mark.parametrize("text", REDACTED)
def test_redact(text: str) -> None:
    assert redact(text, {"xyzzy"}) == REDACTED[text]


SECRETS: dict[str, set[str]] = {
    "pass a advskew b": {"a"},
    "pass 'a b' c": {"a b"},
    'x="vhid 1 pass a" y="pass b"': {"a", "b"},
    'x="pass \\"a b\\" c"': {"a b"},
    "pass \\\n a": {"a"},
    "ucarp-password a b\nc": {"a", "b"},
    "ucarp -p a b -c": {"a", "b"},
    "auth_pass a}": {"a"},
    "pass mypass b": {"mypass"},
    "# pass a\nx # pass b": set(),
    "-p $PASS -a 192.0.2.1": {"$PASS"},
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets(text: str) -> None:
    """As they are written, too; which matters only if a remark shows them so."""
    found = secrets(text)
    assert found >= SECRETS[text]
    assert bool(found) is bool(SECRETS[text])
    assert found.isdisjoint({"advskew", "vhid", "c", "-c", "-a"})


SAID: Mapping[str, list[str]] = {
    "openbsd": ["pass {}", "passs {}", "pass mine {}", 'pas "{}"', "!ifconfig carp0 pass {}", "vhid pass {}"],
    "freebsd": [
        'ifconfig_em1_alias0="inet vhid 1 pass {} $X 192.0.2.1/32"',
        'if x; then ifconfig_em1_alias1="inet vhid 1 pass {} 192.0.2.2/32"; fi',
        "ifconfig_em1_aliases=\"inet vhid 1 passs '{}'",
        "pass {}",
        "PASSWORD={}",
    ],
    "ucarp": [
        "start-stop-daemon --start --exec /usr/sbin/ucarp -- -i eth4 -v 4 -p {} -a 192.0.2.1",
        "ucarp -v 5 -a 192.0.2.5 -p q; ucarp -v 6 -p {}",
        "ucarp -v 7 -P {} -a 192.0.2.7",
        "ucarp -p mine {}",
        "ucarp -v 1 -Bp{}",
        "ucarp --paswd={}",
        "PASS={}",
        "ucarp-password {}",
        "ucarp-pasword my {}",
        "ucarp-upscript /x --pass={}",
    ],
    "keepalived": [
        "auth_pass {}",
        "auth_pass mine {}",
        "auth_pas {}",
        "auth_type AH auth_pass {}",
        "$PASS={}",
        "notify '/x --pass {}' user",
        "auth_pass $X{}",
    ],
    "conntrackd": ["pass {}"],
    "sysctl.conf": ["pass {}", "net.inet.carp.pass={}"],
}

passwords = st.text(alphabet="aZ09+,.:/%@^_", max_size=8).map(lambda text: f"Top{text}Secret")


@pytest.mark.parametrize("name", FILES)
@given(data=st.data(), password=passwords)
def test_no_password_is_shown(name: str, data: st.DataObject, password: str) -> None:
    text = data.draw(changed_samples())
    for said in data.draw(st.lists(st.sampled_from(SAID[name]), min_size=1, max_size=4)):
        lines = text.split("\n")
        words = [
            *data.draw(st.lists(any_words, max_size=2)),
            said.format(password),
            *data.draw(st.lists(any_words, max_size=2)),
        ]
        position = data.draw(st.integers(0, len(lines)))
        lines[position:position] = [" ".join(words)]
        text = "\n".join(lines)
    found = Found("fw-a")
    try:
        read_all(found, [(name, FILES[name], text)])
    except MigrationError as error:
        assert password not in str(error)  # noqa: PT017
    assert_not_shown(found, password)


@given(
    before=st.lists(any_words, max_size=4),
    password=passwords | st.just("it's my $ecret"),
    behind=st.lists(any_words, max_size=4),
)
def test_none_of_a_command_line(before: list[str], password: str, behind: list[str]) -> None:
    found = Found("fw-a")
    read_command([*before, "-p", password, *behind], Place("a command line of ucarp", 1), found)
    assert_not_shown(found, password)


def assert_not_shown(found: Found, password: str) -> None:
    configuration = merge([found])
    for remark in configuration.remarks:
        assert password not in str(remark)
    text = write(configuration.sections, configuration.scripts, configuration.remarks, ["a file"]).text
    for comment in re.findall("#.*", text):
        assert password not in comment
