"""What is taken out of documents, wherever it stands in them."""

from __future__ import annotations

from typing import Any

import pytest

from companion.core.pseudonyms import Pseudonyms
from maintenance.redaction import Redaction, document_of, line_of, names_in

PSEUDONYMS = Pseudonyms("k" * 32)
REDACTION = Redaction(PSEUDONYMS)
ID = "65f1a2b3c4d5e6f708192a3b"
P = PSEUDONYMS.of


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("alice", P("alice")),
        ("", ""),
        (None, None),
        ({"$oid": ID}, {"$oid": P(ID)}),
        (["a", {"$oid": ID}, None, {"$numberInt": "3"}], [P("a"), {"$oid": P(ID)}, None]),
        (
            {"first": "a", "born": {"$date": {"$numberLong": "0"}}, "in": {"city": "b"}},
            {"first": P("a"), "in": {"city": P("b")}},
        ),
    ],
)
def test_replacing(value: Any, wanted: Any) -> None:
    """Texts and ids get pseudonyms, of any depth; doing it again changes nothing."""
    document = {"_id": 1, "x": value, "y": "stays"}
    told = REDACTION.replace(document, ["x", "nowhere", "y.z"])
    assert document == {"_id": 1, "x": wanted, "y": "stays"}
    assert all(P(one) == new for one, new in told.items())
    assert not REDACTION.replace(document, ["x"])
    assert document["x"] == wanted


@pytest.mark.parametrize(
    "value", [{"$numberInt": "3"}, 3, True, {"$date": {"$numberLong": "0"}}, {"$binary": {"base64": ""}}]
)
def test_what_has_no_pseudonym(value: Any) -> None:
    """It is taken away."""
    document = {"x": value}
    REDACTION.replace(document, ["x"])
    assert document == {}


def test_paths() -> None:
    """Paths lead into documents and through lists."""
    document = {"a": {"b": [{"c": "one", "d": 1}, {"c": "two"}, 3], "e": "stays"}}
    assert list(names_in(document, ["a.b.c", "a.x"])) == ["one", "two"]
    REDACTION.replace(document, ["a.b.c"])
    assert document == {"a": {"b": [{"c": P("one"), "d": 1}, {"c": P("two")}, 3], "e": "stays"}}
    assert list(names_in(document, ["a.b.c"])) == []
    REDACTION.remove(document, ["a.b.c", "a.e", "a.e"])
    assert document == {"a": {"b": [{"d": 1}, {}, 3]}}


def test_names() -> None:
    """Only the names that are meant are replaced, alone, in lists and between slashes."""
    known = REDACTION.pseudonyms_of(["alice", ID])
    document = {
        "topic": f"home/alice/{ID.upper()}/alicex",
        "owner": {"$oid": ID},
        "by": {"$oid": "0" * 24},
        "shares": [{"$oid": ID}, "alice", "bob"],
        "count": 3,
    }
    REDACTION.rename(document, ["topic", "owner", "by", "shares", "count", "none"], known)
    assert document == {
        "topic": f"home/{P('alice')}/{P(ID)}/alicex",
        "owner": {"$oid": P(ID)},
        "by": {"$oid": "0" * 24},
        "shares": [{"$oid": P(ID)}, P("alice"), "bob"],
        "count": 3,
    }


def test_lines() -> None:
    """A line is what it was."""
    line = '{"_id":{"$oid":"65f1a2b3c4d5e6f708192a3b"},"é":[1.5,null,true]}'.encode()
    assert line_of(document_of(line)) == line
