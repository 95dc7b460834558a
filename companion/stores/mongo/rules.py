"""Rules in MongoDB: the collection `mqtt_rules`.

A document has `subject`, `effect`, `action`, `filter`, `qos` (a list) and `retain` (true, false or null), as `Rule` has them, and
where they apply `windows` (a list of `{cron, duration, timezone}`) and `locations` (a list).
Operators may write it themselves. One that cannot be enforced allows nothing; if it denies, its subject is denied everything, since
nobody knows what was meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import structlog
from bson import ObjectId

from companion.core.errors import Invalid
from companion.core.locations import locations_of
from companion.core.rules import Effect, Rule, RuleAction, check_rule
from companion.core.windows import windows_of
from companion.stores.mongo.client import MongoClient

log = structlog.get_logger("companion.stores.mongo")

COLLECTION: Final = "mqtt_rules"
_LIST_SECONDS: Final = 10.0


class MongoRules:
    """The port `Rules`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._rules = client.database[COLLECTION]

    async def add(self, rule: Rule) -> Rule:
        """Store a rule that can be enforced and return it with its id."""
        check_rule(rule)
        document: dict[str, Any] = {
            "subject": rule.subject,
            "effect": rule.effect.value,
            "action": rule.action.value,
            "filter": rule.filter,
            "qos": sorted(rule.qos),
            "retain": rule.retain,
        }
        if rule.windows:
            document["windows"] = [asdict(one) for one in rule.windows]
        if rule.locations:
            document["locations"] = list(rule.locations)
        result = await self._client.call(lambda: self._rules.insert_one(document))
        return replace(rule, id=str(result.inserted_id))

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule."""

        async def delete() -> bool:
            # What is no id belongs to no rule; what is no text is refused as it would be in a query.
            if not ObjectId.is_valid(rule_id.encode().decode()):
                return False
            return bool((await self._rules.delete_one({"_id": ObjectId(rule_id)})).deleted_count)

        return await self._client.call(delete)

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first."""
        # Somebody waits for a decision: unlike a list of all, it has no more time than any command.
        return await self._find({"subject": {"$in": list(subjects)}}, None) if subjects else []

    async def list(self) -> Sequence[Rule]:
        """Return every rule, oldest first."""
        return await self._find({}, _LIST_SECONDS)

    async def _find(self, query: Mapping[str, Any], seconds: float | None) -> Sequence[Rule]:
        found = await self._client.call(lambda: self._rules.find(query).sort("_id", 1).to_list(), seconds)
        return [rule for document in found if (rule := _rule(document)) is not None]


def _rule(document: Mapping[str, Any]) -> Rule | None:
    """Read a document that anybody may have written."""
    rule_id = str(document["_id"])
    try:
        rule = Rule(
            document["subject"],
            Effect(document["effect"]),
            RuleAction(document["action"]),
            document["filter"],
            frozenset(document.get("qos", (0, 1, 2))),
            document.get("retain"),
            id=rule_id,
            windows=windows_of(_listed(document, "windows")),
            locations=locations_of(_listed(document, "locations")),
        )
        check_rule(rule)
    except (Invalid, ValueError, TypeError, KeyError, AttributeError) as problem:
        log.warning("a rule cannot be enforced", rule=rule_id, problem=type(problem).__name__)
        if document.get("effect") == Effect.ALLOW.value:
            return None
        return Rule(str(document.get("subject", "")), Effect.DENY, RuleAction.ALL, "#", id=rule_id)
    return rule


def _listed(document: Mapping[str, Any], name: str) -> object:
    value = document.get(name)
    return () if value is None else value
