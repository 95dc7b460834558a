"""What EMQX sends and what it accepts (5.x and 6.x): bodies and queries to requests, decisions to answers.

Every field is optional and a string (EMQX renders even numbers as strings); a missing one arrives as "". What does not fit is
refused as a whole: guessing what an ambiguous request means is how somebody else's verdict is given.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from companion.core import strict_json
from companion.core.errors import CompanionError
from companion.core.model import Access, Action, Allow, Connect, Decision
from companion.core.scram import ScramKeys
from companion.core.token_names import holds_token, name_of_token

DENY: Final = b'{"result":"deny"}'
ALLOW: Final = b'{"result":"allow"}'

_JSON: Final = "application/json"
_MAX_FIELDS: Final = 64
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ACTIONS: Final = {"publish": Action.PUBLISH, "subscribe": Action.SUBSCRIBE}
_ACCESS_NUMBERS: Final = {"1": Action.SUBSCRIBE, "2": Action.PUBLISH}
_QOS: Final = {"": None, "0": 0, "1": 1, "2": 2}
_RETAIN: Final = {"": None, "true": True, "false": False, "1": True, "0": False}
_NAMES: Final = (
    *("username", "clientid", "topic", "peerhost", "action", "access", "qos", "retain"),
    *("cert_common_name", "cert_subject", "cert_pem"),
)


class Malformed(CompanionError):
    """A request that says nothing clear; the text is for logs and never repeats what was sent."""


Fields = dict[str, str]

_FIELDS: Final = msgspec.json.Decoder(Fields)
_WRITER: Final = msgspec.json.Encoder()


def decode(body: bytes, content_type: str) -> Fields:
    """Return the fields of a body. Without a content type, a body that begins with a brace is taken as JSON.

    Raises `Malformed`.
    """
    media = content_type if content_type == _JSON else content_type.partition(";")[0].strip().lower()
    if media == _JSON or (not media and body[:1] in (b"{", b"[")):
        fields = _as_broker_writes(body)
        return _checked(_object(body)) if fields is None else fields
    if media in ("application/x-www-form-urlencoded", ""):
        try:
            return decode_query(body.decode("ascii"))
        except UnicodeDecodeError:
            raise Malformed("the form is not ASCII") from None
    raise Malformed("the content type is neither application/json nor application/x-www-form-urlencoded")


def decode_query(query: str) -> Fields:
    """Return the fields of a query string or a form (`method = get`, or a form body). Raises `Malformed`."""
    if not query:
        return {}
    if _BAD_ESCAPE.search(query):
        raise Malformed("the form holds a percent sign that escapes nothing")
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise Malformed("the form cannot be decoded") from None
    fields: dict[str, Any] = dict(pairs)
    if len(fields) != len(pairs):
        raise Malformed("a field is there twice")
    return _checked(fields)


def connect(fields: Fields) -> Connect:
    """Return the fields as a request to connect."""
    get = fields.get
    username = get("username", "")
    token = username if holds_token(username) else ""
    if token:
        username = name_of_token(token)
    return Connect(
        get("clientid", ""),
        username,
        get("password", ""),
        get("peerhost", ""),
        token,
        get("cert_common_name", ""),
        get("cert_subject", ""),
        get("cert_pem", ""),
    )


def access(fields: Fields) -> Access:
    """Return the fields as a request to publish or subscribe. Raises `Malformed` for an unknown action, QoS or retain."""
    get = fields.get
    action = _ACTIONS.get(get("action", "")) or (_ACCESS_NUMBERS.get(get("access", "")) if not get("action") else None)
    if action is None:
        raise Malformed("action is neither publish nor subscribe")
    try:
        qos = _QOS[get("qos", "")]
        retain = _RETAIN[get("retain", "")]
    except KeyError:
        raise Malformed("qos is not 0, 1 or 2, or retain is not true or false") from None
    username = get("username", "")
    if holds_token(username):
        username = name_of_token(username)
    return Access(action, get("topic", ""), get("clientid", ""), username, get("peerhost", ""), qos, retain)


def encode(decision: Decision) -> bytes:
    """Return the body of the answer: always an explicit verdict, never a null (EMQX refuses those)."""
    if not isinstance(decision, Allow):
        return DENY
    more = _more(decision)
    return msgspec.json.encode({"result": "allow", **more}) if more else ALLOW


def encode_scram(decision: Decision, keys: ScramKeys) -> bytes:
    """Return the body of an answer with SCRAM keys; it has no verdict, for the broker makes it."""
    more = _more(decision) if isinstance(decision, Allow) else {}
    return msgspec.json.encode(
        {"stored_key": keys.stored_key.hex(), "server_key": keys.server_key.hex(), "salt": keys.salt.hex(), **more}
    )


def _more(decision: Allow) -> dict[str, Any]:
    """Return the further fields of a yes. What is not there is left out: EMQX refuses a login for a null."""
    more: dict[str, Any] = {}
    if decision.expires_at is not None:
        more["expire_at"] = decision.expires_at
    if decision.client_attrs:
        more["client_attrs"] = decision.client_attrs
    if decision.superuser:
        more["is_superuser"] = True
    if decision.acl:
        more["acl"] = msgspec.Raw(decision.acl)
    return more


def _as_broker_writes(body: bytes) -> Fields | None:
    """Return the fields of a body in the form that EMQX writes: flat, compact, escaped only where it must be; None for any other.

    Ten times as fast as reading strictly, and as strict: a body that is, byte by byte, what its own fields are written as can be
    understood in one way only. A key that it repeats, say, would not be written twice.
    """
    try:
        fields = _FIELDS.decode(body)
        if _WRITER.encode(fields) != body:
            return None
    except (msgspec.MsgspecError, UnicodeError):
        return None
    # What `_checked` looks for; in this form it cannot hide behind an escape.
    return None if len(fields) > _MAX_FIELDS or b"\\u0000" in body or b'"${' in body else fields


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = strict_json.decode(body)
    except strict_json.NotJson as problem:
        raise Malformed(str(problem)) from None
    if not isinstance(content, dict):
        raise Malformed("the body is not a JSON object")
    return content


def _checked(fields: dict[str, Any]) -> Fields:
    if len(fields) > _MAX_FIELDS:
        raise Malformed(f"more than {_MAX_FIELDS} fields")
    for value in fields.values():
        if type(value) is not str:
            raise Malformed("a field is not a string")
    for name in _NAMES:
        value = fields.get(name)
        if value and ("\0" in value or value[:2] == "${"):
            raise Malformed(f"{name} holds NUL or a placeholder that the broker did not fill in")
    return fields
