"""Accounts and rules from everywhere: our own collections, and those of others that the settings name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from companion.account_sources import AccountSource, RuleSource
from companion.core.model import Account, AccountSecret, Lookup
from companion.core.ports import Accounts, Rules
from companion.core.rules import Rule, subject_of_account, subject_of_grants
from companion.stores.mongo.accounts import COLLECTION, account_in
from companion.stores.mongo.client import MongoClient
from companion.stores.mongo.foreign_rules import rules_of_emqx, rules_of_grant
from companion.stores.mongo.mapping import ID, Document, account_of, nobody, query_of, rank_of

log = structlog.get_logger("companion.stores.mongo")

_MOST: Final = 10
"""Of several documents with one name no more need be seen to know that there are several."""

_MOST_COMMON: Final = 10_000
_COMMON_ACCS: Final = [1, 2, 3, 4]
_LONG_SECONDS: Final = 10.0


class Near(Protocol):
    """Documents of accounts that are nearer than MongoDB."""

    told: Callable[[Lookup], None]

    async def find(self, username: str) -> Mapping[str, Sequence[Document]] | None:
        """Return those with this name, for every collection of which they are known; None when MongoDB is to be asked."""
        ...


class GatheredAccounts:
    """The port `Accounts`: our own are looked for first and are the only ones that are written or listed.

    A name that stands in more than one of the others belongs to nobody, unless it is the `_id` of one: whoever chooses a name must
    not get what was meant for somebody else.
    """

    def __init__(
        self,
        own: Accounts,
        client: MongoClient,
        sources: Sequence[AccountSource],
        near: Near | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = own
        self._client = client
        self._sources = tuple(sources)
        self._near = near
        self._clock = clock

    async def get(self, username: str) -> Account | None:
        """Return the account of this user name, or None. Only whoever may be used is taken from what is near."""
        near = await self._near.find(username) if self._near is not None else None
        if self._near is not None and near is not None:
            account = await self._look(username, near)
            if account is not None and self._is_usable(account):
                self._near.told(Lookup.HIT)
                return account
            self._near.told(Lookup.MISS)
        return await self._look(username, {})

    def _is_usable(self, account: Account) -> bool:
        return not account.disabled and (account.expires_at is None or account.expires_at > self._clock())

    async def _look(self, username: str, near: Mapping[str, Sequence[Document]]) -> Account | None:
        """Return the account; where `near` has documents of a collection, also none, MongoDB is not asked."""
        ours = near.get(f"{self._client.database.name}.{COLLECTION}")
        own = await self._own.get(username) if ours is None else next(map(account_in, ours), None)
        if own is not None:
            return own
        found = await asyncio.gather(*(self._documents(source, username, near) for source in self._sources))
        candidates = sorted(
            (
                (rank_of(source, document, username), index, document)
                for index, (source, documents) in enumerate(zip(self._sources, found, strict=True))
                for document in documents
            ),
            key=lambda one: one[:2],
        )
        if not candidates:
            return None
        (rank, index, document), *others = candidates
        source = self._sources[index]
        if any(_same_claim(rank, other, index == others_index) for other, others_index, _ in others):
            places = sorted({self._sources[one[1]].collection for one in candidates})
            log.warning("an account name belongs to several documents: it is refused", collections=places)
            return nobody(source, username)
        return account_of(source, document, username, await self._common_acls(source))

    async def _documents(
        self, source: AccountSource, username: str, near: Mapping[str, Sequence[Document]]
    ) -> Sequence[Document]:
        if source.collection in near:
            return near[source.collection]
        shown = dict.fromkeys(sorted({*source.fields, ID}), 1)
        collection = self._collection(source.collection)
        return await self._client.call(
            lambda: collection.find(query_of(source, username), shown).limit(_MOST).to_list()
        )

    async def _common_acls(self, source: AccountSource) -> Sequence[Document]:
        if not source.common_acls:
            return ()
        collection = self._collection(source.common_acls)
        return await self._client.call(
            lambda: (
                collection.find({"acc": {"$in": _COMMON_ACCS}}, {"topic": 1, "acc": 1}).limit(_MOST_COMMON).to_list()
            ),
            _LONG_SECONDS,
        )

    def _collection(self, name: str) -> Any:  # noqa: ANN401 - the driver's type has a parameter that says nothing here
        return collection_of(self._client, name)

    async def add(self, accounts: Sequence[Account]) -> None:
        """Add all or none; `Invalid` names a user name that exists."""
        await self._own.add(accounts)

    async def set_password(self, username: str, password_hash: str, scram: str = "") -> bool:
        """Replace the hash of an account of ours; False when there is no such account."""
        return await self._own.set_password(username, password_hash, scram)

    async def replace_hash(self, username: str, old: str, new: str) -> bool:
        """Replace the hash of an account of ours if it is still `old`."""
        return await self._own.replace_hash(username, old, new)

    async def adjust(
        self,
        username: str,
        *,
        attributes: Mapping[str, str] | None = None,
        superuser: bool | None = None,
        certificates: Sequence[str] | None = None,
    ) -> bool:
        """Replace those that are given of an account of ours; False when there is no such account."""
        return await self._own.adjust(username, attributes=attributes, superuser=superuser, certificates=certificates)

    async def add_secret(self, username: str, secret: AccountSecret) -> bool:
        """Give an account of ours one more secret; False when there is no such account."""
        return await self._own.add_secret(username, secret)

    async def remove_secret(self, username: str, secret_id: str) -> bool:
        """Take a secret from an account of ours; False when there is no such account or secret."""
        return await self._own.remove_secret(username, secret_id)

    async def set_disabled(self, username: str, *, disabled: bool) -> bool:
        """Disable or enable an account of ours; False when there is no such account."""
        return await self._own.set_disabled(username, disabled=disabled)

    async def set_membership(self, username: str, *, groups: Sequence[str], tenant: str) -> bool:
        """Replace the groups and the tenant of an account of ours; False when there is no such account."""
        return await self._own.set_membership(username, groups=groups, tenant=tenant)

    async def list(self, *, after: str = "", limit: int = 1000) -> Sequence[Account]:
        """Return up to `limit` accounts of ours behind the user name `after`."""
        return await self._own.list(after=after, limit=limit)


def _same_claim(one: tuple[bool, int], other: tuple[bool, int], same_source: bool) -> bool:  # noqa: FBT001 - two of one kind
    """Tell whether two documents have the name by the same right: within a collection by the same field, else as `_id` or not."""
    return one == other if same_source else one[0] == other[0]


def collection_of(client: MongoClient, name: str) -> Any:  # noqa: ANN401 - likewise
    """Return the collection of a name such as `identity.users`."""
    db, _, collection = name.partition(".")
    return client.driver[db][collection]


class GatheredRules:
    """The port `Rules`: our own, which are the only ones that are written or listed, and those of others."""

    def __init__(self, own: Rules, client: MongoClient, sources: Sequence[RuleSource]) -> None:
        self._own = own
        self._client = client
        self._sources = tuple(sources)

    async def add(self, rule: Rule) -> Rule:
        """Store a rule that can be enforced and return it with its id."""
        return await self._own.add(rule)

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule of ours."""
        return await self._own.remove(rule_id)

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first, ours before those of others."""
        found = await asyncio.gather(self._own.of(subjects), *(self._of(source, subjects) for source in self._sources))
        return [rule for rules in found for rule in rules]

    async def _of(self, source: RuleSource, subjects: Sequence[str]) -> Sequence[Rule]:
        key, prefix, rules_of = _SCHEMAS[source.like]
        names = {subject.removeprefix(prefix): subject for subject in subjects if subject.startswith(prefix)}
        if not names:
            return ()
        collection = collection_of(self._client, source.collection)
        documents = await self._client.call(
            lambda: collection.find({key: {"$in": list(names)}}).sort(ID, 1).to_list(), _LONG_SECONDS
        )
        return [rule for document in documents for rule in rules_of(document, names[document[key]], source)]

    async def list(self) -> Sequence[Rule]:
        """Return every rule of ours, oldest first."""
        return await self._own.list()


_SCHEMAS: Final[Mapping[str, tuple[str, str, Callable[[Document, str, RuleSource], Sequence[Rule]]]]] = {
    "grants": (
        "subject",
        subject_of_grants(""),
        lambda document, subject, source: rules_of_grant(document, subject, source.collection, source.timezone),
    ),
    "emqx": (
        "username",
        subject_of_account(""),
        lambda document, subject, source: rules_of_emqx(document, subject, source.collection),
    ),
}
"""By what a document is found, of which subjects of ours that is the name, and what it says."""


def key_of(source: RuleSource) -> str:
    """Return the field by which the rules of a source are found."""
    return _SCHEMAS[source.like][0]
