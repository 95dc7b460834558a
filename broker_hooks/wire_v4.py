"""What EMQX 4.4 sends and accepts (its plugin emqx_auth_http): forms, and answers by their status alone.

200 allows, whatever the body but `ignore`, and every other status refuses; so nothing under `/v4/`, and nothing at the paths that
the plugin asks by default, is ever answered with 200 unless it allows. A missing value is sent as the word `undefined` or `null`.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from broker_hooks.wire import Fields
from companion.core.model import Allow, Decision, Deny, Reason
from companion.metrics import Hook

PATHS: Final[dict[str, Hook]] = {"/v4/auth": "auth", "/v4/superuser": "superuser", "/v4/acl": "authz"}
NO_SUPERUSER: Final = Deny(Reason.NO_SUPERUSER)
"""Nobody is one: EMQX 4.4 asks with names alone, and whoever is one may do everything. Rules say what each may do."""

_PREFIX: Final = "/v4/"
_DEFAULTS: Final = frozenset({"/mqtt/superuser", "/mqtt/acl"})
_MISSING: Final = frozenset({"undefined", "null"})
_MAY_BE_MISSING: Final = ("username", "password")
_TEXT: Final = {hdrs.CONTENT_TYPE: "text/plain"}

_ALLOWED: Final = 200
_REFUSED: Final = 403
_STATUS: Final[dict[Reason, int]] = {
    Reason.MALFORMED: 400,
    Reason.TOO_LARGE: 400,
    Reason.NO_CREDENTIALS: 401,
    Reason.UNKNOWN_USER: 401,
    Reason.WRONG_PASSWORD: 401,
    Reason.UNUSABLE_HASH: 401,
    Reason.TOKEN_INVALID: 401,
    Reason.TOKEN_EXPIRED: 401,
    Reason.TOKEN_CLAIMS: 401,
    Reason.WRONG_PRINCIPAL: 401,
    Reason.WRONG_CLIENT_ID: 401,
    Reason.UNKNOWN_ENDPOINT: 404,
    Reason.THROTTLED: 429,
    Reason.STORE_AWAY: 503,
    Reason.INTERNAL: 503,
    Reason.OVERLOADED: 504,
    Reason.DEADLINE: 504,
}
"""As CONNACK: 400 and 401 bad user name or password, 403 not authorized, 429 banned, 504 busy, the others unavailable. Any other
reason is 403. For a publish or subscribe all of them are a refusal."""


def speaks(path: str) -> bool:
    """Tell whether a broker of that version would ask here, so that 200 would let somebody in."""
    return f"{path}/".startswith(_PREFIX) or path in _DEFAULTS


def named(fields: Fields) -> Fields:
    """Return the fields by the names, and with the empty texts, of later versions.

    A client whose user name or password is really `undefined` or `null` is taken for one without, and refused.
    """
    fields = {name: "" if name in _MAY_BE_MISSING and value in _MISSING else value for name, value in fields.items()}
    if "ipaddr" in fields:
        fields.setdefault("peerhost", fields["ipaddr"])
    return fields


def answer(decision: Decision) -> web.Response:
    """Return the answer; the body is for people."""
    if isinstance(decision, Allow):
        return web.Response(status=_ALLOWED, body=b"allow", headers=_TEXT)
    return web.Response(status=_STATUS.get(decision.reason, _REFUSED), body=b"deny", headers=_TEXT)
