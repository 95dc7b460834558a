"""Every metric: its name, its help and its closed label set, in one place.

Labels take values only from enumerations of ours; nothing that comes from a client becomes a label. One `Metrics` is made for a
process and passed to what measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from companion.core.acl import Inexact
from companion.core.model import ChangeOp, Decision, Incident, Lookup, Reason, Scope
from companion.core.revocations import Cause
from companion.sharing import Together
from companion.tallies import SpreadHistogram, Tally, TallyCounter

Hook = Literal["auth", "authz", "superuser", "scram"]
CACHES: Final = ("account", "policy", "session", "token", "credential", "refused", "sessionless")

SHADOW_OUTCOMES: Final = ("same", "would_allow", "would_refuse")

ALLOWING: Final = frozenset(
    {Reason.PASSWORD, Reason.TOKEN, Reason.LONG_TOKEN, Reason.CERTIFICATE, Reason.SCRAM, Reason.RULE, Reason.OWN_TOPIC}
)
"""The reasons of an `Allow`; all others belong to a `Deny`."""

_EITHER: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.UNKNOWN_ENDPOINT,
        Reason.ACCOUNT_DISABLED,
        Reason.ACCOUNT_EXPIRED,
        Reason.TOKEN_EXPIRED,
        Reason.REVOKED,
        Reason.DEADLINE,
        Reason.STORE_AWAY,
        Reason.INTERNAL,
    }
)
_ONLY_AUTHZ: Final = frozenset(
    {
        Reason.RULE,
        Reason.OWN_TOPIC,
        Reason.NOT_CONNECTED,
        Reason.INVALID_TOPIC,
        Reason.DENIED_BY_RULE,
        Reason.NO_RULE,
    }
)
_ONLY_SUPERUSER: Final = frozenset({Reason.NO_SUPERUSER})
REASONS: Final[dict[Hook, frozenset[Reason]]] = {
    "auth": frozenset(Reason) - _ONLY_AUTHZ - _ONLY_SUPERUSER - {Reason.SCRAM},
    "authz": _ONLY_AUTHZ | _EITHER,
    "superuser": _ONLY_SUPERUSER | _EITHER,
    "scram": (_EITHER - {Reason.TOKEN_EXPIRED})
    | {Reason.SCRAM, Reason.NO_CREDENTIALS, Reason.UNKNOWN_USER, Reason.UNUSABLE_HASH},
}
"""Which reasons a hook can give; a new one stands for authentication until it is listed here."""

ACL_GIVEN, ACL_UNAVAILABLE, ACL_REFUSED = "given", "unavailable", "refused"
ACL_OUTCOMES: Final = (ACL_GIVEN, ACL_UNAVAILABLE, ACL_REFUSED)
"""What can become of the list of rules for EMQX, beside the reasons why a policy has none."""

_HOOK_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ACK_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_JOB_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 14_400, 86_400)
_LAG_SECONDS: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        # One more series for each counter would tell only when this process began, which `process_start_time_seconds` does.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        Gauge("companion_build_info", "The version that runs.", ["version"], registry=registry).labels(
            version("mqtt-companion")
        ).set(1)

        # Hooks. "unauthorized" counts callers without a valid hook key; they get no decision.
        decisions = TallyCounter(
            "companion_hook_decisions", "Decisions of the hooks.", ["hook", "verdict", "reason"], registry
        )
        self.unauthorized = Counter(
            "companion_http_unauthorized", "HTTP requests without a valid key.", ["port"], registry=registry
        )
        hook_seconds = SpreadHistogram(
            "companion_hook_seconds", "Time from request to answer.", ["hook"], _HOOK_SECONDS, registry
        )
        self.password_checks = Gauge(
            "companion_password_checks", "Password checks running or waiting for a thread.", registry=registry
        )
        cache_lookups = TallyCounter(
            "companion_cache_lookups", "Look-ups in the caches of the hooks.", ["cache", "outcome"], registry
        )
        self.cache_entries = Gauge(
            "companion_cache_entries", "Entries in the caches of the hooks.", ["cache"], registry=registry
        )
        self.cache_bytes = Gauge(
            "companion_cache_bytes", "Estimated size of the caches of the hooks.", ["cache"], registry=registry
        )
        self.stale_served = Counter(
            "companion_stale_served",
            "Expired entries that served because the store was away.",
            ["cache"],
            registry=registry,
        )
        self.audits, self.events, self.reload = AuditMetrics(registry), EventMetrics(registry), ReloadMetrics(registry)

        # Publisher. "dead" changes are kept in the inbox with their reason.
        self.changes_taken = Counter(
            "companion_changes_taken", "Changes posted to the inbox.", ["outcome"], registry=registry
        )
        self.changes_published = Counter(
            "companion_changes_published", "Changes whose every message was acknowledged.", ["op"], registry=registry
        )
        self.changes_dead = Counter(
            "companion_changes_dead", "Changes given up, kept as dead letters.", registry=registry
        )
        self.change_lag = Histogram(
            "companion_change_lag_seconds",
            "Time from a change's `at` to the acknowledgement of its last message.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self.backlog = Gauge("companion_inbox_backlog", "Changes behind the checkpoint.", registry=registry)
        self.checkpoint = Gauge(
            "companion_checkpoint_position", "Position up to which all is acknowledged.", registry=registry
        )
        source_incidents = Counter(
            "companion_source_incidents",
            "Histories lost, changes that could not be read (dead letters), changes found by resynchronisation.",
            ["incident"],
            registry=registry,
        )
        self.lease_held = Gauge("companion_lease_held", "1 while this process leads.", ["lease"], registry=registry)
        self.fenced = Counter(
            "companion_fenced", "Writes refused because another process has the lease since.", registry=registry
        )
        self.messages_acknowledged = Counter(
            "companion_messages_acknowledged", "Messages that the broker acknowledged.", registry=registry
        )
        self.messages_refused = Counter(
            "companion_messages_refused", "Messages that the broker refused (reason code >= 0x80).", registry=registry
        )
        self.messages_in_flight = Gauge(
            "companion_messages_in_flight", "Messages sent and not acknowledged.", registry=registry
        )
        self.ack_seconds = Histogram(
            "companion_message_ack_seconds",
            "Time from PUBLISH to its acknowledgement.",
            buckets=_ACK_SECONDS,
            registry=registry,
        )
        self.broker_connected = Gauge(
            "companion_broker_connected", "1 while the publisher is connected.", registry=registry
        )
        self.broker_connects = Counter(
            "companion_broker_connects", "Connections that the publisher made to the broker.", registry=registry
        )

        # Workers; no series without them.
        self.workers = Gauge("companion_workers", "Worker processes of the hooks.", ["state"], registry=registry)
        self.worker_restarts = Counter(
            "companion_worker_restarts",
            "Workers started in the place of one that ended.",
            ["worker"],
            registry=registry,
        )
        self.shared: Path | None = None
        """Where the workers share their metrics, while there are any."""

        # Jobs. Their names are those of the catalogue; `job` is a label of Prometheus' own.
        self.job_runs = Counter(
            "companion_job_runs", "Runs of jobs that ended.", ["job_name", "state"], registry=registry
        )
        self.job_seconds = Histogram(
            "companion_job_seconds",
            "Time from the first beginning of a run to its end.",
            ["job_name"],
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self.job_late = Histogram(
            "companion_job_late_seconds",
            "Time from when a run was due to its beginning.",
            ["job_name"],
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self.job_rows = Counter(
            "companion_job_rows", "What runs have done, as they count it.", ["job_name"], registry=registry
        )
        self.job_running = Gauge(
            "companion_job_running", "1 while this process runs it.", ["job_name"], registry=registry
        )
        self.job_skipped = Counter(
            "companion_job_ticks_skipped",
            "Ticks without a run: one was waiting already, or nobody could begin for too long.",
            ["job_name", "why"],
            registry=registry,
        )
        self.job_success = Gauge(
            "companion_job_last_success_timestamp_seconds",
            "When a run of the job was last done, here or, before the start, anywhere; 0: never.",
            ["job_name"],
            registry=registry,
        )

        self.stats, self.revocations, self.tls, self.logins = (
            StatsMetrics(registry),
            RevocationMetrics(registry),
            TlsMetrics(registry),
            LoginMetrics(registry),
        )
        self.mirror, self.emqx, self.acl = MirrorMetrics(registry), EmqxMetrics(registry), AclMetrics(registry)
        self.shadow, self.credentials = _shadow_tallies(registry), CredentialMetrics(registry)

        # Bound once: the hot path looks nothing up by label, and a scrape shows every series from the start.
        self._decided = {
            (hook, reason): decisions.series(hook, "allow" if reason in ALLOWING else "deny", reason.value)
            for hook, reasons in REASONS.items()
            for reason in sorted(reasons)
        }
        self.seconds_of = {hook: hook_seconds.series(hook).observe for hook in REASONS}
        self.hits = {cache: cache_lookups.series(cache, "hit") for cache in CACHES}
        self.misses = {cache: cache_lookups.series(cache, "miss") for cache in CACHES}
        for outcome in ("accepted", "duplicate", "rejected"):
            self.changes_taken.labels(outcome)
        self.source_incidents = {one: source_incidents.labels(one.value) for one in Incident}
        for op in ChangeOp:
            self.changes_published.labels(op.value)

    def decided(self, hook: Hook, decision: Decision) -> None:
        """Count one decision."""
        self._decided[hook, decision.reason].count += 1

    def render(self) -> bytes:
        """Return everything in Prometheus' text format, the workers' counts added to our own."""
        return generate_latest(self.registry if self.shared is None else Together(self.registry, self.shared))


class AclMetrics:
    """Those of the lists of rules that EMQX takes with a login."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lists = TallyCounter(
            "companion_acl_lists",
            "Logins by what became of the list of rules that EMQX takes: given, or why not.",
            ["outcome"],
            registry,
        )
        overtaken = TallyCounter(
            "companion_acl_overtaken",
            "Changes of accounts or rules that clients with a list do not feel before they connect again.",
            ["scope"],
            registry,
        )
        self.lists = {one: lists.series(one) for one in (*ACL_OUTCOMES, *map(str, Inexact))}
        self.overtaken: dict[Scope, Tally] = {
            one: overtaken.series(one.value) for one in Scope if one is not Scope.SESSION
        }


