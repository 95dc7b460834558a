"""Whom a change of an account's document concerns that may be connected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from bson import ObjectId

from companion.account_sources import DEFAULT_ACCOUNTS, AccountSource
from companion.core.revocations import Cause
from companion.stores.mongo.account_changes import OWN, Kind, causes, kind_of

NOW = 1_000_000.0
USERS, DEVICES = DEFAULT_ACCOUNTS[:2]
ID = ObjectId("65f1a2b3c4d5e6f708192a3b")
ALICE: Mapping[str, Any] = {"username": "alice", "kind": "user", "principal": "alice", "password_hash": "a"}
PERSON: Mapping[str, Any] = {"_id": ID, "username": "alice", "password": "a", "status": "ACTIVE"}


def update(after: Mapping[str, Any] | None, *touched: str, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    fields = {name: (after or {}).get(name) for name in touched}
    return {
        "operationType": "update",
        "updateDescription": {"updatedFields": fields, "removedFields": []},
        "fullDocument": after,
        "fullDocumentBeforeChange": before,
        "documentKey": {"_id": ID},
    }


def replace(after: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"operationType": "replace", "fullDocument": after, "fullDocumentBeforeChange": before}


def with_secrets(*hashes: str, **times: int) -> dict[str, Any]:
    return {**ALICE, "secrets": [{"id": one, "password_hash": one, **times} for one in hashes]}


def delete(before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"operationType": "delete", "documentKey": {"_id": ID}, "fullDocumentBeforeChange": before}


@pytest.mark.parametrize(
    ("kind", "event", "wanted"),
    [
        (OWN, update({**ALICE, "password_hash": "b"}, "password_hash"), [("alice", Cause.PASSWORD)]),
        (OWN, update({**ALICE, "rehashed_at": 1}, "password_hash", "rehashed_at"), []),
        (OWN, update({**ALICE, "last_seen": 1}, "last_seen"), []),
        (OWN, update({**ALICE, "subjects": ["s"]}, "subjects"), []),
        (OWN, update({**ALICE, "disabled": True}, "disabled"), [("alice", Cause.DISABLED)]),
        (OWN, update({**ALICE, "disabled": False}, "disabled"), []),
        (OWN, update({**ALICE, "disabled": "?"}, "disabled"), [("alice", Cause.DISABLED)]),
        (OWN, update({**ALICE, "expires_at": 5}, "expires_at"), [("alice", Cause.DISABLED)]),
        (OWN, update({**ALICE, "expires_at": 2 * NOW}, "expires_at"), []),
        (
            OWN,
            update(
                {**ALICE, "disabled": True, "password_hash": "b"}, "password_hash", before={**ALICE, "disabled": True}
            ),
            [],
        ),
        (OWN, update({**ALICE, "username": "al"}, "username", before=ALICE), [("alice", Cause.REMOVED)]),
        (OWN, update(None, "password_hash"), []),
        (OWN, {"operationType": "insert", "fullDocument": ALICE}, []),
        (OWN, replace(ALICE), [("alice", Cause.PASSWORD)]),
        (OWN, replace({**ALICE, "disabled": False}, before=ALICE), []),
        (OWN, replace({**ALICE, "password_hash": "b"}, before=ALICE), [("alice", Cause.PASSWORD)]),
        (OWN, update(with_secrets("b"), "secrets"), [("alice", Cause.SECRET)]),
        (OWN, update(with_secrets(), "secrets"), [("alice", Cause.SECRET)]),
        (OWN, update(with_secrets("b"), "secrets", "secrets_added"), []),
        (OWN, update(with_secrets("b"), "secrets", before=with_secrets("b", "c")), [("alice", Cause.SECRET)]),
        (OWN, update(with_secrets("c"), "secrets", before=with_secrets("b")), [("alice", Cause.SECRET)]),
        (OWN, update(with_secrets("b", "c"), "secrets", before=with_secrets("b")), []),
        (OWN, update(with_secrets("b", "c"), "secrets", before=with_secrets("c", "b")), []),
        (OWN, update(with_secrets("b", not_after=5), "secrets", before=with_secrets("b")), [("alice", Cause.SECRET)]),
        (OWN, update(with_secrets("b"), "secrets", before=with_secrets("b", not_after=5)), []),
        (OWN, update(with_secrets(), "secrets", before=with_secrets("b", not_after=5)), [("alice", Cause.SECRET)]),
        (OWN, update({**with_secrets(), "disabled": True}, "secrets", "disabled"), [("alice", Cause.DISABLED)]),
        (OWN, replace(with_secrets("b"), before=with_secrets("b", "c")), [("alice", Cause.SECRET)]),
        (OWN, replace(with_secrets("b", "c"), before=with_secrets("b")), []),
        (OWN, delete(ALICE), [("alice", Cause.REMOVED)]),
        (OWN, delete(), []),
        (
            kind_of(USERS),
            update({**PERSON, "password": "b"}, "password"),
            [(str(ID), Cause.PASSWORD), ("alice", Cause.PASSWORD)],
        ),
        (
            kind_of(USERS),
            update({**PERSON, "status": "GONE"}, "status"),
            [(str(ID), Cause.DISABLED), ("alice", Cause.DISABLED)],
        ),
        (kind_of(USERS), update({**PERSON, "email": "x"}, "email"), []),
        (kind_of(USERS), delete(PERSON), [(str(ID), Cause.REMOVED), ("alice", Cause.REMOVED)]),
        (kind_of(DEVICES), delete(), [(str(ID), Cause.REMOVED)]),
        (
            kind_of(DEVICES),
            update({"_id": ID, "token": "t", "deleted_at": 1}, "deleted_at"),
            [(str(ID), Cause.DISABLED)],
        ),
    ],
)
def test_whom_it_concerns(kind: Kind, event: Mapping[str, Any], wanted: list[tuple[str, Cause]]) -> None:
    """Who has another password or a secret less, may not be used any more or is gone; nobody else."""
    assert list(causes(kind, event, NOW)) == wanted


def test_secrets_of_others() -> None:
    """A list of secrets under another name, with hashes and times of other names; who has none has none to lose."""
    source = AccountSource.model_validate(
        {
            "like": "emqx",
            "secrets": "login.more",
            "secrets_hash": "hash",
            "secrets_not_after": "until",
            "secret_format": "hash",
        }
    )
    before = {"username": "alice", "login": {"more": [{"hash": "x"}, {"hash": "y", "until": NOW + 5}]}}
    for kept, wanted in (
        ([{"hash": "x"}], [("alice", Cause.SECRET)]),
        ([{"hash": "y"}, {"hash": "x"}, {"hash": "z"}], []),
    ):
        event = update({"username": "alice", "login": {"more": kept}}, "login", before=before)
        assert list(causes(kind_of(source), event, NOW)) == wanted
        assert list(causes(kind_of(USERS), event, NOW)) == []


def test_a_field_inside() -> None:
    """A secret that lies deeper is found by its path, and what changes beside it is no other secret where the picture shows it."""
    source = AccountSource.model_validate(
        {"collection": "crm.people", "username": ["mail"], "secret": "login.hash", "status": "state", "active": ["ok"]}
    )
    after = {"mail": "a@b", "login": {"hash": "x", "at": 2}, "state": "ok"}
    event = {
        **update(after),
        "updateDescription": {"updatedFields": {"login.at": 2}, "removedFields": []},
        "fullDocumentBeforeChange": {"mail": "a@b", "login": {"hash": "x", "at": 1}, "state": "ok"},
    }
    assert list(causes(kind_of(source), event, NOW)) == []
    event["updateDescription"] = {"updatedFields": {"login.hash": "x"}, "removedFields": []}
    event["fullDocumentBeforeChange"] = None
    assert list(causes(kind_of(source), event, NOW)) == [("a@b", Cause.PASSWORD)]
