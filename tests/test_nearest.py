"""What is said of a word that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from carpd import nearest
from carpd.config.keys import CARP_KEYS, PFSYNC_KEYS

MANY = [f"v{number}" for number in range(26)]

HINTS = {
    "near": ("mastr", ["backup", "master"], "did you mean 'master'?"),
    "in another case": ("MASTER", ["backup", "master"], "did you mean 'master'?"),
    "known in another case": ("lan", ["LAN", "WAN"], "did you mean 'LAN'?"),
    "with a hyphen": ("sync-peer", ["syncdev", "SYNC_PEER"], "did you mean 'SYNC_PEER'?"),
    "far": ("xyz", ["backup", "master"], "known are backup, master"),
    "none": ("xyz", [], "there is none"),
    "many": ("xyz", MANY, f"known are {', '.join(MANY[:24])} and 2 more"),
    "named twice": ("xyz", ["lan", "wan", "lan"], "known are lan, wan"),
}


@pytest.mark.parametrize(("word", "known", "hint"), HINTS.values(), ids=HINTS.keys())
def test_hints(word: str, known: list[str], hint: str) -> None:
    assert nearest.hint(word, known) == hint


@pytest.mark.parametrize("keys", [CARP_KEYS, PFSYNC_KEYS], ids=["carp", "pfsync"])
def test_all_keys_of_a_table_are_named(keys: Mapping[str, object]) -> None:
    assert nearest.hint("?", keys) == f"known are {', '.join(keys)}"
