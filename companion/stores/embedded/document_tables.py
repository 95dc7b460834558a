"""Which tables of the embedded store are collections of documents, and which columns a document has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from companion.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or a part of one, as a collection. The key is a number; times are in milliseconds times `unit`."""

    table: str
    key: str
    columns: tuple[str, ...]
    times: Mapping[str, float]
    only: str = "1"
    later: Mapping[str, str | int] = field(default_factory=dict)
    """Columns that lines of earlier releases lack, with what stands there then."""

    marked: bool = False
    """Whether triggers count in `rewrites` how often a row was put where one is or was."""

    @property
    def mark(self) -> str:
        """The expression for the mark of what is read: it stays the same until something is rewritten."""
        return f"(SELECT count FROM rewrites WHERE name = '{self.table}')" if self.marked else "''"

    @property
    def line(self) -> str:
        """The expression for a row as a line."""
        pairs = ", ".join(f"'{column}', {column}" for column in self.columns)
        return f"json_object({pairs})"


_AUDITS: Final = (
    "id",
    "at",
    "kind",
    "verdict",
    "reason",
    "username",
    "client_id",
    "peer_host",
    "action",
    "topic",
    "rule",
    "detail",
    "source",
    "chain",
    "number",
    "salt",
    "marks",
    "previous",
    "hash",
)
_LETTERS: Final = (
    "position",
    "event_id",
    "op",
    "db",
    "collection",
    "entity",
    "at",
    "before",
    "after",
    "taken_at",
    "dead",
)

_PRESENCE: Final = (
    "id",
    "client_id",
    "username",
    "principal",
    "connected_at",
    "peer",
    "node",
    "protocol",
    "keepalive",
    "clean_start",
    "seen",
    "ended_at",
    "ended_for",
    "gone_at",
    "gone_for",
    "revision",
    "told",
    "former",
    "online",
    "changed_at",
)

TABLES: Final[Mapping[str, Table]] = {
    "mqtt_audits": Table(
        "audits", "id", _AUDITS, {"at": 1}, later=dict.fromkeys(_AUDITS[12:], "") | {"number": 0}, marked=True
    ),
    "mqtt_dead_letters": Table("inbox", "position", _LETTERS, {"at": 1, "taken_at": 1}, "dead IS NOT NULL"),
    "mqtt_presence": Table("presence", "id", _PRESENCE, {"changed_at": 1, "connected_at": 1}),
}


def table_of(collection: str) -> Table:
    """Return the table of a collection, whatever its database is called. Raises `Invalid` for one that is none of ours."""
    table = TABLES.get(collection.rpartition(".")[2])
    if table is None:
        raise Invalid("collection", collection, f"one of {', '.join(TABLES)} (with the embedded store)")
    return table
