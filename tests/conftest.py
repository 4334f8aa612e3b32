from __future__ import annotations

from collections.abc import Iterator

import pytest

from carpd.lab import rootless
from carpd.lab.topology import Lab
from carpd.lab.waiting import LabError


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A laboratory of network namespaces, which ends with the test."""
    try:
        rootless.check()
    except LabError as error:
        pytest.skip(str(error))
    with Lab() as lab:
        yield lab