class AuditMetrics:
    """Those of the audit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.dropped = Counter(
            "companion_audits_dropped", "Audit records lost because the store was away too long.", registry=registry
        )
        self.spooled = Gauge(
            "companion_audits_spooled", "Audit records on the disk because the store is away.", registry=registry
        )
        self.problems = Gauge(
            "companion_audit_problems", "What the last run of the auditor here found to be wrong.", registry=registry
        )


class EventMetrics:
    """Those of the broker's events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter(
            "companion_broker_events",
            "What the broker told of its clients: events, and requests that were malformed or could not be taken.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("new", "known", "ignored", "malformed", "not_taken"):
            self.outcomes.labels(outcome)
        self.shown = Counter(
            "companion_presence_shown",
            "Messages on the presence topics that the broker acknowledged.",
            registry=registry,
        )


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


class LoginMetrics:
    """Those of checked passwords and of the guard."""

    def __init__(self, registry: CollectorRegistry) -> None:
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


class StatsMetrics:
    """Those of the observer.

    Its readers are `inbox`, `facts` (what was taken into the inbox in Redis), `stream`, `audits`, `events` (of the
    broker) and `broker` (its own numbers).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.changes = Counter(
            "companion_stats_changes", "Changes counted into statistics.", ["reader"], registry=registry
        )
        self.lost = Counter(
            "companion_stats_lost",
            "Changes known not to be counted: too many waited, or they could not be read; a lost history counts as one.",
            ["reader"],
            registry=registry,
        )
        self.snapshots = Counter(
            "companion_broker_snapshots", "Snapshots of the broker's own numbers.", ["outcome"], registry=registry
        )
        self.lag = Gauge(
            "companion_stats_lag_seconds",
            "Time from the last counted change's `at` to its counting.",
            registry=registry,
        )
        self.flushed = Gauge(
            "companion_stats_flushed_timestamp_seconds",
            "When this process last brought counters to where they are read; 0: never.",
            registry=registry,
        )


def _shadow_tallies(registry: CollectorRegistry) -> Mapping[str, Tally]:
    decisions = TallyCounter(
        "companion_shadow_decisions",
        "Decisions that the shadow rules would have made too, or otherwise.",
        ["outcome"],
        registry,
    )
    return {one: decisions.series(one) for one in SHADOW_OUTCOMES}


class ReloadMetrics:
    """Those of the configuration that is read again, at SIGHUP and at POST /reload."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reloads = Counter(
            "companion_reloads", "Configuration read again, and what came of it.", ["outcome"], registry=registry
        )
        self.done, self.refused = reloads.labels("done"), reloads.labels("refused")
        self.stale = Gauge(
            "companion_reload_refused",
            "1 while what was read last is refused and the old configuration works on.",
            registry=registry,
        )
        self.at = Gauge(
            "companion_reload_last_success_timestamp_seconds",
            "When the configuration was last read again; 0: not since the start.",
            registry=registry,
        )


