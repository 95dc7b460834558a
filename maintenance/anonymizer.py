"""The anonymizer: of accounts that were deleted long enough ago, what tells who they were gives way to pseudonyms.

    deleted accounts ──▶ what they have left elsewhere, collection by collection ──▶ at last the account itself, with a mark

The account is last, because by its names everything else is found; its mark says that it is done. So a run that dies is gone on
with by asking once more which accounts have no mark, and no id needs to stand in the record of the run. A pseudonym is known as
one: what was done already is found done. Every write bears the fence of the job and replaces only what is still what was read.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import structlog

from companion.anonymizing import ID, MARK, AccountTable, TraceTable, accounts_in_force, traces_in_force
from companion.core.errors import Invalid
from companion.core.ports import Replaced, Replacement, Selection
from companion.core.pseudonyms import Pseudonyms
from companion.core.runs import Progress
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.job import Work, check_lack
from maintenance.redaction import Redaction, document_of, line_of, names_in

log = structlog.get_logger("maintenance.anonymizer")

_DAY: Final = 86_400
_ACCOUNTS: Final = 40
"""Accounts a batch: with all their names as few values as MongoDB looks for one by one in its index."""

_PAGE: Final = 200
_FEW: Final = 100
"""Accounts that may be anonymized at once, whatever their share."""

_MOST: Final = 20.0
"""Percent of the accounts of a collection from which on somebody has to want it."""

_OWN_ACCOUNTS: Final = ("mqtt_accounts", "username")


class Anonymizer:
    """Replaces the personal data of deleted accounts."""

    name = "anonymizer"
    purpose = "replaces the personal data of deleted accounts by pseudonyms, in the accounts and in what they left"
    parameters: Mapping[str, str] = MappingProxyType(
        {
            "accounts": "only those of this table",
            "again": "true: also accounts that were anonymized before, for what came up since",
            "yes-really": f"true: also more than {_MOST:g} % of the accounts of a collection",
        }
    )
    schedule = JobSettings(cron="37 3 * * *", jitter=300, grace=6 * 3600, attempts=3, backoff=600)
    lease_seconds = 30.0
    resumes = True

    def lacks(self, settings: Settings, *, dry: bool) -> str | None:
        """Return what there is nobody, or no pseudonym, without."""
        # The embedded store has nothing to go by: its accounts are there or not, and a name without one may never have had any.
        if settings.store != "production":
            return "MongoDB (store=production)"
        if not accounts_in_force(settings.anonymizer_accounts):
            return "accounts to look for (anonymizer_accounts)"
        return (
            None if dry or settings.anonymizer_key.get_secret_value() else "a key for its pseudonyms (anonymizer_key)"
        )

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Go through the tables of accounts in the order of their names; dry, everything is looked for and nothing is replaced."""
        check_lack(self, work.settings, dry=work.run.dry)
        tables = _chosen(work)
        # Dry, any will do.
        key = work.settings.anonymizer_key.get_secret_value() or secrets.token_hex()
        traces = traces_in_force(work.settings.anonymizer_traces, work.settings.stats_collection)
        documents = work.store.documents
        for one in (*tables.values(), *traces.values()):
            await documents.check(one.collection, Selection(MARK, 0, hold=one.hold))
        before = int(work.run.progress.position or (work.now() - work.settings.anonymizer_days * _DAY) * 1000)
        again = _flag(work, "again")
        due = {
            name: Selection(one.deleted, before, {} if again else {MARK: None}, one.hold)
            for name, one in tables.items()
        }
        left = [await documents.count_due(tables[name].collection, selection) for name, selection in due.items()]
        earlier = work.run.progress
        if not earlier.position:
            for name, count in zip(tables, left, strict=True):
                await _check_share(work, name, tables[name], count)
        # What is marked is done; without marks to go by, another life begins at the beginning.
        report = _Report(earlier if not (work.run.dry or again) else Progress(), sum(left), str(before))
        yield report.progress()
        redaction = Redaction(Pseudonyms(key))
        for name, table in tables.items():
            anonymizing = _Anonymizing(
                work, name=name, table=table, due=due[name], traces=traces, redaction=redaction, report=report
            )
            async for progress in anonymizing.steps():
                yield progress
        yield report.progress()


class _Report:
    """How far it has come, and how many documents of which table were replaced."""

    def __init__(self, earlier: Progress, left: int, position: str) -> None:
        self.counts = Counter(earlier.counts)
        self._total = max(earlier.total or 0, left)
        self.done = self._total - left
        self._position = position

    def progress(self) -> Progress:
        """Return it."""
        return Progress(self.done, self._total, dict(+self.counts), self._position)


