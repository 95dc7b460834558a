"""Hooks that accept tokens of any issuer."""

from __future__ import annotations

import io
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.support.jwks import FAMILIES
from tests.support.service import Service, serving
from tests.support.traces import decisions

ALL = tuple(FAMILIES)


def issuer(data_dir: Path, **more: Any) -> AbstractAsyncContextManager[Service]:
    """Serve hooks that accept tokens of any issuer, signed with any asymmetric algorithm."""
    return serving(data_dir, **{"token_profiles": ("generic",), "token_algorithms": ALL} | more)


async def reason_of(service: Service, logged: io.StringIO, password: str, username: str = "alice") -> str:
    """Return why a login came out as it did."""
    before = len(decisions(logged))
    await service.login(username, password, "any-client")
    return str(decisions(logged)[before]["reason"])
