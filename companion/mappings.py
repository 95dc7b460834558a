"""How accounts lie in collections of others: which field is the user name, the secret, the status, the expiry, the principal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from companion.core.model import Kind

Preset = Literal["mqtt_accounts", "platform", "emqx", "go-auth"]
SecretFormat = Literal["auto", "plain", "sha256", "sha512", "pbkdf2"]


def _names(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class AccountMapping(BaseModel):
    """One collection of accounts. Fields are named as MongoDB does, with dots for inner fields; None: there is no such field."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    collection: str = Field(min_length=1, description="db.collection")
    kind: Kind = Field(Kind.USER, description="What its accounts stand for")
    username: str = Field("username", min_length=1, description="Field of the user name; _id is understood")
    secret: str = Field("password", min_length=1, description="Field of the password's hash, or of a token in clear")
    secret_format: SecretFormat = Field(
        "auto",
        description="auto: told by its beginning ($2b$, PBKDF2$); plain: in clear; sha256, sha512, pbkdf2: hexadecimal",
    )
    salt: str | None = Field(None, description="Field of the salt of sha256, sha512, pbkdf2")
    principal: str | None = Field(None, description="Field of the principal; None: the user name")
    status: str | None = Field(None, description="Field of the status")
    active: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        ("active", "ACTIVE"), description="Values of the status with which one may connect"
    )
    expires: str | None = Field(
        None, description="Field of the expiry: a date, or a number of seconds or milliseconds since 1970"
    )
    subjects: str | None = Field(None, description="Field of the list of subjects that grants are given to")


AccountSource = Preset | AccountMapping
