"""What it means for decisions that a document has changed. Pure.

Where an event does not say whom it concerns, it concerns everybody: telling too much is right, too little is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from companion.account_sources import AccountSource, RuleSource
from companion.core.model import Notice
from companion.core.model import Scope as About
from companion.stores.mongo import accounts, revocations, rules
from companion.stores.mongo.mapping import ID, text_of, value_at
from companion.stores.mongo.stream import Raw, Scope

Event = Mapping[str, Any]

_EVERYTHING: Final = Notice(About.EVERYTHING)
_RULES: Final = Notice(About.RULES)
_CHANGES: Final = frozenset({"insert", "update", "replace", "delete"})


@dataclass(frozen=True, slots=True)
class _Accounts:
    """A collection of accounts: by which fields they are found, and which fields count (None: all)."""

    names: tuple[str, ...]
    fields: frozenset[str] | None = None


class Meanings:
    """The collections on which decisions rest, and what a change in one of them means."""

    def __init__(
        self, own_database: str, account_sources: Sequence[AccountSource] = (), rule_sources: Sequence[RuleSource] = ()
    ) -> None:
        self._accounts = {f"{own_database}.{accounts.COLLECTION}": _Accounts(("username",))}
        self._accounts |= {one.collection: _Accounts(one.username, one.fields) for one in account_sources}
        self._revocations = f"{own_database}.{revocations.COLLECTION}"
        # The subjects of a rule are many accounts; who they are is asked for anew.
        self._rules = {f"{own_database}.{rules.COLLECTION}", *(one.collection for one in rule_sources)}
        self._common = {one.common_acls for one in account_sources if one.common_acls}

    @property
    def scope(self) -> Scope:
        """What has to be watched."""
        names = {*self._accounts, *self._rules, *self._common, self._revocations}
        return Scope(collections=frozenset((db, name) for db, _, name in (one.partition(".") for one in names)))

    def of(self, raw: Raw) -> Sequence[Notice]:
        """Return what an event means."""
        event = raw.document
        if event is None or event["operationType"] not in _CHANGES:
            return [_EVERYTHING]
        namespace = f"{event['ns']['db']}.{event['ns']['coll']}"
        told: list[Notice] = []
        if namespace in self._rules:
            told.append(_RULES)
        if namespace in self._accounts:
            told += _of_account(self._accounts[namespace], event)
        if namespace == self._revocations:
            told += _of_revocation(event)
        if namespace in self._common:
            told.append(_EVERYTHING)
        return told


def _of_account(source: _Accounts, event: Event) -> Sequence[Notice]:
    kind, touched = event["operationType"], touched_by(event)
    if source.fields is not None and touched is not None and not touched & {root_of(one) for one in source.fields}:
        return []
    before, after = event.get("fullDocumentBeforeChange"), event.get("fullDocument")
    states = [one for one in (before, after, event.get("documentKey")) if one is not None]
    named = [
        Notice(About.ACCOUNT, name) for one in states for path in source.names if (name := text_of(value_at(one, path)))
    ]
    same_names = kind == "insert" or (touched is not None and not touched & {root_of(one) for one in source.names})
    # Without a picture of what was there before, only those say whom they concern that leave the names alone.
    known = before is not None or (same_names and after is not None) or set(source.names) == {ID}
    return list(dict.fromkeys(named)) if known and named else [_EVERYTHING]


def _of_revocation(event: Event) -> Sequence[Notice]:
    touched = touched_by(event)
    if event["operationType"] == "delete" or (touched is not None and not touched & revocations.FELT):
        return []
    key = (event.get("fullDocument") or {}).get("key")
    return [Notice(About.REVOCATION, key)] if isinstance(key, str) else [_EVERYTHING]


def touched_by(event: Event) -> frozenset[str] | None:
    """Return which fields an update has touched, by the first part of their paths; None for all."""
    description = event.get("updateDescription")
    if event["operationType"] != "update" or description is None:
        return None
    paths: Iterable[str] = (
        *(description.get("updatedFields") or ()),
        *(description.get("removedFields") or ()),
        *(one["field"] for one in description.get("truncatedArrays") or ()),
    )
    return frozenset(root_of(path) for path in paths)


def root_of(path: str) -> str:
    """Return the field of a document that a path leads into."""
    return path.partition(".")[0]
