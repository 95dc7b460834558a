"""The requests that a real EMQX 5.8.9 sent, and how to send them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

_FILE: Final = Path(__file__).parents[1] / "fixtures" / "emqx-5.8.9-requests.jsonl"
KEY: Final = "hook-key"
"""The hook key that the broker presented."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request; `label` says what the MQTT client did."""

    label: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: str

    @property
    def hook(self) -> str:
        """Which hook was asked: `auth` or `authz`."""
        return self.target.partition("?")[0].removeprefix("/mqtt/")

    @property
    def fields(self) -> dict[str, str]:
        """What was asked, read by other means than the service's."""
        if self.body.startswith("{"):
            decoded: dict[str, str] = json.loads(self.body)
            return decoded
        text = self.body or self.target.partition("?")[2]
        return dict(parse_qsl(text, keep_blank_values=True))

    def encoded(self) -> bytes:
        """Return the request byte for byte as the broker sent it."""
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join((*lines, "", self.body)).encode()

    def __str__(self) -> str:
        return f"{self.label}, {self.hook}"


def recorded_requests() -> Sequence[Recorded]:
    """Return all of them, in the order in which they were sent."""
    lines = map(json.loads, _FILE.read_text(encoding="utf-8").splitlines())
    return [
        Recorded(line["label"], line["method"], line["path"], tuple(map(tuple, line["headers"])), line["body"])
        for line in lines
    ]
