"""The wire: bodies and queries to requests, decisions to answers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_hooks import wire
from companion.core.model import Access, Action, Allow, Connect, Deny, Reason
from tests.support.bad_bodies import NOT_JSON, SECRET
from tests.support.hypo import PIECES, examples
from tests.support.recording import recorded_requests

JSON, FORM = "application/json", "application/x-www-form-urlencoded"

NAMES = st.sampled_from(("username", "password", "clientid", "topic", "anything", "", "é", 'q"'))
VALUES = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from([one for one in PIECES if one != "\ud800"])
ODD = st.none() | st.booleans() | st.integers() | st.lists(VALUES, max_size=2) | st.just({"a": "b"})
SPOTS = ("{", "}", "[", ":", ",", '"', "\\", "\\u0000", "\\u0041", "\\/", "${", " ", "\n", "\0", "\xff", '"a":"b"')


def outcome(body: bytes, content_type: str = JSON) -> wire.Fields | str:
    """Return the fields, or the class of the refusal."""
    try:
        return wire.decode(body, content_type)
    except wire.Malformed:
        return "malformed"


# Bodies


@pytest.mark.parametrize(
    "content_type", [JSON, "application/json; charset=utf-8", "Application/JSON", " application/json ;x", ""]
)
def test_json(content_type: str) -> None:
    """JSON is taken with parameters, in capitals, and without a type if it looks like an object."""
    assert wire.decode(b'{"username":"a"}', content_type) == {"username": "a"}


@pytest.mark.parametrize("content_type", [FORM, f"{FORM};charset=UTF-8", FORM.upper(), ""])
def test_forms(content_type: str) -> None:
    """So is a form; without a type, whatever does not begin like JSON."""
    assert wire.decode(b"username=a+b%2B&password=", content_type) == {"username": "a b+", "password": ""}
    assert wire.decode(b"", content_type) == {}


@pytest.mark.parametrize("content_type", ["text/plain", "text/json", "application/json5", "json", "application/", "é"])
def test_other_types(content_type: str) -> None:
    """Anything else is not guessed at."""
    assert outcome(b'{"username":"a"}', content_type) == "malformed"
    assert outcome(b"username=a", content_type) == "malformed"


@examples(200)
@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from((None, (",", ":"))), st.booleans())
def test_every_way_to_write_it(fields: dict[str, str], separators: Any, ascii_only: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    """The same fields are read from JSON, however it is written, from a form and from a query; or refused on all ways."""
    body = json.dumps(fields, separators=separators, ensure_ascii=ascii_only).encode()
    query = urlencode(fields)
    readings = [outcome(body), outcome(query.encode(), FORM)]
    named = {name: value for name, value in fields.items() if name not in {"password", "anything", "", "é", 'q"'}}
    clear = not any("\0" in value or value.startswith("${") for value in named.values())
    assert readings == [fields if clear else "malformed"] * 2
    if clear:
        assert wire.decode_query(query) == fields


@examples(300)
@given(
    st.dictionaries(NAMES, VALUES | ODD, max_size=4),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(SPOTS)), max_size=2),
    st.sampled_from((None, (",", ":"))),
)
def test_the_quick_way_is_as_strict(fields: dict[str, Any], spots: list[tuple[int, str]], separators: Any) -> None:
    """A body in the form that EMQX writes takes a quick way; on no body do the quick and the strict way disagree."""
    body = json.dumps(fields, ensure_ascii=False, separators=separators).encode()
    for place, spot in spots:
        body = body[:place] + spot.encode("latin-1") + body[place:]
    quick = outcome(body)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wire, "_as_broker_writes", lambda _: None)
        assert outcome(body) == quick


def test_the_quick_way_is_taken() -> None:
    """What EMQX really sends is in that form."""
    bodies = [one.body.encode() for one in recorded_requests() if one.label.startswith("json")]
    assert len(bodies) == 20
    for body in bodies:
        assert wire._as_broker_writes(body) == json.loads(body)


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_no_json(name: str) -> None:
    """What is no JSON, or ambiguous, is refused with a line that repeats nothing of it."""
    with pytest.raises(wire.Malformed) as problem:
        wire.decode(NOT_JSON[name], JSON)
    assert str(problem.value).isprintable()
    assert SECRET not in str(problem.value)


@pytest.mark.parametrize(
    "query",
    [
        "a",
        "a=1&",
        "&a=1",
        "a=1&&b=2",
        "a=1&a=2",
        "a=1&%61=2",
        "%",
        "a=%",
        "a=%4",
        "a=%4g",
        "a=%ff",
        "a=%C0%AF",
        "a=%ED%A0%80",
        "username=%00",
        "topic=$%7Btopic}",
    ],
)
def test_what_is_no_form(query: str) -> None:
    """A form that is broken, repeats a name, or leaves a placeholder, is refused."""
    assert outcome(query.encode(), FORM) == "malformed"
    with pytest.raises(wire.Malformed):
        wire.decode_query(query)


@pytest.mark.parametrize("count", [64, 65])
def test_the_number_of_fields(count: int) -> None:
    """64 fields are read, 65 are refused, however they are written."""
    fields = {f"f{number}": "x" for number in range(count)}
    for body, content_type in (
        (json.dumps(fields).encode(), JSON),
        (json.dumps(fields, separators=(",", ":")).encode(), JSON),
        (urlencode(fields).encode(), FORM),
    ):
        assert outcome(body, content_type) == (fields if count == 64 else "malformed")


# Requests


def test_connect() -> None:
    """What is missing is empty; the password stays out of what is shown of it."""
    assert wire.connect({}) == Connect("", "", "", "")
    fields = {"username": "u", "clientid": "c", "password": "the password", "peerhost": "p", "zone": "z"}
    connect = wire.connect(fields)
    assert connect == Connect(client_id="c", username="u", password="the password", peer_host="p")
    assert "the password" not in repr(connect)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"action": "publish"}, Access(Action.PUBLISH, "")),
        ({"action": "subscribe", "topic": "t"}, Access(Action.SUBSCRIBE, "t")),
        ({"access": "1"}, Access(Action.SUBSCRIBE, "")),
        ({"access": "2"}, Access(Action.PUBLISH, "")),
        ({"action": "", "access": "2"}, Access(Action.PUBLISH, "")),
        ({"action": "publish", "access": "1"}, Access(Action.PUBLISH, "")),
        ({"action": "publish", "qos": "2", "retain": "true"}, Access(Action.PUBLISH, "", qos=2, retain=True)),
        ({"action": "publish", "qos": "", "retain": ""}, Access(Action.PUBLISH, "")),
        ({"action": "publish", "qos": "0", "retain": "0"}, Access(Action.PUBLISH, "", qos=0, retain=False)),
        ({"action": "publish", "retain": "1"}, Access(Action.PUBLISH, "", retain=True)),
        (
            {"action": "publish", "topic": "t", "username": "u", "clientid": "c", "peerhost": "p"},
            Access(Action.PUBLISH, "t", client_id="c", username="u", peer_host="p"),
        ),
    ],
)
def test_access(fields: dict[str, str], expected: Access) -> None:
    """Action, QoS and retain are understood as EMQX writes them, in words or numbers."""
    assert wire.access(fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"topic": "t"},
        {"action": "all"},
        {"action": "PUBLISH"},
        {"action": "all", "access": "1"},
        {"access": "0"},
        {"access": "3"},
        {"access": "publish"},
        {"action": "publish", "qos": "3"},
        {"action": "publish", "qos": "01"},
        {"action": "publish", "qos": " 1"},
        {"action": "publish", "retain": "True"},
        {"action": "publish", "retain": "yes"},
    ],
)
def test_no_access(fields: dict[str, str]) -> None:
    """What names no action, no QoS or no truth is refused rather than guessed."""
    with pytest.raises(wire.Malformed):
        wire.access(fields)


# Answers


@pytest.mark.parametrize("reason", Reason)
def test_a_denial(reason: Reason) -> None:
    """Every denial looks the same from outside."""
    assert wire.encode(Deny(reason, rule="7", detail="why")) == b'{"result":"deny"}'


def test_an_allowance() -> None:
    """An allowance says until when, where there is an end, and never null."""
    assert wire.encode(Allow(Reason.RULE, rule="7")) == b'{"result":"allow"}'
    assert wire.encode(Allow(Reason.TOKEN, expires_at=17)) == b'{"result":"allow","expire_at":17}'
    assert wire.encode(Allow(Reason.TOKEN, expires_at=0)) == b'{"result":"allow","expire_at":0}'
    assert wire.encode(Allow(Reason.TOKEN, acl='["é"]'.encode())).decode() == '{"result":"allow","acl":["é"]}'
    assert wire.encode(Allow(Reason.TOKEN, expires_at=1, acl=b"[1]")) == b'{"result":"allow","expire_at":1,"acl":[1]}'


def test_special_characters() -> None:
    """Values with everything that means something to JSON or forms arrive as they are."""
    value = 'å & = + % " \\ / ; # ? 😀 \t\n'
    assert wire.decode(json.dumps({"password": value}).encode(), JSON) == {"password": value}
    assert wire.decode(f"password={quote_plus(value)}".encode(), FORM) == {"password": value}
