"""The jobs, and how long they let things live: settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from companion.anonymizing import AccountTable, TraceTable
from companion.cleaning import Policy, check_name
from companion.job_settings import JobSettings
from companion.settings.kinds import Days, Group, Names, named

_KEY_CHARACTERS: Final = 32


class JobsSettings(Group):
    """The jobs, and how long they let things live."""

    retention_changes: Days = Field(7, description="Days that published changes, and so their event ids, are kept")
    retention_audits: Days = Field(90, description="Days that audit records are kept")
    retention_audits_count: Annotated[int, Field(ge=1000)] = Field(
        1_000_000, description="Most audit records that are kept"
    )
    retention_events: Days = Field(
        1, description="Days that the broker's events are kept, so that what comes again is known"
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
    jobs_schedules: Annotated[dict[str, JobSettings], BeforeValidator(named)] = Field(
        default_factory=dict, description="When jobs run and how often they are tried, in place of their own (tables)"
    )
    cleaner_policies: Annotated[dict[str, Policy], BeforeValidator(named)] = Field(
        default_factory=dict, description="What the cleaner removes beside the platform's, or in place of it (tables)"
    )
    anonymizer_key: SecretStr = Field(
        SecretStr(""),
        description="Makes the pseudonyms of deleted accounts, the same in all replicas; none are made without it",
    )
    anonymizer_days: Days = Field(
        30, description="Days from the deletion of an account until its personal data is replaced"
    )
    anonymizer_accounts: Annotated[dict[str, AccountTable], BeforeValidator(named)] = Field(
        default_factory=dict,
        description="Collections of accounts beside the platform's users, or in their place (tables)",
    )
    anonymizer_traces: Annotated[dict[str, TraceTable], BeforeValidator(named)] = Field(
        default_factory=dict,
        description="Where accounts have left something, beside the platform's or in its place (tables)",
    )

    @field_validator("anonymizer_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and len(value.get_secret_value()) < _KEY_CHARACTERS:
            raise ValueError(f"at least {_KEY_CHARACTERS} characters: who can guess it can tell whose a pseudonym is")
        return value

    @field_validator("anonymizer_accounts", "anonymizer_traces")
    @classmethod
    def _table_names(cls, value: dict[str, AccountTable | TraceTable]) -> dict[str, AccountTable | TraceTable]:
        for name in value:
            check_name(name)
        return value

    audit_roots: Path | None = Field(
        None, description="File for the roots of the audit's seals; data_dir/audit-roots.jsonl where none is named"
    )

    @field_validator("cleaner_policies")
    @classmethod
    def _names(cls, value: dict[str, Policy]) -> dict[str, Policy]:
        for name in value:
            check_name(name)
        return value
