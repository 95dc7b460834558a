"""Whose personal data the anonymizer replaces, and where, as the settings say it.

    [anonymizer.accounts.users]      # whoever was deleted long enough ago ...
    collection = "identity.users"
    deleted = "deleted_at"           # a date, or Unix seconds or milliseconds
    names = ["_id", "username"]      # ... is known elsewhere by what stands in these
    replace = ["username", "email"]  # pseudonyms in place of what stands there
    remove = ["password"]            # nothing in place of it
    hold = {legal_hold = true}       # never these accounts, nor what is found of them elsewhere

    [anonymizer.traces.audits]       # what is found of them elsewhere
    collection = "logger.audits"
    by = ["owner", "created_by"]     # those documents in which one of these is such a name, or a list with one in it
    names = ["owner", "created_by"]  # here the names of the account are replaced, alone or between slashes, and nobody else's
    replace = ["ip"]                 # here whatever stands there
    remove = ["agent"]
    hold = {legal_hold = true}       # never these documents

Fields may be paths (`login.mail`), also through lists. What is neither text nor an id has no pseudonym: it is removed. A table by
the name of one of ours replaces it; `collection = "-"` leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

NONE: Final = "-"
ID: Final = "_id"
MARK: Final = "anonymized_at"
"""The field of an account in which stands when it was anonymized."""

_RESTS_ON: Final = frozenset({"mqtt_fences", "mqtt_checkpoints", "mqtt_runs", "mqtt_rules", "mqtt_accounts"})


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Fields = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_texts)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    collection: Annotated[str, Field(min_length=1)]
    replace: Fields = ()
    remove: Fields = ()
    hold: dict[str, Any] = Field(default_factory=dict)

    @property
    def rewritten(self) -> tuple[str, ...]:
        """The fields in which pseudonyms are put."""
        return self.replace

    @field_validator("collection")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value.rpartition(".")[2] in _RESTS_ON:
            raise ValueError("collection: none of those that the service itself rests on")
        return value

    @model_validator(mode="after")
    def _ids_stay(self) -> Self:
        for path in (*self.replace, *self.remove):
            if path.partition(".")[0] in {ID, MARK}:
                raise ValueError(f"{path}: MongoDB changes no _id, and {MARK} says what was done")
        if twice := set(self.replace) & set(self.remove):
            raise ValueError(f"{min(twice)}: either replaced or removed")
        return self


class AccountTable(_Table):
    """A collection of accounts: how deleted ones are known, what identifies them, and what of them is personal."""

    deleted: Annotated[str, Field(min_length=1)] = "deleted_at"
    names: Fields = Field((ID,), min_length=1)

    @model_validator(mode="after")
    def _stays_deleted(self) -> Self:
        if self.deleted in {*self.replace, *self.remove}:
            raise ValueError(f"{self.deleted}: what is deleted stays deleted")
        return self


class TraceTable(_Table):
    """A collection in which accounts have left something, and what of it is personal."""

    by: Fields = ()
    names: Fields = ()

    @property
    def rewritten(self) -> tuple[str, ...]:
        """The fields in which pseudonyms are put."""
        return (*self.replace, *self.names)

    @model_validator(mode="after")
    def _found_by_fields(self) -> Self:
        if not self.by and self.collection != NONE:
            raise ValueError("by: at least one field by which documents are found")
        if ID in {*self.by, *self.names}:
            raise ValueError(f"by, names: fields that can be replaced, not {ID}")
        if twice := set(self.names) & {*self.replace, *self.remove}:
            raise ValueError(f"{min(twice)}: the names of the account are replaced here, or whatever stands there")
        name = self.collection.rpartition(".")[2]
        if name in {_DECISIONS, _PRESENCE} and self.remove:
            raise ValueError(f"remove: records of {name} have all their fields; replace them")
        return self


def accounts_in_force(configured: Mapping[str, AccountTable]) -> Mapping[str, AccountTable]:
    """Return the tables of accounts by their names, in their order: the platform's where nothing else is said."""
    both = {**ACCOUNTS, **configured}
    return {name: both[name] for name in sorted(both) if both[name].collection != NONE}


def traces_in_force(configured: Mapping[str, TraceTable], statistics: str) -> Mapping[str, TraceTable]:
    """Return the tables of traces likewise; statistics are in the collection of that name."""
    both = {**TRACES, "stats": TRACES["stats"].model_copy(update={"collection": statistics}), **configured}
    return {name: both[name] for name in sorted(both) if both[name].collection != NONE}


_DECISIONS: Final = "mqtt_audits"
_PRESENCE: Final = "mqtt_presence"
_OWNERS: Final = ("owner", "created_by", "updated_by", "deleted_by", "restored_by")

ACCOUNTS: Final[Mapping[str, AccountTable]] = {
    "users": AccountTable(
        collection="identity.users",
        names=("_id", "username", "email", "phone"),
        replace=("username", "email", "phone"),
        remove=("password", "subjects"),
    )
}

TRACES: Final[Mapping[str, TraceTable]] = {
    "decisions": TraceTable(
        collection=_DECISIONS, by=("username",), names=("username", "topic"), replace=("client_id", "peer_host")
    ),
    # The client id is its `_id`, which ends with it: the cleaner removes it.
    "presence": TraceTable(
        collection=_PRESENCE, by=("username", "principal"), names=("username", "principal"), replace=("peer",)
    ),
    "audits": TraceTable(
        collection="logger.audits", by=("owner", "created_by"), names=(*_OWNERS, "shares"), replace=("ip", "agent")
    ),
    "stats": TraceTable(collection="special.stats", by=("owner",), names=_OWNERS),
    "sessions": TraceTable(collection="identity.sessions", by=("owner",), replace=("ip", "agent")),
    "profiles": TraceTable(
        collection="identity.profiles",
        by=("owner",),
        replace=("nickname", "first_name", "middle_name", "last_name", "national_code"),
        remove=("gender", "birth_date", "nationality", "places", "cover", "avatar"),
    ),
}
"""The platform's. What belongs to an entity (sessions, profiles) keeps its owner, whose own `_id` stays as well."""
