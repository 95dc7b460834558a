"""The chain of audit records: how a record that was removed, inserted or altered is found. Pure.

    record 1 ──hash──▶ record 2 ──hash──▶ record 3 …       one chain per writer, numbered from 1
        every day: a seal over the ends of all chains, which names the seal before it

Several processes write at once, and none may wait for another; so each has a chain of its own. The hash of an entry (SHA-256 over
a JSON list) covers the hash of the entry before it, the chain, the number, and what the record says. Who and where it says not
directly, but by commitments: of each personal field a keyed digest, whose key, the salt, is of this record alone. So these fields
can be replaced by pseudonyms, as the law may want it, and the chain still holds: the record is known as one that was
pseudonymised, all else that it says is proven as before, and once its salt is forgotten the commitments tell nobody what stood
there.

What this finds: whatever was removed, altered or put in between. What it cannot find: an entry that was taken from the end of a
chain, or put there, by somebody who can write into the store, before the next seal. A seal is worth as much as the place where its
root is kept: that is why roots go to a file and to the log too.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii as _text
from operator import attrgetter
from typing import Final, NamedTuple

from companion.core.model import Audit
from companion.core.pseudonyms import is_pseudonym

PERSONAL: Final = ("username", "client_id", "peer_host", "topic", "detail")
"""Fields that may tell who somebody is."""

_personal: Final = attrgetter(*PERSONAL)
_SALT_BYTES: Final = 16
_MARK_BYTES: Final = 16
_PARTS: Final = re.compile(r"[/:]")

_PROCESS: Final = secrets.token_hex(5)
_counter: Final = itertools.count(secrets.randbelow(2**23))


class Entry(NamedTuple):
    """A record in its chain. `id` has the form of MongoDB's ids and grows within a process; all else but numbers is hexadecimal.

    `marks` are the commitments of the personal fields, an empty one for an empty field; `before` is the hash of the entry before.
    """

    id: str
    chain: str
    number: int
    salt: str
    marks: str
    before: str
    hash: str
    audit: Audit


class Chain:
    """The chain of one writer, who stores its entries in the order in which they were made."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(12)
        self._number = 0
        self._hash = ""

    def seal(self, audits: Sequence[Audit]) -> Sequence[Entry]:
        """Return the records as the next entries."""
        salts = os.urandom(_SALT_BYTES * len(audits))
        second = int(time.time()) & 0xFFFFFFFF
        entries = []
        for index, audit in enumerate(audits):
            salt = salts[index * _SALT_BYTES : (index + 1) * _SALT_BYTES]
            marks = ",".join([_mark(salt, value) for value in _personal(audit)])
            self._number += 1
            digest = _hash(self.name, self._number, self._hash, audit, marks)
            entry_id = f"{second:08x}{_PROCESS}{next(_counter) & 0xFFFFFF:06x}"
            entries.append(Entry(entry_id, self.name, self._number, salt.hex(), marks, self._hash, digest, audit))
            self._hash = digest
        return entries


def _mark(salt: bytes, value: str) -> str:
    if not value:
        return ""
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=salt, digest_size=_MARK_BYTES).hexdigest()


def _hash(chain: str, number: int, before: str, audit: Audit, marks: str) -> str:
    # A JSON list without spaces, not a character beyond ASCII in it; the encoder of the library takes twice as long.
    covered = (
        f"[{_text(chain)},{number!r},{_text(before)},{audit.at!r},{_text(audit.kind)},{_text(audit.verdict)},{_text(audit.reason)},"
        f"{_text(audit.action)},{_text(audit.rule)},{_text(audit.source)},{_text(marks)}]"
    )
    return hashlib.sha256(covered.encode()).hexdigest()


def intact(entry: Entry) -> bool:
    """Tell whether the hash of an entry is that of what it says."""
    return entry.hash == _hash(entry.chain, entry.number, entry.before, entry.audit, entry.marks)


def changed_fields(entry: Entry) -> Sequence[str]:
    """Return the personal fields that are not what they were; without the salt, those of which that cannot be told."""
    marks = entry.marks.split(",")
    if len(marks) != len(PERSONAL):
        return PERSONAL
    values: Iterable[str] = _personal(entry.audit)
    if not entry.salt:
        return [name for name, value, mark in zip(PERSONAL, values, marks, strict=True) if bool(value) or bool(mark)]
    salt = bytes.fromhex(entry.salt)
    return [name for name, value, mark in zip(PERSONAL, values, marks, strict=True) if _mark(salt, value) != mark]


def pseudonymous(text: str) -> bool:
    """Tell whether a text is a pseudonym, or a topic or a client id with one in it."""
    return any(is_pseudonym(part) for part in (text, *_PARTS.split(text)))
