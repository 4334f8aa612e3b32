"""nftables by its own program, in its own language, which is readable and reviewable: for set-up only."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

from carpd.errors import SystemCallError

_TIME_LIMIT_S = 30


def run(tried: str, transaction: str) -> None:
    """Do all that it says, or nothing: it takes some 20 ms. Raise SystemCallError, also when there is no `nft`."""
    program = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise SystemCallError(tried, errno.ENOENT, "the program nft is missing: install the package nftables")
    command = [program, "-f", "-"]
    try:
        done = subprocess.run(command, input=transaction, text=True, capture_output=True, timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SystemCallError(tried, errno.ETIMEDOUT, "nft does not end") from None
    if done.returncode:
        reason = (done.stderr.splitlines() or ["nft gives no reason"])[0]
        raise SystemCallError(tried, errno.EINVAL, reason)
