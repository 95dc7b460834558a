"""Reads by `_id` that go through the index, as MongoDB's do.

mongoeco has such an index, and uses it for one `_id` at a time: a list of them, or a range, makes it read the whole collection.
And it goes through the whole list again for every document that it compares with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import is_
from typing import Any, Final

import bson
from mongoeco import ObjectId
from mongoeco.core._filtering_matching import FilteringMatchingMixin
from mongoeco.engines import SQLiteEngine

_KINDS: Final = bson.ObjectId | str
_FIRST: Final = ObjectId("0" * 24)
_LAST: Final = ObjectId("f" * 24)
_IN_ORDER: Final = [("_id", 1)]
_SELECT: Final = "SELECT storage_key, document FROM documents WHERE db_name = ? AND coll_name = ?"


class ById(SQLiteEngine):  # type: ignore[misc] # mongoeco is not there where types are checked
    """Finds documents by lists and ranges of ids."""

    def _open_scan_documents_sync(self, reader: Any) -> Any:
        asked = reader.semantics
        sort = None if asked.sort is None else [tuple(one) for one in asked.sort]
        plain = asked.text_query is None and asked.collation is None and asked.hint is None
        if not plain or sort not in (None, _IN_ORDER) or not isinstance(asked.filter_spec, Mapping):
            return super()._open_scan_documents_sync(reader)
        wanted = _wanted(asked.filter_spec)
        if wanted is None and sort is not None and asked.limit and self._only_object_ids(reader):
            wanted = _FIRST
        if isinstance(wanted, list):
            rows = self._listed(reader, sorted({self._storage_key(one) for one in wanted}))
            kept = asked
        elif isinstance(wanted, bson.ObjectId):
            rows = self._behind(reader, self._storage_key(wanted))
            # They come in the order that was asked for.
            kept = replace(asked, sort=None)
        else:
            return super()._open_scan_documents_sync(reader)
        reader.own(rows)
        return self._finalize_scan_source(rows, replace(kept, compiled_query=None))

    def _only_object_ids(self, reader: Any) -> bool:
        """Tell whether all ids of the collection are of the kind whose order we know."""
        others = self._require_connection(reader.context).execute(
            f"{_SELECT} AND (storage_key <= ? OR storage_key > ?) LIMIT 1",
            (reader.db_name, reader.coll_name, self._storage_key(_FIRST), self._storage_key(_LAST)),
        )
        return others.fetchone() is None

    def _listed(self, reader: Any, keys: list[str]) -> Iterator[Any]:
        for key in keys:
            row = (
                self._require_connection(reader.context)
                .execute(f"{_SELECT} AND storage_key = ?", (reader.db_name, reader.coll_name, key))
                .fetchone()
            )
            if row is not None:
                yield self._deserialize_document(row[1])

    def _behind(self, reader: Any, key: str) -> Iterator[Any]:
        """Yield what has an ObjectId behind this one; keys of one kind of ids are in the order of the ids."""
        end = self._storage_key(_LAST)
        while True:
            rows = (
                self._require_connection(reader.context)
                .execute(
                    f"{_SELECT} AND storage_key > ? AND storage_key <= ? ORDER BY storage_key LIMIT 100",
                    (reader.db_name, reader.coll_name, key, end),
                )
                .fetchall()
            )
            if not rows:
                return
            for _, document in rows:
                yield self._deserialize_document(document)
            key = rows[-1][0]


def remember_lists() -> None:
    """Let the engine prepare a list that it compares documents with once, and not again for each of them."""
    prepare = FilteringMatchingMixin._prepare_membership_values.__func__
    kept: tuple[Any, Any, Any] = ((), None, None)

    def prepared(cls: Any, values: Any, /, **options: Any) -> Any:
        nonlocal kept
        # Other threads may come between: it is read once. Of a list that is copied the values are still the same objects.
        known = kept
        if len(known[0]) != len(values) or known[1] != options or not all(map(is_, known[0], values)):
            known = kept = (values, options, prepare(cls, values, **options))
        return known[2]

    FilteringMatchingMixin._prepare_membership_values = classmethod(prepared)


def _wanted(query: Mapping[str, Any]) -> list[Any] | bson.ObjectId | None:
    """Return the ids that are asked for, or the one behind which all are, or None where the query does not say."""
    behind = None
    for part in (query, *query.get("$and", ())):
        asked = part.get("_id")
        if not isinstance(asked, Mapping):
            continue
        some = asked.get("$in")
        if isinstance(some, list) and all(isinstance(one, _KINDS) for one in some):
            return some
        if isinstance(asked.get("$gt"), bson.ObjectId):
            behind = asked["$gt"]
    return behind
