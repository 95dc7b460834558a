"""Accounts that changed in MongoDB, by whomever, over a change stream whose place is kept beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from bson import Timestamp

from companion.account_sources import AccountSource
from companion.core.model import Account, AccountSecret
from companion.core.ports import AccountChange
from companion.core.revocations import Cause
from companion.stores.mongo import accounts
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.mapping import ID, Document, account_of, names_of, text_of, value_at
from companion.stores.mongo.meaning import root_of, touched_by
from companion.stores.mongo.place import Place, read_place
from companion.stores.mongo.stream import ChangeStream, HistoryLost, Raw, Scope, Token

log = structlog.get_logger("companion.stores.mongo")

NAME: Final = "account-changes"
REHASHED: Final = "rehashed_at"
"""Whoever writes the same password in another encoding writes this field with it: that is no other password."""

_NONE_LOST: Final = frozenset({REHASHED, accounts.SECRETS_ADDED})
"""The like for further secrets. The list itself does not always tell: without pre-images, or as it was looked up only later."""

_QUIET_SECONDS: Final = 10.0
"""How often the place is told while nothing happens: the history must not run out under it."""

_SEEN: Final = frozenset({"update", "replace", "delete"})


@dataclass(frozen=True, slots=True)
class Kind:
    """How the documents of one collection are understood."""

    names: Callable[[Document], Sequence[str]]
    account: Callable[[Document, str], Account]
    secrets: tuple[str, ...]
    listed: str
    fields: frozenset[str]
    by_id: bool


def _own(name: str, document: Document) -> Sequence[str]:
    text = text_of(document.get(name))
    return [text] if text else []


OWN: Final = Kind(
    names=lambda document: _own("username", document),
    account=lambda document, _: accounts.account_in(document),
    secrets=("password_hash",),
    listed="secrets",
    fields=accounts.FIELDS,
    by_id=False,
)


def kind_of(source: AccountSource) -> Kind:
    """Return how the documents of a collection of others are understood."""
    return Kind(
        names=lambda document: names_of(source, document),
        account=lambda document, name: account_of(source, document, name),
        secrets=tuple(name for name in (source.secret, source.salt) if name),
        listed=source.secrets,
        fields=frozenset(root_of(name) for name in source.fields),
        by_id=set(source.username) == {ID},
    )


def causes(kind: Kind, event: Mapping[str, Any], now: float) -> Sequence[tuple[str, Cause]]:
    """Return whom an event concerns who may be connected, and why; in doubt rather one too many. `now` is Unix seconds."""
    operation = event["operationType"]
    before, after = event.get("fullDocumentBeforeChange"), event.get("fullDocument")
    if operation == "delete":
        known = before if before is not None else event.get("documentKey") or {}
        if before is None and not kind.by_id:
            log.warning("an account was removed, and nothing tells which: the reconciler of sessions will find out")
        return [(name, Cause.REMOVED) for name in kind.names(known)]
    touched = touched_by(event)
    if after is None or operation not in _SEEN or (touched is not None and not touched & kind.fields):
        return []
    names = kind.names(after)
    found = [(name, Cause.REMOVED) for name in (kind.names(before) if before is not None else ()) if name not in names]
    for name in names:
        was, is_now = None if before is None else kind.account(before, name), kind.account(after, name)
        if not _usable(is_now, now):
            if was is None or _usable(was, now):
                found.append((name, Cause.DISABLED))
        elif _other_secret(kind, before, after, touched):
            found.append((name, Cause.PASSWORD))
        elif _fewer_secrets(kind, was, is_now, touched, now):
            found.append((name, Cause.SECRET))
    return found


def _usable(account: Account, now: float) -> bool:
    return not account.disabled and (account.expires_at is None or account.expires_at > now)


def _other_secret(kind: Kind, before: Document | None, after: Document, touched: frozenset[str] | None) -> bool:
    if touched is not None and (REHASHED in touched or not touched & {root_of(name) for name in kind.secrets}):
        return False
    return before is None or any(value_at(before, name) != value_at(after, name) for name in kind.secrets)


def _fewer_secrets(
    kind: Kind, before: Account | None, after: Account, touched: frozenset[str] | None, now: float
) -> bool:
    """Tell whether one of the further secrets is not good any more that was."""
    if not kind.listed or (touched is not None and (touched & _NONE_LOST or root_of(kind.listed) not in touched)):
        return False
    if before is None:
        return True
    left = {one.password_hash: one for one in after.secrets}
    return any(
        (one := left.get(was.password_hash)) is None or (_over(one, now) and not _over(was, now))
        for was in before.secrets
    )


def _over(secret: AccountSecret, now: float) -> bool:
    return secret.not_after is not None and secret.not_after <= now


class MongoAccountChanges:
    """The port `AccountChanges`; positions are places as JSON."""

    def __init__(
        self, client: MongoClient, sources: Sequence[AccountSource], clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._checkpoints = MongoCheckpoints(client)
        self._clock = clock
        self._kinds = {f"{client.database.name}.{accounts.COLLECTION}": OWN}
        self._kinds |= {one.collection: kind_of(one) for one in sources}
        names = (name.partition(".") for name in self._kinds)
        self._scope = Scope(collections=frozenset((db, collection) for db, _, collection in names))
        self._stream = ChangeStream(client, self._scope)
        self._fence = 0
        self._told = 0.0

    async def open(self, fence: int) -> None:
        """Claim the place and go there; the first time, begin here and now."""
        await self.close()
        position = await self._checkpoints.claim(NAME, fence)
        self._fence = fence
        self._stream = ChangeStream(self._client, self._scope, None if position is None else read_place(position).token)
        if position is None:
            await self.save(self._text(await self._stream.open()))

    async def read(self, limit: int) -> Sequence[AccountChange]:
        """Return what follows; with nothing new, wait up to a second."""
        before = self._stream.place
        try:
            batch = await self._stream.read(limit)
        except HistoryLost as problem:
            log.error(
                "changes of accounts were missed: the reconciler of sessions will find them", problem=str(problem)
            )
            await self._stream.close()
            self._stream = ChangeStream(self._client, self._scope)
            return [AccountChange(self._text(await self._stream.open()))]
        found = [one for raw in batch.events for one in self._changes(raw)]
        if batch.token is None or batch.token == before:
            return found
        if batch.events or time.monotonic() - self._told >= _QUIET_SECONDS:
            self._told = time.monotonic()
            found.append(AccountChange(self._text(batch.token)))
        return found

    async def save(self, position: str) -> None:
        """Note that all up to this position is looked after."""
        await self._checkpoints.save(NAME, position, self._fence)

    async def close(self) -> None:
        """Let go of the stream."""
        await self._stream.close()

    def _changes(self, raw: Raw) -> Sequence[AccountChange]:
        event, position = raw.document, self._text(raw.token)
        if event is None:
            log.error("a change of an account cannot be read", namespace=raw.namespace, key=raw.key)
            return []
        if event["operationType"] not in _SEEN:
            return []
        kind = self._kinds.get(f"{event['ns']['db']}.{event['ns']['coll']}")
        at = event.get("clusterTime")
        milliseconds = at.time * 1000 if isinstance(at, Timestamp) else int(self._clock() * 1000)
        found = () if kind is None else causes(kind, event, self._clock())
        return [AccountChange(position, name, cause, position, milliseconds) for name, cause in found]

    @staticmethod
    def _text(token: Token) -> str:
        return Place(token, 0).text()
