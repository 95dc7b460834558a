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
    retention_revocations: Days = Field(90, description="Days that revocations are kept once they are over")
