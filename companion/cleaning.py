"""What the cleaner removes, and when, as the settings say it.

    [cleaner.policies.metrics]
    collection = "thing.metrics"
    time = "created_at"            # a date, or Unix seconds or milliseconds
    days = 1825
    query = {state = "CLOSED"}     # only these; MongoDB's syntax
    hold = {legal_hold = true}     # never these
    archive = true                 # write them to a file first; false: only remove
    batch = 1000
    rate = 2000                    # documents a second at most
    budget = 3600                  # seconds a run; the rest is for the next one
    window = "01:00-05:00"         # only at this time of the day
    timezone = "Europe/Berlin"
    most = 20                      # a run that would remove more than so many percent wants `--set yes-really=true`

A policy of the name of one of ours replaces it; `days = 0` turns it off. In the environment the same is a JSON object of tables.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Policy(BaseModel):
    """What of one collection is removed, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    collection: Annotated[str, Field(min_length=1)]
    time: Annotated[str, Field(min_length=1)] = "created_at"
    days: Annotated[float, Field(ge=0, le=36_500)]
    query: dict[str, Any] = Field(default_factory=dict)
    hold: dict[str, Any] = Field(default_factory=dict)
    archive: bool = True
    batch: Annotated[int, Field(ge=1, le=10_000)] = 1000
    rate: Annotated[float, Field(gt=0)] | None = None
    budget: Annotated[float, Field(gt=0)] = 3600.0
    window: str = ""
    timezone: str = "UTC"
    most: Annotated[float, Field(gt=0, le=100)] = 20.0

    @field_validator("window")
    @classmethod
    def _from_to(cls, value: str) -> str:
        if value and not _WINDOW.fullmatch(value):
            raise ValueError("a time of the day such as 22:00-05:30")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("the name of a time zone, such as UTC or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _not_itself(self) -> Self:
        if self.collection.rpartition(".")[2] in {"mqtt_fences", "mqtt_checkpoints", "mqtt_accounts", "mqtt_rules"}:
            raise ValueError("collection: none of those that the service itself rests on")
        return self

    def open_at(self, now: float) -> bool:
        """Tell whether the window is open at this time (Unix seconds); one that ends before it begins goes over midnight."""
        match = _WINDOW.fullmatch(self.window)
        if match is None:
            return True
        moment = dt.datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        at = moment.hour * 60 + moment.minute
        begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
        return begin <= at < end if begin <= end else at >= begin or at < end


def check_name(name: str) -> str:
    """Return the name of a policy, which names files; raise ValueError for what is none."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"names of policies are lower-case letters, digits and - ({name})")
    return name


_YEAR: Final = 365.25

PLATFORM: Final[dict[str, Policy]] = {
    "sagas": Policy(
        collection="essential.sagas", time="updated_at", days=_YEAR, query={"state": {"$in": ["ABORTED", "COMMITTED"]}}
    ),
    "logs": Policy(collection="logger.audits", days=4 * _YEAR),
    "stats": Policy(collection="special.stats", days=10 * _YEAR),
    "metrics": Policy(collection="thing.metrics", days=5 * _YEAR),
    "sessions": Policy(collection="identity.sessions", time="expiration", days=90, archive=False, most=100),
    "tokens": Policy(collection="auth.apts", time="expires_at", days=90, archive=False, most=100),
    "presence": Policy(
        collection="mqtt_presence", time="changed_at", days=90, query={"online": False}, archive=False, most=100
    ),
    # Each of them may be as large as a document can be.
    "dead-letters": Policy(collection="mqtt_dead_letters", time="at", days=_YEAR, batch=100, most=100),
}
"""The ages of the platform; with the embedded store only the last two, for the others have no collection there."""
