"""Sends the fuzzer's requests on several connections that stay open, now and then a few at once, and judges what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Final

from tests.faults import fuzz_framing, fuzz_requests, fuzz_spoiled
from tests.faults.fuzz_judge import Verdict
from tests.faults.fuzz_requests import Sent
from tests.support.raw_http import Answer, RawConnection, connected

CONNECTIONS: Final = 12
_CONTROL_EVERY: Final = 100
_TOGETHER: Final = 4
"""Every so many requests are sent with the next, without waiting for an answer in between."""
_PATIENCE: Final = 60.0
_GRACE: Final = 0.02
_BAD_REQUEST: Final = 400
"""After it nothing is known of what else there was."""
_FAMILIES: Final = (
    (fuzz_requests.mutated, 46),
    (fuzz_requests.scrambled, 16),
    (fuzz_requests.alien, 8),
    (fuzz_spoiled.spoiled, 20),
    (fuzz_framing.broken, 9.8),
    (fuzz_framing.unfinished, 0.2),
)
_MAKERS: Final = tuple(maker for maker, _ in _FAMILIES)
_WEIGHTS: Final = tuple(weight for _, weight in _FAMILIES)


def request(seed: int, number: int) -> Sent:
    """Return one request of a run."""
    draw = random.Random(f"{seed}:{number}")  # noqa: S311 - to be drawn again, not to be guessed
    (maker,) = draw.choices(_MAKERS, _WEIGHTS)
    return maker(draw, number)


async def fuzz(port: int, *, seed: int, numbers: Sequence[int], controls: bool = True) -> Verdict:
    """Send the requests with these numbers to 127.0.0.1 and return the verdict; `controls` puts right ones in between."""
    verdict = Verdict()
    left = iter(numbers)
    await asyncio.gather(*(_Line(port, seed, left, verdict, controls=controls).run() for _ in range(CONNECTIONS)))
    return verdict


class _Line:
    """One connection after the other, on which requests go one after the other."""

    def __init__(self, port: int, seed: int, left: Iterator[int], verdict: Verdict, *, controls: bool) -> None:
        self._port = port
        self._seed = seed
        self._left = left
        self._verdict = verdict
        self._controls = controls
        self._broken: list[Sent] = []

    async def run(self) -> None:
        """Send until none is left."""
        batch = self._next()
        while batch:
            async with connected(self._port) as connection:
                usable = True
                while batch and usable:
                    usable = await self._settle(connection, batch)
                    control = self._control(batch)
                    if usable and control is not None:
                        usable = await self._settle(connection, [control])
                    batch = self._next()

    def _control(self, batch: Sequence[Sent]) -> Sent | None:
        """Return a right request to be sent behind these, where it is time for one."""
        number = batch[0].number
        if not self._controls or number % _CONTROL_EVERY:
            return None
        draw = random.Random(f"{self._seed}:{number}:control")  # noqa: S311 - as above
        return fuzz_spoiled.right(draw, number)

    def _next(self) -> list[Sent]:
        """Return the next few requests; one whose framing is broken goes alone, since it spoils all that comes with it."""
        batch, self._broken = self._broken, []
        for number in () if batch else self._left:
            sent = request(self._seed, number)
            if not sent.whole and batch:
                self._broken = [sent]
                break
            batch.append(sent)
            if not sent.whole or number % _TOGETHER:
                break
        return batch

    async def _settle(self, connection: RawConnection, batch: Sequence[Sent]) -> bool:
        """Send all at once and judge each; tell whether the connection can be used again."""
        await connection.send(*(sent.wire for sent in batch))
        for at, sent in enumerate(batch):
            if not sent.whole:
                answers = await _broken(connection, sent)
                if answers or sent.silent:
                    self._verdict.judge(sent, answers)
                else:
                    await self._alone([sent])
                return False
            answer = await _answer(connection, sent)
            if answer is None:
                # The server may end a connection after any answer; what it has not read is sent again.
                await self._alone(batch[at:])
                return False
            self._verdict.judge(sent, [answer])
            if _ends(answer):
                await self._alone(batch[at + 1 :])
                return False
        return True

    async def _alone(self, batch: Sequence[Sent]) -> None:
        """Send each on a new connection of its own, and judge."""
        for sent in batch:
            async with connected(self._port) as connection:
                await connection.send(sent.wire)
                self._verdict.judge(sent, await _broken(connection, sent))


async def _answer(connection: RawConnection, sent: Sent) -> Answer | None:
    """Return the next final answer, or None when the connection ends."""
    while True:
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await connection.answer(no_body=sent.no_body)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            return None
        if answer.status >= 200:
            return answer


async def _broken(connection: RawConnection, sent: Sent) -> Sequence[Answer]:
    """Return the answers to a request after which nothing is known of the connection.

    What a second one would be is read for a moment only: the rest of a request may look like the beginning of another.
    """
    if sent.silent:
        await connection.finish()
    answers = []
    with contextlib.suppress(TimeoutError):
        answer = await _answer(connection, sent)
        while answer is not None:
            answers.append(answer)
            if sent.whole or _ends(answer):
                break
            async with asyncio.timeout(_GRACE):
                answer = await _answer(connection, sent)
    return answers


def _ends(answer: Answer) -> bool:
    return answer.status == _BAD_REQUEST or answer.headers.get("connection", "").lower() == "close"
