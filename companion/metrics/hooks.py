"""The metrics of the hooks' answers. The hot path counts here: every series is bound once, nothing is looked up by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from companion.core.model import Decision
from companion.metrics.buckets import HOOK_SECONDS
from companion.metrics.reasons import ALLOWING, REASONS, Hook
from companion.tallies import SpreadHistogram, Tally, TallyCounter

SHADOW_OUTCOMES: Final = ("same", "would_allow", "would_refuse")


class HookMetrics:
    """Those of decisions, of the time that they took, and of callers without a key, who get no decision."""

    def __init__(self, registry: CollectorRegistry) -> None:
        decisions = TallyCounter(
            "companion_hook_decisions", "Decisions of the hooks.", ["hook", "verdict", "reason"], registry
        )
        seconds = SpreadHistogram(
            "companion_hook_seconds", "Time from request to answer.", ["hook"], HOOK_SECONDS, registry
        )
        self.unauthorized = Counter(
            "companion_http_unauthorized", "HTTP requests without a valid key.", ["port"], registry=registry
        )
        self.shadow = _shadow_tallies(registry)
        self.seconds_of = {hook: seconds.series(hook).observe for hook in REASONS}
        self._decided = {
            (hook, reason): decisions.series(hook, "allow" if reason in ALLOWING else "deny", reason.value)
            for hook, reasons in REASONS.items()
            for reason in sorted(reasons)
        }

    def decided(self, hook: Hook, decision: Decision) -> None:
        """Count one decision."""
        self._decided[hook, decision.reason].count += 1


def _shadow_tallies(registry: CollectorRegistry) -> Mapping[str, Tally]:
    decisions = TallyCounter(
        "companion_shadow_decisions",
        "Decisions that the shadow rules would have made too, or otherwise.",
        ["outcome"],
        registry,
    )
    return {one: decisions.series(one) for one in SHADOW_OUTCOMES}
