"""Small Python programs as real processes, spoken to line by line."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

_SECONDS = 30.0
_ROOT = Path(__file__).parents[2]


class Program:
    """A running program."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Return the next line that it prints; fail the test when it ends instead."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            line = await self._process.stdout.readline()
        assert line.endswith(b"\n"), f"the program ended with {await self._process.wait()}"
        return line.decode().rstrip("\n")

    async def rest(self) -> Sequence[str]:
        """Return every complete line that it printed before its end."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            *lines, _ = (await self._process.stdout.read()).decode().split("\n")
        return lines

    def say(self, line: str) -> None:
        """Give it a line on standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def ended(self) -> int:
        """Close its standard input and return the code with which it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(_SECONDS):
            return await self._process.wait()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.kill()


@contextlib.asynccontextmanager
async def program(source: str, *arguments: str) -> AsyncIterator[Program]:
    """Run `source` until the block ends; what it says on standard error is the test's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, *arguments, stdin=PIPE, stdout=PIPE, cwd=_ROOT
    )
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
