"""What is counted, and the broker's own statistics: settings."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from companion.account_sources import tables
from companion.core.stats import Counting, Whom, Zones
from companion.settings.kinds import Group, Seconds, named, split
from companion.stats_settings import MeasureSettings, checked_zone


class StatisticsSettings(Group):
    """What is counted, and the broker's own statistics."""

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
    stats_whom: Annotated[tuple[Whom, ...], BeforeValidator(split)] = Field(
        (Whom.ACTOR, Whom.CLIENT, Whom.GROUP),
        description="Who is counted for beside the owner: actor (who did it), client, group; - for nobody",
    )
    stats_measures: Annotated[tuple[MeasureSettings, ...], BeforeValidator(tables)] = Field(
        (), description="What is summed beside being counted (tables)"
    )
    stats_decisions: bool = Field(
        default=True, description="Count the decisions of the hooks too, by their audit records: logins and refusals"
    )
    stats_events: bool = Field(
        default=True,
        description="Count what the broker tells of its clients: connects, disconnects by reason, messages",
    )
    stats_timezone: str = Field("UTC", description="Time zone of the hours, days and months of statistics")
    stats_timezones: Annotated[dict[str, str], BeforeValidator(named)] = Field(
        default_factory=dict, description="Time zones of single owners, by their ids (a table)"
    )
    emqx_url: str = Field(
        "",
        pattern=r"^(https?://[^/]+.*)?$",
        description="EMQX's REST API, such as http://127.0.0.1:18083, for revocations and statistics; none without it",
    )
    emqx_api_key: SecretStr = Field(
        SecretStr(""), description="API key of EMQX; for statistics one that may only look will do"
    )
    emqx_api_secret: SecretStr = Field(SecretStr(""), description="Its secret")
    emqx_timeout: Seconds = Field(5.0, description="Longest time of a request to it")
    emqx_every: Annotated[float, Field(ge=0.01, le=86_400)] = Field(60.0, description="Seconds between two snapshots")

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
    def _broker(self) -> Self:
        for name in ("emqx_api_key", "emqx_api_secret"):
            if self.emqx_url and not getattr(self, name).get_secret_value():
                raise ValueError(f"{name}: needed with emqx_url")
        return self

    def counting(self) -> Counting:
        """Return what is counted of a change."""
        measures = (one.measure() for one in self.stats_measures)
        return Counting(self.stats_whom, measures, decisions=self.stats_decisions, events=self.stats_events)

    def zones(self) -> Zones:
        """Return whose statistics follow which clock."""
        return Zones(self.stats_timezone, self.stats_timezones)
