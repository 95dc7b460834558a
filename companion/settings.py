"""Settings: frozen, from the environment and a TOML file, checked before anything starts.

Every setting has one name. `hooks_port` is `COMPANION_HOOKS_PORT` in the environment and `port` in the `[hooks]` table of the file
that `COMPANION_CONFIG` names. The environment beats the file, the file beats the default. A secret can also be read from a file:
`COMPANION_MQTT_PASSWORD_FILE`, or `password_file` in `[mqtt]`.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from companion.account_sources import DEFAULT_ACCOUNTS, DEFAULT_RULES, AccountSource, RuleSource, tables
from companion.cleaning import Policy, check_name
from companion.core.routing import DEFAULT_TOPICS, parse_topic_template
from companion.core.stats import Counting, Whom, Zones
from companion.job_settings import JobSettings
from companion.logs import LogFormat
from companion.stats_settings import MeasureSettings, checked_zone

Algorithm = Literal["HS256", "HS384", "HS512"]
_KEY_BYTES: Final[dict[Algorithm, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
_HOOK_KEY_CHARACTERS: Final = 16


DEFAULT_WATCH: Final = (
    "domain.*",
    "identity.*",
    "essential.*",
    "thing.*",
    "financial.*",
    "touch.*",
    "content.*",
    "general.*",
    "context.*",
)
"""The platform's databases of entities; not those of secrets (auth), statistics (special) and logs (logger)."""


