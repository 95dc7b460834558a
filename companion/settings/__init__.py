"""Settings: frozen, from the environment and a TOML file, checked before anything starts.

Every setting has one name. `hooks_port` is `COMPANION_HOOKS_PORT` in the environment and `port` in the `[hooks]` table of the file
that `COMPANION_CONFIG` names. The environment beats the file, the file beats the default. A secret can also be read from a file:
`COMPANION_MQTT_PASSWORD_FILE`, or `password_file` in `[mqtt]`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from companion.settings.archives import ArchiveSettings
from companion.settings.hooks import HookSettings
from companion.settings.jobs import JobsSettings
from companion.settings.kinds import KEY_ALLOWED, Seconds, is_key
from companion.settings.listeners import ListenerSettings
from companion.settings.publishing import PublishingSettings
from companion.settings.revocations import RevocationSettings
from companion.settings.statistics import StatisticsSettings
from companion.settings.stores import StoreSettings
from companion.settings.tokens import TokenSettings


class Role(StrEnum):
    """What a process does."""

    HOOKS = "hooks"
    PUBLISHER = "publisher"
    MAINTENANCE = "maintenance"
    ALL = "all"


# pydantic takes the fields of the last base first.
class Settings(
    RevocationSettings,
    StatisticsSettings,
    ArchiveSettings,
    JobsSettings,
    PublishingSettings,
    ListenerSettings,
    TokenSettings,
    HookSettings,
    StoreSettings,
):
    """The settings of one process. Ports of 0 mean: any free one. Durations are in seconds, sizes in bytes, ages in days."""

    shutdown_deadline: Seconds = Field(10.0, description="Time to finish what is in flight after SIGTERM")

    @field_validator("hooks_keys", "ops_keys", "apt_keys")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            if not is_key(key.get_secret_value()):
                raise ValueError(f"each key {KEY_ALLOWED}")
        return value

    @model_validator(mode="after")
    def _stores(self) -> Self:
        if self.store == "production":
            for name in ("mongo_url", "redis_url"):
                if not getattr(self, name).get_secret_value():
                    raise ValueError(f"{name}: needed with store = production")
            for name in ("mongo_timeout", "redis_timeout"):
                if getattr(self, name) >= self.hooks_deadline:
                    raise ValueError(
                        f"{name}: less than hooks_deadline ({self.hooks_deadline} s), so that an outage is answered"
                    )
        return self

    @model_validator(mode="after")
    def _logins_stay_refused(self) -> Self:
        """Let the anonymizer make no login of what was none."""
        for table in (*self.anonymizer_accounts.values(), *self.anonymizer_traces.values()):
            for source in self.mongo_accounts:
                if source.collection != table.collection:
                    continue
                decides = {source.deleted, source.status, source.expires, *source.principal}
                secret = {source.secret, source.salt}
                for field in sorted((decides & {*table.rewritten, *table.remove}) | (secret & {*table.rewritten})):
                    if field:
                        raise ValueError(
                            f"anonymizer: {field} of {table.collection}: logins rest on it; secrets can be removed, the rest stays"
                        )
        return self

    @model_validator(mode="after")
    def _bans(self) -> Self:
        if self.throttle_ban_after and not (self.emqx_url and self.emqx_api_key.get_secret_value()):
            raise ValueError("throttle_ban_after: needs emqx_url, emqx_api_key and emqx_api_secret")
        return self


def secret_fields() -> frozenset[str]:
    """Return the names of the settings that hold secrets."""
    return frozenset(name for name, info in Settings.model_fields.items() if _holds_secret(info.annotation))


def _holds_secret(annotation: Any) -> bool:  # noqa: ANN401 - whatever stands behind the colon
    return annotation is SecretStr or SecretStr in getattr(annotation, "__args__", ())
