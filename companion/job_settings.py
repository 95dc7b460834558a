"""When a job runs and how often it is tried, as the settings say it.

    [jobs.schedules.housekeeping]
    cron = "0 3 * * *"            # or every = 300 (seconds); with neither it runs only when somebody asks
    timezone = "Europe/Berlin"
    jitter = 60                   # begin up to so many seconds later
    grace = 3600                  # a tick that nobody could begin for so long is given up
    attempts = 3                  # a failed run is tried again
    backoff = 60                  # seconds before the second attempt
    growth = 2                    # each further wait is so many times as long; 1: always the same

In the environment the same is a JSON object of tables.
"""

from __future__ import annotations

from typing import Annotated, Final, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_FIELDS: Final = 5
_YEAR: Final = 366 * 86_400


class JobSettings(BaseModel):
    """The settings of one job."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    cron: str = ""
    every: Annotated[float, Field(gt=0, le=_YEAR)] | None = None
    timezone: str = "UTC"
    jitter: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    grace: Annotated[float, Field(ge=1, le=_YEAR)] = 3600.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 1
    backoff: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    growth: Annotated[float, Field(ge=1, le=10)] = 2.0

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("the name of a time zone, such as UTC or Europe/Berlin") from None
        return value

    @field_validator("cron")
    @classmethod
    def _five(cls, value: str) -> str:
        if value and len(value.split()) != _FIELDS:
            raise ValueError("five fields: minute, hour, day of the month, month, day of the week")
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.cron and self.every is not None:
            raise ValueError("cron or every, not both")
        return self

    def wait(self, attempt: int) -> float:
        """Return the seconds between the attempt of this number (from 1) and the next."""
        return float(self.backoff * self.growth ** (attempt - 1))
