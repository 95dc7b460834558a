"""What an answer of the hooks means, as EMQX 5.8 reads it, and closed where EMQX would go on to a next source.

The embedded broker has one source and `no_match = deny`: whatever is not an allow is a deny. `client_attrs` and `acl` are not read;
leaving them out refuses nothing and grants nothing, because every publish and subscribe is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from companion.core import strict_json

_NO_CONTENT: Final = 204
_OK: Final = 200


class Refusal(IntEnum):
    """CONNACK return codes of a refused login (MQTT 3.1.1 §3.2.2.3)."""

    BAD_CREDENTIALS = 4
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, slots=True)
class Grant:
    """An allowed login. A superuser is not asked about again; `expires_at` (Unix seconds) ends the connection."""

    superuser: bool = False
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came: the content type in lower case without parameters ("" when there is none), the body."""

    status: int
    content_type: str
    body: bytes


def verdict(answer: Answer) -> Mapping[str, Any] | None:
    """Return the fields of an answer that allows, and None for any other."""
    if answer.status == _NO_CONTENT:
        return {}
    if answer.status != _OK or answer.content_type != "application/json":
        return None
    try:
        fields = strict_json.decode(answer.body)
    except strict_json.NotJson:
        return None
    return fields if isinstance(fields, dict) and fields.get("result") == "allow" else None


def login(answer: Answer, now: float) -> Grant | Refusal:
    """Return what an answer to `/mqtt/auth` grants at the time `now` (Unix seconds).

    An `expire_at` that is no integer, lies in the past or can only be milliseconds is refused with bad credentials, as EMQX does
    (0x86, which is 4 in MQTT 3.1.1).
    """
    fields = verdict(answer)
    if fields is None:
        return Refusal.NOT_AUTHORIZED
    superuser = isinstance(fields.get("is_superuser"), (int, str)) and fields["is_superuser"] in (1, "true", "1")
    if "expire_at" not in fields:
        return Grant(superuser)
    expires_at = fields["expire_at"]
    if type(expires_at) is not int or not int(now) <= expires_at <= now * 500:
        return Refusal.BAD_CREDENTIALS
    return Grant(superuser, expires_at)
