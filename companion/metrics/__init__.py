"""Every metric: its name, its help and its closed label set, one module for each thing that is measured.

Labels take values only from enumerations of ours; nothing that comes from a client becomes a label. One `Metrics` is made for a
process and passed to what measures.
"""

from __future__ import annotations

from companion.metrics.acl import ACL_GIVEN, ACL_OUTCOMES, ACL_REFUSED, ACL_UNAVAILABLE, AclMetrics
from companion.metrics.caches import CACHES, CacheMetrics
from companion.metrics.events import AuditMetrics, EventMetrics
from companion.metrics.hooks import SHADOW_OUTCOMES, HookMetrics
from companion.metrics.jobs import JobMetrics
from companion.metrics.leases import LeaseMetrics
from companion.metrics.logins import CredentialMetrics, LoginMetrics
from companion.metrics.mirror import MirrorMetrics
from companion.metrics.process import Metrics
from companion.metrics.publishing import DeliveryMetrics, PublishingMetrics
from companion.metrics.reasons import ALLOWING, REASONS, Hook
from companion.metrics.reload import ReloadMetrics, TlsMetrics
from companion.metrics.revocations import EmqxMetrics, RevocationMetrics
from companion.metrics.stats import StatsMetrics
from companion.metrics.workers import WorkerMetrics

__all__ = [
    "ACL_GIVEN",
    "ACL_OUTCOMES",
    "ACL_REFUSED",
    "ACL_UNAVAILABLE",
    "ALLOWING",
    "CACHES",
    "REASONS",
    "SHADOW_OUTCOMES",
    "AclMetrics",
    "AuditMetrics",
    "CacheMetrics",
    "CredentialMetrics",
    "DeliveryMetrics",
    "EmqxMetrics",
    "EventMetrics",
    "Hook",
    "HookMetrics",
    "JobMetrics",
    "LeaseMetrics",
    "LoginMetrics",
    "Metrics",
    "MirrorMetrics",
    "PublishingMetrics",
    "ReloadMetrics",
    "RevocationMetrics",
    "StatsMetrics",
    "TlsMetrics",
    "WorkerMetrics",
]
