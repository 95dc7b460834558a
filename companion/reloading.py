"""Configuration that is read again while the service runs: at SIGHUP and at `POST /reload` on the operations port.

Whoever has something to read again adds a part: a function that reads and checks it and returns what puts it into force. All parts
are prepared before any is put into force, all in one step of the event loop: it is the whole new configuration that works from
then on, or, where one part is refused, the whole old one. Followers (worker processes) are told afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web

from companion.core.errors import CompanionError, Invalid, Permanent
from companion.door import Door, as_json, problem
from companion.logs import told
from companion.metrics import Metrics

log = structlog.get_logger("companion.reloading")

Commit = Callable[[], None]
"""Puts what was prepared into force; it cannot fail."""

Prepare = Callable[[], Awaitable[Commit]]
"""Reads and checks. Raises `Invalid` (or another `CompanionError`) for what cannot be used; then nothing changes."""

Follow = Callable[[], Awaitable[Sequence[str]]]
"""Has others do the same; returns in one line each what went wrong."""

RELOADED: Final = "reloaded"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `refused` says why the old configuration stays; `problems` tells of followers that did not follow."""

    parts: tuple[str, ...]
    refused: CompanionError | None = None
    problems: tuple[str, ...] = ()

    @property
    def told(self) -> str | None:
        """What went wrong, in one line, or None."""
        return str(self.refused) if self.refused is not None else "; ".join(self.problems) or None


class Reloading:
    """The parts, and one reload after the other."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = time.time) -> None:
        self._metrics = metrics.reload
        self._now = now
        self._parts: dict[str, Prepare] = {}
        self._followers: list[Follow] = []
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Outcome]] = set()

    def add(self, name: str, prepare: Prepare) -> None:
        """Add a part under a name for people."""
        self._parts[name] = prepare

    def follow(self, follow: Follow) -> None:
        """Tell these others after every reload."""
        self._followers.append(follow)

    def ask(self) -> None:
        """Reload soon; what comes of it is logged and counted."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> Outcome:
        """Reload everything, or nothing."""
        async with self._lock:
            commits: list[Commit] = []
            for name, prepare in self._parts.items():
                try:
                    commits.append(await prepare())
                except Exception as cause:  # noqa: BLE001 - whatever it is, the old configuration goes on working
                    problem = cause if isinstance(cause, CompanionError) else Permanent(f"{name}: {told(cause)}")
                    self._metrics.refused.inc()
                    self._metrics.stale.set(1)
                    log.error("configuration refused: the old one stays", part=name, problem=str(problem))
                    return Outcome(tuple(self._parts), refused=problem)
            for commit in commits:
                commit()
            problems = [problem for follow in self._followers for problem in await follow()]
            self._metrics.done.inc()
            self._metrics.stale.set(0)
            self._metrics.at.set(self._now())
            if problems:
                log.error("configuration reloaded, but not everywhere", problems=problems)
            else:
                log.info("configuration reloaded", parts=list(self._parts))
            return Outcome(tuple(self._parts), problems=tuple(problems))


class ReloadApi:
    """`POST /reload` on the operations port."""

    def __init__(self, reloading: Reloading, door: Door) -> None:
        self._reloading = reloading
        self._door = door

    def add_routes(self, app: web.Application) -> None:
        """Put the handler on the operations port."""
        app.router.add_post("/reload", self._door.behind(self._answer))

    async def _answer(self, _: web.Request) -> web.Response:
        outcome = await self._reloading.reload()
        if isinstance(outcome.refused, Invalid):
            raise outcome.refused
        if outcome.told is not None:
            return problem(503, outcome.told)
        return as_json({"status": RELOADED, "parts": list(outcome.parts)})
