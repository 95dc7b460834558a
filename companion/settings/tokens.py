"""Which tokens (JWT) are good, and what they say: settings beside the secrets of `hooks`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from companion.core.claim_tests import ClaimTest
from companion.core.client_attrs import is_attr_key
from companion.settings.hooks import HookSettings
from companion.settings.kinds import Names, Seconds, named, split

_BLOCK: Final = re.compile(r"-----BEGIN [^-]+-----.+?-----END [^-]+-----", re.DOTALL)
_OF_ACCOUNTS: Final = ("kind", "principal", "username")
_PLACEHOLDERS: Final = ("${username}", "${clientid}")


def _blocks(value: object) -> object:
    """Several keys may stand in one text, as in a file."""
    if not isinstance(value, str):
        return value
    return tuple(_BLOCK.findall(value)) or ((value,) if value.strip() else ())


def _wanted(value: object) -> object:
    """One wanted value need be no list."""
    tests = named(value)
    if not isinstance(tests, dict):
        return tests
    return {name: (one,) if isinstance(one, str) else one for name, one in tests.items()}


Claim = Annotated[str, Field(max_length=256)]
Tests = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_wanted)]


class TokenSettings(HookSettings):
    """Which tokens are good beside those that `token_secrets` sign, and what is read from them."""

    token_from: Literal["password", "username"] = Field(
        "password", description="Where clients send their token: password or username"
    )
    token_profiles: Annotated[
        tuple[Literal["platform", "generic"], ...], BeforeValidator(split), Field(min_length=1)
    ] = Field(("platform",), description="Whose tokens are accepted: platform, generic (any other issuer's), or both")
    token_principal: Annotated[Claim, Field(min_length=1)] = Field(
        "sub", description="Claim that names the principal in a token of another issuer"
    )
    token_keys: Annotated[tuple[str, ...], BeforeValidator(_blocks)] = Field(
        (), description="Public keys or certificates (PEM) that tokens are verified with"
    )
    token_key_files: Annotated[tuple[Path, ...], BeforeValidator(split)] = Field(
        (), description="Files of public keys or certificates (PEM)"
    )
    token_jwks_file: Path | None = Field(None, description="File with a JWK Set; it is read again when it is due")
    token_jwks_url: str = Field(
        "",
        pattern=r"^(https?://[^/\s@]+(/\S*)?)?$",
        description="URL of a JWK Set; https, unless the network is yours alone",
    )
    token_jwks_ca_file: Path | None = Field(None, description="Certificates to trust there instead of the system's")
    token_jwks_timeout: Seconds = Field(2.0, description="Longest time to fetch it; below hooks_deadline")
    token_jwks_refresh: Seconds = Field(300.0, description="How often a JWK Set is read again")
    token_jwks_cooldown: Seconds = Field(
        10.0, description="Least time between two looks that tokens with an unknown `kid` bring about"
    )
    token_jwks_stale: Annotated[float, Field(ge=1, le=2_592_000)] = Field(
        86_400.0, description="How long the last JWK Set serves while no newer one can be read"
    )
    token_issuers: Names = Field((), description="Accepted values of `iss`; none: it is not looked at")
    token_audiences: Names = Field((), description="Accepted values of `aud`; none: it is not looked at")
    token_required: Tests = Field(
        default_factory=dict,
        description="Claims that a token must have, with the values that are good; * for any (a table)",
    )
    token_forbidden: Tests = Field(
        default_factory=dict, description="Claims that a token must not have, with the values; * for any (a table)"
    )
    token_acl: Claim = Field(
        "acl", description="Claim with rules of the session in EMQX's formats; empty: none is read"
    )
    token_client_attrs: Annotated[dict[str, Claim], BeforeValidator(named)] = Field(
        default_factory=dict, description="Client attributes that EMQX is told, each with its claim (a table)"
    )
    token_superuser: Claim = Field(
        "", description="Claim that, being true, makes a superuser where hooks_superusers is set; empty: none"
    )
    hooks_client_attrs: Annotated[dict[str, str], BeforeValidator(named)] = Field(
        default_factory=dict,
        description="Client attributes from accounts: kind, principal, username or attributes.NAME of each (a table)",
    )
    hooks_superusers: bool = Field(
        default=False,
        description="Tell EMQX is_superuser of whoever is one: it then asks about no topic of theirs any more",
    )

    @field_validator("token_required", "token_forbidden")
    @classmethod
    def _values(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, wanted in value.items():
            if not name or not wanted or not all(wanted):
                raise ValueError(f"each claim has one or more values, or * for any ({name})")
            for one in wanted:
                rest = one
                for placeholder in _PLACEHOLDERS:
                    rest = rest.replace(placeholder, "")
                if "${" in rest:
                    raise ValueError(f"the placeholders are {' and '.join(_PLACEHOLDERS)} ({name})")
        return value

    @field_validator("hooks_client_attrs")
    @classmethod
    def _account_attrs(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value.values():
            if name not in _OF_ACCOUNTS and not (name.startswith("attributes.") and name.removeprefix("attributes.")):
                raise ValueError(f"{', '.join(_OF_ACCOUNTS)} or attributes.NAME ({name})")
        return value

    @field_validator("token_client_attrs", "hooks_client_attrs")
    @classmethod
    def _attr_keys(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if not is_attr_key(key):
                raise ValueError(f"keys are letters and digits, then also - and _ ({key})")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.token_jwks_url and self.token_jwks_timeout >= self.hooks_deadline:
            raise ValueError(f"token_jwks_timeout: less than hooks_deadline ({self.hooks_deadline} s)")
        public = self.token_keys or self.token_key_files or self.token_jwks_url
        if public and all(algorithm.startswith("HS") for algorithm in self.token_algorithms):
            raise ValueError(
                "token_algorithms: at least one of RS*, PS*, ES*, EdDSA, for the public keys that are configured"
            )
        return self

    def claim_tests(self, name: Literal["token_required", "token_forbidden"]) -> tuple[ClaimTest, ...]:
        """Return the demands of one of the two tables."""
        return tuple(ClaimTest(claim, values) for claim, values in getattr(self, name).items())
