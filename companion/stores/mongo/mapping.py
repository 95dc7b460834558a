"""Documents of other people's collections as accounts, by the tables of the settings. Pure.

Whoever wrote such a document did not write it for us: what is missing or of another type is taken for the worse.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson import ObjectId

from companion.account_sources import AccountSource
from companion.core import password_hashes
from companion.core.certificate_pins import sound_pins
from companion.core.claim_tests import text_of_claim
from companion.core.model import MAX_SECRETS, Account, AccountSecret
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.stores.mongo.go_auth import rules_of_acls

Document = Mapping[str, Any]

ID: Final = "_id"
_MILLISECONDS_FROM: Final = 100_000_000_000
"""As seconds this is the year 5138: larger numbers are milliseconds."""

_EVERYTHING: Final = ("#", "$SYS/#")
"""`#` does not match topics that begin with `$` (MQTT 5 §4.7.2)."""


def value_at(document: Document, path: str) -> Any:  # noqa: ANN401 - whatever stands there
    """Return what stands at a path such as `login.hash`; None where there is nothing."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text_of(value: object) -> str:
    """Return an id or a name as text; empty for what is neither."""
    if isinstance(value, ObjectId | str):
        return str(value)
    return ""


def query_of(source: AccountSource, name: str) -> Document:
    """Return the query for whoever has this name; every branch of it can use an index."""
    branches: list[Document] = []
    for field in source.username:
        values: list[object] = [name]
        if ObjectId.is_valid(name):
            values.append(ObjectId(name))
        branches.append({field: {"$in": values} if len(values) > 1 else name})
    return {"$or": branches} if len(branches) > 1 else branches[0]


def rank_of(source: AccountSource, document: Document, name: str) -> tuple[bool, int]:
    """Return by what this document has the name, the least for what counts most: an `_id`, which nobody chooses, before all."""
    found = [index for index, field in enumerate(source.username) if text_of(value_at(document, field)) == name]
    by = found[0] if found else len(source.username)
    return (not found or source.username[by] != ID, by)


def names_of(source: AccountSource, document: Document) -> Sequence[str]:
    """Return the names by which this document is found."""
    return [name for field in source.username if (name := text_of(value_at(document, field)))]


def account_of(source: AccountSource, document: Document, name: str, common_acls: Sequence[Document] = ()) -> Account:
    """Return the account that a document describes to whoever logs in as `name`."""
    principal = next((text for field in source.principal if (text := text_of(value_at(document, field)))), "")
    expires_at, sound = _time(value_at(document, source.expires) if source.expires else None)
    secrets = _secrets(source, document)
    groups = _groups(source, document)
    subjects = value_at(document, source.subjects) if source.subjects else None
    return Account(
        name,
        source.kind,
        principal or name,
        _password_hash(source, document, source.secret),
        disabled=not sound
        or secrets is None
        or groups is None
        or not _usable(source, document)
        or bool(source.principal and not principal),
        expires_at=expires_at,
        subjects=tuple(one for one in subjects if isinstance(one, str)) if isinstance(subjects, list) else (),
        rules=_rules(source, document, name, common_acls),
        groups=groups or (),
        tenant=text_of(value_at(document, source.tenant)) if source.tenant else "",
        secrets=secrets or (),
        foreign=True,
        attributes={
            key: text
            for key, field in source.attributes.items()
            if (text := text_of(value_at(document, field)) or text_of_claim(value_at(document, field)))
        },
        superuser=bool(source.superuser) and value_at(document, source.superuser) is True,
        certificates=_certificates(value_at(document, source.certificates) if source.certificates else None),
    )


def nobody(source: AccountSource, name: str) -> Account:
    """Return the account of a name that belongs to more than one: nobody's."""
    return Account(name, source.kind, name, "", disabled=True, foreign=True)


def _groups(source: AccountSource, document: Document) -> tuple[str, ...] | None:
    """Return the groups; None for what is no list of names: a rule that denies something to a group must not be evaded so."""
    value = value_at(document, source.groups) if source.groups else None
    if value is None:
        return ()
    names = [text_of(one) for one in value] if isinstance(value, list) else [""]
    return tuple(names) if all(names) else None


def _certificates(value: object) -> tuple[str, ...]:
    return sound_pins(value if isinstance(value, list) else [value] if isinstance(value, str) else [])


def _usable(source: AccountSource, document: Document) -> bool:
    if source.deleted and value_at(document, source.deleted) is not None:
        return False
    status = value_at(document, source.status) if source.status else None
    return status is None or str(status).lower() in {one.lower() for one in source.active}


def _time(value: object) -> tuple[int | None, bool]:
    """Return a time in Unix seconds, and whether what stands there is one or nothing."""
    if value is None:
        return None, True
    if isinstance(value, dt.datetime):
        return int(value.timestamp()), True
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return int(value / 1000 if value >= _MILLISECONDS_FROM else value), True
    return None, False


def _secrets(source: AccountSource, document: Document) -> tuple[AccountSecret, ...] | None:
    """Return the further secrets; None when they cannot be understood. They are numbered where they have no `id`."""
    listed = value_at(document, source.secrets) if source.secrets else None
    if listed is None:
        return ()
    if not isinstance(listed, list) or len(listed) > MAX_SECRETS:
        return None
    found = []
    for number, one in enumerate(listed):
        if not isinstance(one, Mapping):
            return None
        not_before, begins = _time(value_at(one, source.secrets_not_before))
        not_after, ends = _time(value_at(one, source.secrets_not_after))
        if not (begins and ends):
            return None
        hashed = _password_hash(source, one, source.secrets_hash)
        found.append(AccountSecret(text_of(one.get("id")) or str(number), hashed, not_before, not_after))
    return tuple(found)


def _password_hash(source: AccountSource, document: Document, field: str) -> str:
    secret = value_at(document, field)
    if isinstance(secret, bytes):
        secret = secret.decode("ascii", errors="replace")
    if not isinstance(secret, str) or not secret:
        return ""
    salt = (value_at(document, source.salt) if source.salt else None) or ""
    if not isinstance(salt, str):
        return ""
    try:
        match source.secret_format:
            case "hash":
                return secret
            case "plain":
                return password_hashes.plain(secret)
            case "sha256" | "sha512":
                return password_hashes.salted(source.secret_format, source.salt_position, salt, secret)
            case "pbkdf2-sha256":
                return password_hashes.derived("sha256", source.iterations, salt, secret)
            case "pbkdf2-sha512":
                return password_hashes.derived("sha512", source.iterations, salt, secret)
    except ValueError:
        return ""


def _rules(source: AccountSource, document: Document, name: str, common_acls: Sequence[Document]) -> tuple[Rule, ...]:
    subject = subject_of_account(name)
    rules: list[Rule] = []
    if source.superuser and value_at(document, source.superuser) is True:
        rules += [
            Rule(subject, Effect.ALLOW, RuleAction.ALL, topic, id=f"{source.collection}:superuser")
            for topic in _EVERYTHING
        ]
    if source.acls:
        acls = value_at(document, source.acls)
        rules += rules_of_acls(acls if isinstance(acls, list) else (), subject, source.collection, common=False)
    rules += rules_of_acls(common_acls, subject, source.common_acls, common=True)
    return tuple(rules)
