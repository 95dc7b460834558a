"""Where accounts and rules are read from beside our own collections, as the settings say it.

A table says of one collection which field is what. `like` fills it in for a schema that is known, other keys beside it replace what
differs:

    [[mongo.accounts]]
    like = "emqx"                 # EMQX's own: username, password_hash, salt, is_superuser
    collection = "mqtt.mqtt_user"
    secret_format = "sha256"
    salt_position = "suffix"

    [[mongo.accounts]]
    collection = "crm.people"     # any other
    username = ["mail"]
    secret = "login.hash"
    status = "state"
    active = ["ok"]

In the environment the same tables are a JSON list; `-` stands for none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from companion.core.errors import Invalid
from companion.core.model import Kind
from companion.core.windows import Window, schedule_of

SecretFormat = Literal["hash", "plain", "sha256", "sha512", "pbkdf2-sha256", "pbkdf2-sha512"]

_OWN_DATABASES: Final = frozenset({"admin", "config", "local"})

ACCOUNTS_LIKE: Final[Mapping[str, Mapping[str, Any]]] = {
    "users": {
        "collection": "identity.users",
        "kind": "user",
        "username": ["_id", "username"],
        "secret": "password",
        "status": "status",
        "deleted": "deleted_at",
        "principal": ["_id"],
        "subjects": "subjects",
        "groups": "groups",
    },
    "devices": {
        "collection": "thing.devices",
        "kind": "device",
        "username": ["_id"],
        "secret": "token",
        "secret_format": "plain",
        "status": "status",
        "deleted": "deleted_at",
        "principal": ["_id"],
        "groups": "groups",
    },
    "clients": {
        "collection": "domain.clients",
        "kind": "service",
        "username": ["_id", "client_id"],
        "secret": "client_secret",
        "secret_format": "plain",
        "status": "status",
        "expires": "expiration_date",
        "deleted": "deleted_at",
        "principal": ["_id"],
        "groups": "groups",
        "tenant": "_id",
    },
    "apts": {
        "collection": "auth.apts",
        "kind": "service",
        "username": ["_id"],
        "secret": "token",
        "expires": "expires_at",
        "deleted": "deleted_at",
        "principal": ["uid", "aid", "cid"],
        "subjects": "subjects",
        "groups": "groups",
        "tenant": "cid",
    },
    "emqx": {
        "collection": "mqtt.mqtt_user",
        "kind": "device",
        "username": ["username"],
        "secret": "password_hash",
        "secret_format": "sha256",
        "salt": "salt",
        "superuser": "is_superuser",
    },
    "go-auth": {
        "collection": "mosquitto.users",
        "kind": "device",
        "username": ["username"],
        "secret": "password",
        "superuser": "superuser",
        "acls": "acls",
        "common_acls": "mosquitto.acls",
    },
}
"""The platform's four; EMQX's MongoDB authentication; mosquitto-go-auth's MongoDB backend."""

RULES_LIKE: Final[Mapping[str, Mapping[str, Any]]] = {
    "grants": {"collection": "auth.grants"},
    "emqx": {"collection": "mqtt.mqtt_acl"},
}
"""The platform's grants; EMQX's MongoDB authorization."""


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Fields = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_texts)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    like: str = ""
    collection: str

    @field_validator("collection")
    @classmethod
    def _named_in_full(cls, value: str) -> str:
        return _checked_collection(value)

    def __str__(self) -> str:
        """Return the name of the collection."""
        return self.collection


class AccountSource(_Table):
    """One collection of accounts. Fields may be paths (`login.hash`); an empty name stands for a field that there is not."""

    kind: Kind = Kind.USER
    username: Fields = Field(("username",), min_length=1)
    """Fields by which an account is found, the first one first."""

    secret: str = "password_hash"  # noqa: S105 - the name of a field
    secret_format: SecretFormat = "hash"  # noqa: S105 - likewise
    """`hash`: a text that tells its own kind, such as bcrypt's; the others: a digest in hexadecimal beside its salt."""

    secrets: str = ""
    """A list of further secrets: objects with a hash, perhaps a salt, and times from and to which it is good."""

    secrets_hash: str = "password_hash"
    secrets_not_before: str = "not_before"
    secrets_not_after: str = "not_after"
    salt: str = ""
    salt_position: Literal["prefix", "suffix"] = "prefix"
    iterations: Annotated[int, Field(ge=1)] = 4096
    """Of PBKDF2; 4096 is EMQX's default."""

    status: str = ""
    active: Fields = ("active",)
    """Values of `status`, in any case of letters, with which an account may be used; one without a status may as well."""

    expires: str = ""
    """A date, or Unix seconds or milliseconds."""

    deleted: str = ""
    """Whoever has a value here is gone."""

    principal: Fields = ()
    """The first of these that has a value; without any, the user name."""

    subjects: str = ""
    groups: str = ""
    """A list of names or ids; whoever has another value here may not be used."""

    tenant: str = ""
    superuser: str = ""
    attributes: dict[str, str] = Field(default_factory=dict)
    """Attributes for the broker, each with its field."""

    certificates: str = ""
    """A pin of a client certificate (`cn:`, `subject:`, `sha256:`), or a list of them."""

    acls: str = ""
    """A list of mosquitto-go-auth's `{topic, acc}`."""

    common_acls: str = ""
    """A collection of such documents, which hold for every account of this source."""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
        return _filled_in(value, ACCOUNTS_LIKE)

    @field_validator("common_acls")
    @classmethod
    def _common_named_in_full(cls, value: str) -> str:
        return _checked_collection(value) if value else value

    @property
    def fields(self) -> frozenset[str]:
        """Every field that is read."""
        single = {
            self.secret,
            self.salt,
            self.status,
            self.expires,
            self.deleted,
            self.subjects,
            self.groups,
            self.tenant,
            self.superuser,
            self.acls,
            self.secrets,
            self.certificates,
        }
        several = set(self.username) | set(self.principal) | set(self.attributes.values())
        return frozenset((single | several) - {""})


class RuleSource(_Table):
    """One collection of rules, in a schema that is known."""

    like: Literal["grants", "emqx"]
    timezone: str = "UTC"
    """Of the times of grants."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            schedule_of(Window("0 0 * * *", 1, value))
        except Invalid as problem:
            raise ValueError(problem.allowed) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
        return _filled_in(value, RULES_LIKE)


def _checked_collection(value: str) -> str:
    db, dot, collection = value.partition(".")
    if not (db and dot and collection) or db in _OWN_DATABASES or "*" in value or "$" in value:
        raise ValueError(f"database.collection, of a database that is no part of MongoDB's own ({value})")
    if collection.startswith("mqtt_") and collection not in {"mqtt_user", "mqtt_acl"}:
        raise ValueError(f"none of our own collections, which begin with mqtt_ ({value})")
    return value


def _filled_in(value: object, known: Mapping[str, Mapping[str, Any]]) -> object:
    if not isinstance(value, Mapping) or not value.get("like"):
        return value
    if value["like"] not in known:
        raise ValueError(f"like: one of {', '.join(known)}")
    return {**known[value["like"]], **value}


def tables(value: object) -> object:
    """Return the tables of a text from the environment; what is no text already holds them."""
    if not isinstance(value, str):
        return value
    if value.strip() in {"", "-"}:
        return ()
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("a JSON list of tables, or - for none") from None


DEFAULT_ACCOUNTS: Final = tuple(
    AccountSource.model_validate({"like": one}) for one in ("users", "devices", "clients", "apts")
)
DEFAULT_RULES: Final = (RuleSource.model_validate({"like": "grants"}),)
