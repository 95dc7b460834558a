"""What the services speak about: requests of the broker, decisions, accounts, sessions, changes. Plain values, no behaviour.

What is made for every single request is a named tuple, which takes a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from companion.core.rules import Rule


class Kind(StrEnum):
    """What an account stands for; rules can be given to a whole kind."""

    DEVICE = "device"
    USER = "user"
    SERVICE = "service"


class Action(StrEnum):
    """What a client wants to do with a topic."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Reason(StrEnum):
    """Why a decision came out as it did: the one value behind the answer, the log line, the audit record and the metric label."""

    PASSWORD = "password"  # noqa: S105 - the name of a reason, not a secret
    TOKEN = "token"  # noqa: S105 - likewise
    LONG_TOKEN = "long_token"  # noqa: S105 - likewise
    CERTIFICATE = "certificate"
    SCRAM = "scram"
    RULE = "rule"
    OWN_TOPIC = "own_topic"

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNKNOWN_ENDPOINT = "unknown_endpoint"
    NO_CREDENTIALS = "no_credentials"
    UNKNOWN_USER = "unknown_user"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - likewise
    UNUSABLE_HASH = "unusable_hash"
    SECRET_EXPIRED = "secret_expired"  # noqa: S105 - likewise
    SECRET_NOT_YET = "secret_not_yet"  # noqa: S105 - likewise
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_EXPIRED = "account_expired"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - likewise
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - likewise
    TOKEN_CLAIMS = "token_claims"  # noqa: S105 - likewise
    KEYS_AWAY = "keys_away"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    WRONG_CERTIFICATE = "wrong_certificate"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET = "certificate_not_yet"
    WRONG_PRINCIPAL = "wrong_principal"
    WRONG_CLIENT_ID = "wrong_client_id"
    NOT_CONNECTED = "not_connected"
    INVALID_TOPIC = "invalid_topic"
    DENIED_BY_RULE = "denied_by_rule"
    NO_RULE = "no_rule"
    NO_SUPERUSER = "no_superuser"
    REVOKED = "revoked"
    THROTTLED = "throttled"
    ADDRESS_THROTTLED = "address_throttled"
    FLAPPING = "flapping"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    STORE_AWAY = "store_away"
    INTERNAL = "internal"


_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}
_NO_ATTRS: Final[Mapping[str, str]] = MappingProxyType({})


class Allow(NamedTuple):
    """A yes. `expires_at` (Unix seconds) ends the session; `rule` names what allowed it.

    `acl` is the whole policy as EMQX takes it with a login (JSON), or empty: then the broker asks.
    `client_attrs` and `superuser` are for the broker; the latter takes the client out of every authorization there.
    """

    reason: Reason
    rule: str = ""
    expires_at: int | None = None
    acl: bytes = b""
    client_attrs: Mapping[str, str] = _NO_ATTRS
    superuser: bool = False


class Deny(NamedTuple):
    """A no. `rule` names the deny rule where there is one; `detail` helps an engineer and never holds a secret."""

    reason: Reason
    rule: str = ""
    detail: str = ""


Decision = Allow | Deny


class Connect(NamedTuple):
    """A client wants in. Missing values are empty strings, as EMQX sends them."""

    client_id: str = ""
    username: str = ""
    password: str = ""
    peer_host: str = ""
    token: str = ""
    """What was sent as the user name, where that is a token; `username` is then its name (`companion.core.token_names`)."""

    cert_common_name: str = ""
    cert_subject: str = ""
    cert_pem: str = ""
    """Base64 of the DER, without armour."""

    def __repr__(self) -> str:
        """Return it without what is secret."""
        return f"Connect(client_id={self.client_id!r}, username={self.username!r}, peer_host={self.peer_host!r})"


class Access(NamedTuple):
    """A client wants to publish to a topic name or subscribe to a topic filter.

    `qos` and `retain` are None when the broker's template does not send them.
    """

    action: Action
    topic: str
    client_id: str = ""
    username: str = ""
    peer_host: str = ""
    qos: int | None = None
    retain: bool | None = None


@dataclass(frozen=True, slots=True)
class AccountSecret:
    """One more secret of an account, beside its password; good from `not_before` to `not_after` (Unix seconds) where set."""

    id: str
    password_hash: str = field(repr=False)
    not_before: int | None = None
    not_after: int | None = None


