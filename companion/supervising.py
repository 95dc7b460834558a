"""Worker processes for the hooks: started, watched, started again when they die, ended together.

All listen on one port (SO_REUSEPORT), over which the kernel spreads the connections. Parent and worker hold the two ends of a
socket: the first thing on it is the worker's task, then come its reports; its end of file tells either that the other is gone,
however it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import random
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import structlog

from companion.background import background
from companion.core.errors import Permanent
from companion.core.rule_sets import RuleBook
from companion.metrics import Metrics
from companion.rule_files import read_rule_book
from companion.settings import Settings
from companion.sharing import forget_gauges
from companion.tls import Certificate

log = structlog.get_logger("companion.supervising")

REPORT_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 4.0
_START_SECONDS: Final = 60.0
_PAUSES: Final = (0.1, 10.0)
_STEADY_SECONDS: Final = 30.0
_EXIT_SECONDS: Final = 2.0
_FOLLOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told: its slot (from 1), where it shares its metrics, and all that it needs to serve.

    While it runs it may be told a newer one, of which it takes what can be changed without a new start. `number` grows by one each
    time.
    """

    slot: int
    folder: Path
    settings: Settings
    keys: Sequence[str]
    book: RuleBook
    certificate: Certificate | None = None
    number: int = 1


class Report(msgspec.Struct, frozen=True):
    """What a worker tells about itself: whether it serves, what keeps it from deciding, what ended it, which task it goes by."""

    serving: bool
    problem: str | None = None
    failure: str | None = None
    task: int = 0


class _Worker:
    """One slot and the process that has it now."""

    def __init__(self, task: Task, metrics: Metrics) -> None:
        self.name = str(task.slot)
        self._task = task
        self._restarts = metrics.workers.restarts.labels(self.name)
        self._process: Process | None = None
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self._report = Report(serving=False)
        self._heard = 0.0
        self._heard_of = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """Why it cannot decide, or None."""
        if self._process is None or self._process.returncode is not None:
            return "not running; it will be started again"
        if (silent := time.monotonic() - self._heard) > _SILENCE_SECONDS:
            return f"silent for {silent:.0f} s"
        return self._report.problem if self._report.serving else "starting"

    async def start(self) -> None:
        """Start a process and tell it its task."""
        self._hang_up()
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            # -P: the folder that we happen to stand in is no place for code.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "companion.worker", str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._report, self._heard = Report(serving=False), time.monotonic()
        self._heard_of.set()
        self._tell()

    def give(self, task: Task) -> None:
        """Tell it a newer task, now or when it is started."""
        self._task = task
        self._tell()

    async def follows(self) -> str | None:
        """Wait until it goes by its newest task; return in one line why it does not. One that is being started gets it so."""
        try:
            async with asyncio.timeout(_FOLLOW_SECONDS):
                while self._report.serving and self._report.task < self._task.number:
                    self._heard_of.clear()
                    await self._heard_of.wait()
        except TimeoutError:
            return f"worker {self.name} has not said within {_FOLLOW_SECONDS:g} s that it follows"
        return None

    def _tell(self) -> None:
        if self._writer is not None:
            task = pickle.dumps(self._task)
            self._writer.write(len(task).to_bytes(4, "big") + task)

    async def serves(self) -> None:
        """Wait until it serves. Raises `Permanent` when it ends instead, or takes too long."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._report.serving:
                    if not await self._hear():
                        reason = self._report.failure or f"it ended ({await self._ended()})"
                        raise Permanent(f"worker {self.name} did not start: {reason}")
        except TimeoutError:
            raise Permanent(f"worker {self.name} did not start within {_START_SECONDS:g} s") from None

    async def keep(self) -> None:
        """Listen to it, and start another one whenever it has ended, until cancelled."""
        shortest, longest = _PAUSES
        pause = shortest
        started = time.monotonic()
        while True:
            while await self._hear():
                pass
            ended = await self._ended()
            forget_gauges(self._task.folder, self._task.slot)
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = shortest
            log.error("worker ended", worker=self.name, ended=ended, reason=self._report.failure, pause=round(pause, 1))
            await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads load, protects nothing
            pause = min(2 * pause, longest)
            started = time.monotonic()
            try:
                await self.start()
            except OSError as problem:
                log.error("worker not started", worker=self.name, problem=str(problem))
                self._process = None
                continue
            self._restarts.inc()

    async def end(self, seconds: float) -> None:
        """Ask it to end, wait for it so long, then make an end of it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._ended(seconds)
        self._hang_up()

    async def _hear(self) -> bool:
        """Take the next report; False when there is none to come."""
        try:
            line = await self._reader.readline()
        except OSError:
            return False
        if not line.endswith(b"\n"):
            return False
        self._report, self._heard = msgspec.json.decode(line, type=Report), time.monotonic()
        self._heard_of.set()
        return True

    async def _ended(self, seconds: float = _EXIT_SECONDS) -> str:
        """Wait for its end, after so many seconds force it; return the exit code or the name of the signal."""
        if self._process is None:
            return "not started"
        try:
            async with asyncio.timeout(seconds):
                code = await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            code = await self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@dataclass(frozen=True, slots=True)
