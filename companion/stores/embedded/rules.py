"""Rules in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

from companion.core.rules import Effect, Rule, RuleAction, check_rule
from companion.core.windows import Window
from companion.stores.embedded.accounts import as_text, names_in
from companion.stores.embedded.database import Database

_COLUMNS: Final = "id, subject, effect, action, filter, qos, retain, windows, locations"


def _rule(row: tuple[int, str, str, str, str, str, int | None, str, str]) -> Rule:
    rule_id, subject, effect, action, topic_filter, qos, retain, windows, locations = row
    return Rule(
        subject,
        Effect(effect),
        RuleAction(action),
        topic_filter,
        frozenset(int(one) for one in qos.split(",")),
        None if retain is None else bool(retain),
        id=str(rule_id),
        windows=tuple(Window(**one) for one in json.loads(windows)) if windows else (),
        locations=names_in(locations),
    )


class EmbeddedRules:
    """The port `Rules`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rule: Rule) -> Rule:
        """Store a rule that can be enforced and return it with its id."""
        check_rule(rule)

        def job(connection: sqlite3.Connection) -> Rule:
            cursor = connection.execute(
                "INSERT INTO rules (subject, effect, action, filter, qos, retain, windows, locations)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    rule.subject,
                    rule.effect.value,
                    rule.action.value,
                    rule.filter,
                    ",".join(str(qos) for qos in sorted(rule.qos)),
                    None if rule.retain is None else int(rule.retain),
                    json.dumps([asdict(one) for one in rule.windows]) if rule.windows else "",
                    as_text(rule.locations),
                ),
            )
            return replace(rule, id=str(cursor.lastrowid))

        return await self._database.write(job)

    async def remove(self, rule_id: str) -> bool:
        """Remove; False when there is no such rule."""

        def job(connection: sqlite3.Connection) -> bool:
            return connection.execute("DELETE FROM rules WHERE CAST(id AS TEXT) = ?", (rule_id,)).rowcount == 1

        return await self._database.write(job)

    async def of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """Return the rules of these subjects, oldest first."""

        def job(connection: sqlite3.Connection) -> Sequence[Rule]:
            marks = ", ".join("?" * len(subjects))
            query = f"SELECT {_COLUMNS} FROM rules WHERE subject IN ({marks}) ORDER BY id"
            return [_rule(row) for row in connection.execute(query, tuple(subjects))]

        return await self._database.look(job)

    async def list(self) -> Sequence[Rule]:
        """Return every rule, oldest first."""

        def job(connection: sqlite3.Connection) -> Sequence[Rule]:
            return [_rule(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM rules ORDER BY id")]

        return await self._database.read(job)
