"""What of a collection of accounts is mirrored, and how. Pure.

A copy holds the fields that the mapping reads, nothing else, as BSON in base64: what comes out is what MongoDB would have given. Of
whoever may not be used (deleted, disabled, expired) only the names are kept, so that it is known that somebody else has them too.

An id is a letter for its type and the id as text. Within one letter the texts are in the order of MongoDB, but for `x`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import bson
from bson import ObjectId, Timestamp, json_util

from companion.account_sources import AccountSource
from companion.core.model import Account
from companion.core.ports import Copy
from companion.stores.mongo import accounts
from companion.stores.mongo.mapping import ID, Document, account_of, text_of
from companion.stores.mongo.raw import decode_bytes

KEY: Final = "name"
OBJECT_ID, TEXT, OTHER = "o", "s", "x"
"""What ids begin with, in the order in which the mirror has them."""

_FORMAT: Final = 1
"""Grows when copies are written in another way."""

_BODY: Final = "b"
_NAMES: Final = "names"
_SAME_TIME: Final = 1000


def version_of(time: Timestamp, ordinal: int = 0) -> int:
    """Return the version of a document that an event brings; of several at one time (a transaction) each has its ordinal."""
    return ((time.time << 32) | time.inc) * _SAME_TIME + min(ordinal, _SAME_TIME - 2)


def version_read_at(time: Timestamp) -> int:
    """Return the version of a document that was read at this time or later: no event up to then is newer, every later one is."""
    return ((time.time << 32) | time.inc) * _SAME_TIME + _SAME_TIME - 1


def mirrored_id(value: object) -> str:
    """Return the id of a copy, for the `_id` of the document."""
    if isinstance(value, ObjectId):
        return f"{OBJECT_ID}{value}"
    if isinstance(value, str):
        return f"{TEXT}{value}"
    return OTHER + json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS)


@dataclass(frozen=True, slots=True)
class Hot:
    """A collection that is mirrored. `reads` is how an account is read from its documents for whoever has the name."""

    collection: str
    fields: frozenset[str]
    names: tuple[str, ...]
    reads: Callable[[Document, str], Account]
    source: AccountSource | None = None
    place: str = field(init=False)
    """Its name in the mirror: settings that read other fields, or read them in another way, have copies of their own."""

    def __post_init__(self) -> None:
        """Name the place."""
        shape = self.source.model_dump_json() if self.source is not None else ",".join(sorted(self.fields))
        digest = hashlib.blake2b(f"{_FORMAT}:{shape}".encode(), digest_size=6).hexdigest()
        object.__setattr__(self, "place", f"{self.collection}@{digest}")

    @property
    def namespace(self) -> tuple[str, str]:
        """Database and collection."""
        db, _, name = self.collection.partition(".")
        return db, name

    def copy_of(self, document: Document, version: int, now: float) -> Copy:
        """Return the copy of a document as it is to be mirrored at this time (Unix seconds); `now` of 0: nothing has expired."""
        names = list(dict.fromkeys(name for path in self.names for name in _found(document, path.split("."))))
        keys = tuple((KEY, name) for name in names)
        body: Mapping[str, Any] | None = {_NAMES: names} if names else None
        if names and self._usable(document, names[0], now):
            plain = _projected(document, sorted({*self.fields, ID}))
            body = {_BODY: base64.b64encode(bson.encode(plain)).decode()}
        return Copy(mirrored_id(document[ID]), version, body, keys)

    def unreadable(self, document: Document, version: int) -> Copy:
        """Return the copy of a document of which not all can be read."""
        whole = self.copy_of(document, version, 0)
        body = None if whole.document is None else {_NAMES: [name for _, name in whole.keys]}
        return Copy(whole.id, version, body, whole.keys)

    def _usable(self, document: Document, name: str, now: float) -> bool:
        account = self.reads(document, name)
        return not account.disabled and (account.expires_at is None or account.expires_at > now)


def document_in(copy: Copy) -> Document | None:
    """Return the document of a copy; None when it may not be used."""
    body = (copy.document or {}).get(_BODY)
    return None if body is None else decode_bytes(base64.b64decode(body))


def hot_collections(own_database: str, sources: Sequence[AccountSource], listed: Sequence[str]) -> Sequence[Hot]:
    """Return those collections of accounts that are listed; `*` for all, `mqtt_accounts` for our own."""
    own = Hot(f"{own_database}.{accounts.COLLECTION}", accounts.FIELDS, ("username",), _own)
    every = {accounts.COLLECTION: own} | {one.collection: _of_others(one) for one in sources}
    return [hot for name, hot in every.items() if name in listed or "*" in listed]


def _own(document: Document, _: str) -> Account:
    return accounts.account_in(document)


def _of_others(source: AccountSource) -> Hot:
    return Hot(
        source.collection,
        source.fields,
        source.username,
        lambda document, name: account_of(source, document, name),
        source,
    )


def _found(value: object, path: Sequence[str]) -> Iterator[str]:
    """Yield every name at a path by which MongoDB would find the document: also those in lists."""
    if isinstance(value, list):
        for one in value:
            if not path or isinstance(one, Mapping):
                yield from _found(one, path)
        if path and path[0].isdecimal() and int(path[0]) < len(value):
            yield from _found(value[int(path[0])], path[1:])
    elif not path:
        if name := text_of(value):
            yield name
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _found(value[path[0]], path[1:])


def _projected(document: Document, paths: Sequence[str]) -> dict[str, Any]:
    """Return the document with these paths only, in this order."""
    shown: dict[str, Any] = {}
    for path in paths:
        first, dot, rest = path.partition(".")
        if first not in document:
            continue
        if not dot:
            shown[first] = document[first]
        elif isinstance(document[first], Mapping):
            shown[first] = shown.get(first, {}) | _projected(document[first], [rest])
    return shown
