"""Where the follower of the mirror stands, as the text of its checkpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bson import Timestamp, json_util
from bson.errors import BSONError

from companion.core.errors import Permanent

COLLECTION = "mqtt_mirror"
"""Where it is kept: a collection of its own, which the follower watches, to see in the stream how far it has come."""

CHECKPOINT = "watcher"
REBUILD = "rebuild"
"""Whoever writes the document of this id there asks for everything to be built anew."""


@dataclass(frozen=True, slots=True)
class MirrorPlace:
    """Behind `token`; `beat` counts the writings of it, and all events up to `seen` are in the mirror.

    `kept` has every place of the mirror that was ever begun, with the number of the last put; None for one that cannot be read.
    """

    token: Mapping[str, Any] | None = None
    beat: int = 0
    seen: Timestamp = field(default_factory=lambda: Timestamp(0, 0))
    kept: Mapping[str, int | None] = field(default_factory=dict)
    building: tuple[str, ...] = ()
    """Those that are being built, or are to be."""

    fence: int = 0

    def text(self) -> str:
        """Return it as JSON."""
        body: dict[str, Any] = {
            "token": self.token,
            "beat": self.beat,
            "seen": self.seen,
            "kept": dict(self.kept),
            "building": list(self.building),
            "fence": self.fence,
        }
        return json_util.dumps(body, json_options=json_util.CANONICAL_JSON_OPTIONS)


def read_mirror_place(text: str) -> MirrorPlace:
    """Read what `text` wrote. Raises `Permanent` for anything else: a checkpoint is not guessed at."""
    try:
        body = json_util.loads(text)
        kept = {str(name): None if number is None else int(number) for name, number in body["kept"].items()}
        return MirrorPlace(
            body["token"], int(body["beat"]), body["seen"], kept, tuple(body["building"]), int(body["fence"])
        )
    except (ValueError, TypeError, KeyError, AttributeError, BSONError):
        raise Permanent("mongodb: the checkpoint of the mirror cannot be read") from None
