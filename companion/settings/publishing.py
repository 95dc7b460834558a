"""The operations port, and how changes are taken and published: settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, field_validator

from companion.core.presence_topics import parse as parse_presence_topic
from companion.core.routing import DEFAULT_TOPICS, parse_topic_template
from companion.settings.kinds import Group, Names, Port, Secrets

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


class PublishingSettings(Group):
    """The operations port, and how changes are taken and published."""

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

    presence_topic: str = Field(
        "", description="Retained topic that shows who is there, such as {identity}/{session}/status; none without it"
    )

    @field_validator("presence_topic")
    @classmethod
    def _presence(cls, value: str) -> str:
        if value:
            parse_presence_topic(value)
        return value

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
