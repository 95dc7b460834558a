"""How the hooks answer, and what is logged of it: settings."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from companion.logs import LogFormat
from companion.settings.kinds import Group, Port, Seconds, Secrets, split

Algorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
_KEY_BYTES: Final[dict[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
_CREDENTIAL_KEY_BYTES: Final = 24


class HookSettings(Group):
    """How the hooks answer, and what is logged of it."""

    log_format: LogFormat = Field("auto", description="console, json, or auto: text on a terminal and JSON elsewhere")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")
    log_decisions: Literal["all", "refused", "none"] = Field(
        "refused", description="Which decisions of the hooks become log lines"
    )
    log_sample: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="Share of those lines that is written")
    hooks_host: str = Field("127.0.0.1", description="Address of the hooks")
    hooks_port: Port = Field(8080, description="Port of the hooks")
    hooks_keys: Secrets = Field(
        (), description="Keys that EMQX may present; several for rotation; one is made when none is set"
    )
    hooks_deadline: Seconds = Field(3.0, description="Longest time to an answer; below EMQX's request_timeout (5 s)")
    hooks_max_body: Annotated[int, Field(ge=1024, le=1_048_576)] = Field(
        65_536, description="Longest body or query of a hook request"
    )
    hooks_credentials: Annotated[
        tuple[Literal["token", "apt", "certificate", "password"], ...], BeforeValidator(split), Field(min_length=1)
    ] = Field(
        ("token", "apt", "certificate", "password"),
        description="Credential kinds, in the order in which they are tried",
    )
    hooks_acl: bool = Field(
        default=False,
        description="Give EMQX (5.8 and later) the whole policy with a login, where it can be said exactly",
    )
    hooks_acl_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = Field(
        3600, description="Longest session with such a list, which knows no later change of rules; 0: no limit"
    )
    hooks_acl_topics: Annotated[int, Field(ge=1, le=1000)] = Field(
        64, description="Most topics in such a list; a longer policy is asked about request by request"
    )
    hooks_acl_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = Field(
        16_384, description="Most bytes in such a list, likewise"
    )
    audit_spool_bytes: Annotated[int, Field(ge=0)] = Field(
        67_108_864, description="Most bytes of audit records on the disk of a process while the store is away"
    )
    password_workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default_factory=lambda: os.cpu_count() or 1, description="Threads that check passwords"
    )
    password_waiting: Annotated[int, Field(ge=1, le=100_000)] = Field(
        256, description="Password checks that may wait for a thread"
    )
    password_deadline: Seconds = Field(
        2.0, description="Longest time for a password check, waiting included; below hooks_deadline"
    )
    password_cost: Annotated[int, Field(ge=4, le=16)] = Field(
        10, description="bcrypt cost of new hashes and of unknown users"
    )
    password_max_cost: Annotated[int, Field(ge=4, le=20)] = Field(
        14, description="Costlier hashes are not checked, but refused"
    )
    password_rehash: bool = Field(
        default=True, description="Replace hashes of our accounts that are no bcrypt, or cheaper, at the next login"
    )
    credential_key: SecretStr = Field(
        SecretStr(""), description="Key under which checked passwords are remembered; the same for all replicas"
    )
    credential_seconds: Annotated[float, Field(ge=0, le=2_592_000)] = Field(
        604_800.0, description="How long a right password is remembered, as a keyed digest; 0: not at all"
    )
    credential_refused_seconds: Annotated[float, Field(ge=0, le=60)] = Field(
        5.0, description="How long a wrong one is; 0: not at all"
    )
    scram_algorithm: Literal["none", "sha256", "sha512"] = Field(
        "none", description="Algorithm of /mqtt/scram, as in EMQX, and of what new passwords are kept as for it"
    )
    scram_iterations: Annotated[int, Field(ge=4096, le=1_000_000)] = Field(
        4096, description="Iterations of SCRAM; EMQX's iteration_count, and 4096 there by default"
    )
    apt_keys: Secrets = Field(
        (),
        description="Keys under which long-lived tokens are kept, the same everywhere; several for rotation; one is made without",
    )
    last_used_every: Seconds = Field(
        3600.0, description="Least time between two notes of when a secret or a token was last used"
    )
    token_secrets: Secrets = Field((), description="HMAC secrets of access tokens; several for rotation")
    token_algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(split), Field(min_length=1)] = Field(
        ("HS256",), description="Signature algorithms that are accepted"
    )
    token_leeway: Annotated[int, Field(ge=0, le=300)] = Field(
        10, description="Clock difference that `exp` and `nbf` may show"
    )
    cache_entries: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        100_000, description="Entries per cache of the hooks"
    )
    cache_seconds: Seconds = Field(60.0, description="Longest life of a cached account, policy or token")
    cache_bytes: Annotated[int, Field(ge=65_536)] = Field(
        67_108_864, description="Estimated bytes per cache of the hooks"
    )
    cache_stale: Annotated[float, Field(ge=0, le=86_400)] = Field(
        300.0, description="How long what has expired may still allow while the store is away; 0: not at all"
    )
    cache_poll: Seconds = Field(
        0.25, description="How often the embedded store is asked whether accounts or rules changed"
    )
    rules_file: Path | None = Field(
        None, description="TOML file of rules that hold beside the store's, or in their place"
    )
    rules_shadow_file: Path | None = Field(
        None, description="TOML file of rules that might take its place: they decide nothing, differences are told"
    )
    rules_shadow_samples: Annotated[int, Field(ge=0, le=100_000)] = Field(
        60, description="Most of these differences a minute that are logged and audited; all are counted"
    )
    throttle_failures: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        20, description="Refused logins of one user name from one address before they are refused unseen; 0: no limit"
    )
    throttle_address_failures: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        1000, description="Refused logins from one address, whatever the names, before all are; 0: no limit"
    )
    throttle_seconds: Seconds = Field(
        60.0, description="Window in which they are counted, and how long they stay refused the first time"
    )
    throttle_longest: Seconds = Field(
        3600.0, description="How long at most; each time is twice as long as the one before"
    )
    throttle_exempt: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        (), description="Addresses and networks (CIDR) for which none of these limits holds"
    )
    throttle_ban_after: Annotated[int, Field(ge=0, le=1000)] = Field(
        0,
        description="From which lock-out on an address is also banned at EMQX (emqx_url, an API key that may); 0: never",
    )
    flapping_connects: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="Connects a minute of one client, in each process, beyond which they are refused; 0: no limit"
    )
    flapping_user_connects: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="The same of one user name, whatever its clients; 0: no limit"
    )

    @field_validator("credential_key")
    @classmethod
    def _credential_key(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value().encode()) < _CREDENTIAL_KEY_BYTES:
            raise ValueError(f"at least {_CREDENTIAL_KEY_BYTES} bytes: passwords could be guessed against a short one")
        return value

    @field_validator("throttle_exempt")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as problem:
                raise ValueError(f"{network!r}: an address or a network such as 10.0.0.0/8 ({problem})") from None
        return value

    @model_validator(mode="after")
    def _deadlines(self) -> Self:
        if self.password_deadline >= self.hooks_deadline:
            raise ValueError(
                f"password_deadline: less than hooks_deadline ({self.hooks_deadline} s), so that an overload is answered"
            )
        return self

    @model_validator(mode="after")
    def _costs(self) -> Self:
        if self.password_cost > self.password_max_cost:
            raise ValueError(
                f"password_cost: at most password_max_cost ({self.password_max_cost}), or no new hash is checked"
            )
        return self

    @model_validator(mode="after")
    def _token_secrets(self) -> Self:
        needed = max(_KEY_BYTES.get(algorithm, 0) for algorithm in self.token_algorithms)
        if any(len(secret.get_secret_value().encode()) < needed for secret in self.token_secrets):
            raise ValueError(
                f"token_secrets: each has at least {needed} bytes for {', '.join(self.token_algorithms)} (RFC 7518 §3.2)"
            )
        if any("-----BEGIN" in secret.get_secret_value() for secret in self.token_secrets):
            raise ValueError("token_secrets: HMAC secrets only; public keys belong into token_keys")
        return self
