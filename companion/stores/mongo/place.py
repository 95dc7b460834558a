"""Where the reader of a change stream stands, as the text of its checkpoint. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import json_util
from bson.errors import BSONError

from companion.core.errors import Permanent


@dataclass(frozen=True, slots=True)
class Catch:
    """How far a resynchronisation has come, of what changed between `since` and `until` (Unix seconds).

    All is done before the documents of `namespace` whose `field` is at `value` (Unix milliseconds).
    """

    since: int
    until: int
    namespace: str = ""
    field: str = ""
    value: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Behind `token`, which was reached at `time` (Unix seconds of the cluster), once `catch` is done."""

    token: Mapping[str, Any]
    time: int
    catch: Catch | None = None

    def text(self) -> str:
        """Return it as JSON."""
        body: dict[str, Any] = {"token": self.token, "time": self.time}
        if self.catch is not None:
            catch = self.catch
            body["resync"] = [catch.since, catch.until, catch.namespace, catch.field, catch.value]
        return json_util.dumps(body, json_options=json_util.CANONICAL_JSON_OPTIONS)


def read_place(text: str) -> Place:
    """Read what `text` wrote. Raises `Permanent` for anything else: a checkpoint is not guessed at."""
    try:
        body = json_util.loads(text)
        token, time, resync = body["token"], body["time"], body.get("resync")
        return Place({**token}, int(time), None if resync is None else Catch(*resync))
    except (ValueError, TypeError, KeyError, AttributeError, BSONError):
        raise Permanent("mongodb: the checkpoint of the change stream cannot be read") from None
