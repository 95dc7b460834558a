"""Accounts in MongoDB: the collection `mqtt_accounts`.

A document has `username`, `kind`, `principal`, `password_hash`, and where they apply `disabled`, `expires_at` (Unix seconds),
`subjects`, `groups`, `tenant`, `secrets` (a list of `id`, `password_hash`, `not_before`, `not_after`), `attributes` (texts by
name), `superuser`, `certificates` (see `companion.core.certificate_pins`) and `scram` (see `companion.core.scram`).
Operators may write it themselves: what is missing or of another type is taken for the worse.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from pymongo.errors import BulkWriteError, DuplicateKeyError

from companion.core.errors import Invalid
from companion.core.model import ACCOUNT_FIELDS, MAX_SECRETS, Account, AccountSecret, Kind
from companion.stores.mongo.client import MongoClient

log = structlog.get_logger("companion.stores.mongo")

COLLECTION: Final = "mqtt_accounts"
FIELDS: Final = frozenset(ACCOUNT_FIELDS)
SECRETS_ADDED: Final = "secrets_added"
"""Whoever adds a secret counts it in this field with it."""

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

    async def set_password(self, username: str, password_hash: str, scram: str = "") -> bool:
        """Replace the hash; False when there is no such account."""
        return await self._set(username, {"password_hash": password_hash, "scram": scram})

    async def replace_hash(self, username: str, old: str, new: str) -> bool:
        """Replace the hash if it is still `old`; False when it is not, or there is no such account."""
        which = {"username": username, "password_hash": old}
        # Whoever follows the changes is told with it that this is no other password.
        change = {"$set": {"password_hash": new, "rehashed_at": int(time.time())}}
        result = await self._client.call(lambda: self._accounts.update_one(which, change))
        return bool(result.matched_count)

    async def adjust(
        self,
        username: str,
        *,
        attributes: Mapping[str, str] | None = None,
        superuser: bool | None = None,
        certificates: Sequence[str] | None = None,
    ) -> bool:
        """Replace those that are given; False when there is no such account."""
        given = {
            "attributes": None if attributes is None else dict(attributes),
            "superuser": superuser,
            "certificates": None if certificates is None else list(certificates),
        }
        return await self._set(username, {name: value for name, value in given.items() if value is not None})

    async def add_secret(self, username: str, secret: AccountSecret) -> bool:
        """Give the account one more secret; False when there is no such account."""
        which = {
            "username": username,
            "secrets.id": {"$ne": secret.id},
            f"secrets.{MAX_SECRETS - 1}": {"$exists": False},
        }
        # Whoever follows the changes is told with it that none was taken away: the list alone does not always show that.
        change = {"$push": {"secrets": secret_document(secret)}, "$inc": {SECRETS_ADDED: 1}}
        result = await self._client.call(lambda: self._accounts.update_one(which, change))
        if result.matched_count:
            return True
        account = await self.get(username)
        if account is None:
            return False
        if any(one.id == secret.id for one in account.secrets):
            raise Invalid("secret", secret.id, "an id that the account does not have yet")
        raise Invalid("secret", MAX_SECRETS + 1, f"at most {MAX_SECRETS} beside the password")

    async def remove_secret(self, username: str, secret_id: str) -> bool:
        """Take a secret away; False when there is no such account or secret."""
        which = {"username": username, "secrets.id": secret_id}
        change = {"$pull": {"secrets": {"id": secret_id}}}
        result = await self._client.call(lambda: self._accounts.update_one(which, change))
        return bool(result.matched_count)

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable; False when there is no such account."""
        return await self._set(username, {"disabled": disabled})

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant; False when there is no such account."""
        return await self._set(username, {"groups": list(groups), "tenant": tenant})

    async def _set(self, username: str, fields: Mapping[str, object]) -> bool:
        # MongoDB takes no empty change; nothing to be replaced is still a question whether there is the account.
        change = {"$set": fields or {"username": username}}
        result = await self._client.call(lambda: self._accounts.update_one({"username": username}, change))
        return bool(result.matched_count)

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts behind the user name `after`."""
        documents = await self._client.call(
            lambda: self._accounts.find({"username": {"$gt": after}}).sort("username", 1).limit(limit).to_list(),
            _BATCH_SECONDS,
        )
        return [account_in(document) for document in documents]


_DUPLICATE: Final = 11000
_LATEST: Final = 2**53
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
    if account.secrets:
        document["secrets"] = [secret_document(one) for one in account.secrets]
    if account.attributes:
        document["attributes"] = dict(account.attributes)
    if account.superuser:
        document["superuser"] = True
    if account.certificates:
        document["certificates"] = list(account.certificates)
    if account.scram:
        document["scram"] = account.scram
    return document


def secret_document(secret: AccountSecret) -> dict[str, Any]:
    """Return a secret as it is stored."""
    times = {"not_before": secret.not_before, "not_after": secret.not_after}
    return {
        "id": secret.id,
        "password_hash": secret.password_hash,
        **{name: at for name, at in times.items() if at is not None},
    }


def _secrets_in(value: object) -> tuple[AccountSecret, ...] | None:
    """Read a list of secrets; None for what is none."""
    if not isinstance(value, list) or len(value) > MAX_SECRETS:
        return None
    found = []
    for one in value:
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str):
            return None
        hashed, times = one.get("password_hash"), (one.get("not_before"), one.get("not_after"))
        if not isinstance(hashed, str) or not all(at is None or _is_number(at) for at in times):
            return None
        not_before, not_after = (None if at is None else int(at) for at in times)
        found.append(AccountSecret(one["id"], hashed, not_before, not_after))
    return tuple(found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LATEST


def account_in(document: Mapping[str, Any]) -> Account:
    """Read a document that anybody may have written; what cannot be understood disables the account."""
    username = str(document["username"])
    kind, principal = document.get("kind", Kind.USER.value), document.get("principal", username)
    password_hash, disabled = document.get("password_hash", ""), document.get("disabled", False)
    expires_at, subjects = document.get("expires_at"), document.get("subjects", [])
    groups, tenant = document.get("groups", []), document.get("tenant", "")
    secrets = _secrets_in(document.get("secrets", []))
    attributes, superuser = document.get("attributes", {}), document.get("superuser", False)
    certificates = document.get("certificates", [])
    scram = document.get("scram", "")
    sound = (
        kind in {one.value for one in Kind}
        and isinstance(principal, str)
        and isinstance(password_hash, str)
        and isinstance(disabled, bool)
        and (expires_at is None or (isinstance(expires_at, int | float) and not isinstance(expires_at, bool)))
        and all(isinstance(some, list) and all(isinstance(one, str) for one in some) for some in (subjects, groups))
        and isinstance(tenant, str)
        and isinstance(attributes, Mapping)
        and all(isinstance(one, str) for one in attributes.values())
        and isinstance(superuser, bool)
        and isinstance(scram, str)
        and isinstance(certificates, list)
        and all(isinstance(one, str) for one in certificates)
    )
    if not sound or secrets is None:
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
        secrets=secrets,
        attributes=dict(attributes),
        superuser=superuser,
        certificates=tuple(certificates),
        scram=scram,
    )