class _Anonymizing:
    """One table of accounts in one run."""

    def __init__(
        self,
        work: Work,
        *,
        name: str,
        table: AccountTable,
        due: Selection,
        traces: Mapping[str, TraceTable],
        redaction: Redaction,
        report: _Report,
    ) -> None:
        self._work = work
        self._name = name
        self._table = table
        self._due = due
        self._traces = traces
        self._redaction = redaction
        self._report = report
        self._documents = work.store.documents
        self._remove = (*table.remove, *_secrets(work.settings, table.collection))
        self._settled = True

    async def steps(self) -> AsyncIterator[Progress]:
        """Do it batch by batch; yield after every page of documents."""
        after = ""
        while batch := await self._documents.due(self._table.collection, self._due, after, _ACCOUNTS):
            accounts, after, self._settled = batch.lines.splitlines(), batch.last, True
            names = await self._names(accounts)
            for name, trace in self._traces.items():
                for number, by in enumerate(trace.by):
                    async for progress in self._trace(name, trace, by, trace.by[:number], names):
                        yield progress
            await self._finish(accounts)
            yield self._report.progress()

    async def _names(self, accounts: Sequence[bytes]) -> Mapping[str, str]:
        """Return the names of these accounts that belong to nobody else by now, with their pseudonyms."""
        found = dict.fromkeys(name for one in accounts for name in names_in(document_of(one), self._table.names))
        # A name that somebody else has got since is that one's: whose it was in which document cannot be told.
        deleted = {self._table.deleted: {"$ne": None}}
        places = [(self._table.collection, field, deleted) for field in self._table.names if field != ID]
        taken: set[str] = set()
        for collection, field, hold in (*places, (*_OWN_ACCOUNTS, {})):
            async for living in self._pages(collection, field, list(found), hold):
                taken.update(name for one in living for name in names_in(document_of(one), [field]))
        if skipped := len(taken & found.keys()):
            log.warning("names of deleted accounts that others have got: they are not looked for", names=skipped)
        return self._redaction.pseudonyms_of(name for name in found if name not in taken)

    async def _trace(
        self, name: str, trace: TraceTable, by: str, earlier: Sequence[str], names: Mapping[str, str]
    ) -> AsyncIterator[Progress]:
        """Replace what is found by one field; what was found by an earlier one was done there."""
        async for found in self._pages(trace.collection, by, list(names), trace.hold):
            replacements = []
            for one in found:
                document = document_of(one)
                if names.keys().isdisjoint(names_in(document, earlier)):
                    self._redaction.remove(document, trace.remove)
                    replaced = self._redaction.replace(document, trace.replace)
                    self._redaction.rename(document, trace.names, {**replaced, **names})
                    replacements.append((one, document))
            await self._replace(name, trace.collection, replacements)
            yield self._report.progress()

    async def _finish(self, accounts: Sequence[bytes]) -> None:
        """Replace what is personal in the accounts themselves, unless something of them elsewhere escaped us."""
        if not self._settled:
            self._report.counts[f"{self._name} left for the next run"] += len(accounts)
            return
        replacements = []
        for one in accounts:
            document = document_of(one)
            self._redaction.remove(document, self._remove)
            self._redaction.replace(document, self._table.replace)
            if MARK not in document or document != document_of(one):
                document[MARK] = {"$date": {"$numberLong": str(int(self._work.now() * 1000))}}
            replacements.append((one, document))
        replaced = await self._replace(self._name, self._table.collection, replacements)
        self._report.done += len(accounts) - replaced.changed

    async def _replace(self, name: str, collection: str, wanted: Sequence[tuple[bytes, dict[str, Any]]]) -> Replaced:
        replacements = [Replacement(was, line_of(document)) for was, document in wanted if document != document_of(was)]
        if self._work.run.dry:
            replaced = Replaced(len(replacements))
        elif replacements:
            replaced = await self._documents.replace(collection, replacements, self._work.term.lease)
        else:
            replaced = Replaced(0)
        self._report.counts[f"{name} replaced"] += replaced.count
        self._report.counts[f"{name} changed meanwhile"] += replaced.changed
        self._settled = self._settled and not replaced.changed
        return replaced

    async def _pages(
        self, collection: str, field: str, names: Sequence[str], hold: Mapping[str, Any]
    ) -> AsyncIterator[Sequence[bytes]]:
        after = ""
        while names and (
            batch := await self._documents.matching(collection, field, names, hold=hold, after=after, limit=_PAGE)
        ):
            yield batch.lines.splitlines()
            after = batch.last


def _chosen(work: Work) -> Mapping[str, AccountTable]:
    tables = accounts_in_force(work.settings.anonymizer_accounts)
    wanted = work.run.parameters.get("accounts")
    if wanted is not None and wanted not in tables:
        raise Invalid("parameters.accounts", wanted, f"one of {', '.join(tables)}")
    return {name: one for name, one in tables.items() if wanted in (None, name)}


def _secrets(settings: Settings, collection: str) -> Sequence[str]:
    """Return the fields of a collection of accounts by which anybody could log in, or be more than others."""
    fields = [
        field
        for one in settings.mongo_accounts
        if one.collection == collection
        for field in (one.secret, one.salt, one.subjects, one.superuser, one.acls)
    ]
    return [field for field in dict.fromkeys(fields) if field]


async def _check_share(work: Work, name: str, table: AccountTable, count: int) -> None:
    total = await work.store.documents.count(table.collection)
    share = 100 * count / max(total, 1)
    if count > _FEW and share > _MOST and not _flag(work, "yes-really") and not work.run.dry:
        raise Invalid(
            f"anonymizer_accounts.{name}",
            f"{share:.0f} % of {table.collection}",
            f"at most {_MOST:g} % at once, as it cannot be undone: look at a dry run, then ask with --set yes-really=true",
        )


def _flag(work: Work, name: str) -> bool:
    value = work.run.parameters.get(name, False)
    if value in (True, False, "true", "false"):
        return value in (True, "true")
    raise Invalid(f"parameters.{name}", value, "true or false")
