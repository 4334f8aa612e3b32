from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

import pytest
from hypothesis import settings

from carpd.lab import rootless
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError

settings.register_profile("carpd", deadline=None)  # how fast a machine is tells nothing of us
settings.load_profile("carpd")


def leave_out(reason: str) -> NoReturn:
    """A developer without root may do without a test, continuous integration may not."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def need(program: str) -> None:
    """A real peer, which `make test` installs."""
    if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin") is None:
        leave_out(f"needs {program}")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of network namespaces, which ends with the test."""
    try:
        rootless.check()
    except LabError as error:
        leave_out(str(error))
    with Lab() as lab:
        yield lab
