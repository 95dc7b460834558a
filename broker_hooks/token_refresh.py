"""Keys that lie elsewhere (a JWK Set in a file or behind a URL) and are looked at again in the background.

What was read last serves until something newer is read, for a limited time: an identity provider that is away for an hour logs
nobody out. A token that names an unknown key makes us look at once, but at most once in a while: anybody can invent key ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import aiohttp
import structlog

from broker_hooks.token_keys import VerificationKey

log = structlog.get_logger("broker_hooks.token_refresh")

MAX_BYTES: Final = 262_144
"""The longest JWK Set that is read."""

_JITTER: Final = 0.2
_AGAIN: Final = (1.0, 60.0)
"""The first and the longest pause, in seconds, after a look that failed."""


class RefreshedKeys:
    """Keys that `fetch` reads and `parse` understands, again every `every` seconds.

    An unknown key id makes it look at once, but no more often than each `cooldown` seconds. Keys serve for `stale` seconds without
    a newer look. `changed` is called whenever others than before hold; `told` with whether a look went well.
    """

    def __init__(
        self,
        name: str,
        fetch: Callable[[], Awaitable[bytes]],
        parse: Callable[[bytes], tuple[VerificationKey, ...]],
        *,
        every: float,
        cooldown: float,
        stale: float,
        told: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._parse = parse
        self._every = every
        self._cooldown = cooldown
        self._stale = stale
        self._told = told
        self._clock = clock
        self._keys: tuple[VerificationKey, ...] = ()
        self._body = b""
        self._read_at = -float("inf")
        self._looked_at = -float("inf")
        self._look: asyncio.Task[None] | None = None
        self._failing = False
        self.changed: Callable[[], None] = lambda: None

    @property
    def keys(self) -> Sequence[VerificationKey]:
        """The keys that hold now; none when nothing was read for too long."""
        self._forget_old()
        return self._keys

    @property
    def away(self) -> bool:
        """Whether the last look failed, or there was none."""
        return self._failing or not self._keys

    async def ask(self) -> bool:
        """Look again because of an unknown key id. False when that was done a moment ago."""
        if self._look is None and self._clock() - self._looked_at < self._cooldown:
            return False
        await self._looked()
        return True

    async def run(self) -> NoReturn:
        """Look for ever; intervals are spread, so that replicas do not come all at once."""
        pause, longest = _AGAIN
        while True:
            await self._looked()
            if self._failing:
                wait, pause = min(pause, self._every), min(pause * 2, longest)
            else:
                wait, pause = self._every, _AGAIN[0]
            await asyncio.sleep(wait * (1 - _JITTER * random.random()))  # noqa: S311 - spreads load, protects nothing

    async def _looked(self) -> None:
        """Wait for a look that is under way, or begin one."""
        if self._look is None:
            self._looked_at = self._clock()
            self._look = asyncio.create_task(self._look_once())
            self._look.add_done_callback(self._ended)
        # Who gives up takes nothing from the others.
        await asyncio.shield(self._look)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._look = None
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._look

    async def _look_once(self) -> None:
        try:
            body = await self._fetch()
            keys = self._keys if body == self._body else self._parse(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            if not self._failing:
                log.warning("the keys of tokens cannot be read", place=self._name, problem=_said(problem))
            self._failing = True
            self._forget_old()
            self._told(False)  # noqa: FBT003 - the outcome is the whole message
            return
        if self._failing:
            log.info("the keys of tokens can be read again", place=self._name)
        self._failing = False
        self._read_at = self._clock()
        self._told(True)  # noqa: FBT003 - likewise
        if body != self._body:
            self._keys, self._body = keys, body
            self.changed()

    def _forget_old(self) -> None:
        if self._keys and self._clock() - self._read_at > self._stale:
            self._keys, self._body = (), b""
            self.changed()


def _said(problem: Exception) -> str:
    return str(problem) if isinstance(problem, ValueError) else type(problem).__name__


def from_file(path: Path) -> Callable[[], Awaitable[bytes]]:
    """Return what reads a file."""
    return lambda: asyncio.to_thread(_read, path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return _short_enough(file.read(MAX_BYTES + 1))


def from_url(http: aiohttp.ClientSession, url: str, seconds: float) -> Callable[[], Awaitable[bytes]]:
    """Return what fetches a URL, as a whole within `seconds`; a redirection is followed nowhere."""

    async def fetch() -> bytes:
        timeout = aiohttp.ClientTimeout(total=seconds)
        # A small answer that unpacks to a large one would pass the limit.
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with http.get(url, timeout=timeout, headers=headers, allow_redirects=False) as response:
            if response.status != 200:  # noqa: PLR2004 - OK
                raise ValueError(f"status {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body = _short_enough(body + chunk)
        return body

    return fetch


def _short_enough(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return body
