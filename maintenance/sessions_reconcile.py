"""Reconciliation of sessions: who is connected is compared with accounts, platform sessions and revocations.

    EMQX's pages ──▶ who has no right to be there ──▶ too many at once? ──▶ each looked at once more, and kicked

Revocations and changed accounts kick by themselves; this finds what they missed: a change that nobody heard of, an account that has
expired, a client that came in while a store was away. It looks at everybody first, so that a mistake in the stores, which would end
every session, ends none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import structlog

from companion.core.errors import Invalid
from companion.core.model import Account, Audit, Session
from companion.core.ports import Store
from companion.core.revocations import keys_of_client
from companion.core.runs import Progress
from companion.emqx_api import Client, EmqxApi
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.job import Work, check_lack
from maintenance.pace import Pace

log = structlog.get_logger("maintenance.sessions")

Why = Literal["revoked", "disabled", "expired", "removed"]

_FEW: Final = 10
"""So many may always be kicked."""

_MOST: Final = 20_000
"""Clients that are kept in mind to be kicked in one run; the rest is for the next."""

_AT_ONCE: Final = 16
_KICKS: Final = 50
_BUDGET: Final = 3600.0


class SessionsReconcile:
    """Kicks clients that have no right to be connected any more."""

    name = "sessions-reconcile"
    purpose = "kicks clients whose account or session is disabled, expired, removed or revoked"
    parameters: Mapping[str, str] = MappingProxyType(
        {"yes-really": "true: also more of all clients than reconciler_most allows at once"}
    )
    schedule = JobSettings(every=600, jitter=60)
    lease_seconds = 30.0
    resumes = True

    def lacks(self, settings: Settings, *, dry: bool) -> str | None:  # noqa: ARG002 - as `Particular` says
        """Return what nobody can be asked for without."""
        return None if settings.emqx_url else "the address of EMQX's REST API (emqx_url)"

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Look at every client, page by page, then kick; a new life looks anew."""
        check_lack(self, work.settings, dry=work.run.dry)
        async with EmqxApi.open(work.settings, work.metrics) as api:
            async for progress in _Reconciliation(work, api).steps():
                yield progress


@dataclass(frozen=True, slots=True)
class _Found:
    client: Client
    why: Why


class _Reconciliation:
    """One life of a run."""

    def __init__(self, work: Work, api: EmqxApi) -> None:
        self._work = work
        self._api = api
        self._judge = Judge(work.store, removed=work.settings.reconciler_removed)
        self._kicked = work.run.progress.counts.get("kicked", 0)
        self._looked_at = 0
        self._counts: Counter[str] = Counter()
        self._found: list[_Found] = []

    async def steps(self) -> AsyncIterator[Progress]:
        """Look and kick; yield after every page and every few kicks."""
        async for page in self._api.pages(connected=True):
            verdicts = await self._judge.judge(page.clients, self._work.now())
            self._looked_at += len(page.clients)
            for client, why in zip(page.clients, verdicts, strict=True):
                if why is not None:
                    self._counts[why] += 1
                    if len(self._found) < _MOST:
                        self._found.append(_Found(client, why))
            yield self._progress()
        self._check()
        if self._work.run.dry:
            yield self._progress()
            return
        pace = Pace(self._work.settings.reconciler_rate, _BUDGET)
        for start in range(0, len(self._found), _KICKS):
            some = self._found[start : start + _KICKS]
            await self._kick(some)
            yield self._progress()
            await pace.after(len(some))
            while pace.ahead:
                yield self._progress()
                await pace.after(0)

    def _check(self) -> None:
        """Raise `Invalid` when so many have no right to be there that the stores are rather to be doubted."""
        most, count = self._work.settings.reconciler_most, self._counts.total()
        share = 100 * count / max(self._looked_at, 1)
        really = bool(self._work.run.parameters.get("yes-really"))
        if count > _FEW and share > most and not really and not self._work.run.dry:
            raise Invalid(
                "reconciler_most",
                f"{share:.0f} % of {self._looked_at} clients",
                f"at most {most:g} % at once: look at a dry run, then ask with --set yes-really=true",
            )

    async def _kick(self, some: Sequence[_Found]) -> None:
        """Kick those of them who are still there and still have no right to be."""
        there = [one for one in await asyncio.gather(*(self._api.client(one.client.client_id) for one in some)) if one]
        verdicts = await self._judge.judge(there, self._work.now())
        going = [_Found(client, why) for client, why in zip(there, verdicts, strict=True) if why is not None]
        if not going:
            return
        at, run = int(self._work.now() * 1000), self._work.run.id
        await self._api.kick([one.client.client_id for one in going])
        self._kicked += len(going)
        await self._work.store.audits.append([_audit(one, at, run) for one in going])

    def _progress(self) -> Progress:
        total = min(self._counts.total(), _MOST) + self._work.run.progress.counts.get("kicked", 0)
        done = self._counts.total() if self._work.run.dry else self._kicked
        counts = {"looked at": self._looked_at, **self._counts}
        return Progress(done, max(total, done), counts if self._work.run.dry else counts | {"kicked": self._kicked})


class Judge:
    """Tells who may not be connected. `removed` is whether somebody of whom nothing is known may not."""

    def __init__(self, store: Store, *, removed: bool) -> None:
        self._store = store
        self._removed = removed
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def judge(self, clients: Sequence[Client], now: float) -> Sequence[Why | None]:
        """Return for each client why it may not be connected now (Unix seconds), or None."""
        known = await asyncio.gather(*(self._look_up(client) for client in clients))
        keys = [
            keys_of_client(client.username, client.client_id, session)
            for client, (_, session) in zip(clients, known, strict=True)
        ]
        every = list(dict.fromkeys(key for some in keys for key in some))
        revoked = {one.key for one in await self._store.revocations.of(every, int(now))} if every else set()
        return [
            "revoked" if revoked.intersection(some) else self._why(account, session, now)
            for some, (account, session) in zip(keys, known, strict=True)
        ]

    async def _look_up(self, client: Client) -> tuple[Account | None, Session | None]:
        async with self._gate:
            account = await self._store.accounts.get(client.username) if client.username else None
            return account, await self._store.sessions.get(client.username, client.client_id)

    def _why(self, account: Account | None, session: Session | None, now: float) -> Why | None:
        if account is not None and account.disabled:
            return "disabled"
        ends = [one.expires_at for one in (account, session) if one is not None and one.expires_at is not None]
        if any(end <= now for end in ends):
            return "expired"
        return "removed" if account is None and session is None and self._removed else None


def _audit(one: _Found, at: int, run: str) -> Audit:
    return Audit(
        at=at,
        kind="revocation",
        verdict="deny",
        reason="reconciled",
        username=one.client.username,
        client_id=one.client.client_id,
        rule=run,
        detail=one.why,
    )
