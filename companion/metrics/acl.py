"""The metrics of the lists of rules that EMQX takes with a login."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from companion.core.acl import Inexact
from companion.core.model import Scope
from companion.tallies import Tally, TallyCounter

ACL_GIVEN, ACL_UNAVAILABLE, ACL_REFUSED = "given", "unavailable", "refused"
ACL_OUTCOMES: Final = (ACL_GIVEN, ACL_UNAVAILABLE, ACL_REFUSED)
"""What can become of the list of rules for EMQX, beside the reasons why a policy has none."""


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
