"""What each step of a revocation does. Every one may be done twice: a process can die before it notes that a step was done."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from companion.core.errors import Transient
from companion.core.model import Audit, Notice, Scope
from companion.core.ports import Store
from companion.core.ports.identities import SessionField
from companion.core.revocations import Cause, Done, Revocation, Step, Target
from companion.emqx_api import By, EmqxApi

_MOST: Final = 10_000
"""Clients that are looked for before those are kicked."""

_ROUNDS: Final = 1000
_BANNED_BY: Final[dict[Target, By]] = {Target.ACCOUNT: "username", Target.CLIENT: "clientid"}
_NO_API: Final = "no emqx_url: nothing was asked of the broker"


class StillConnected(Transient):
    """Somebody who is revoked is still connected, or again."""


class Steps:
    """Does the steps, over the store and EMQX's REST API; without the API only what concerns the hooks. `now` is Unix seconds."""

    def __init__(self, store: Store, api: EmqxApi | None, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._api = api
        self._now = now

    async def do(self, revocation: Revocation, step: Step) -> str:
        """Do a step and return what came of it in a few words.

        Raises `Transient` for what may work later, `StillConnected` among it, and `Permanent` for what EMQX refuses.
        """
        began = self._now()
        if step in {Step.TOLD, Step.LIFTED}:
            await self._tell(revocation)
            detail = ""
        else:
            detail = _NO_API if self._api is None else await self._ask(revocation, step, self._api)
        if step in {Step.TOLD, Step.LIFTED} or step is revocation.plan[-1]:
            done = Done(step, int(self._now() * 1000), int((self._now() - began) * 1000), detail)
            await self._store.audits.append([_audit(revocation, done)])
        return detail

    async def _tell(self, revocation: Revocation) -> None:
        """Have every replica let go of what it remembers; whoever asked for this has mostly done so already."""
        if revocation.cause is Cause.REVOKED:
            await self._store.notices.announce(Notice(Scope.REVOCATION, revocation.key))
        elif revocation.target is Target.ACCOUNT:
            await self._store.notices.announce(Notice(Scope.ACCOUNT, revocation.name))

    async def _ask(self, revocation: Revocation, step: Step, api: EmqxApi) -> str:
        match step:
            case Step.CACHES:
                return f"{await api.reset_node_caches()} caches"
            case Step.BAN:
                by = _BANNED_BY[revocation.target]
                new = await api.ban(by, revocation.name, revocation.ban_until or 0, revocation.reason or "revoked")
                return "" if new else "there was a ban already"
            case Step.KICK:
                return _counted(await self._kick(revocation, api))
            case Step.CHECK:
                return await self._check(revocation, api)
            case _:
                await api.reset_node_caches()
                if revocation.ban_until is None:
                    return ""
                there = await api.unban(_BANNED_BY[revocation.target], revocation.name)
                return "" if there else "there was no ban"

    async def _kick(self, revocation: Revocation, api: EmqxApi) -> int:
        count = 0
        if revocation.target is Target.CLIENT:
            await api.kick([revocation.name])
            return 1
        if revocation.target is not Target.ACCOUNT:
            async for some in self._client_ids(revocation):
                await api.kick(some)
                count += len(some)
            return count
        for _ in range(_ROUNDS):
            # Whoever is kicked leaves the pages, so they are gone through before anybody is.
            some = await _connected(revocation, api)
            await api.kick(some)
            count += len(some)
            if len(some) < _MOST:
                break
        return count

    async def _check(self, revocation: Revocation, api: EmqxApi) -> str:
        """Look once more: somebody may have come in by what a replica remembered before it was told."""
        if revocation.cause is Cause.REVOKED and not revocation.stands(self._now()):
            return "its time is over"
        found: list[str] = []
        if revocation.target is Target.ACCOUNT:
            found = list(await _connected(revocation, api))
        elif revocation.target is Target.CLIENT:
            found = [] if await api.client(revocation.name) is None else [revocation.name]
        else:
            async for some in self._client_ids(revocation):
                found += [one for one in some if await api.client(one) is not None]
        await api.kick(found)
        if found and revocation.cause is Cause.REVOKED:
            raise StillConnected(f"{_counted(len(found))} still connected, or again")
        return f"{_counted(len(found))} left"

    async def _client_ids(self, revocation: Revocation) -> AsyncIterator[Sequence[str]]:
        """Yield the client ids of a platform session or a token: the hooks note them before they let anybody in."""
        by: SessionField = "session"
        value = revocation.name
        if revocation.target is Target.TOKEN:
            kind, _, rest = value.partition(":")
            by, value = ("jti", rest) if kind == "jti" else ("digest", value)
        after = ""
        while some := await self._store.sessions.client_ids(by, value, after=after):
            yield some
            after = some[-1]


async def _connected(revocation: Revocation, api: EmqxApi) -> Sequence[str]:
    """Return the client ids of a user name. A session that is offline is ended only with who is revoked: it holds messages."""
    found: dict[str, None] = {}
    online = revocation.cause is not Cause.REVOKED
    async for page in api.pages(username=revocation.name, connected=online):
        # A version that does not know the condition lists everybody.
        found |= dict.fromkeys(one.client_id for one in page.clients if one.username == revocation.name)
        if len(found) >= _MOST:
            break
    return list(found)


def _counted(clients: int) -> str:
    return f"{clients} client" if clients == 1 else f"{clients} clients"


def _audit(revocation: Revocation, done: Done) -> Audit:
    """Return the record of the beginning, and of the end with the time that each step took."""
    over = done.step is revocation.plan[-1]
    about = revocation.target.value
    if revocation.target in {Target.SESSION, Target.TOKEN}:
        about += f" {revocation.name}"
    words = [about, revocation.cause.value]
    if over:
        took = "; ".join(_took(one) for one in (*revocation.steps, done) if one.step in revocation.plan)
        since = revocation.at if revocation.lifted_at is None else revocation.lifted_at
        words.append(f"{took}; {done.at - since} ms in all")
    else:
        words += [f"by {revocation.asked_by}" if revocation.asked_by else "", revocation.reason]
    return Audit(
        at=done.at,
        kind="revocation",
        verdict="deny" if revocation.lifted_at is None else "allow",
        reason="done" if over else done.step.value,
        username=revocation.name if revocation.target is Target.ACCOUNT else "",
        client_id=revocation.name if revocation.target is Target.CLIENT else "",
        rule=revocation.id,
        detail=", ".join(word for word in words if word),
    )


def _took(done: Done) -> str:
    return f"{done.step.value} {done.took} ms" + (f" ({done.detail})" if done.detail else "")
