"""Looks for single rows that are asked for at one moment, done in one go.

To hand a job to a thread and to take its result back costs more than to find a row: when thousands log in at once, it is what they
wait for.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from companion.core.errors import Transient
from companion.stores.embedded.problems import translated

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

CLOSING: Final = "embedded store: it is closing"
_AT_ONCE: Final = 256
"""The first of them waits for the last one."""

_Look = tuple[Job[Any], "asyncio.Future[Any]"]
_Outcome = tuple[Any, BaseException | None]


class Looks:
    """What is waited for by somebody, and not yet looked for."""

    def __init__(self, begin: Callable[[Job[Sequence[_Outcome]]], asyncio.Future[Sequence[_Outcome]]]) -> None:
        self._begin = begin
        self._waiting: list[_Look] = []

    async def look(self, job: Job[T]) -> T:
        """Do the job, which takes microseconds, and return its result; its error is raised to who asked, and to nobody else."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((job, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._look_together)
        return await future

    def _look_together(self) -> None:
        looks, self._waiting = self._waiting, []
        wanted = [one for one in looks if not one[1].done()]
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            try:
                looking = self._begin(_each([job for job, _ in some]))
            except RuntimeError:
                # The threads were told to end after these had been asked for.
                _tell(some, [(None, Transient(CLOSING))] * len(some))
            else:
                looking.add_done_callback(functools.partial(_tell_all, some))


def _each(jobs: Sequence[Job[Any]]) -> Job[Sequence[_Outcome]]:
    """Return the job that does each of these, and tells what each has come to."""

    def all_of(connection: sqlite3.Connection) -> Sequence[_Outcome]:
        outcomes: list[_Outcome] = []
        for job in jobs:
            try:
                with translated():
                    outcomes.append((job(connection), None))
            except Exception as problem:  # noqa: BLE001 - told to who asked; the others have nothing to do with it
                outcomes.append((None, problem))
        return outcomes

    return all_of


def _tell_all(looks: Sequence[_Look], looking: asyncio.Future[Sequence[_Outcome]]) -> None:
    problem = Transient(CLOSING) if looking.cancelled() else looking.exception()
    _tell(looks, looking.result() if problem is None else [(None, problem)] * len(looks))


def _tell(looks: Sequence[_Look], outcomes: Sequence[_Outcome]) -> None:
    for (_, future), (result, problem) in zip(looks, outcomes, strict=True):
        if future.done():
            continue
        if problem is None:
            future.set_result(result)
        else:
            future.set_exception(problem)