class TlsMetrics:
    """Those of the certificates of our ports, `hooks` and `ops`; no series without TLS."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.not_after = Gauge(
            "companion_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in force ends.",
            ["port"],
            registry=registry,
        )
        self.refused = Gauge(
            "companion_tls_certificate_refused",
            "1 while the files hold a certificate that cannot be used and the old one works on.",
            ["port"],
            registry=registry,
        )
        self.changes = Counter(
            "companion_tls_certificate_changes",
            "Certificates that were found changed in their files, and what came of it.",
            ["port", "outcome"],
            registry=registry,
        )


class MirrorMetrics:
    """Those of the mirror. Its collections are those of the settings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.taken = Counter(
            "companion_mirror_changes", "Changes written into the mirror.", ["collection"], registry=registry
        )
        self.rebuilds = Counter(
            "companion_mirror_rebuilds",
            "How often a mirrored collection was to be copied anew, and why.",
            ["collection", "why"],
            registry=registry,
        )
        self.lag = Gauge(
            "companion_mirror_lag_seconds",
            "How old the copies were when they were last said to be current.",
            ["collection"],
            registry=registry,
        )
        self.current = Gauge(
            "companion_mirror_current_timestamp_seconds",
            "When this process last said that the copies are current.",
            ["collection"],
            registry=registry,
        )
        lookups = TallyCounter(
            "companion_mirror_lookups",
            "Looks for accounts in the mirror; all but a hit ask MongoDB.",
            ["outcome"],
            registry,
        )
        self.lookups = {one: lookups.series(one.value) for one in Lookup}
        self.drift = Counter(
            "companion_mirror_drift",
            "Copies that differed from what they are copies of, found by a comparison.",
            ["collection", "kind"],
            registry=registry,
        )

    def looked(self, outcome: Lookup) -> None:
        """Count one look into the mirror."""
        self.lookups[outcome].count += 1


