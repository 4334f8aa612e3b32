"""docs/migration.md word by word: its samples go in, and what it shows comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.docs.markdown import ROOT, blocks
from tests.docs.shape import fits

GUIDE = ROOT / "docs" / "migration.md"


def test_guide(tmp_path: Path) -> None:
    made = ""  # by the last command
    configurations = 0
    for block in blocks(GUIDE):
        if block.language == "sh":
            run(block.text, tmp_path)
        elif block.language == "console":
            command, _, shown = block.text.removeprefix("# ").partition("\n")
            printed = run(command, tmp_path)
            assert fits(printed, shown), f"{block}:\n{printed}"
            output = re.search(r"--output (\S+)", command)
            assert output, block
            made = (tmp_path / output[1]).read_text()
        elif block.language == "toml":
            assert tomllib.loads(made) == tomllib.loads(block.text), block
            configurations += 1
    assert configurations == 4  # one of each way


def run(command: str, directory: Path) -> str:
    """What a shell prints that finds our programs."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-ec", command], cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
