"""What is summed beside being counted, as the settings say it.

    [[stats.measures]]
    kind = "sum"                  # or size: bytes of a field, or without one of the whole document as JSON
    collection = "thing.metrics"
    field = "value"               # a path; of a list of numbers every one is added
    ops = ["create"]              # which changes; this is what stands here when nothing does
    scale = 100                   # sums are whole numbers: 21.57 is added as 2157
    name = "celsius"              # ends the key; needed where a collection has two rules of a kind

In the environment the same is a JSON list of tables.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from companion.core.model import ChangeOp
from companion.core.stats import Kind, Measure


class MeasureSettings(BaseModel):
    """One rule."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["sum", "size"]
    collection: Annotated[str, Field(pattern=r"^[^.]+\.[^.].*$")]
    field: str = ""
    ops: Annotated[tuple[ChangeOp, ...], Field(min_length=1)] = (ChangeOp.CREATE,)
    scale: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)] = ""

    @field_validator("field")
    @classmethod
    def _path(cls, value: str) -> str:
        if value and not all(value.split(".")):
            raise ValueError("a path such as value or reading.value")
        return value

    @model_validator(mode="after")
    def _summed(self) -> Self:
        if self.kind == "sum" and not self.field:
            raise ValueError("field: what is to be summed")
        return self

    @property
    def identity(self) -> tuple[str, str, str]:
        """What no two rules may have in common: their keys would be the same."""
        return (self.kind, self.collection, self.name.upper().replace("-", "_"))

    def measure(self) -> Measure:
        """Return the rule."""
        db, _, collection = self.collection.partition(".")
        return Measure(Kind(self.kind.upper()), db, collection, frozenset(self.ops), self.field, self.scale, self.name)

    def __str__(self) -> str:
        """Return it in a word."""
        return f"{self.kind} of {self.collection}{'.' if self.field else ''}{self.field}"


def checked_zone(name: str) -> str:
    """Return the name of a time zone. Raises ValueError for any other."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("the name of a time zone, such as UTC or Europe/Berlin") from None
    return name
