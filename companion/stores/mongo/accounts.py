"""Accounts in MongoDB: the collection `mqtt_accounts`.

A document has `username`, `kind`, `principal`, `password_hash`, and where they apply `disabled`, `expires_at` (Unix seconds),
`subjects`, `groups` and `tenant`. Operators may write it themselves: what is missing or of another type is taken for the worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from pymongo.errors import BulkWriteError, DuplicateKeyError

from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.stores.mongo.client import MongoClient

log = structlog.get_logger("companion.stores.mongo")

COLLECTION: Final = "mqtt_accounts"
FIELDS: Final = frozenset(
    {"username", "kind", "principal", "password_hash", "disabled", "expires_at", "subjects", "groups", "tenant"}
)
_BATCH_SECONDS: Final = 10.0


class MongoAccounts:
    """The port `Accounts`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._accounts = client.database[COLLECTION]
        self._kept_apart = False

    async def get(self, username: str) -> Account | None:
        """Return the account of this user name, or None."""
        document = await self._client.call(lambda: self._accounts.find_one({"username": username}))
        return None if document is None else account_in(document)

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all or none; `Invalid` names a user name that exists."""
        names = [account.username for account in accounts]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise _exists(name)
            seen.add(name)
        documents = [_document(account) for account in accounts]
        await self._keep_apart()
        try:
            if len(documents) == 1:
                await self._client.call(lambda: self._accounts.insert_one(documents[0]))
            elif documents:
                await self._client.call(lambda: self._insert_together(documents), _BATCH_SECONDS)
        except (DuplicateKeyError, _Exists):
            raise _exists(await self._known(names)) from None

    async def _keep_apart(self) -> None:
        """Have the index that refuses a name twice: whoever adds first may come before the start has made it."""

        async def make() -> None:
            existing = await (await self._accounts.list_indexes()).to_list()
            # Where it is there, nobody needs the right to make one.
            if not any(one.get("unique") and tuple(one["key"].items()) == _NAME for one in existing):
                await self._accounts.create_index(list(_NAME), unique=True)

        if not self._kept_apart:
            await self._client.call(make, _BATCH_SECONDS)
            self._kept_apart = True

    async def _insert_together(self, documents: Sequence[Mapping[str, Any]]) -> None:
        async with self._client.driver.start_session() as session:

            async def insert(_: object) -> None:
                try:
                    await self._accounts.insert_many([dict(one) for one in documents], session=session)
                except BulkWriteError as problem:
                    if any(error.get("code") == _DUPLICATE for error in (problem.details or {}).get("writeErrors", ())):
                        raise _Exists from None
                    raise

            await session.with_transaction(insert)

    async def _known(self, names: Sequence[str]) -> str:
        """Return the first of these names that exists."""
        found = await self._client.call(
            lambda: self._accounts.find({"username": {"$in": list(names)}}, {"username": 1}).to_list()
        )
        known = {one["username"] for one in found}
        return next((name for name in names if name in known), names[0])

    async def set_password(self, username: str, password_hash: str) -> bool:
        """Replace the hash; False when there is no such account."""
        return await self._set(username, {"password_hash": password_hash})

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        return await self._set(username, {"disabled": disabled})

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant; False when there is no such account."""
        return await self._set(username, {"groups": list(groups), "tenant": tenant})

    async def _set(self, username: str, fields: Mapping[str, object]) -> bool:
        result = await self._client.call(lambda: self._accounts.update_one({"username": username}, {"$set": fields}))
        return bool(result.matched_count)

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts behind the user name `after`."""
        documents = await self._client.call(
            lambda: self._accounts.find({"username": {"$gt": after}}).sort("username", 1).limit(limit).to_list(),
            _BATCH_SECONDS,
        )
        return [account_in(document) for document in documents]


_DUPLICATE: Final = 11000
_NAME: Final = (("username", 1),)


class _Exists(Exception):
    """A user name of a batch exists."""


def _exists(username: str) -> Invalid:
    return Invalid("username", username, "a user name that does not exist yet")


def _document(account: Account) -> dict[str, Any]:
    document: dict[str, Any] = {
        "username": account.username,
        "kind": account.kind.value,
        "principal": account.principal,
        "password_hash": account.password_hash,
        "disabled": account.disabled,
    }
    if account.expires_at is not None:
        document["expires_at"] = account.expires_at
    if account.subjects:
        document["subjects"] = list(account.subjects)
    if account.groups:
        document["groups"] = list(account.groups)
    if account.tenant:
        document["tenant"] = account.tenant
    return document


def account_in(document: Mapping[str, Any]) -> Account:
    """Read a document that anybody may have written; what cannot be understood disables the account."""
    username = str(document["username"])
    kind, principal = document.get("kind", Kind.USER.value), document.get("principal", username)
    password_hash, disabled = document.get("password_hash", ""), document.get("disabled", False)
    expires_at, subjects = document.get("expires_at"), document.get("subjects", [])
    groups, tenant = document.get("groups", []), document.get("tenant", "")
    sound = (
        kind in {one.value for one in Kind}
        and isinstance(principal, str)
        and isinstance(password_hash, str)
        and isinstance(disabled, bool)
        and (expires_at is None or (isinstance(expires_at, int | float) and not isinstance(expires_at, bool)))
        and all(isinstance(some, list) and all(isinstance(one, str) for one in some) for some in (subjects, groups))
        and isinstance(tenant, str)
    )
    if not sound:
        log.warning("an account has fields that cannot be understood: it is disabled", collection=COLLECTION)
        return Account(username, Kind.USER, username, "", disabled=True)
    return Account(
        username,
        Kind(kind),
        principal,
        password_hash,
        disabled=disabled,
        expires_at=None if expires_at is None else int(expires_at),
        subjects=tuple(subjects),
        groups=tuple(groups),
        tenant=tenant,
    )
