"""What a decision leaves behind, looked up in all three places where it is left."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.service import Service


@dataclass(frozen=True, slots=True)
class Trace:
    """One decision: its verdict, its reason, and the fields of its log line."""

    verdict: str
    reason: str
    line: dict[str, Any]


def lines(logged: io.StringIO) -> Sequence[dict[str, Any]]:
    """Return the log so far; every line of it is a JSON object."""
    return [json.loads(line) for line in logged.getvalue().splitlines()]


def decisions(logged: io.StringIO) -> Sequence[dict[str, Any]]:
    """Return the log lines of decisions."""
    return [line for line in lines(logged) if line["event"] == "decision"]


async def only_trace(service: Service, logged: io.StringIO, hook: str) -> Trace:
    """Return the one decision that was made since the start; fail unless metric, log line and audit record say the same."""
    (line,) = decisions(logged)
    verdict, reason = line["verdict"], line["reason"]
    assert line["hook"] == hook
    samples = await service.samples("companion_hook_decisions_total")
    counted = {tuple(sorted(labels.items())): value for labels, value in samples if value}
    assert counted == {(("hook", hook), ("reason", reason), ("verdict", verdict)): 1}
    if (hook, verdict) == ("authz", "allow"):  # too frequent to be kept
        return Trace(verdict, reason, line)
    (audit,) = await service.audits(1)
    assert (audit.kind, audit.verdict, audit.reason) == (hook, verdict, reason)
    for name in ("username", "client_id", "peer_host", "action", "topic", "rule", "detail"):
        assert getattr(audit, name) == line.get(name, "")
    return Trace(verdict, reason, line)