class Workers:
    """Running workers. `port` is the one that they all listen on."""

    port: int
    workers: Sequence[_Worker]
    settings: Settings
    tasks: list[Task]
    """The newest of each worker."""

    @property
    def book(self) -> RuleBook:
        """The rule sets that decide now."""
        return self.tasks[0].book

    async def prepare_rules(self) -> Callable[[], None]:
        """Read the rule files again and return what has the workers go by them. Raises `Invalid`, and nothing changes."""
        book = await asyncio.to_thread(read_rule_book, self.settings)
        return lambda: self.change(lambda task: replace(task, book=book))

    def use_keys(self, keys: Sequence[str]) -> None:
        """Let these be the valid hook keys from now on."""
        self.change(lambda task: replace(task, keys=tuple(keys)))

    def use_certificate(self, certificate: Certificate) -> None:
        """Give this one to connections that come from now on."""
        self.change(lambda task: replace(task, certificate=certificate))

    def change(self, change: Callable[[Task], Task]) -> None:
        """Give every worker its task as this changes it; one that is started later gets it as well."""
        self.tasks[:] = [replace(change(task), number=task.number + 1) for task in self.tasks]
        for worker, task in zip(self.workers, self.tasks, strict=True):
            worker.give(task)

    async def follow(self) -> Sequence[str]:
        """Wait until all that run go by their newest tasks; return who does not, in one line each."""
        return [problem for problem in await asyncio.gather(*(one.follows() for one in self.workers)) if problem]

    def problems(self) -> Mapping[str, str | None]:
        """Return for each worker, by slot, why it cannot decide, or None."""
        return {worker.name: worker.problem for worker in self.workers}

    async def trouble(self) -> str | None:
        """Return why none of them can decide, or None: one that can is enough."""
        problems = self.problems()
        if None in problems.values():
            return None
        return "; ".join(f"worker {name}: {problem}" for name, problem in problems.items())


@contextlib.asynccontextmanager
async def running_workers(
    settings: Settings, count: int, metrics: Metrics, keys: Sequence[str], certificate: Certificate | None = None
) -> AsyncIterator[Workers]:
    """Run so many workers until the block ends, which finish what they were asked; their metrics show in `metrics`.

    Raises `OSError` when the port is taken, `Permanent` when a worker cannot start, `Invalid` for a rule file that cannot be used.
    """
    book = await asyncio.to_thread(read_rule_book, settings)
    with (
        _reserved(settings.hooks_host, settings.hooks_port) as port,
        tempfile.TemporaryDirectory(prefix="companion-", ignore_cleanup_errors=True) as name,
    ):
        folder, bound = Path(name), settings.model_copy(update={"hooks_port": port})
        tasks = [Task(slot, folder, bound, tuple(keys), book, certificate) for slot in range(1, count + 1)]
        workers = [_Worker(task, metrics) for task in tasks]
        running = Workers(port, workers, settings, tasks)
        try:
            for worker in workers:
                await worker.start()
            for worker in workers:
                await worker.serves()
            _show(running, metrics, folder)
            async with background(*(worker.keep() for worker in workers)):
                yield running
        finally:
            metrics.shared = None
            seconds = settings.shutdown_deadline + _EXIT_SECONDS
            await asyncio.gather(*(worker.end(seconds) for worker in workers))


def _show(running: Workers, metrics: Metrics, folder: Path) -> None:
    def ready() -> int:
        return list(running.problems().values()).count(None)

    metrics.workers.by_state.labels("ready").set_function(ready)
    metrics.workers.by_state.labels("missing").set_function(lambda: len(running.workers) - ready())
    metrics.shared = folder


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port that the workers may listen on and nobody else, and yield it. Raises `OSError` when it is taken."""
    with contextlib.ExitStack() as stack:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            held = stack.enter_context(socket.socket(family, kind, protocol))
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # It is bound without SO_REUSEPORT, or another service of ours that has the port would go unnoticed; opened to the
            # workers then; and the address is not for reuse any more, so that the next one that tries notices us.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((address[0], port, *address[2:]))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            port = held.getsockname()[1]
        yield port
