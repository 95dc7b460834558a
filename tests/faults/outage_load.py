"""A steady load on the hooks, open-loop: what is due is asked whether or not what was asked before is answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.faults.outage_judge import Answer, Phase, Wanted
from tests.support.service import HOOK_KEY

CLIENTS: Final = 50
PASSWORD: Final = "secret"
_PATIENCE: Final = 15.0
_HEADERS: Final = {"Authorization": f"Bearer {HOOK_KEY}"}

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """Something to ask; `share` is how often among all."""

    name: str
    hook: str
    share: int
    wanted: Wanted
    fields: Callable[[int], Fields]
    needs: str = ""
    guesses: bool = False
    """From one network, so that the guard counts them together."""


@dataclass(slots=True)
class Watched:
    """A connected client of whom is asked all the time, and what is wanted of the answers: that changes on the way."""

    name: str
    what: str
    wanted: Wanted = Wanted.ALLOW


def login(username: str, password: str = PASSWORD) -> Fields:
    return {"username": username, "password": password, "clientid": f"c-{username}"}


def publish(username: str, topic: str, client: str = "") -> Fields:
    return {"username": username, "clientid": client or f"c-{username}", "action": "publish", "topic": topic}


def own(username: str) -> str:
    """Return the topic that this user may publish to."""
    return f"telemetry/{username}/1"


def _device(number: int) -> str:
    return f"device-{number % CLIENTS}"


KINDS: Final = (
    Kind("login, right", "auth", 4, Wanted.ALLOW, lambda n: login(_device(n))),
    Kind("login, wrong password", "auth", 1, Wanted.NEVER, lambda n: login(f"wrong-{n % CLIENTS}", "guess")),
    Kind(
        "login, wrong password again and again", "auth", 1, Wanted.NEVER, lambda _: login("wrong-0", "x"), guesses=True
    ),
    Kind("login, unknown user", "auth", 1, Wanted.NEVER, lambda n: login(f"unknown-{n}")),
    Kind("login, disabled account", "auth", 1, Wanted.NEVER, lambda n: login(f"disabled-{n % CLIENTS}")),
    Kind("publish, connected", "authz", 12, Wanted.ALLOW, lambda n: publish(_device(n), own(_device(n)))),
    Kind(
        "publish, known account, new client",
        "authz",
        1,
        Wanted.ALLOW,
        lambda n: publish(_device(n), own(_device(n)), f"new-{n}"),
        needs="mongodb",
    ),
    Kind("publish, connected, denied by a rule", "authz", 1, Wanted.NEVER, lambda n: publish(_device(n), "secret/1")),
    Kind("publish, connected, no rule", "authz", 1, Wanted.NEVER, lambda n: publish(_device(n), own(_device(n + 1)))),
    Kind("publish, never seen", "authz", 1, Wanted.NEVER, lambda n: publish(f"unknown-{n}", own(f"unknown-{n}"))),
)
_WATCHED_SHARE: Final = 4


def _always(fields: Fields) -> Callable[[int], Fields]:
    return lambda _: fields


def address(number: int, *, guesses: bool) -> str:
    """Return where request `number` comes from: no two from one place, so that its decision is found again in the log."""
    high, low = divmod(number, 65_536)
    return f"2001:db8::{high:x}:{low:x}" if guesses else f"10.{high}.{low // 256}.{low % 256}"


def number_of(peer_host: str) -> int:
    """Return the number of the request that came from there."""
    if ":" in peer_host:
        high, low = peer_host.removeprefix("2001:db8::").split(":")
        return int(high, 16) * 65_536 + int(low, 16)
    _, high, middle, last = peer_host.split(".")
    return int(high) * 65_536 + int(middle) * 256 + int(last)


class Load:
    """Asks, and keeps the answers; `numbers` are for the requests, each once.

    `phase` and `watched` are for whoever makes the outage to set.
    """

    def __init__(self, url: str, http: aiohttp.ClientSession, rate: float, numbers: Iterator[int]) -> None:
        self.phase = Phase.BEFORE
        self.watched: Sequence[Watched] = ()
        self.answers: list[Answer] = []
        self._url = url
        self._http = http
        self._rate = rate
        self._numbers = numbers
        drawn = random.Random(1)  # noqa: S311 - repeatable, and no secret
        slots: list[Kind | None] = [kind for kind in KINDS for _ in range(kind.share)]
        slots += [None] * _WATCHED_SHARE
        drawn.shuffle(slots)
        self._slots = itertools.cycle(slots)

    async def ask(self, hook: str, fields: Mapping[str, Any]) -> str:
        """Ask, and return the explicit result; empty where there is none."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._http.post(
                f"{self._url}/mqtt/{hook}", json=fields, headers=_HEADERS, timeout=aiohttp.ClientTimeout(_PATIENCE)
            ) as response:
                body = await response.json()
                if response.status == 200 and isinstance(body, dict):
                    return str(body.get("result", ""))
        return ""

    async def warm_up(self, watched: Sequence[Watched]) -> None:
        """Connect everybody who is to be connected, once; all of them are allowed."""
        for name in (*(f"device-{number}" for number in range(CLIENTS)), *(one.name for one in watched)):
            assert await self.ask("auth", login(name)) == "allow", name
            assert await self.ask("authz", publish(name, own(name))) == "allow", name

    def audited(self) -> int:
        """Return how many of the answers must have left an audit record: logins, and whatever was refused."""
        return sum(one.kind.startswith("login") or one.result == "deny" for one in self.answers)

    async def may_still(self, name: str) -> bool:
        """Ask out of turn whether a client may log in or publish."""
        results = [await self.ask("auth", login(name)), await self.ask("authz", publish(name, own(name)))]
        return "allow" in results

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask at the rate while the block runs, and wait for what is not answered at its end."""
        async with asyncio.TaskGroup() as asked:
            pace = asked.create_task(self._pace(asked))
            try:
                yield
            finally:
                pace.cancel()

    async def _pace(self, asked: asyncio.TaskGroup) -> None:
        begun = time.monotonic()
        watched = self._turns()
        for turn in itertools.count():
            await asyncio.sleep(max(0.0, begun + turn / self._rate - time.monotonic()))
            kind, one = next(self._slots), None
            if kind is None:
                kind, one = next(watched)
            asked.create_task(self._one(next(self._numbers), kind, one))

    def _turns(self) -> Iterator[tuple[Kind, Watched]]:
        for turn in itertools.count():
            one = self.watched[turn // 2 % len(self.watched)]
            hook, asked = ("auth", login(one.name)) if turn % 2 else ("authz", publish(one.name, own(one.name)))
            yield Kind(f"{'login' if turn % 2 else 'publish'}, {one.what}", hook, 0, one.wanted, _always(asked)), one

    async def _one(self, number: int, kind: Kind, one: Watched | None) -> None:
        phase, asked_at = self.phase, time.monotonic()
        fields = {**kind.fields(number), "peerhost": address(number, guesses=kind.guesses)}
        result = await self.ask(kind.hook, fields)
        seconds = time.monotonic() - asked_at
        # Of somebody who was disabled between question and answer nothing can be wanted.
        wanted = kind.wanted if one is None or one.wanted is kind.wanted else Wanted.EITHER
        self.answers.append(Answer(number, kind.name, wanted, phase, asked_at, seconds, result, kind.needs))