def _split(value: object) -> object:
    """Environment values and secret files hold lists as text: one a line, or separated by commas."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.replace("\n", ",").split(",") if part.strip())


def _named(value: object) -> object:
    """Tables that have names are an object; none of them are an empty one."""
    found = tables(value)
    return found or {} if isinstance(found, tuple) else found


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Days = Annotated[float, Field(gt=0, le=36_500)]


class Role(StrEnum):
    """What a process does."""

    HOOKS = "hooks"
    PUBLISHER = "publisher"
    MAINTENANCE = "maintenance"
    ALL = "all"


class Settings(BaseModel):
    """The settings of one process. Ports of 0 mean: any free one. Durations are in seconds, sizes in bytes, ages in days."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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
        tuple[Literal["token", "password"], ...], BeforeValidator(_split), Field(min_length=1)
    ] = Field(("token", "password"), description="Credential kinds, in the order in which they are tried")

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

    token_secrets: Secrets = Field(
        (), description="HMAC secrets of platform access tokens; several for rotation; none: no tokens"
    )
    token_algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_split), Field(min_length=1)] = Field(
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

    throttle_failures: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        20, description="Refused logins of one user name from one address before they are refused unseen; 0: no limit"
    )
    throttle_seconds: Seconds = Field(
        60.0, description="Window in which they are counted, and how long they stay refused"
    )

    ops_host: str = Field("127.0.0.1", description="Address of metrics, health and changes")
    ops_port: Port = Field(8081, description="Port of metrics, health and changes")
    ops_keys: Secrets = Field(
        (), description="Keys for POST /changes and the jobs; several for rotation; one is made when none is set"
    )

    changes_max_body: Annotated[int, Field(ge=1024, le=67_108_864)] = Field(
        4_194_304, description="Longest body of POST /changes"
    )
    changes_max_batch: Annotated[int, Field(ge=1, le=100_000)] = Field(1000, description="Most changes in one POST")

    changes_watch: Names = Field(
        DEFAULT_WATCH,
        description="Where MongoDB's change streams are published from: db.collection or db.*; - for nowhere",
    )
    changes_resync_batch: Annotated[int, Field(ge=1, le=10_000)] = Field(
        500, description="Documents read at once when MongoDB's history of changes was lost"
    )

    mqtt_host: str = Field("127.0.0.1", description="Broker that changes are published to")
    mqtt_port: Annotated[int, Field(ge=1, le=65535)] = Field(1883, description="Its port")
    mqtt_client_id: str = Field(
        "companion-publisher", min_length=1, description="Client id of the publisher; a random end is added"
    )
    mqtt_username: str = Field("", description="User name of the publisher")
    mqtt_password: SecretStr = Field(SecretStr(""), description="Password of the publisher")
    mqtt_protocol: Literal["5", "3.1.1"] = Field("5", description="MQTT version")
    mqtt_tls: bool = Field(default=False, description="Connect with TLS; the certificate is verified")
    mqtt_ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's")

    publisher_topics: Names = Field(DEFAULT_TOPICS, min_length=1, description="Topic templates of a change")
    publisher_qos: Literal[1, 2] = Field(1, description="QoS of messages; 0 would not be at least once")
    publisher_expiry: Annotated[int, Field(ge=0, le=4_294_967_295)] = Field(
        604_800, description="Message expiry; 0: never"
    )
    publisher_window: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="Messages in flight; the broker may ask for fewer"
    )
    publisher_changes: Annotated[int, Field(ge=1, le=10_000)] = Field(256, description="Changes in work at once")
    publisher_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        8, description="Refusals by the broker before a change is dead"
    )
    publisher_lease: Annotated[float, Field(ge=1, le=600)] = Field(
        10.0, description="How long a publisher that died holds back the next"
    )
    publisher_max_topics: Annotated[int, Field(ge=1, le=100_000)] = Field(2048, description="Most topics of one change")

    retention_changes: Days = Field(7, description="Days that published changes, and so their event ids, are kept")
    retention_audits: Days = Field(90, description="Days that audit records are kept")
    retention_audits_count: Annotated[int, Field(ge=1000)] = Field(
        1_000_000, description="Most audit records that are kept"
    )

    retention_runs: Days = Field(90, description="Days that records of runs are kept")
    retention_runs_count: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        200, description="Newest runs of each job that are kept whatever their age"
    )

    jobs_mode: Literal["in-process", "queue", "none"] = Field(
        "in-process",
        description="in-process: who ticks runs it; queue: any process takes what waits; none: none are run here",
    )
    jobs_serve: Names = Field(("*",), description="Jobs that this process runs; * for all")
    jobs_concurrency: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="Runs of different jobs at once in this process"
    )
    jobs_schedules: Annotated[dict[str, JobSettings], BeforeValidator(_named)] = Field(
        default_factory=dict, description="When jobs run and how often they are tried, in place of their own (tables)"
    )

    cleaner_policies: Annotated[dict[str, Policy], BeforeValidator(_named)] = Field(
        default_factory=dict, description="What the cleaner removes beside the platform's, or in place of it (tables)"
    )
    cleaner_archive: Path | None = Field(
        None, description="Folder of the archives; data_dir/archive where none is named; shared by all replicas"
    )

    observer: bool = Field(default=False, description="Count changes into statistics, in processes that do maintenance")
    observer_lease: Annotated[float, Field(ge=1, le=600)] = Field(
        10.0, description="How long an observer that died holds back the next"
    )
    observer_flush: Seconds = Field(10.0, description="How often counters go from Redis into MongoDB")
    observer_facts: Annotated[int, Field(ge=1000, le=100_000_000)] = Field(
        100_000,
        description="Most changes taken into Redis that wait to be counted; more are not counted, which is told",
    )

    stats_collection: str = Field(
        "special.stats", pattern=r"^[^.]+\.[^.].*$", description="Collection of MongoDB in which statistics are kept"
    )
    stats_whom: Annotated[tuple[Whom, ...], BeforeValidator(_split)] = Field(
        (Whom.ACTOR, Whom.CLIENT, Whom.GROUP),
        description="Who is counted for beside the owner: actor (who did it), client, group; - for nobody",
    )
    stats_measures: Annotated[tuple[MeasureSettings, ...], BeforeValidator(tables)] = Field(
        (), description="What is summed beside being counted (tables)"
    )
    stats_decisions: bool = Field(
        default=True, description="Count the decisions of the hooks too, by their audit records: logins and refusals"
    )
    stats_timezone: str = Field("UTC", description="Time zone of the hours, days and months of statistics")
    stats_timezones: Annotated[dict[str, str], BeforeValidator(_named)] = Field(
        default_factory=dict, description="Time zones of single owners, by their ids (a table)"
    )

    emqx_url: str = Field(
        "",
        pattern=r"^(https?://[^/]+.*)?$",
        description="EMQX's REST API, such as http://127.0.0.1:18083, for statistics of the broker; none without it",
    )
    emqx_api_key: SecretStr = Field(SecretStr(""), description="API key of EMQX; one that may only look will do")
    emqx_api_secret: SecretStr = Field(SecretStr(""), description="Its secret")
    emqx_timeout: Seconds = Field(5.0, description="Longest time of a request to it")
    emqx_every: Annotated[float, Field(ge=0.01, le=86_400)] = Field(60.0, description="Seconds between two snapshots")

    shutdown_deadline: Seconds = Field(10.0, description="Time to finish what is in flight after SIGTERM")

    @field_validator("publisher_qos", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("publisher_topics")
    @classmethod
    def _templates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            parse_topic_template(template)
        return value

    @field_validator("changes_watch")
    @classmethod
    def _watch(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("-",):
            return ()
        for name in value:
            db, dot, collection = name.partition(".")
            if not (db and dot and collection) or "*" in db or db in {"admin", "config", "local"}:
                raise ValueError(
                    f"each is db.collection or db.*, of a database that is no part of MongoDB's own ({name})"
                )
            if collection != "*" and ("*" in collection or collection.startswith("mqtt_")):
                raise ValueError(
                    f"a collection is named in full, and is none of our own, which begin with mqtt_ ({name})"
                )
        return value

    @field_validator("cleaner_policies")
    @classmethod
    def _names(cls, value: dict[str, Policy]) -> dict[str, Policy]:
        for name in value:
            check_name(name)
        return value

    @field_validator("stats_whom", mode="before")
    @classmethod
    def _nobody(cls, value: object) -> object:
        return () if value == "-" else value

    @field_validator("stats_measures")
    @classmethod
    def _distinct(cls, value: tuple[MeasureSettings, ...]) -> tuple[MeasureSettings, ...]:
        if len({one.identity for one in value}) < len(value):
            raise ValueError("rules of one kind for one collection have names of their own")
        return value

    @field_validator("stats_timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        return checked_zone(value)

    @field_validator("stats_timezones")
    @classmethod
    def _zones(cls, value: dict[str, str]) -> dict[str, str]:
        for zone in value.values():
            checked_zone(zone)
        return value

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

    @field_validator("hooks_keys", "ops_keys")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            text = key.get_secret_value()
            if len(text) < _HOOK_KEY_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(
                    f"each key has at least {_HOOK_KEY_CHARACTERS} printable ASCII characters and no space"
                )
        return value

    @model_validator(mode="after")
    def _deadlines(self) -> Self:
        if self.password_deadline >= self.hooks_deadline:
            raise ValueError(
                f"password_deadline: less than hooks_deadline ({self.hooks_deadline} s), so that an overload is answered"
            )
        return self

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
    def _broker(self) -> Self:
        for name in ("emqx_api_key", "emqx_api_secret"):
            if self.emqx_url and not getattr(self, name).get_secret_value():
                raise ValueError(f"{name}: needed with emqx_url")
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
        needed = max(_KEY_BYTES[algorithm] for algorithm in self.token_algorithms)
        if any(len(secret.get_secret_value().encode()) < needed for secret in self.token_secrets):
            raise ValueError(
                f"token_secrets: each has at least {needed} bytes for {', '.join(self.token_algorithms)} (RFC 7518 §3.2)"
            )
        return self

    def counting(self) -> Counting:
        """Return what is counted of a change."""
        measures = (one.measure() for one in self.stats_measures)
        return Counting(self.stats_whom, measures, decisions=self.stats_decisions)

    def zones(self) -> Zones:
        """Return whose statistics follow which clock."""
        return Zones(self.stats_timezone, self.stats_timezones)


def secret_fields() -> frozenset[str]:
    """Return the names of the settings that hold secrets."""
    return frozenset(name for name, info in Settings.model_fields.items() if _holds_secret(info.annotation))


def _holds_secret(annotation: Any) -> bool:  # noqa: ANN401 - whatever stands behind the colon
    return annotation is SecretStr or SecretStr in getattr(annotation, "__args__", ())
