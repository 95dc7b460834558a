"""Where everything is kept: settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from companion.account_sources import DEFAULT_ACCOUNTS, DEFAULT_RULES, AccountSource, RuleSource, tables
from companion.settings.kinds import Group, Names, Seconds


class StoreSettings(Group):
    """Where everything is kept."""

    store: Literal["embedded", "production"] = Field(
        "embedded",
        description="embedded: SQLite in data_dir; production: MongoDB and Redis, shared by any number of replicas",
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("companion"), description="Folder of the embedded store and of made keys"
    )
    mongo_url: SecretStr = Field(
        SecretStr(""), description="MongoDB connection string (a replica set); needed with store = production"
    )
    mongo_database: str = Field("companion", min_length=1, max_length=63, description="Database of our own collections")
    mongo_timeout: Seconds = Field(1.0, description="Longest time of one MongoDB command; below hooks_deadline")
    mongo_accounts: Annotated[tuple[AccountSource, ...], BeforeValidator(tables)] = Field(
        DEFAULT_ACCOUNTS,
        description="Collections that accounts are read from beside mqtt_accounts (tables); - for none",
    )
    mongo_rules: Annotated[tuple[RuleSource, ...], BeforeValidator(tables)] = Field(
        DEFAULT_RULES, description="Collections that rules are read from beside mqtt_rules (tables); - for none"
    )
    redis_url: SecretStr = Field(
        SecretStr(""), description="redis:// or rediss:// (TLS), with user and password; needed with store = production"
    )
    redis_mode: Literal["standalone", "sentinel", "cluster"] = Field(
        "standalone", description="What redis_url leads to; of a Sentinel or a cluster it names one node"
    )
    redis_nodes: Names = Field((), description="More Sentinels or cluster nodes to begin at, as host:port")
    redis_service: str = Field("mymaster", min_length=1, description="Name of the service that the Sentinels watch")
    redis_ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's")
    redis_timeout: Seconds = Field(0.5, description="Longest time of one Redis command; below hooks_deadline")
    redis_prefix: str = Field("companion", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="What every key begins with")
    mirror_collections: Names = Field(
        (),
        description="Collections of accounts that are mirrored into Redis, secrets included; * for all, mqtt_accounts for ours",
    )
    mirror_alarm: Annotated[int, Field(ge=1)] = Field(
        10, description="Differences of a mirrored collection in one comparison from which on an error is logged"
    )

    @model_validator(mode="after")
    def _mirrored(self) -> Self:
        known = ["*", "mqtt_accounts", *(one.collection for one in self.mongo_accounts)]
        for name in self.mirror_collections:
            if name not in known:
                raise ValueError(f"mirror_collections: each is one of {', '.join(known)} ({name})")
        return self

    @field_validator("mirror_collections")
    @classmethod
    def _none(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return () if value == ("-",) else value