MAX_SECRETS: Final = 4
"""So many an account may have beside its password: each may cost a check at every login."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who connects with a user name and a password. `expires_at` is in Unix seconds.

    `subjects` are the names that grants are given to (`local@domain`, as the platform writes them); most have none. `rules` are
    those that its own document brings along, in the schemas of others; they are read, never stored by us. `groups` and `tenant` are
    what it belongs to; rules can be given to them. `foreign` tells that others keep the account, so that nothing of it can be
    written. `attributes` are for the broker (`client_attrs`). A superuser may do whatever no rule denies.
    `certificates` are those that it is known by (`companion.core.certificate_pins`), `scram` what is kept of the password for
    SCRAM (`companion.core.scram`).
    """

    username: str
    kind: Kind
    principal: str
    password_hash: str = field(repr=False)
    disabled: bool = False
    expires_at: int | None = None
    subjects: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    groups: tuple[str, ...] = ()
    tenant: str = ""
    secrets: tuple[AccountSecret, ...] = ()
    foreign: bool = field(default=False, compare=False)
    attributes: Mapping[str, str] = field(default_factory=dict)
    superuser: bool = False
    certificates: tuple[str, ...] = ()
    scram: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Share the one empty mapping: most accounts have no attributes, and many are remembered."""
        if not self.attributes:
            object.__setattr__(self, "attributes", _NO_ATTRIBUTES)


ACCOUNT_FIELDS: Final = tuple(one.name for one in fields(Account) if one.name not in {"rules", "foreign"})
"""Those that stores of ours keep of an account, by their names there."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that logged in with a token; `expires_at` is the token's `exp` in Unix seconds.

    `session` is the platform's, empty for other issuers. `subject` and `scope` (space-separated) are the token's claims; grants to
    the subject hold within the scope. So are `groups` and `tenant`, to which rules can be given. `jti` and `digest`
    (`companion.core.revocations.digest_name`) are what the token can be revoked by. `acl` is EMQX's claim of that name as JSON
    (`companion.core.acl_claims`), empty without one.
    `token` is the id of a long-lived token: then all that allows holds within the scope, and no longer than the token is there.
    """

    username: str
    client_id: str
    principal: str
    session: str
    expires_at: int
    subject: str = ""
    scope: str = ""
    groups: tuple[str, ...] = ()
    tenant: str = ""
    jti: str = ""
    digest: str = ""
    acl: str = ""
    token: str = ""


class ChangeOp(StrEnum):
    """What happened to an entity. A platform's soft delete is `delete`; `destroy` removes it for good."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"
    DESTROY = "destroy"


Document = Mapping[str, Any]
"""An entity as JSON: string keys, JSON values."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one entity. `at` is in Unix milliseconds; `before` and `after` are the entity where they are known."""

    event_id: str
    op: ChangeOp
    db: str
    collection: str
    id: str
    at: int
    before: Document | None = None
    after: Document | None = None

    @property
    def entity(self) -> tuple[str, str, str]:
        """What the order of changes is kept for."""
        return (self.db, self.collection, self.id)


class Incident(StrEnum):
    """What can go wrong with a source of changes, or what was done about it."""

    HISTORY_LOST = "history_lost"
    UNREADABLE = "unreadable"
    RESYNCHRONISED = "resynchronised"


class Rebuild(StrEnum):
    """Why a mirrored collection is copied anew as a whole."""

    NEW = "new"
    HISTORY_LOST = "history_lost"
    FORGOTTEN = "forgotten"
    DROPPED = "dropped"
    ASKED = "asked"


class Lookup(StrEnum):
    """What looking for an account in the mirror came to; all but a hit ask MongoDB.

    RECENT: something about it has just changed. SILENT: the mirror may not be read. AWAY: Redis is.
    """

    HIT = "hit"
    MISS = "miss"
    RECENT = "recent"
    SILENT = "silent"
    AWAY = "away"


class Drift(StrEnum):
    """How a mirror can differ from what it mirrors."""

    MISSING = "missing"
    STALE = "stale"
    SURPLUS = "surplus"


class Audit(NamedTuple):
    """A decision worth keeping. `at` is in Unix milliseconds, `source` says who decided; never holds a secret."""

    at: int
    kind: str
    verdict: str
    reason: str
    username: str = ""
    client_id: str = ""
    peer_host: str = ""
    action: str = ""
    topic: str = ""
    rule: str = ""
    detail: str = ""
    source: str = ""


class Scope(StrEnum):
    """What a notice speaks about."""

    ACCOUNT = "account"
    SESSION = "session"
    RULES = "rules"
    REVOCATION = "revocation"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Notice:
    """What decisions rested on has changed and must not be served from memory any more.

    `name` is the user name for ACCOUNT and SESSION, the key of a REVOCATION, and empty otherwise. EVERYTHING also stands for a gap:
    something may have changed unseen.
    """

    scope: Scope
    name: str = ""
