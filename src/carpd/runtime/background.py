"""Work that may take for ever, such as reading a file on a network file system whose server is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_background(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises, in a thread of its own that nobody waits for at exit: unlike asyncio.to_thread."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # who does not want it any more can't stop it

    def run() -> None:
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"background: {work!r:.60}", daemon=True).start()
    return await asyncio.wrap_future(future)
