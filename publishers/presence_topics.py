"""Presence on a retained topic: what the store says of who is there is brought to the broker, under the publisher's lease.

    records that are not shown ──▶ by topic: is any of its connections there? ──▶ a retained message, acknowledged ──▶ noted

The state is what is brought, not each step to it: whatever happens on the way, in the end the topic shows what the store says, for
a record counts as shown only if it has not changed since, and only after the broker has acknowledged. One process at a time does
this, one message of a topic after the other, so what is shown never goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
import structlog

from companion.core.errors import CompanionError, Fenced
from companion.core.moments import iso
from companion.core.ports import Presence
from companion.core.presence import Present
from companion.core.presence_topics import topic_of
from companion.core.templates import Template
from companion.leadership import Term
from companion.metrics import Metrics
from publishers.delivery import Delivery, Refused, Unsendable
from publishers.messages import Message

log = structlog.get_logger("publishers.presence")

_READ: Final = 200
_PAGE: Final = 1000
_LOOK_SECONDS: Final = 0.5
_BACKOFF: Final = (0.1, 5.0)


class PresenceTopics:
    """Shows presence until it is told to stop. `expiry` (seconds; 0: never) is that of the word that somebody is gone."""

    def __init__(
        self,
        *,
        presence: Presence,
        template: Template,
        delivery: Delivery,
        metrics: Metrics,
        qos: Literal[1, 2],
        expiry: int,
        attempts: int,
    ) -> None:
        self._presence = presence
        self._template = template
        self._delivery = delivery
        self._shown = metrics.events.shown
        self._qos: Literal[1, 2] = qos
        self._expiry = expiry
        self._attempts = attempts
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def run(self, term: Term) -> None:
        """Show what is not shown, while the lease is ours. A store or a broker that is away is waited for.

        Raises `Fenced` when the lease has run out.
        """
        pause, problem_told = _BACKOFF[0], False
        while not self._stopping.is_set():
            try:
                untold = await self._presence.untold(_READ)
                await self._show(untold, term)
            except Fenced:
                raise
            except CompanionError as problem:
                if not problem_told:
                    log.warning("presence is not shown", problem=str(problem))
                problem_told = True
                await self._wait(pause * (0.5 + random.random() / 2))  # noqa: S311 - spreads retries, protects nothing
                pause = min(pause * 2, _BACKOFF[1])
            else:
                pause, problem_told = _BACKOFF[0], False
                if len(untold) < _READ:
                    # Another process takes the events.
                    await self._wait(_LOOK_SECONDS)

    async def _show(self, untold: Sequence[Present], term: Term) -> None:
        # Who has no name has no topic either.
        principals = {
            topic: principal
            for one in untold
            for principal in (one.principal, *one.formers)
            if (topic := topic_of(self._template, one, principal)) is not None
        }
        outcomes = await asyncio.gather(
            *(self._show_topic(topic, principal, term) for topic, principal in principals.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if all(outcomes):
            await self._presence.told(untold)

    async def _show_topic(self, topic: str, principal: str, term: Term) -> bool:
        return await self._deliver(self._message(topic, await self._members(topic, principal)), term)

    async def _members(self, topic: str, principal: str) -> Sequence[Present]:
        """Return every connection that is shown on this topic."""
        found: list[Present] = []
        after = ""
        while page := await self._presence.list(principal=principal, after=after, limit=_PAGE):
            found += (one for one in page if topic_of(self._template, one) == topic)
            after = page[-1].client_id
        return found

    def _message(self, topic: str, members: Sequence[Present]) -> Message:
        online = [one for one in members if one.online]
        at = max((one.changed_at for one in members), default=0)
        status = "online" if online else "offline"
        body: Mapping[str, object] = {
            "status": status,
            "connections": len(online),
            "at": iso(at),
        }
        expiry = None if online or not self._expiry else self._expiry
        payload = msgspec.json.encode(body)
        return Message(topic, payload, self._qos, True, expiry, "application/json", (("status", status),))  # noqa: FBT003 - retained

    async def _deliver(self, message: Message, term: Term) -> bool:
        """Deliver; False when we are to stop before it is acknowledged. What the broker refuses again and again is given up."""
        pause, longest = _BACKOFF
        for attempt in range(1, self._attempts + 1):
            if not term.valid:
                raise Fenced(f"the lease {term.lease.name} with fence {term.lease.token} has run out")
            if self._stopping.is_set():
                return False
            try:
                if not await self._until_stopped(message):
                    return False
            except Refused as problem:
                if attempt == self._attempts or isinstance(problem, Unsendable):
                    log.error("presence was refused by the broker", topic=message.topic, problem=str(problem))
                    return True
                await self._wait(pause)
                pause = min(pause * 2, longest)
            else:
                self._shown.inc()
                return True
        return True

    async def _until_stopped(self, message: Message) -> bool:
        """Deliver, but wait for no broker that is away when we are to stop."""
        delivering = asyncio.ensure_future(self._delivery.deliver(message))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({delivering, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if delivering.done():
                delivering.result()
                return True
            return False
        finally:
            stopping.cancel()
            delivering.cancel()
            await asyncio.gather(stopping, delivering, return_exceptions=True)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