class EmqxMetrics:
    """Those of EMQX's REST API. Its calls are `look` (a snapshot), `clients`, `kick`, `ban`, `unban` and `caches`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "companion_emqx_requests",
            "Requests to EMQX's REST API; failed: no answer, not now, or not with our key.",
            ["call", "outcome"],
            registry=registry,
        )


class RevocationMetrics:
    """Those of revocations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.standing = Gauge(
            "companion_revocations_standing", "Revocations that the hooks know and refuse by.", registry=registry
        )
        self.waiting = Gauge(
            "companion_revocations_waiting",
            "Revocations about which something is left to do, in all processes together.",
            registry=registry,
        )
        self.oldest = Gauge(
            "companion_revocations_oldest_seconds", "For how long the oldest of them waits.", registry=registry
        )
        self.to_kick = Histogram(
            "companion_revocation_to_kick_seconds",
            "Time from a revocation to when everybody whom it concerns was kicked.",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self.ended = Counter(
            "companion_revocations_done",
            "Revocations that were done: why they were asked for, or that they were lifted.",
            ["cause"],
            registry=registry,
        )
        self.failures = Counter(
            "companion_revocation_failures",
            "Attempts at a step of a revocation that failed and are made again.",
            ["step"],
            registry=registry,
        )
        for cause in Cause:
            self.ended.labels(cause.value)
        self.ended.labels("lifted")
