"""What the change streams are to watch, from the names in the settings. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from companion.stores.mongo import (
    accounts,
    audits,
    checkpoints,
    letters,
    mirror_place,
    revocations,
    rules,
    runs,
    sessions,
)
from companion.stores.mongo.documents import FENCES
from companion.stores.mongo.stream import Scope

_MODULES: Final = (accounts, audits, checkpoints, letters, mirror_place, revocations, rules, runs, sessions)
OWN: Final = frozenset([FENCES, *(module.COLLECTION for module in _MODULES)])
"""Our own collections. They hold no entities, and every saved place would be a change to publish."""


def scope_of(names: Sequence[str], own_database: str) -> Scope:
    """Return the scope of names such as `thing.*` and `domain.clients`."""
    parts = [name.partition(".") for name in names]
    databases = frozenset(db for db, _, collection in parts if collection == "*")
    collections = frozenset(
        (db, collection) for db, _, collection in parts if collection != "*" and db not in databases
    )
    without = frozenset((own_database, name) for name in OWN) if own_database in databases else frozenset()
    return Scope(databases, collections, without)


def observed_scope(names: Sequence[str], own_database: str, statistics: str) -> Scope | None:
    """Return the scope of what is counted: the same without the statistics, or counting would never end. None for nothing."""
    scope = scope_of(names, own_database)
    db, _, collection = statistics.partition(".")
    scope = replace(scope, collections=scope.collections - {(db, collection)})
    if db in scope.databases:
        scope = replace(scope, without=scope.without | {(db, collection)})
    return scope if scope.databases or scope.collections else None
