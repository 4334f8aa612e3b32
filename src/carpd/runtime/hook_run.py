"""One run of a hook's program: as its user, with the event on standard input, heard line by line, ended when too late.

Everything is awaited and bounded: what the program does, or does not do, holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from carpd.errors import CarpdError

LINES_LIMIT = 100
"""Lines of output that are passed on."""
LINE_LIMIT = 1000
"""Bytes of each."""
KILL_DELAY_S = 2.0
"""Between SIGTERM and SIGKILL."""

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
"""Beside the variables of the event."""

_WITHOUT_CAPABILITIES = ("setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--")
"""Our own would follow a program of another user: the kernel takes them from what root starts. Ref: setpriv(1)."""

_READ_SIZE = 1 << 16
_READS_AT_THE_END = 16
_FLOOD_DELAY_S = 0.01
"""Between two reads of what is not passed on: it costs us next to nothing, and the program waits."""


class Account(NamedTuple):
    """Whom a program runs as: the arguments of these names that a subprocess is started with."""

    user: int
    group: int
    extra_groups: tuple[int, ...]

    @classmethod
    def named(cls, name: str) -> Account | None:
        """None if that is our own. Raise CarpdError if this host has no such user."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise CarpdError(f"this host has no user {name}") from error
        if entry.pw_uid == os.geteuid():
            return None
        return cls(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    exit_status: int
    """That of the program; negative: the signal that ended it."""
    duration_s: float
    timed_out: bool = False

    @property
    def is_good(self) -> bool:
        return self.exit_status == 0 and not self.timed_out

    def __str__(self) -> str:
        how = f"exit status {self.exit_status}"
        if self.exit_status < 0:
            how = f"killed by {signal.Signals(-self.exit_status).name}"
        return f"{'ended by its timeout, ' if self.timed_out else ''}{how} after {self.duration_s:.3f} s"


async def run(
    command: Sequence[str],
    account: Account | None,
    timeout_s: float,
    event: bytes,
    variables: Mapping[str, str],
    heard: Callable[[str], None],
) -> Outcome:
    """Run it to its end; when it is late, or this is cancelled, its whole process group is ended.

    Raise CarpdError if it can't be run. `account` None is our own. A process that outlives the program is nobody's
    business: what it prints is not heard.
    """
    started = time.monotonic()
    timed_out = False
    with _Output(heard) as output, output.write_end(account) as write_end, _file(event) as standard_input:
        bare = _WITHOUT_CAPABILITIES if account and os.geteuid() != 0 else ()
        try:
            process = await asyncio.create_subprocess_exec(
                *bare,
                *command,
                stdin=standard_input,
                stdout=write_end,
                stderr=write_end,
                env={**ENVIRONMENT, **variables},
                cwd="/",
                start_new_session=True,
                **(account._asdict() if account else {}),
            )
        except OSError as error:
            raise CarpdError(f"{command[0]} can't be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            timed_out = True
        finally:
            await _end(process)
    assert process.returncode is not None, "its end was waited for"
    return Outcome(process.returncode, time.monotonic() - started, timed_out)


async def _end(process: asyncio.subprocess.Process) -> None:
    """See to it that it has ended, and if it had to be made to, all that it has started, too.

    Raise CarpdError if it is somebody else's, and we may not.
    """
    if process.returncode is not None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_DELAY_S):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    except PermissionError as error:
        raise CarpdError(f"process {process.pid} can't be ended: {error.strerror} (needs CAP_KILL)") from error
    await process.wait()


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[int]:
    """A file descriptor to read this from. Not a pipe: nobody waits for a reader, whoever it is may open it again."""
    descriptor = os.memfd_create("event")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


class _Output:
    """What a program prints, line by line while it runs. Use as a context manager, within the event loop."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._begun = b""
        """The beginning of a line."""
        self._lines = self._size = 0
        self._later: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._pipe, self._write_end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._readable)
        return self

    def __exit__(self, *error: object) -> None:
        """The program has ended: what it has printed can be read at once."""
        for _ in range(_READS_AT_THE_END):
            if not self._read():
                break
        if self._begun:
            self._line(self._begun)
        self._loop.remove_reader(self._pipe)
        if self._later is not None:
            self._later.cancel()
        os.close(self._pipe)

    @contextlib.contextmanager
    def write_end(self, account: Account | None) -> Iterator[int]:
        """Where the program writes to."""
        try:
            if account is not None:
                with contextlib.suppress(PermissionError):  # then it can't open /dev/stderr by that name
                    os.fchown(self._write_end, account.user, account.group)
            yield self._write_end
        finally:
            os.close(self._write_end)

    def _readable(self) -> None:
        self._read()
        if self._size > LINES_LIMIT * LINE_LIMIT:
            self._loop.remove_reader(self._pipe)
            self._later = self._loop.call_later(_FLOOD_DELAY_S, self._loop.add_reader, self._pipe, self._readable)

    def _read(self) -> bool:
        """Whether there was anything."""
        try:
            data = os.read(self._pipe, _READ_SIZE)
        except BlockingIOError:
            return False
        self._size += len(data)
        *lines, begun = (self._begun + data).split(b"\n")
        self._begun = begun[:LINE_LIMIT]
        for line in lines:
            self._line(line)
        return bool(data)

    def _line(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= LINES_LIMIT:
            text = line[:LINE_LIMIT].decode(errors="replace").rstrip().expandtabs()
            self._heard("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
        elif self._lines == LINES_LIMIT + 1:
            self._heard(f"(more than {LINES_LIMIT} lines: the rest is left out)")
