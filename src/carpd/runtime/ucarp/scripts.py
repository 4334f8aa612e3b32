"""Runs ucarp's scripts: one at a time, in order, beside the election."""

from __future__ import annotations

import os
import signal

from carpd.runtime.ucarp.log import Log
from carpd.runtime.ucarp.settings import Settings


class Scripts:
    """The up- and the down-script of one virtual host, each called as SCRIPT INTERFACE ADDRESS [EXTRA]."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._scripts = {True: settings.up_script, False: settings.down_script}
        arguments = (settings.interface, str(settings.address), settings.extra)
        self._arguments = [argument for argument in arguments if argument is not None]
        self._log = log
        self._running: tuple[int, bool] | None = None
        """The process, and whether it is the up-script."""
        self._next: bool | None = None

    @property
    def idle(self) -> bool:
        return self._running is None

    def call(self, *, up: bool) -> None:
        """Run one of them, as soon as the other has ended.

        One that has not even begun and its opposite make nothing: a script that hangs can't make a queue.
        """
        self._next = None if self._next is (not up) else up
        self._run_next()

    def collect(self) -> list[bool]:
        """Those that have ended: True for the up-script. Called after each SIGCHLD."""
        ended = []
        while self._running is not None:
            pid, up = self._running
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                break
            self._running = None
            ended.append(up)
            if status:
                code = os.waitstatus_to_exitcode(status)
                how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
                self._log.warning(f"[{self._scripts[up]}] failed: {how}")
            self._run_next()
        return ended

    def _run_next(self) -> None:
        if self._running is not None or self._next is None:
            return
        up, self._next = self._next, None
        script = self._scripts[up]
        if script is None:
            return
        command = [script, *self._arguments]
        self._log.warning(f"Spawning [{' '.join(command)}]")
        try:
            pid = os.fork()
        except OSError as error:
            self._log.error(f"Unable to spawn the script: {error.strerror}")
            return
        if not pid:
            self._become(command)
        self._running = pid, up

    def _become(self, command: list[str]) -> None:
        """In the new process. Nobody waits for it to have begun: a file system that hangs delays no election."""
        try:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; handlers end with exec by themselves
            os.execv(command[0], command)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._log.error(f"Unable to exec {' '.join(command)}: {reason}")
        finally:
            os._exit(0)  # it is said already
