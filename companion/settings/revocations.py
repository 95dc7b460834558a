"""Revocations: settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from companion.settings.kinds import Days, Group


class RevocationSettings(Group):
    """Revocations, and who must not stay connected."""

    revocation_lease: Annotated[float, Field(ge=0.1, le=600)] = Field(
        10.0, description="How long a process that died holds back the next one that kicks"
    )
    revocation_settle: Annotated[float, Field(ge=0, le=600)] = Field(
        2.0, description="After how long it is looked once more who is connected that was revoked"
    )
    revocation_kick_changed: bool = Field(
        default=True,
        description="Kick whoever is connected with an account that was disabled or removed, got another password or lost a secret",
    )
    reconciler_most: Annotated[float, Field(gt=0, le=100)] = Field(
        10.0,
        description="Percent of all clients that the reconciler of sessions may kick in one run; more needs yes-really",
    )
    reconciler_rate: Annotated[float, Field(gt=0, le=100_000)] = Field(
        50.0, description="Clients that it kicks in a second at most"
    )
    reconciler_removed: bool = Field(
        default=True, description="Kick also clients of whom neither an account nor a platform session is known"
    )
    retention_revocations: Days = Field(90, description="Days that revocations are kept once they are over")
