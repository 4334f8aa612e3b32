"""Work in the background: what comes of it, and that a process ends without it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from carpd.runtime.background import in_background

ENDS = """
import asyncio, threading
from carpd.runtime.background import in_background

async def main() -> None:
    hanging = asyncio.create_task(in_background(threading.Event().wait))
    await asyncio.sleep(0)
    hanging.cancel()

asyncio.run(main())
print("ended")
"""


def test_what_comes_of_it() -> None:
    assert asyncio.run(in_background(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_background(divmod, 7, 0))


def test_a_process_ends_while_it_hangs() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ended\n", "")
