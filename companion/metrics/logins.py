"""The metrics of logins: checked passwords, the guard, and what comes along with credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from companion.tallies import TallyCounter


class LoginMetrics:
    """Those of checked passwords and of the guard."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "companion_password_checks", "Password checks running or waiting for a thread.", registry=registry
        )
        checks = TallyCounter(
            "companion_credential_checks",
            "Passwords that no memory knew: checked right or wrong, joined to a check under way, abandoned, or too many.",
            ["outcome"],
            registry,
        )
        self.checks = {one: checks.series(one) for one in ("right", "wrong", "joined", "abandoned", "overloaded")}
        shared = TallyCounter(
            "companion_credential_proofs",
            "Looks for what other processes have verified; forged: what lay there was not made with our key.",
            ["outcome"],
            registry,
        )
        self.shared = {one: shared.series(one) for one in ("hit", "miss", "away", "forged")}
        lockouts = TallyCounter("companion_lockouts", "Lock-outs made by this process.", ["scope"], registry)
        self.lockouts = {one: lockouts.series(one) for one in ("account", "address")}
        self.locked_out = Gauge("companion_locked_out", "Lock-outs that hold, as far as known.", registry=registry)
        bans = TallyCounter("companion_bans", "Addresses to be banned at the broker.", ["outcome"], registry)
        self.bans = {one: bans.series(one) for one in ("done", "failed", "dropped")}


class CredentialMetrics:
    """Those of what comes along with credentials."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rehashed = Counter(
            "companion_password_rehashes",
            "Hashes that were to become bcrypt: replaced, changed by somebody meanwhile, or failed.",
            ["outcome"],
            registry=registry,
        )
        self._looks = Counter(
            "companion_token_key_looks", "Looks at keys of tokens.", ["place", "outcome"], registry=registry
        )

    def told(self, place: Literal["file", "url"]) -> Callable[[bool], None]:
        """Return what counts a look at keys there that went well, or not."""
        well, ill = self._looks.labels(place, "ok"), self._looks.labels(place, "failed")
        return lambda fine: (well if fine else ill).inc()
