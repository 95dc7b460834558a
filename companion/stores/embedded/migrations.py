"""The schema, as the steps that led to it. A step that has been released is never edited; a new one is appended."""

from __future__ import annotations

import sqlite3
from typing import Final

from companion.core.errors import Permanent

_GENERATION_TRIGGERS: Final = tuple(
    f"CREATE TRIGGER {table}_{event}_generation AFTER {event} ON {table}"
    " BEGIN UPDATE generation SET value = value + 1; END"
    for table in ("accounts", "rules")
    for event in ("INSERT", "UPDATE", "DELETE")
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE accounts (
            username TEXT PRIMARY KEY, kind TEXT NOT NULL, principal TEXT NOT NULL, password_hash TEXT NOT NULL,
            disabled INTEGER NOT NULL, expires_at INTEGER) STRICT, WITHOUT ROWID""",
        """CREATE TABLE rules (
            id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, effect TEXT NOT NULL, action TEXT NOT NULL,
            filter TEXT NOT NULL, qos TEXT NOT NULL, retain INTEGER) STRICT""",
        "CREATE INDEX rules_of_subject ON rules (subject)",
        # One row whose value grows with every change that a decision could rest on.
        "CREATE TABLE generation (value INTEGER NOT NULL) STRICT",
        "INSERT INTO generation VALUES (1)",
        *_GENERATION_TRIGGERS,
        """CREATE TABLE sessions (
            username TEXT NOT NULL, client_id TEXT NOT NULL, principal TEXT NOT NULL, session TEXT NOT NULL,
            expires_at INTEGER NOT NULL, PRIMARY KEY (username, client_id)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX sessions_by_expiry ON sessions (expires_at)",
        # AUTOINCREMENT: a position is never used again, also after the newest rows were pruned.
        """CREATE TABLE inbox (
            position INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, op TEXT NOT NULL, db TEXT NOT NULL,
            collection TEXT NOT NULL, entity TEXT NOT NULL, at INTEGER NOT NULL, before TEXT, after TEXT,
            taken_at INTEGER NOT NULL, acknowledged_at INTEGER, dead TEXT) STRICT""",
        "CREATE INDEX inbox_dead ON inbox (position) WHERE dead IS NOT NULL",
        "CREATE TABLE checkpoints (name TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE audits (
            id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
            username TEXT NOT NULL, client_id TEXT NOT NULL, peer_host TEXT NOT NULL, action TEXT NOT NULL,
            topic TEXT NOT NULL, rule TEXT NOT NULL, detail TEXT NOT NULL) STRICT""",
        "CREATE INDEX audits_by_time ON audits (at)",
    ),
    (
        # Positions mean something to their source only; the fence tells whose lease may write them.
        """CREATE TABLE fenced_checkpoints (
            name TEXT PRIMARY KEY, position TEXT, fence INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "INSERT INTO fenced_checkpoints SELECT name, CAST(position AS TEXT), 0 FROM checkpoints",
        "DROP TABLE checkpoints",
        "ALTER TABLE fenced_checkpoints RENAME TO checkpoints",
        # The row stays when a lease ends: the next token has to be higher.
        """CREATE TABLE leases (
            name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER NOT NULL, until REAL NOT NULL) STRICT, WITHOUT ROWID""",
        "ALTER TABLE accounts ADD COLUMN subjects TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN subject TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN scope TEXT NOT NULL DEFAULT ''",
    ),
    (
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, trigger TEXT NOT NULL,
            requested_at INTEGER NOT NULL, due_at INTEGER NOT NULL, parameters TEXT NOT NULL, dry INTEGER NOT NULL,
            priority INTEGER NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, cancelling INTEGER NOT NULL,
            holder TEXT NOT NULL, fence INTEGER NOT NULL, started_at INTEGER, beat_at INTEGER, ended_at INTEGER,
            batches INTEGER NOT NULL, done INTEGER NOT NULL, total INTEGER, counts TEXT NOT NULL, position TEXT NOT NULL,
            error TEXT NOT NULL) STRICT""",
        "CREATE INDEX runs_by_state ON runs (state, priority DESC, due_at)",
        "CREATE INDEX runs_of_job ON runs (job, number)",
    ),
    (
        # An hour of a key of somebody; `flag` says as what.
        """CREATE TABLE stats (
            owner TEXT NOT NULL, key TEXT NOT NULL, flag TEXT NOT NULL, year INTEGER NOT NULL, month INTEGER NOT NULL,
            day INTEGER NOT NULL, hour INTEGER NOT NULL, value INTEGER NOT NULL,
            PRIMARY KEY (owner, key, flag, year, month, day, hour)) STRICT, WITHOUT ROWID""",
        # One row: whose lease may count, and how many steps it has made.
        "CREATE TABLE stats_observer (fence INTEGER NOT NULL, step INTEGER NOT NULL) STRICT",
        "INSERT INTO stats_observer VALUES (0, 0)",
        "CREATE TABLE stats_readers (name TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT, WITHOUT ROWID",
        # AUTOINCREMENT: who counts the records goes by their numbers, also after the newest were pruned.
        """CREATE TABLE numbered_audits (
            id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL, verdict TEXT NOT NULL,
            reason TEXT NOT NULL, username TEXT NOT NULL, client_id TEXT NOT NULL, peer_host TEXT NOT NULL,
            action TEXT NOT NULL, topic TEXT NOT NULL, rule TEXT NOT NULL, detail TEXT NOT NULL) STRICT""",
        "INSERT INTO numbered_audits SELECT * FROM audits",
        "DROP TABLE audits",
        "ALTER TABLE numbered_audits RENAME TO audits",
        "CREATE INDEX audits_by_time ON audits (at)",
    ),
    (
        # Lists as JSON, empty where there are none.
        "ALTER TABLE accounts ADD COLUMN groups TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE accounts ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN groups TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN tenant TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE rules ADD COLUMN windows TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE rules ADD COLUMN locations TEXT NOT NULL DEFAULT ''",
    ),
    (
        """CREATE TABLE revocations (
            number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, id TEXT NOT NULL UNIQUE, target TEXT NOT NULL,
            name TEXT NOT NULL, at INTEGER NOT NULL, cause TEXT NOT NULL, reason TEXT NOT NULL, asked_by TEXT NOT NULL,
            until INTEGER, ban_until INTEGER, lifted_at INTEGER, waiting INTEGER NOT NULL, due_at INTEGER NOT NULL,
            attempts INTEGER NOT NULL, error TEXT NOT NULL, fence INTEGER NOT NULL, steps TEXT NOT NULL) STRICT""",
        "CREATE INDEX revocations_by_key ON revocations (key) WHERE lifted_at IS NULL",
        "CREATE INDEX revocations_waiting ON revocations (due_at) WHERE waiting = 1",
        *(
            f"CREATE TRIGGER revocations_{name}_generation AFTER {event} ON revocations"
            " BEGIN UPDATE generation SET value = value + 1; END"
            # How far the work is concerns no decision.
            for name, event in (("insert", "INSERT"), ("update", "UPDATE OF key, cause, until, lifted_at"))
        ),
        "ALTER TABLE sessions ADD COLUMN jti TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE sessions ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX sessions_of_session ON sessions (session, client_id)",
        "CREATE INDEX sessions_of_jti ON sessions (jti, client_id) WHERE jti <> ''",
        "CREATE INDEX sessions_of_digest ON sessions (digest, client_id) WHERE digest <> ''",
    ),
    (
        # AUTOINCREMENT: who looks after them goes by their numbers, also after the newest are gone.
        """CREATE TABLE account_changes (
            number INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL, cause TEXT NOT NULL, at INTEGER NOT NULL)
            STRICT""",
    ),
    (
        # Records from before are in no chain.
        *(
            f"ALTER TABLE audits ADD COLUMN {name} TEXT NOT NULL DEFAULT ''"
            for name in ("source", "chain", "salt", "marks", "previous", "hash")
        ),
        "ALTER TABLE audits ADD COLUMN number INTEGER NOT NULL DEFAULT 0",
        "CREATE UNIQUE INDEX audits_of_chain ON audits (chain, number) WHERE chain != ''",
        """CREATE TABLE audit_seals (
            number INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, previous TEXT NOT NULL, root TEXT NOT NULL,
            segments TEXT NOT NULL) STRICT""",
    ),
    (
        # What the broker told: kept for a while, so that what comes again is known, and numbered to be counted.
        """CREATE TABLE broker_events (
            number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, at INTEGER NOT NULL,
            client_id TEXT NOT NULL, username TEXT NOT NULL, principal TEXT NOT NULL, reason TEXT NOT NULL,
            taken_at INTEGER NOT NULL) STRICT""",
        """CREATE TABLE presence (
            id INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL UNIQUE, username TEXT NOT NULL,
            principal TEXT NOT NULL, connected_at INTEGER NOT NULL, peer TEXT NOT NULL, node TEXT NOT NULL, protocol INTEGER,
            keepalive INTEGER, clean_start INTEGER, seen INTEGER NOT NULL, ended_at INTEGER, ended_for TEXT NOT NULL,
            gone_at INTEGER NOT NULL, gone_for TEXT NOT NULL, revision INTEGER NOT NULL, told INTEGER NOT NULL,
            former TEXT NOT NULL, online INTEGER NOT NULL, changed_at INTEGER NOT NULL) STRICT""",
        "CREATE INDEX presence_of_principal ON presence (principal, client_id)",
        "CREATE INDEX presence_untold ON presence (told) WHERE told = 0",
    ),
    ("ALTER TABLE sessions ADD COLUMN acl TEXT NOT NULL DEFAULT ''",),
    (
        "ALTER TABLE accounts ADD COLUMN secrets TEXT NOT NULL DEFAULT ''",
        # Beside the accounts: what is noted here is no change that a decision could rest on.
        "CREATE TABLE uses (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ),
    (
        "ALTER TABLE accounts ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE accounts ADD COLUMN superuser INTEGER NOT NULL DEFAULT 0",
    ),
    (
        """CREATE TABLE tokens (
            id TEXT PRIMARY KEY, digest TEXT NOT NULL, username TEXT NOT NULL, scopes TEXT NOT NULL, name TEXT NOT NULL,
            expires_at INTEGER, addresses TEXT NOT NULL, created_at INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE TRIGGER tokens_generation AFTER DELETE ON tokens BEGIN UPDATE generation SET value = value + 1; END",
        "ALTER TABLE sessions ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    ),
    ("ALTER TABLE accounts ADD COLUMN certificates TEXT NOT NULL DEFAULT '[]'",),
    ("ALTER TABLE accounts ADD COLUMN scram TEXT NOT NULL DEFAULT ''",),
    (
        # `number` orders what is told to followers; `times` counts until `forgotten_at`.
        """CREATE TABLE lockouts (
            key TEXT PRIMARY KEY, username TEXT NOT NULL, address TEXT NOT NULL, until INTEGER NOT NULL,
            times INTEGER NOT NULL, number INTEGER NOT NULL, forgotten_at INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE UNIQUE INDEX lockouts_by_number ON lockouts (number)",
    ),
    (
        # How often a row was put where one is or was. As long as it is the same, an id means the row that it meant before, or none.
        "CREATE TABLE rewrites (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        "INSERT INTO rewrites VALUES ('audits', 0)",
        """CREATE TRIGGER audits_updated AFTER UPDATE ON audits
            BEGIN UPDATE rewrites SET count = count + 1 WHERE name = 'audits'; END""",
        # New rows have numbers behind all that ever were; this is one that was given its number.
        """CREATE TRIGGER audits_put_back AFTER INSERT ON audits
            WHEN NEW.id <= (SELECT seq FROM sqlite_sequence WHERE name = 'audits')
            BEGIN UPDATE rewrites SET count = count + 1 WHERE name = 'audits'; END""",
    ),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version in one transaction, alone also when several processes start at once.

    Raises `Permanent` for a file that a newer release wrote.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _refuse_newer(version)
        for step in MIGRATIONS[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _refuse_newer(version: int) -> None:
    if version > len(MIGRATIONS):
        raise Permanent(
            f"the data was written by a newer release (schema {version}; this one knows {len(MIGRATIONS)}): upgrade this one"
        )
