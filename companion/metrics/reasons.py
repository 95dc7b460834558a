"""Which hooks there are, and which reasons each can give: the label values of decisions."""

from __future__ import annotations

from typing import Final, Literal

from companion.core.model import Reason

Hook = Literal["auth", "authz", "superuser", "scram"]

ALLOWING: Final = frozenset(
    {Reason.PASSWORD, Reason.TOKEN, Reason.LONG_TOKEN, Reason.CERTIFICATE, Reason.SCRAM, Reason.RULE, Reason.OWN_TOPIC}
)
"""The reasons of an `Allow`; all others belong to a `Deny`."""

_EITHER: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.UNKNOWN_ENDPOINT,
        Reason.ACCOUNT_DISABLED,
        Reason.ACCOUNT_EXPIRED,
        Reason.TOKEN_EXPIRED,
        Reason.REVOKED,
        Reason.DEADLINE,
        Reason.STORE_AWAY,
        Reason.INTERNAL,
    }
)
_ONLY_AUTHZ: Final = frozenset(
    {
        Reason.RULE,
        Reason.OWN_TOPIC,
        Reason.NOT_CONNECTED,
        Reason.INVALID_TOPIC,
        Reason.DENIED_BY_RULE,
        Reason.NO_RULE,
    }
)
_ONLY_SUPERUSER: Final = frozenset({Reason.NO_SUPERUSER})
REASONS: Final[dict[Hook, frozenset[Reason]]] = {
    "auth": frozenset(Reason) - _ONLY_AUTHZ - _ONLY_SUPERUSER - {Reason.SCRAM},
    "authz": _ONLY_AUTHZ | _EITHER,
    "superuser": _ONLY_SUPERUSER | _EITHER,
    "scram": (_EITHER - {Reason.TOKEN_EXPIRED})
    | {Reason.SCRAM, Reason.NO_CREDENTIALS, Reason.UNKNOWN_USER, Reason.UNUSABLE_HASH},
}
"""Which reasons a hook can give; a new one stands for authentication until it is listed here."""
